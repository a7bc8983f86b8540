"""One moment of an accelerator's counters, whatever library reads them.

>>> counters.read().power_w
412.5
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol


@dataclass(frozen=True, slots=True)
class Reading:
    """One moment. Energy and the seconds below its clocks are running totals; None is unknown.

    `throttle` names what holds the clocks down at this moment, empty if nothing does. `others` counts
    processes on the device that are not of this run.
    """

    wall_s: float
    clock_hz: float | None = None
    top_clock_hz: float | None = None
    memory_clock_hz: float | None = None
    top_memory_clock_hz: float | None = None
    throttle: tuple[str, ...] | None = None
    power_limited_s: float | None = None
    heat_limited_s: float | None = None
    power_w: float | None = None
    energy_j: float | None = None
    temperature_c: float | None = None
    uncorrected_errors: int | None = None
    others: int | None = None


class Counters(Protocol):
    """A device as its vendor's library sees it."""

    def facts(self) -> dict[str, Any]:
        """What does not change in a run: driver, ECC, MIG, power limit."""
        ...

    def read(self) -> Reading | None:
        """All counters; under a millisecond but where a process has come or gone. None where there is no accelerator."""
        ...


class CountersUnavailableError(Exception):
    """A vendor's library is missing, does not load, or does not know the device."""
