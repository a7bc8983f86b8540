"""How a prepared backend is timed: first launch apart, fixed warm-up, then samples over rotating inputs.

>>> samples = measure(backend, slots=12, budget=Budget(warmup_s=0.3, timing_s=1.0))
>>> statistics.median(samples.samples_s)

A launch is followed by its sync, as in a decode step, which needs its result before the next can start.
Input sets rotate through all launches, so that each finds its data in memory and not in a cache. All
figures are seconds a launch; nothing is left out, averaged over samples or chosen.

Where the device has a clock of its own, launches are also queued one behind the other and timed by it:
what is left is the device's share, and the difference is what starting and waiting costs.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from math import ceil
from statistics import median

from membound.backends.api import Backend

Clock = Callable[[], int]


@dataclass(frozen=True, slots=True)
class Budget:
    """How long one case may take. Counts are minima, seconds are aims; fixed before, never adaptive."""

    warmup_s: float = 0.3
    timing_s: float = 1.0
    warmup_launches: int = 3
    samples: int = 15
    sample_s: float = 1e-3
    hot_samples: int = 5
    device_samples: int = 10
    """Samples by the device's own clock; a slow case makes do with `few_device_samples`."""
    few_device_samples: int = 3
    overtime: float = 4.0
    """A slow case stops after so many times its aim, with what it has from `slow_samples` on."""
    slow_samples: int = 5


@dataclass(frozen=True, slots=True)
class Samples:
    """Raw figures of one case, seconds a launch; `launches` of them stand behind each (hot) sample.

    `last_slot` is the input set of the very last launch: `output()` belongs to it. `device_samples_s` are by
    the device's clock, launches queued without waiting; empty where it has none. `total_launches` counts all
    launches but the first.
    """

    first_s: float
    warmup_s: list[float]
    samples_s: list[float]
    hot_samples_s: list[float]
    launches: int
    last_slot: int
    device_samples_s: list[float]
    total_launches: int


def launch_once(backend: Backend, slot: int, clock: Clock = time.perf_counter_ns) -> float:
    """Launch, sync, and the seconds they took."""
    start = clock()
    backend.launch(slot)
    backend.sync()
    return (clock() - start) / 1e9


def measure(
    backend: Backend,
    slots: int,
    budget: Budget,
    first_s: float | None = None,
    clock: Clock = time.perf_counter_ns,
) -> Samples:
    """Time a backend whose work is prepared with `slots` input sets.

    `first_s` is the first launch on slot 0 if the caller made it already (to check its output). Samples end
    on the last input set, unless the case is slow. Hot samples repeat that set; with one input set nothing
    rotates and there are none.
    """
    if first_s is None:
        first_s = launch_once(backend, 0, clock)
    with no_garbage_collection():
        warmup_s, done = _warm_up(backend, slots, budget, clock)
        total = done - 1
        launches = _launches_for(budget.sample_s, warmup_s)
        if launches > 1 and done % slots:  # batches end on the last set only if they begin on the first
            rest = _rotation(done, slots, slots - done % slots)
            warmup_s.append(_batch(backend, rest, clock))
            total, done = total + len(rest), 0
        samples_s, last = _sample(backend, done, slots, launches, budget, clock)
        queue = slots * ceil(launches / slots)
        device_s = _device_samples(backend, _rotation(last + 1, slots, queue), budget, clock)
        hot_s: list[float] = []
        if slots > 1 and budget.hot_samples:
            launch_once(backend, last, clock)
            hot_s = [_batch(backend, [last] * launches, clock) for _ in range(budget.hot_samples)]
        total += (
            launches * len(samples_s) + queue * len(device_s) + (launches * len(hot_s) + 1 if hot_s else 0)
        )
    return Samples(first_s, warmup_s, samples_s, hot_s, launches, last, device_s, total)


def _warm_up(backend: Backend, slots: int, budget: Budget, clock: Clock) -> tuple[list[float], int]:
    """At least `warmup_launches` and `warmup_s` after the first launch; and how many launches that makes.

    The first ones are recorded singly, later ones in batches of a sample's length, so that a launch of
    microseconds does not fill a row with its warm-up.
    """
    taken: list[float] = []
    done = 1
    start = clock()
    while len(taken) < budget.warmup_launches or (clock() - start) / 1e9 < budget.warmup_s:
        single = len(taken) < budget.warmup_launches
        size = 1 if single else _launches_for(budget.sample_s, taken)
        taken.append(_batch(backend, _rotation(done, slots, size), clock))
        done += size
    return taken, done


def _launches_for(sample_s: float, taken: list[float]) -> int:
    """Launches that make a sample of that length, going by the median of those taken."""
    each_s = median(taken)
    return max(1, ceil(sample_s / each_s)) if each_s else 1


def _rotation(done: int, slots: int, size: int) -> list[int]:
    """The next `size` input sets after `done` launches."""
    return [(done + i) % slots for i in range(size)]


def _sample(
    backend: Backend, done: int, slots: int, launches: int, budget: Budget, clock: Clock
) -> tuple[list[float], int]:
    """Samples, going on after `done` launches, until counts and seconds are reached; and the last slot."""
    taken: list[float] = []
    aim_s = max(budget.timing_s, budget.samples * budget.sample_s)
    start = clock()
    while True:
        taken.append(_batch(backend, _rotation(done, slots, launches), clock))
        done += launches
        spent_s = (clock() - start) / 1e9
        enough = len(taken) >= budget.samples and spent_s >= budget.timing_s
        whole = done % slots == 0 or spent_s >= 2 * aim_s
        late = len(taken) >= budget.slow_samples and spent_s >= budget.overtime * aim_s
        if (enough and whole) or late:
            return taken, (done - 1) % slots


def _device_samples(backend: Backend, order: list[int], budget: Budget, clock: Clock) -> list[float]:
    """Means over launches on these input sets, queued without waiting, by the device's own clock.

    Empty where it has none. The order is a whole rotation or several: it ends where it began.
    """
    taken: list[float] = []
    start = clock()
    while len(taken) < budget.device_samples:
        late = (clock() - start) / 1e9 >= budget.timing_s
        if late and len(taken) >= budget.few_device_samples:
            break
        first = backend.mark()
        if first is None:
            break
        for slot in order:
            backend.launch(slot)
        end = backend.mark()
        assert end is not None
        backend.sync()
        taken.append(backend.elapsed_s(first, end) / len(order))
    return taken


def _batch(backend: Backend, order: list[int], clock: Clock) -> float:
    """One sample: the mean over launches on these input sets, each with its sync."""
    start = clock()
    for slot in order:
        backend.launch(slot)
        backend.sync()
    return (clock() - start) / 1e9 / len(order)


@contextmanager
def no_garbage_collection() -> Iterator[None]:
    """Collect now and not while the clock runs."""
    enabled = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()
