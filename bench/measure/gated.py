"""What `membound gate` wants of its workers besides turns: to be slowed down, and to count what a launch allocates.

>>> from membound.bench.measure.station import Station
>>> station = Station(threads=2, tell=print, gated=Gated(slowdown=0.1))
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from membound.bench.measure.cold_backend import ColdBackend


@dataclass(frozen=True, slots=True)
class Gated:
    """Nothing, unless the worker's environment says otherwise (`bench.worker`)."""

    slowdown: float = 0.0
    """Share of its time by which each launch is prolonged, for the test of itself."""
    counts: bool = False
    """Whether to count what a launch allocates."""

    def told(self, one: ColdBackend) -> dict[str, Any]:
        """What of it the row's `config` says, after everything was timed and checked."""
        counted = one.allocated_bytes() if self.counts else None
        slowed = {"slowdown": self.slowdown} if self.slowdown else {}
        return slowed | ({} if counted is None else {"allocated_bytes": counted})


NOT_GATED = Gated()
