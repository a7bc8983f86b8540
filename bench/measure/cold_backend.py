"""A backend with a work prepared on it, whose every launch finds its operands cold: what a worker times.

>>> from membound.bench.measure.cold_memory import cold_memory
>>> how = Preparation(threads=2, seed=1, memory_bytes=1 << 30, reference_dir=Path("references"))
>>> one = prepare_cold("mine:cpu", work, how, cold_memory(2))
>>> turn = one.take_turn(attempts=3)
>>> one.check()

All bytes that pass through the caches are summed up, and an input set is used again only after as many bytes have
passed since its last use as push it out: those of this contestant, of all others, and what is still missing from
memory that nobody else uses.
"""

from __future__ import annotations

import time
import tracemalloc
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from membound.backends import registry
from membound.backends.api import Backend, Device
from membound.bench.measure.check import check_output, same_bits
from membound.bench.measure.closing import closed
from membound.bench.measure.cold_memory import ColdMemory, no_cold_memory, slots_for
from membound.bench.measure.figures import device_fields, helpers, reason_against, seconds_between
from membound.bench.measure.turns import ATTEMPTS, BURST_S, Turn, take_turn
from membound.errors import Unsupported
from membound.kernels.inputs import Inputs, OnnxInputs
from membound.kernels.seeded import make_inputs
from membound.kernels.weights.making import Making
from membound.kernels.work import Work

MAX_LAUNCHES = 32
DEVICE_LAUNCHES = 1000
"""On an accelerator a queue of launches may be long: a launch of microseconds needs one to be timed at all."""
FITTING_LAUNCHES = 3
LONG_BURSTS = 10
"""A launch longer than this many bursts counts as a whole burst, even if it was disturbed."""
LONGEST_COUNTED_S = 1.0
"""Of a launch that takes longer, memory is not counted: counting slows it down several times."""
LONG_TURN_S = 0.25
"""A turn that has lasted so long is not taken again: a step of a large model would hold up all others."""


@dataclass(frozen=True, slots=True)
class Preparation:
    """What preparing a work depends on besides the work."""

    threads: int
    seed: int
    memory_bytes: int
    """What the input sets of one contestant may take."""
    reference_dir: Path
    tell: Callable[[str], None] = lambda phase: None
    launch_s: float = 0.0
    """What a launch took in an earlier process, 0 where that is not known."""
    slowdown: float = 0.0
    """Share of its time by which each launch is prolonged: for the gate's test of itself."""
    shared: str = ""
    """A file of arrays that others make too, as in `Prepare`."""


