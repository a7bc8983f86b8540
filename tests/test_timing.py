import gc
from itertools import pairwise
from typing import Any

import numpy as np
import pytest

from membound.backends.api import Backend, Device
from membound.bench.api import measure
from membound.bench.ceilings.backend import launch_once
from membound.bench.claim.budget import Budget


class Clocked(Backend):
    """Advances a clock of its own by `cost_s(slot, launch number)` when it is synchronised."""

    def __init__(self, cost_s: Any) -> None:
        self.cost_s = cost_s
        self.now_ns = 0
        self.order: list[int] = []
        self.pending = 0
        self.gc_enabled: set[bool] = set()

    def clock(self) -> int:
        return self.now_ns

    def open(self, device: str, threads: int) -> Device:
        return Device(device, device)

    def supports(self, work: Any) -> str | None:
        return None

    def prepare(self, work: Any, inputs: Any) -> None: ...

    def launch(self, slot: int) -> None:
        self.order.append(slot)
        self.pending += 1
        self.gc_enabled.add(gc.isenabled())

    def sync(self) -> None:
        assert self.pending == 1, "a decode step is one launch and one sync"
        self.pending = 0
        self.now_ns += round(1e9 * self.cost_s(self.order[-1], len(self.order) - 1))

    def output(self) -> Any:
        return np.zeros(1, np.float32)


def test_first_launch_is_recorded_apart_from_warm_up_and_samples() -> None:
    backend = Clocked(lambda slot, i: 5.0 if i == 0 else 0.01)
    got = measure(backend, 4, Budget(warmup_s=0.1, timing_s=0.3), clock=backend.clock)
    assert got.first_s == 5.0
    assert set(got.warmup_s) == {0.01}
    assert set(got.samples_s) == {0.01}
    assert len(got.warmup_s) == 10
    assert got.launches == 1


def test_first_launch_of_the_caller_is_not_repeated() -> None:
    backend = Clocked(lambda slot, i: 0.01)
    first = launch_once(backend, 0, backend.clock)
    got = measure(backend, 3, Budget(0.03, 0.1), first, clock=backend.clock)
    assert got.first_s == first == 0.01
    assert backend.order[:4] == [0, 1, 2, 0]


@pytest.mark.parametrize("slots", [2, 3, 7, 12])
@pytest.mark.parametrize("cost_s", [0.0101, 0.0004, 0.00003])
def test_rotation_never_repeats_a_set_and_ends_on_the_last(slots: int, cost_s: float) -> None:
    backend = Clocked(lambda slot, i: cost_s)
    got = measure(backend, slots, Budget(0.02, 0.1), clock=backend.clock)
    hot = 1 + len(got.hot_samples_s) * got.launches
    cold, repeated = backend.order[:-hot], backend.order[-hot:]
    assert all(b == (a + 1) % slots for a, b in pairwise(cold))
    assert set(repeated) == {got.last_slot} == {slots - 1}
    assert len(got.hot_samples_s) == 5


def test_short_launches_are_batched_to_a_millisecond() -> None:
    backend = Clocked(lambda slot, i: 30e-6)
    got = measure(backend, 5, Budget(0.01, 0.05), clock=backend.clock)
    assert got.launches == 34
    assert got.samples_s == pytest.approx([30e-6] * len(got.samples_s))
    assert len(got.samples_s) * got.launches * 30e-6 >= 0.05
    assert len(got.warmup_s) == 3 + 10 + 1, "single launches, then batches, then the rest of a rotation"


def test_at_least_fifteen_samples_and_three_warm_up_launches() -> None:
    backend = Clocked(lambda slot, i: 0.1)
    got = measure(backend, 1, Budget(warmup_s=0.0, timing_s=1.0), clock=backend.clock)
    assert (len(got.warmup_s), len(got.samples_s)) == (3, 15)
    assert got.hot_samples_s == [], "one input set: nothing rotates, so nothing is hotter"


