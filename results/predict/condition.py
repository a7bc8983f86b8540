"""Choosing devices by their figures: ``memory_gb>=80 and kind=gpu``.

>>> chosen = [d for d in catalogue.devices.values() if all(c.holds(d) for c in conditions("memory_gb>=80"))]
"""

from __future__ import annotations

import difflib
import operator
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from membound.results.predict.catalogue import RANGES, HardwareError
from membound.results.predict.device import PEAKS, Device

NUMBERS = {
    **{field: field for field in RANGES},
    "bandwidth": "bandwidth_gb_per_s",
    "memory": "memory_gb",
    "tdp": "tdp_w",
    "llc": "llc_mb",
    "peer": "peer_gb_per_s",
    **PEAKS,
}
"""What a number may be called."""
TEXTS = ("name", "vendor", "kind", "id")
SIGNS: dict[str, Callable[[Any, Any], bool]] = {
    ">=": operator.ge,
    "<=": operator.le,
    "!=": operator.ne,
    ">": operator.gt,
    "<": operator.lt,
    "=": operator.eq,
}
FORM = re.compile(r"\s*(\w+)\s*(>=|<=|!=|==|=|>|<)\s*(.+?)\s*")


def number_of(device: Device, name: str) -> float | None:
    """A device's figure by any of its names, or its ridge; None if unknown. Raises HardwareError."""
    if name == "ridge":
        return device.ridge
    if name not in NUMBERS:
        near = difflib.get_close_matches(name, [*NUMBERS, "ridge"], 3) or [
            *PEAKS,
            "bandwidth",
            "memory",
            "ridge",
        ]
        raise HardwareError(f"unknown figure {name!r}; nearest: {', '.join(near)}")
    return device.value(NUMBERS[name])


def trust_of(device: Device, name: str) -> str:
    """That of a device's figure by any of its names; ``unknown`` if there is none."""
    return device.trust(NUMBERS[name])


@dataclass(frozen=True, slots=True)
class Condition:
    """A figure compared with a value. A device whose figure is unknown does not meet it."""

    name: str
    sign: str
    value: float | str

    def holds(self, device: Device) -> bool:
        """Whether the device meets it."""
        if isinstance(self.value, str):
            equal = self.value.casefold() in str(getattr(device, self.name)).casefold()
            return equal == (self.sign == "=")
        found = number_of(device, self.name)
        return found is not None and SIGNS[self.sign](found, self.value)


def conditions(text: str) -> list[Condition]:
    """Conditions joined by ``and`` or commas. Raises HardwareError that names the wrong part."""
    return [_condition(part) for part in re.split(r"\s+and\s+|,", text) if part.strip()]


def _condition(part: str) -> Condition:
    form = FORM.fullmatch(part)
    if form is None:
        raise HardwareError(f"{part.strip()!r} is no condition; write one such as memory_gb>=80 or kind=gpu")
    name, sign, value = form[1], form[2].replace("==", "="), form[3].strip("'\"")
    if name in TEXTS:
        if sign not in ("=", "!="):
            raise HardwareError(f"{part.strip()!r}: {name} is compared with = or !=")
        return Condition(name, sign, value)
    try:
        number = float(value)
    except ValueError:
        raise HardwareError(f"{part.strip()!r}: {value!r} is not a number") from None
    if name != "ridge" and name not in NUMBERS:
        near = difflib.get_close_matches(name, [*NUMBERS, *TEXTS, "ridge"], 3)
        raise HardwareError(
            f"{part.strip()!r}: unknown figure {name!r}; nearest: {', '.join(near) or 'none'}"
        )
    return Condition(name, sign, number)
