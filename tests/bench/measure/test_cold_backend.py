"""A backend whose operands are cold: what passes between two uses of a set is counted, whoever moved it."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fake_cold import SIZE, WORK, Fake

from membound.backends.api import Accelerator, Device
from membound.bench.measure import cold_backend
from membound.bench.measure.cold_backend import (
    DEVICE_LAUNCHES,
    FITTING_LAUNCHES,
    LONG_BURSTS,
    LONG_TURN_S,
    MAX_LAUNCHES,
    ColdBackend,
)
from membound.bench.measure.cold_memory import ColdMemory, no_cold_memory
from membound.bench.measure.failures import FigureError, WrongAnswerError
from membound.bench.measure.turns import BURST_S, Turn
from membound.kernels.seeded import make_inputs
from membound.results import counts

RNG = np.random.default_rng()


def made(
    slots: int, cold: ColdMemory, accelerator: Accelerator | None = None, **values: Any
) -> tuple[ColdBackend, Fake]:
    backend = Fake()
    inputs = make_inputs(WORK, 1, slots)
    device = Device("fake:cpu", "fake", accelerator=accelerator)
    one = ColdBackend(
        "fake:cpu", backend, device, inputs, cold, Path(), [cold.passed_bytes] * slots, slots - 1, **values
    )
    return one, backend


class Gaps:
    """Counts by itself how many bytes pass between a use of an input set and the next one that is timed."""

    def __init__(self, one: ColdBackend, backend: Fake) -> None:
        self.cold, self.timed = one.cold, True
        self.last = dict(enumerate(one.last_use))
        self.seen: list[int] = []
        backend.on_launch = self.launch

    def launch(self, slot: int) -> None:
        if self.timed:
            self.seen.append(self.cold.passed_bytes - self.last[slot])
        self.last[slot] = self.cold.passed_bytes


def scripted(gaps: Gaps, attempts: int, warm_calls: int) -> Callable[..., Turn]:
    """A turn of that many attempts; what is not the burst is not timed."""

    def turn(warm: Any, burst: Any, *_: Any, before: Any = None, **__: Any) -> Turn:
        for _ in range(attempts):
            gaps.timed = False
            if before is not None:
                before()
            for _ in range(warm_calls if warm is not None else 0):
                warm()
            gaps.timed = before is not None  # or it is meant to be hot
            burst()
        gaps.timed = False
        return Turn(0.001, 0.0)

    return turn


SETS = [(2, 1), (3, 1), (7, 3), (7, 6), (33, 32), (33, 5), (1, 1)]
NEED = 1_000_000


@pytest.mark.parametrize(("slots", "launches"), SETS)
@pytest.mark.parametrize("others", [0, 20_000, NEED // 2, 3 * NEED])
def test_no_set_is_used_again_before_enough_bytes_have_passed(
    slots: int, launches: int, others: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever moved them: itself, in warm-up too, others between its turns, or memory that is read for it."""
    evicted = []
    cold = ColdMemory(NEED, lambda: evicted.append(30_000) or 30_000)  # type: ignore[func-returns-value]
    one, backend = made(slots, cold, launches=launches)
    gaps = Gaps(one, backend)
    monkeypatch.setattr(cold_backend, "take_turn", scripted(gaps, attempts=3, warm_calls=5))
    for number in range(8):
        if others:
            cold.passed_bytes += int(RNG.integers(others, 2 * others))
        if number == 4:
            one.hot_turn()
        one.take_turn()
    assert len(gaps.seen) == 8 * 3 * launches
    assert min(gaps.seen) >= NEED
    assert min(gaps.seen) <= NEED + 30_000 + 5 * SIZE, "and no more is waited for than needed"
    if slots > 1:
        assert min(gaps.seen) - 5 * SIZE <= one.working_set_bytes <= min(gaps.seen)
        assert one.working_set_bytes >= NEED