@dataclass(slots=True)
class ColdBackend:
    """A prepared backend; input sets rotate, `last_use` is when each passed through the caches last."""

    name: str
    backend: Backend
    device: Device
    inputs: Inputs
    cold: ColdMemory
    reference_dir: Path
    last_use: list[int]
    slot: int = 0
    launches: int = 1
    warmed: int = 0
    error: float = 0.0
    prepare_s: float = 0.0
    unshared: str = ""
    first_s: float = 0.0
    launch_s: float = 0.0
    slowdown: float = 0.0
    reuse_bytes: int | None = None
    """The fewest bytes that passed between a set's use in a timed burst and its use before; None before the first one."""
    checked: dict[str, Any] = field(default_factory=dict)
    first_bits: str = ""
    """Of the first output that was checked, where later ones must have the same bits."""

    @property
    def slots(self) -> int:
        """Input sets that rotate."""
        return len(self.last_use)

    @property
    def working_set_bytes(self) -> int:
        """Bytes that pass through the caches before a timed burst uses a set again; those of all sets where they rotate alone."""
        return self.reuse_bytes or self.slots * self.inputs.work.footprint_bytes

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
        start = time.perf_counter()
        self.backend.launch(slot)
        self.backend.sync()
        if self.slowdown:
            busy_until(start + (1 + self.slowdown) * (time.perf_counter() - start))
        self._count_use(slot)

    def _count_use(self, slot: int) -> None:
        self.last_use[slot] = self.cold.passed_bytes
        self.cold.passed_bytes += self.inputs.work.footprint_bytes

    def burst(self) -> None:
        """As many launches as make a turn."""
        for _ in range(self.launches):
            self.launch()

    def make_cold(self) -> None:
        """Push out of the caches what the next burst will use, and note how many bytes that were."""
        ahead = [(self.slot + 1 + i) % self.slots for i in range(min(self.slots, self.launches))]
        size = self.inputs.work.footprint_bytes
        uses = [self.last_use[slot] - i * size for i, slot in enumerate(ahead)]
        self.cold.wait_until(max(uses) + self.cold.need_bytes)
        if self.device.accelerator is None:  # there it is rotation that defeats the cache
            warmed_up_on_it = self.slots == 1 and self.warm is not None
            passed = size if warmed_up_on_it else self.cold.passed_bytes - max(uses)
            self.reuse_bytes = passed if self.reuse_bytes is None else min(passed, self.reuse_bytes)

    def fit_burst(self, launch_s: float = 0.0) -> None:
        """Choose the launches of a burst, which uses no input set twice and leaves one to warm up on.

        `launch_s` as in `Preparation`.
        """
        self.launch_s = launch_s or self._measured_launch_s()
        self.launches = self._launches_for(BURST_S)
        self.reuse_bytes = None  # of timed bursts alone

    def _measured_launch_s(self) -> float:
        times: list[float] = []
        for _ in range(FITTING_LAUNCHES):
            self.make_cold()
            start = time.perf_counter()
            self.launch()
            times.append(time.perf_counter() - start)
            if times[-1] > LONG_BURSTS * BURST_S:
                break
        return min(times)

    def _launches_for(self, seconds: float) -> int:
        wanted = round(seconds / self.launch_s) if self.launch_s else 1
        if self.device.accelerator is not None:  # rotation alone defeats its cache, however long the burst
            return max(1, min(wanted, DEVICE_LAUNCHES))
        return max(1, min(wanted, self.slots - 1, MAX_LAUNCHES))

    def take_turn(self, attempts: int = ATTEMPTS) -> Turn:
        """One timed burst; seconds of all of it."""
        own = helpers(self.backend)
        return take_turn(
            self.warm, self.burst, attempts, before=self.make_cold, limit_s=LONG_TURN_S, helpers=own
        )

    def hot_turn(self) -> Turn:
        """The same input set again and again: a second figure, never the headline."""
        slot = self.slot

        def burst() -> None:
            for _ in range(self.launches):
                self._launch_on(slot)

        return take_turn(lambda: self._launch_on(slot), burst, 1)

    def device_turn(self, seconds: float = 0.0) -> tuple[float | None, int]:
        """Seconds a launch by the device's own clock, launches queued without waiting, and how many; None: no clock.

        Raises FigureError where the clock tells what cannot be.
        """
        launches = self._launches_for(seconds) if seconds else self.launches
        if self.backend.mark() is None:
            return None, 0
        self.make_cold()
        first = self.backend.mark()
        for _ in range(launches):
            self.slot = (self.slot + 1) % self.slots
            self.backend.launch(self.slot)
            self._count_use(self.slot)
        last = self.backend.mark()
        self.backend.sync()
        return seconds_between(self.backend, first, last) / launches, launches

    def check(self) -> None:
        """Compare the last launch's output with the reference; a user's file must give equal bits too. Raises WrongAnswerError."""
        output = self.backend.output()
        error, tokens = check_output(output, self.inputs, self.slot, self.reference_dir)
        if isinstance(self.inputs, OnnxInputs):
            self.first_bits = same_bits(output, self.first_bits)
        self.error = max(self.error, error)
        self.checked |= {"greedy_tokens": tokens} if tokens and "greedy_tokens" not in self.checked else {}

    def allocated_bytes(self) -> int | None:
        """The most memory of Python's and NumPy's that a launch takes beyond what it found; None of a long launch.

        Exact, and slow: after everything was timed.
        """
        if self.launch_s > LONGEST_COUNTED_S:
            return None
        tracemalloc.start()
        try:
            self.launch()  # what it keeps for good is not what each launch takes
            tracemalloc.reset_peak()
            before, _ = tracemalloc.get_traced_memory()
            self.launch()
            _, most = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        return max(0, most - before)

    def close(self) -> None:
        """Give memory and threads back."""
        self.backend.close()


def busy_until(end: float) -> None:
    """Work, without a rest, until that moment of `time.perf_counter`."""
    while time.perf_counter() < end:
        pass


def prepare_cold(
    name: str,
    work: Work,
    how: Preparation,
    cold: ColdMemory,
    slots: Callable[[Work, Device, int], int] = slots_for,
    ready: Callable[[Backend, Device], None] = lambda backend, device: None,
) -> ColdBackend:
    """Open a backend, prepare the work on inputs of its own, launch once, check, and choose the burst.

    `slots` chooses the input sets. `ready` is called before preparing, with the opened
    backend. Raises what the backend raises, Unsupported, and WrongAnswerError; it is closed then.
    """
    backend = registry.create(name)
    try:
        device = backend.open(registry.device_of(name), how.threads)
        device_fields(device)
        reason = reason_against(backend, work)
        if reason is not None:
            raise Unsupported(reason)
        ready(backend, device)
        how.tell("preparing")
        sets = slots(work, device, how.memory_bytes)
        # The reference is of inputs that are drawn for it, after this: what others wrote cannot make both wrong alike.
        with Making(how.shared, how.threads) as making:
            inputs = make_inputs(work, how.seed, sets, how.reference_dir, making.take)
            start = time.perf_counter() - making.seconds
            backend.prepare(work, inputs)
            prepare_s = time.perf_counter() - start - making.seconds
        if device.accelerator is not None:
            cold = no_cold_memory()
        one = ColdBackend(
            name,
            backend,
            device,
            inputs,
            cold,
            how.reference_dir,
            [cold.passed_bytes] * inputs.slots,
            inputs.slots - 1,
            prepare_s=max(0.0, prepare_s),
            unshared=making.unshared,
            slowdown=how.slowdown,
        )
        start = time.perf_counter()
        one.launch()
        one.first_s = time.perf_counter() - start
        how.tell("checking")
        one.check()
        how.tell("fitting the burst")
        one.fit_burst(how.launch_s)
    except BaseException:
        closed(backend)
        raise
    return one