def test_a_slow_case_stops_with_five_samples() -> None:
    backend = Clocked(lambda slot, i: 3.0)
    got = measure(backend, 8, Budget(0.3, 1.0), clock=backend.clock)
    assert got.samples_s == [3.0] * 5
    assert got.last_slot == (3 + 5) % 8


def test_hot_figures_do_not_mix_with_cold_ones() -> None:
    seen: list[int] = []

    def cost_s(slot: int, i: int) -> float:
        hot = bool(seen) and seen[-1] == slot
        seen.append(slot)
        return 0.002 if hot else 0.01

    backend = Clocked(cost_s)
    got = measure(backend, 3, Budget(0.05, 0.2), clock=backend.clock)
    assert set(got.samples_s) == {0.01}
    assert got.hot_samples_s == [0.002] * 5


class WithEvents(Clocked):
    """Has a clock of its own, on which each launch takes `device_s(slot)` and queues are allowed."""

    def __init__(self, cost_s: Any, device_s: Any) -> None:
        super().__init__(cost_s)
        self.device_s = device_s
        self.device_now_s = 7.0
        self.queues: list[list[int]] = []

    def mark(self) -> object:
        self.queues.append([])
        return self.device_now_s

    def launch(self, slot: int) -> None:
        super().launch(slot)
        self.device_now_s += self.device_s(slot)
        if self.queues:
            self.queues[-1].append(slot)

    def sync(self) -> None:
        self.pending = 1
        super().sync()

    def elapsed_s(self, start: Any, end: Any) -> float:
        assert self.pending == 0, "marks are read after a sync"
        return float(end - start)


@pytest.mark.parametrize(("slots", "cost_s", "queue"), [(3, 0.002, 3), (7, 30e-6, 35), (1, 0.004, 1)])
def test_a_devices_own_clock_times_whole_rotations_in_a_queue(slots: int, cost_s: float, queue: int) -> None:
    backend = WithEvents(lambda slot, i: cost_s, lambda slot: 1e-3 * (slot + 1))
    got = measure(backend, slots, Budget(0.01, 0.05), clock=backend.clock)
    assert got.device_samples_s == pytest.approx([1e-3 * (slots + 1) / 2] * 10)
    timed = backend.queues[:20:2]
    assert [len(launched) for launched in timed] == [queue] * 10
    assert {launched[-1] for launched in timed} == {got.last_slot}
    assert set(got.samples_s) == {cost_s}, "the wall clock keeps its own samples"
    assert got.total_launches == len(backend.order) - 1


def test_without_events_there_are_no_device_samples() -> None:
    backend = Clocked(lambda slot, i: 0.001)
    got = measure(backend, 3, Budget(0.01, 0.05), clock=backend.clock)
    assert got.device_samples_s == []
    assert got.total_launches == len(backend.order) - 1


def test_a_slow_case_makes_do_with_three_device_samples() -> None:
    backend = WithEvents(lambda slot, i: 2.0, lambda slot: 1.5)
    got = measure(backend, 1, Budget(0.1, 0.5), clock=backend.clock)
    assert got.device_samples_s == [1.5] * 3


def test_samples_are_raw() -> None:
    rng = np.random.default_rng()
    costs = rng.uniform(0.005, 0.05, 1000).round(6)
    backend = Clocked(lambda slot, i: costs[i])
    got = measure(backend, 2, Budget(0.1, 0.5), clock=backend.clock)
    start = 1 + len(got.warmup_s)
    assert got.samples_s == pytest.approx(costs[start : start + len(got.samples_s)].tolist())


def test_garbage_collection_is_off_while_timing_and_on_after_an_error() -> None:
    backend = Clocked(lambda slot, i: 0.01)
    measure(backend, 2, Budget(0.02, 0.05), first_s=1.0, clock=backend.clock)
    assert backend.gc_enabled == {False}
    assert gc.isenabled()
    with pytest.raises(ZeroDivisionError):
        measure(Clocked(lambda slot, i: 1 / 0), 2, Budget(), first_s=1.0, clock=backend.clock)
    assert gc.isenabled()