def test_bytes_that_others_moved_are_not_read_again() -> None:
    cold = ColdMemory(NEED, lambda: pytest.fail("nothing is missing"))  # type: ignore[arg-type]
    one, _ = made(5, cold, launches=4)
    for _ in range(5):
        cold.passed_bytes += NEED
        one.make_cold()
        one.burst()
    assert cold.passed_bytes == 5 * (NEED + 4 * SIZE)


def test_what_is_missing_is_read_to_the_byte() -> None:
    cold = ColdMemory(NEED, lambda: 1)
    one, _ = made(3, cold, launches=2)
    one.burst()
    one.burst()  # sets 0, 1, 2 and 0: set 1 was used when SIZE bytes had passed, set 2 a launch later
    cold.passed_bytes += 1000
    one.make_cold()  # sets 1 and 2 come next, and set 2 a launch later again
    assert cold.passed_bytes == SIZE + NEED
    assert one.working_set_bytes == NEED
    one.burst()
    cold.passed_bytes += NEED
    one.make_cold()  # sets 0 and 1: nothing is missing
    assert one.working_set_bytes == NEED, "the fewest of all turns"


def test_a_single_set_is_not_warmed_up_on_unless_it_pushes_itself_out() -> None:
    for need, warms in ((SIZE + 1, False), (SIZE, True), (SIZE // 2, True)):
        cold = ColdMemory(need, lambda: 1000)
        one, backend = made(1, cold)
        gaps = Gaps(one, backend)
        assert (one.warm is not None) == warms
        gaps.timed = False
        one.launch()
        cold.passed_bytes += 50 * SIZE  # of others
        one.make_cold()
        if one.warm is not None:
            one.warm()
        gaps.timed = True
        one.burst()
        assert min(gaps.seen) >= need
        assert one.working_set_bytes == (SIZE if warms else 51 * SIZE)


def test_warm_up_uses_the_sets_that_the_burst_does_not() -> None:
    for slots, launches in ((7, 3), (2, 1), (33, 32)):
        one, backend = made(slots, ColdMemory(10, lambda: 10), launches=launches)
        for _ in range(5):
            ahead = {(one.slot + 1 + i) % slots for i in range(launches)}
            backend.slots.clear()
            for _ in range(11):
                assert one.warm is not None
                one.warm()
            assert not ahead & set(backend.slots)
            assert len(set(backend.slots)) == min(11, slots - launches)
            backend.slots.clear()
            one.burst()
            assert set(backend.slots) == ahead
            assert len(backend.slots) == launches


def test_before_the_first_turn_the_working_set_is_that_of_all_sets() -> None:
    one, _ = made(5, ColdMemory(10, lambda: 10))
    assert one.working_set_bytes == 5 * SIZE
    one.fit_burst()
    assert one.working_set_bytes == 5 * SIZE, "fitting is not timed"
    gpu, _ = made(5, no_cold_memory(), Accelerator(), launches=3)
    gpu.cold.passed_bytes += 10**9
    gpu.make_cold()
    assert gpu.working_set_bytes == 5 * SIZE, "there it is rotation alone that defeats the cache"


def test_a_turn_is_cold_short_and_as_long_as_its_burst(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: dict[str, Any] = {}

    def turn(warm: Any, burst: Any, attempts: int, before: Any, limit_s: float, helpers: Any) -> Turn:
        asked.update(
            helpers=helpers, warm=warm, burst=burst, attempts=attempts, before=before, limit_s=limit_s
        )
        return Turn(0.5, 0.25, ((0.7, 0.3),))

    monkeypatch.setattr(cold_backend, "take_turn", turn)
    one, _ = made(3, ColdMemory(10, lambda: 10))
    assert one.take_turn(attempts=2) == Turn(0.5, 0.25, ((0.7, 0.3),))
    assert asked == {
        "helpers": (),
        "warm": one.warm,
        "burst": one.burst,
        "attempts": 2,
        "before": one.make_cold,
        "limit_s": LONG_TURN_S,
    }


# How many launches make a burst


def clocked(monkeypatch: pytest.MonkeyPatch, backend: Fake) -> None:
    monkeypatch.setattr(cold_backend.time, "perf_counter", lambda: backend.now_s)


@pytest.mark.parametrize(
    ("slots", "cost_s", "launches"),
    [
        (33, 1e-4, 20),
        (33, 1e-9, MAX_LAUNCHES),
        (6, 1e-4, 5),
        (2, 1e-4, 1),
        (1, 1e-9, 1),
        (33, 1.0, 1),
        (33, 0.0, 1),
    ],
)
def test_a_burst_lasts_two_milliseconds_and_uses_no_set_twice(
    slots: int, cost_s: float, launches: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert BURST_S == 2e-3
    one, backend = made(slots, ColdMemory(10, lambda: 10))
    backend.cost_s = lambda slot: cost_s
    clocked(monkeypatch, backend)
    one.fit_burst()
    assert one.launches == launches
    assert one.launch_s == pytest.approx(cost_s)


def test_an_accelerators_burst_may_be_a_long_queue(monkeypatch: pytest.MonkeyPatch) -> None:
    for cost_s, launches in ((1e-4, 20), (1e-9, DEVICE_LAUNCHES), (1.0, 1)):
        one, backend = made(3, no_cold_memory(), Accelerator())
        backend.cost_s = lambda slot, cost_s=cost_s: cost_s  # type: ignore[misc]
        clocked(monkeypatch, backend)
        one.fit_burst()
        assert one.launches == launches


def test_the_fastest_of_a_few_cold_launches_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    cold = ColdMemory(NEED, lambda: 10_000)
    one, backend = made(33, cold)
    costs = iter([9e-4, 2e-4, 5e-4, 1e-9])
    backend.cost_s = lambda slot: next(costs)
    clocked(monkeypatch, backend)
    one.fit_burst()
    assert (one.launch_s, one.launches) == (pytest.approx(2e-4), 10)
    assert len(backend.slots) == FITTING_LAUNCHES
    assert cold.passed_bytes >= NEED


def test_a_launch_as_long_as_many_bursts_is_not_repeated(monkeypatch: pytest.MonkeyPatch) -> None:
    one, backend = made(33, ColdMemory(10, lambda: 10))
    backend.cost_s = lambda slot: 1.1 * LONG_BURSTS * BURST_S
    clocked(monkeypatch, backend)
    one.fit_burst()
    assert len(backend.slots) == 1


# Hot


def test_a_hot_turn_repeats_the_set_that_was_used_last() -> None:
    one, backend = made(5, ColdMemory(10, lambda: 10), launches=3)
    one.burst()
    backend.slots.clear()
    turn = one.hot_turn()
    assert set(backend.slots) == {2}
    assert len(backend.slots) >= 4, "warm-up, and a burst of three"
    assert turn.retaken == ()
    one.burst()
    assert backend.slots[-3:] == [3, 4, 0], "the rotation goes on where it was"


# The device's own clock


@pytest.mark.parametrize(("slots", "launches"), [(1, 1), (3, 2), (7, 6)])
def test_the_devices_clock_times_a_queue_that_nobody_waits_for(slots: int, launches: int) -> None:
    one, backend = made(slots, ColdMemory(10, lambda: 10), launches=launches)
    backend.has_clock = True
    backend.cost_s = lambda slot: 1e-3 * (slot + 1)
    seconds, count = one.device_turn()
    assert count == launches
    assert backend.slots == list(range(launches))
    assert seconds == pytest.approx(1e-3 * (launches + 1) / 2)
    assert one.slot == launches - 1


def test_without_a_clock_nothing_is_launched() -> None:
    one, backend = made(3, ColdMemory(10, lambda: 10))
    assert one.device_turn() == (None, 0)
    assert backend.slots == []


def test_the_operands_of_a_queue_on_the_cpu_are_cold_too() -> None:
    cold = ColdMemory(NEED, lambda: 30_000)
    one, backend = made(7, cold, launches=6)
    backend.has_clock = True
    gaps = Gaps(one, backend)
    for _ in range(4):
        one.device_turn()
        one.make_cold()
        one.burst()
    assert min(gaps.seen) >= NEED


def test_an_accelerators_queue_lasts_as_long_as_it_is_asked_to() -> None:
    one, backend = made(3, no_cold_memory(), Accelerator(), launches=2, launch_s=1e-2)
    backend.has_clock = True
    backend.cost_s = lambda slot: 5e-3
    assert one.device_turn(0.5) == (pytest.approx(5e-3), 50)
    assert backend.slots == [i % 3 for i in range(50)]
    assert one.device_turn(1e9)[1] == DEVICE_LAUNCHES


def test_a_clock_that_stops_is_an_error() -> None:
    one, backend = made(3, ColdMemory(10, lambda: 10))
    marks = iter([0.0, 0.0, None])
    backend.mark = lambda: next(marks)  # type: ignore[method-assign]
    with pytest.raises(FigureError, match="a moment once, and None another time"):
        one.device_turn()
    assert backend.pending == 0


# The last output


def test_the_output_is_that_of_the_set_that_was_used_last(tmp_path: Path) -> None:
    one, backend = made(5, ColdMemory(10, lambda: 10), launches=3)
    one.reference_dir = tmp_path
    backend.inputs = one.inputs
    for _ in range(4):
        assert one.warm is not None
        one.warm()
        one.burst()
        one.check()
        one.hot_turn()
        one.check()
    assert 0 < one.error < 1e-6
    backend.slots.append((one.slot + 1) % 5)
    with pytest.raises(WrongAnswerError, match=f"on input set {one.slot} exceeds"):
        one.check()


class Ticks:
    """A clock that costs a hundredth of a second to look at."""

    def __init__(self) -> None:
        self.now_s = 0.0

    def perf_counter(self) -> float:
        self.now_s += 0.01
        return self.now_s


@pytest.mark.parametrize("slowdown", [0.0, 0.1, 2.0])
def test_a_slowdown_prolongs_each_launch_by_its_share(
    slowdown: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The test of the gate itself: the backend is busy, and the launch is counted once."""
    clock = Ticks()
    monkeypatch.setattr(cold_backend, "time", clock)
    one, backend = made(2, no_cold_memory(), slowdown=slowdown)

    def work(slot: int) -> None:
        clock.now_s += 10.0

    backend.on_launch = work
    start_s = clock.now_s
    one.launch()
    assert clock.now_s - start_s == pytest.approx(10 * (1 + slowdown), abs=0.06)
    assert len(backend.slots) == 1


def test_what_a_launch_allocates_is_counted_and_what_it_keeps_is_not() -> None:
    one, backend = made(2, no_cold_memory())
    kept: list[np.ndarray] = []

    def allocate(slot: int) -> None:
        if not kept:
            kept.append(np.zeros(10_000_000, np.uint8))
        for _ in range(3):  # one after the other: no more than one at a time
            np.zeros(300_000, np.uint8).fill(1)

    backend.on_launch = allocate
    found = one.allocated_bytes()
    assert found is not None
    assert 300_000 <= found < 320_000
    assert abs((one.allocated_bytes() or 0) - found) < counts.PAGE_BYTES
    backend.on_launch = lambda slot: None
    assert (one.allocated_bytes() or 0) < 4096
    assert not tracemalloc.is_tracing()


def test_memory_of_a_long_launch_is_not_counted() -> None:
    one, backend = made(2, no_cold_memory(), launch_s=1.01)
    assert one.allocated_bytes() is None
    assert backend.slots == []
