"""What a backend says of itself, as plain values that can be: it is asked for them, and never trusted.

>>> stored_bytes(backend), settings(backend)
(12345, {'threads': 2, 'precision': 'highest'})

Runtimes answer with NumPy's numbers, with NaN and with objects of their own. What stands for a value becomes that value;
what no backend can have is an error of the work at hand, before it can end the worker or spoil a file.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from itertools import islice
from math import isfinite
from typing import Any

import numpy as np
import psutil

from membound.backends.api import Accelerator, Backend, Device, Limit
from membound.bench.measure.failures import FigureError
from membound.kernels.work import Work
from membound.results.fields import LARGEST
from membound.results.turns import SHORTEST_S

MOST_DEVICES = 1000


def plain(value: Any) -> Any:
    """The same as JSON holds it: numbers, texts, lists and tables; everything else by its text, NaN too."""
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, str):
        return str(value).encode(errors="backslashreplace").decode()
    if isinstance(value, int):
        return int(value)
    if isinstance(value, float):
        return float(value) if isfinite(value) else str(float(value))
    if isinstance(value, np.ndarray):
        return plain(value.tolist())
    if isinstance(value, np.generic) and not isinstance(value.item(), np.generic):
        return plain(value.item())
    if isinstance(value, Mapping):
        return {plain(str(key)): plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [plain(inner) for inner in value]
    return plain(str(value))


def stored_bytes(backend: Backend) -> int | None:
    """As `Backend.stored_bytes`. Raises FigureError."""
    told = backend.stored_bytes()
    return None if told is None else _count(told, "stored_bytes()")


def exchanged_bytes(backend: Backend) -> int:
    """As `Backend.exchanged_bytes`. Raises FigureError."""
    return _count(backend.exchanged_bytes(), "exchanged_bytes()")


def helpers(backend: Backend) -> tuple[int, ...]:
    """As `Backend.helpers`. Raises FigureError."""
    told = backend.helpers()
    if isinstance(told, str) or not isinstance(told, Iterable):
        raise FigureError(f"helpers() is {_short(told)}, not a list of process numbers")
    found = tuple(_count(pid, "a number of helpers()") for pid in islice(told, MOST_DEVICES))
    for pid in found:
        if not _started_here(pid):
            raise FigureError(f"helpers() names process {pid}, which the backend's process did not start")
    return found


def _started_here(pid: int) -> bool:
    """Whether a process is a child of this one, or a child of one; one that has ended may have been."""
    try:
        return any(parent.pid == os.getpid() for parent in psutil.Process(pid).parents())
    except psutil.NoSuchProcess:
        return True
    except psutil.AccessDenied:
        return False


def settings(backend: Backend) -> dict[str, Any]:
    """As `Backend.settings`. Raises FigureError if that is no table."""
    return _table(backend.settings(), "settings()")


def reason_against(backend: Backend, work: Work) -> str | None:
    """As `Backend.supports`. Raises FigureError for what is neither text nor None."""
    told = backend.supports(work)
    return None if told is None else _text(told, "supports()")


def device_names(cls: type[Backend]) -> list[str]:
    """As `Backend.devices`. Raises FigureError for what is no list, and for one without end."""
    told = cls.devices()
    if isinstance(told, str) or not isinstance(told, Iterable):
        raise FigureError(f"devices() is {_short(told)}, not a list of texts")
    names = [_text(name, "a name of devices()") for name in islice(told, MOST_DEVICES + 1)]
    if len(names) > MOST_DEVICES:
        raise FigureError(f"devices() lists more than {MOST_DEVICES}")
    return names


def seconds_between(backend: Backend, first: object, last: object) -> float:
    """As `Backend.elapsed_s`. Raises FigureError for what no clock can tell, and for a clock that stopped."""
    if first is None or last is None:
        raise FigureError("mark() is a moment once, and None another time")
    told = backend.elapsed_s(first, last)
    if not _is_number(told) or not SHORTEST_S <= told <= LARGEST:
        raise FigureError(f"elapsed_s() is {_short(told)}, which no clock can tell")
    return float(told)


def rate_of(limit: Limit, seconds: float) -> float:
    """What a limit moves or computes a second. Raises FigureError for what no device can do."""
    told = limit.amount
    if not _is_number(told) or not 0 < told / seconds <= LARGEST:
        raise FigureError(f"amount of {limit.name} is {_short(told)} in {seconds:.3g} s")
    return float(told) / seconds


def device_fields(device: Device) -> dict[str, Any]:
    """The fields of an opened device but for its id, checked. Raises FigureError that names one that cannot be."""
    if not isinstance(device, Device):
        raise FigureError(f"open() gave {type(device).__name__}, not a Device")
    if not isinstance(device.accelerator, Accelerator | None):
        raise FigureError(f"Device.accelerator is {_short(device.accelerator)}, not an Accelerator")
    accelerator = None if device.accelerator is None else plain(asdict(device.accelerator))
    for name, value in (accelerator or {}).items():
        if name.endswith(("_bytes", "_units")):
            _count(value, f"accelerator.{name}")
    return {
        "name": _text(device.name, "Device.name"),
        "threads": _count(device.threads, "Device.threads"),
        "versions": {name: str(value) for name, value in _table(device.versions, "Device.versions").items()},
        "accelerator": accelerator,
        "memory_ceiling": _text(device.memory_ceiling, "Device.memory_ceiling"),
    }


def served_facts(told: Any) -> dict[str, Any]:
    """What a server's program tells of itself. Raises FigureError."""
    facts = _table(told, "what it tells")
    if "threads" in facts:
        _count(facts["threads"], "threads")
    if "device" in facts:
        _text(facts["device"], "device")
    if "versions" in facts:
        facts["versions"] = {
            name: str(value) for name, value in _table(facts["versions"], "versions").items()
        }
    return facts


def _is_number(told: Any) -> bool:
    return isinstance(told, int | float | np.integer | np.floating) and not isinstance(told, bool)


def _count(told: Any, what: str) -> int:
    if isinstance(told, bool) or not isinstance(told, int | np.integer) or not 0 <= told <= LARGEST:
        raise FigureError(f"{what} is {_short(told)}, not a whole number from 0")
    return int(told)


def _text(told: Any, what: str) -> str:
    if not isinstance(told, str):
        raise FigureError(f"{what} is {_short(told)}, not text")
    text: str = plain(told)
    return text


def _table(told: Any, what: str) -> dict[str, Any]:
    if not isinstance(told, Mapping):
        raise FigureError(f"{what} is {_short(told)}, not a dict")
    table: dict[str, Any] = plain(told)
    return table


def _short(told: Any) -> str:
    try:
        text = repr(told)
    except ValueError:  # a whole number of 5000 digits has no text
        return f"{type(told).__name__} that cannot be printed"
    return text if len(text) <= 60 else f"{text[:57]}..."
