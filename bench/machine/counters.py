"""Counters of an accelerator during a replicate: clocks, throttling, power, energy, heat, errors, other processes.

>>> counters = open_counters(device.accelerator)
>>> before = counters.read()
>>> ...                                            # the timed part
>>> device_delta(before, counters.read())["device_energy_j"]
61.3

They come from the vendor's management library, which finds the device by its PCI address. What cannot be read is
None, which means unknown and never healthy. Nothing is ever set: clocks, limits and modes stay as they are.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from membound.backends.api import Accelerator
from membound.bench.machine.reading import Counters, CountersUnavailableError, Reading


class Absent:
    """No accelerator: nothing to read and nothing unknown."""

    def facts(self) -> dict[str, Any]:
        """Nothing."""
        return {}

    def read(self) -> Reading | None:
        """Nothing."""
        return None


@dataclass(frozen=True, slots=True)
class Unreadable:
    """An accelerator that no library describes; every counter is unknown."""

    reason: str

    def facts(self) -> dict[str, Any]:
        """Why nothing is known."""
        return {"counters": self.reason}

    def read(self) -> Reading | None:
        """All unknown."""
        return Reading(0.0)


Opener = Callable[[str], Counters]


def open_counters(
    accelerator: Accelerator | None, openers: Sequence[tuple[str, Opener]] | None = None
) -> Counters:
    """The counters of the device at that PCI address; `openers` are (vendor, opener), tried in order."""
    if accelerator is None:
        return Absent()
    if not accelerator.pci:
        return Unreadable("the runtime does not tell the device's PCI address")
    reasons = []
    for vendor, opener in _openers() if openers is None else openers:
        try:
            return opener(accelerator.pci)
        except CountersUnavailableError as error:
            reasons.append(f"{vendor}: {error}")
    return Unreadable("; ".join(reasons))


def _openers() -> list[tuple[str, Opener]]:
    from membound.bench.machine.amd import open_amd
    from membound.bench.machine.nvidia import open_nvidia

    return [("NVIDIA", open_nvidia), ("AMD", open_amd)]


def device_delta(before: Reading | None, after: Reading | None) -> dict[str, Any]:
    """What happened between two readings, as stored in a row; empty without an accelerator.

    Clocks, power, heat and throttling are those at the end. Fractions are of wall time or, for clocks, of
    the highest clock.
    """
    if before is None or after is None:
        return {}
    wall_s = after.wall_s - before.wall_s
    return {
        "device_clock_hz": after.clock_hz,
        "device_clock_ratio": _ratio(after.clock_hz, after.top_clock_hz),
        "device_memory_clock_hz": after.memory_clock_hz,
        "device_memory_clock_ratio": _ratio(after.memory_clock_hz, after.top_memory_clock_hz),
        "device_throttle": None if after.throttle is None else ", ".join(after.throttle),
        "device_power_limited_fraction": _ratio(
            _change(before.power_limited_s, after.power_limited_s), wall_s
        ),
        "device_heat_limited_fraction": _ratio(_change(before.heat_limited_s, after.heat_limited_s), wall_s),
        "device_power_w": after.power_w,
        "device_energy_j": _change(before.energy_j, after.energy_j),
        "device_temperature_c": after.temperature_c,
        "device_uncorrected_errors": _change(before.uncorrected_errors, after.uncorrected_errors),
        "device_other_processes": _most(before.others, after.others),
    }


def _change(before: float | None, after: float | None) -> float | None:
    return None if before is None or after is None else after - before


def _ratio(part: float | None, whole: float | None) -> float | None:
    return None if part is None or not whole else part / whole


def _most(before: int | None, after: int | None) -> int | None:
    return None if before is None or after is None else max(before, after)
