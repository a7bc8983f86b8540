"""An arm of an experiment that takes turns in a worker process, and what became of it.

>>> player = Player(0, arm, contestant)
>>> player.take_turn(thief=None)
>>> player.outcome().samples_s
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from statistics import median
from typing import Any

from membound.backends.api import CoRunner
from membound.bench.claim.arms import Arm
from membound.bench.measure.contestant import Contestant
from membound.bench.measure.turns import Turn, take_turn, usable

ATTEMPTS = 2
"""A turn that was disturbed is taken again once: many arms share a process, and minutes are few."""
CLEAN_SHARE = 0.5
"""An arm is contended if fewer of its turns than this were undisturbed."""


@dataclass(slots=True)
class Outcome:
    """What became of arm number `index`; times in seconds a launch, `factors` those that were measured."""

    index: int
    status: str = "ok"
    reason: str = ""
    samples_s: list[float] = field(default_factory=list)
    factors: dict[str, float] = field(default_factory=dict)
    grade: str = "unknown"
    grade_reasons: list[str] = field(default_factory=list)
    telemetry: dict[str, Any] = field(default_factory=dict)


@dataclass(slots=True)
class Player:
    """An arm that takes turns on a contestant, its own or a shared one."""

    index: int
    arm: Arm
    contestant: Contestant
    turns: list[Turn] = field(default_factory=list)
    stolen: list[tuple[float, float]] = field(default_factory=list)
    """Bytes and FLOPs a second that the thief took in each burst."""

    def take_turn(self, thief: CoRunner | None) -> None:
        """One timed burst, the thief at work if the arm has one."""
        one = self.contestant
        if self.arm.thief:
            assert thief is not None
            thief.work(self.arm.thief, self.arm.duty)
            turn = take_turn(
                one.warm, lambda: self._watched(thief), attempts=1, before=one.make_cold, alone=False
            )
            thief.rest()
        elif self.arm.resident:
            turn = take_turn(self._settle, one.burst, ATTEMPTS)
        else:
            turn = take_turn(one.warm, one.burst, ATTEMPTS, before=one.make_cold)
        self.turns.append(turn)

    def _settle(self) -> None:
        """Twice over a working set, so that all of it is in a cache that can hold it."""
        self.contestant.launch()
        self.contestant.launch()

    def _watched(self, thief: CoRunner) -> None:
        (read, done), start = thief.taken(), time.perf_counter()
        self.contestant.burst()
        seconds, (read_after, done_after) = time.perf_counter() - start, thief.taken()
        self.stolen.append(((read_after - read) / seconds, (done_after - done) / seconds))

    def outcome(self) -> Outcome:
        """The figures of all turns."""
        seen = [turn.disturbance for turn in self.turns]
        clean = sum(turn.clean for turn in self.turns)
        outcome = Outcome(self.index, samples_s=[t / self.contestant.launches for t in usable(self.turns)])
        outcome.telemetry = {
            "turns_s": [turn.time_s for turn in self.turns],
            "disturbances": seen,
            "launches": self.contestant.launches,
            "slots": self.contestant.slots,
            "error": self.contestant.error,
            "stored_bytes": self.contestant.backend.stored_bytes(),
        }
        if self.stolen:
            names = ("stolen_bytes_per_s", "stolen_flops_per_s")
            outcome.factors = {
                name: median(rates) for name, rates in zip(names, zip(*self.stolen, strict=True), strict=True)
            }
        if None in seen:
            outcome.grade_reasons = ["waiting threads cannot be counted"]
        elif clean >= CLEAN_SHARE * len(seen):
            outcome.grade = "clean"
        else:
            outcome.grade = "contended"
            outcome.grade_reasons = [f"{len(seen) - clean} of {len(seen)} turns disturbed"]
        return outcome
