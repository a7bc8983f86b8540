"""How much of a run's time limit is left, and how long the next work may play.

>>> minutes = Minutes(limit_s=285.0, began=time.perf_counter())
>>> minutes.pace("linear:n=8,k=32", Pace(rounds=12, seconds=3.0), coming=["linear:n=8,k=32"] * 3, starts=2)
Pace(rounds=12, seconds=3.0, least=3)

Starting processes and preparing works take what they take; what is left is shared among the works to come. Compiling
kernels is done once for all later runs and does not count.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from math import inf

from membound.bench.measure.rounds import Pace

RESERVE = 0.05
"""Part of the limit that is not planned with: machines slow down, and the last works are not to be left out for it."""
ONCE = "compiling"
"""Phases that begin so leave on disk what later processes find."""


@dataclass(slots=True)
class Minutes:
    """Seconds of `time.perf_counter`; `limit_s` None is no limit."""

    limit_s: float | None
    began: float
    once_s: float = 0.0
    around_s: dict[str, float] = field(default_factory=dict)
    """Of each work: preparing, checking and releasing all its backends in one replicate."""
    round_s: dict[str, float] = field(default_factory=dict)
    start_s: float = 0.0
    """Starting all processes of a replicate."""
    _phase: str = ""
    _since: float = 0.0

    def enter(self, phase: str) -> None:
        """A phase of a worker begins, and with it the one before ends; '' is none."""
        at = time.perf_counter()
        if self._phase.startswith(ONCE):
            self.once_s += at - self._since
        self._phase, self._since = phase, at

    @property
    def left_s(self) -> float:
        """Seconds until the limit; infinite without one."""
        return (
            inf if self.limit_s is None else self.limit_s + self.once_s - (time.perf_counter() - self.began)
        )

    def learn(self, work: str, around_s: float, round_s: float | None) -> None:
        """What a work took in the replicate that has just ended; the latest counts."""
        self.around_s[work] = around_s
        if round_s is not None:
            self.round_s[work] = round_s

    def has_time(self, work: str, least: int) -> bool:
        """Whether a work that was played before would end within the limit, with its least rounds."""
        return self.around_s.get(work, 0.0) + least * self.round_s.get(work, 0.0) <= self.left_s

    def pace(self, work: str, wanted: Pace, coming: Sequence[str], starts: int) -> Pace:
        """The pace of a work if those that are `coming`, itself among them, and that many starts are to fit as well."""
        if self.limit_s is None or work not in self.around_s:
            return wanted
        fixed = self.start_s * starts + sum(self.around_s.get(one, 0.0) for one in coming)
        least = sum(wanted.least * self.round_s.get(one, 0.0) for one in coming)
        spare = max(0.0, self.left_s - RESERVE * self.limit_s - fixed - least)
        seconds = wanted.least * self.round_s.get(work, 0.0) + spare / len(coming)
        return replace(wanted, seconds=min(wanted.seconds, seconds))
