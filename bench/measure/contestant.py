"""One side of a duel: a backend with a work prepared on it, whose every launch finds its operands cold.

>>> cold = ColdMemory(need_bytes=4 * cache, evict=read_some_other_memory)
>>> one = enter("torch:cpu", work, cold, threads=2, slots=8, seed=1)      # raises Refused
>>> turn = one.take_turn(launches=3)

Contestants share a process and its caches, so coldness is counted and not hoped for: all bytes that pass
through the caches are summed up, and an input set is used again only after as many bytes have passed
since its last use as push it out. What is missing is read from memory that nobody else uses.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field

from membound.backends import registry
from membound.backends.api import Backend
from membound.bench.measure.check import error_of
from membound.bench.measure.turns import Turn, take_turn
from membound.errors import MemboundError
from membound.kernels import reference
from membound.kernels.inputs import Inputs
from membound.kernels.seeded import make_inputs
from membound.kernels.work import Work

BURST_S = 2e-3
"""A burst lasts about this long: as long as a window of the read ceiling, so that what both spend at their start, when
nothing is on its way yet, weighs alike; short enough to find clean moments."""
MAX_LAUNCHES = 32
FITTING_LAUNCHES = 3
LONG_BURSTS = 10
"""A launch that takes as long as so many bursts is one of its own, however much it was disturbed."""


class Refused(MemboundError):
    """A backend does not take part; `status` is a row's status, the text its reason."""

    def __init__(self, status: str, reason: str) -> None:
        super().__init__(reason)
        self.status = status


@dataclass(slots=True)
class ColdMemory:
    """Counts the bytes that pass through the caches, and lets more of them pass where too few have.

    `evict` reads memory of its own and returns how many bytes that were.
    """

    need_bytes: int
    evict: Callable[[], int]
    passed_bytes: int = 0

    def wait_until(self, passed_bytes: int) -> None:
        """Let bytes pass until so many have in all."""
        while self.passed_bytes < passed_bytes:
            self.passed_bytes += self.evict()


@dataclass(slots=True)
class Contestant:
    """A prepared backend; input sets rotate, `last_use` is when each passed through the caches last."""

    name: str
    backend: Backend
    inputs: Inputs
    cold: ColdMemory
    last_use: list[int]
    slot: int = 0
    launches: int = 1
    warmed: int = 0
    error: float = 0.0
    turns: list[Turn] = field(default_factory=list)

    @property
    def slots(self) -> int:
        """Input sets that rotate."""
        return len(self.last_use)

    @property
    def warm(self) -> Callable[[], None] | None:
        """A launch that leaves the operands of the next burst cold; None where there is no such."""
        if self.slots > 1 or self.inputs.work.footprint_bytes >= self.cold.need_bytes:
            return self._launch_spare
        return None

    def launch(self) -> None:
        """One launch on the next input set, until it is done."""
        self.slot = (self.slot + 1) % self.slots
        self._launch_on(self.slot)

    def _launch_spare(self) -> None:
        """One launch on the sets that the next burst does not use, in turn."""
        spare = max(1, self.slots - self.launches)
        self._launch_on((self.slot + 1 + self.launches + self.warmed % spare) % self.slots)
        self.warmed += 1

    def _launch_on(self, slot: int) -> None:
        self.backend.launch(slot)
        self.backend.sync()
        self.last_use[slot] = self.cold.passed_bytes
        self.cold.passed_bytes += self.inputs.work.footprint_bytes

    def burst(self) -> None:
        """As many launches as make a sample."""
        for _ in range(self.launches):
            self.launch()

    def make_cold(self) -> None:
        """Push out of the caches what the next burst will use."""
        ahead = [(self.slot + 1 + i) % self.slots for i in range(min(self.slots, self.launches))]
        size = self.inputs.work.footprint_bytes
        self.cold.wait_until(
            max(self.last_use[slot] + self.cold.need_bytes - i * size for i, slot in enumerate(ahead))
        )

    def fit_burst(self) -> None:
        """Choose the launches of a burst, which uses no input set twice and leaves one to warm up on."""
        times = []
        for _ in range(FITTING_LAUNCHES):
            self.make_cold()
            start = time.perf_counter()
            self.launch()
            times.append(time.perf_counter() - start)
            if times[-1] > LONG_BURSTS * BURST_S:
                break
        wanted = round(BURST_S / min(times))
        self.launches = max(1, min(wanted, self.slots - 1, MAX_LAUNCHES))

    def take_turn(self) -> None:
        """One timed burst, kept in `turns`."""
        self.turns.append(take_turn(self.warm, self.burst, before=self.make_cold))

    def check(self, expected: dict[int, reference.F64]) -> None:
        """Hold the last launch's output against the reference, computed once a slot. Raises Refused."""
        if self.slot not in expected:
            expected[self.slot] = reference.compute(self.inputs, self.slot)
        error = error_of(self.backend.output(), self.inputs, expected[self.slot])
        self.error = max(self.error, error)
        limit = reference.tolerance(self.inputs.work)
        if not error <= limit:
            raise Refused("wrong", f"error {error:.3g} against the reference; {limit:.3g} is allowed")


def enter(name: str, work: Work, cold: ColdMemory, threads: int, slots: int, seed: int) -> Contestant:
    """Open a backend and prepare the work on inputs of its own. Raises Refused with the reason."""
    backend = registry.create(name)
    try:
        if backend.open(registry.device_of(name), threads).accelerator is not None:
            raise Refused(
                "unsupported", "a duel keeps the CPU's caches cold; measure devices with `membound run`"
            )
        reason = backend.supports(work)
        if reason is not None:
            raise Refused("unsupported", reason)
        inputs = make_inputs(work, seed, slots)
        backend.prepare(work, inputs)
    except BaseException:
        backend.close()
        raise
    return Contestant(name, backend, inputs, cold, [cold.passed_bytes] * inputs.slots, inputs.slots - 1)
