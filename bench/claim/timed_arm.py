"""An arm of an experiment that takes turns on a prepared work: with a co-runner beside it, or resident in a cache.

>>> timed = TimedArm(arm, one)
>>> timed.choose_burst()
>>> timed.take_turn().time_s, timed.stolen
(0.0021, {})
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from math import ceil

from membound.backends.api import CoRunner, Device
from membound.bench.claim.arms import Arm
from membound.bench.measure.cold_backend import ColdBackend
from membound.bench.measure.cold_memory import MOST_SLOTS, cache_and_room
from membound.bench.measure.turns import Turn, take_turn
from membound.kernels.slots import SET_BYTES, slots_to_defeat
from membound.kernels.work import OnnxStep, Prefill, Step, Work

ATTEMPTS = 2
"""A turn that was disturbed is taken again once: many arms share a process, and minutes are few."""
BURST_BYTES = 32 << 20
"""Small works have this many bytes in input sets, so that a burst of all of them lasts a millisecond or so."""
VICTIM_SLOTS = 5
"""A victim's burst lasts several duty cycles of the co-runner, or chunks of its work."""


@dataclass(slots=True)
class TimedArm:
    """An arm on a contestant, its own or one that it shares with other arms."""

    arm: Arm
    one: ColdBackend
    co_runner: CoRunner | None = None
    stolen: dict[str, float] = field(default_factory=dict)
    """Bytes and FLOPs a second that the co-runner took in the last burst."""

    def choose_burst(self) -> None:
        """A victim's burst uses all sets but one; one that is to stay in a cache is launched many times."""
        if self.arm.trade:
            self.one.launches = self.one.slots - 1
        elif self.arm.resident:
            self.one.launches = ceil(BURST_BYTES / self.one.inputs.work.footprint_bytes)

    def take_turn(self) -> Turn:
        """One timed burst, the co-runner at work if the arm has one: it rests again whatever happens."""
        one = self.one
        if self.arm.trade:
            if self.co_runner is None:
                raise AssertionError("no co_runner")
            try:
                self.co_runner.work(self.arm.trade, self.arm.duty)
                return take_turn(one.warm, self._watched, attempts=1, before=one.make_cold, alone=False)
            finally:
                self.co_runner.rest()
        if self.arm.resident:
            return take_turn(self._settle, one.burst, ATTEMPTS)
        return one.take_turn(ATTEMPTS)

    def _settle(self) -> None:
        """Twice over a working set, so that all of it is in a cache that can hold it."""
        self.one.launch()
        self.one.launch()

    def _watched(self) -> None:
        if self.co_runner is None:
            raise AssertionError("no co_runner")
        (read, done), start = self.co_runner.taken(), time.perf_counter()
        self.one.burst()
        seconds, (read_after, done_after) = time.perf_counter() - start, self.co_runner.taken()
        self.stolen = {
            "stolen_bytes_per_s": (read_after - read) / seconds,
            "stolen_flops_per_s": (done_after - done) / seconds,
        }


def slots_of_arms(arms: Sequence[Arm]) -> Callable[[Work, Device, int], int]:
    """Input sets of what these arms share: one where it shall stay in a cache, else so that a burst finds cold ones."""
    resident, victim = any(arm.resident for arm in arms), any(arm.trade for arm in arms)

    def slots(work: Work, device: Device, memory_bytes: int) -> int:
        if resident or isinstance(work, Step | Prefill | OnnxStep):
            return 1
        cache, room = cache_and_room(device, memory_bytes)
        if device.accelerator is not None:
            wanted = min(VICTIM_SLOTS, room // (work.footprint_bytes + SET_BYTES)) if victim else 0
            return max(slots_to_defeat(work, cache, room), wanted)
        if victim:
            return VICTIM_SLOTS
        return min(MOST_SLOTS, max(2, ceil(BURST_BYTES / work.footprint_bytes) + 1))

    return slots
