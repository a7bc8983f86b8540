"""Ceilings that take turns: which of several patterns counts, what a turn moves, and limits of a device that free each other."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import count
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from local_workers import shrink

from membound.backends.api import Limit
from membound.bench.ceilings import in_turn
from membound.bench.ceilings.in_turn import (
    FINALISTS,
    LEAD,
    MEMORY_TURNS,
    MOST_QUEUED,
    TRIALS,
    Candidate,
    CpuCeilings,
    DeviceCeilings,
    PatternCeiling,
    product_patterns,
    timed_queue,
)
from membound.bench.ceilings.patterns import CeilingError, Pattern
from membound.bench.measure.failures import FigureError
from membound.bench.measure.turns import BURST_S, PAUSE_S, WARM_S, Turn

RNG = np.random.default_rng()


class Script:
    """Patterns whose turns last what is written for them; a turn is three calls, two of them to warm up."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, **times_s: list[float]) -> None:
        self.times = {name: iter(times) for name, times in times_s.items()}
        self.log: list[str] = []
        self.pauses_s: list[float] = []
        self.windows: list[int] = []
        self.playing = ""
        monkeypatch.setattr(in_turn, "take_turn", self.turn)

    def turn(
        self, warm: Callable[[], object] | None, burst: Callable[[], object], attempts: int, pause_s: float
    ) -> Turn:
        for call in (warm, warm, burst):
            if call is not None:
                call()
        self.log.append(self.playing)
        self.pauses_s.append(pause_s if warm is not None else 0.0)
        return Turn(next(self.times[self.playing]), 0.0)

    def pattern(self, name: str, window_bytes: int = 0) -> Pattern:
        def call(number: int) -> None:
            self.windows.append(number)
            self.playing = name

        return Pattern(100.0, {"variant": name, "window_bytes": window_bytes}, call, lambda: None)

    def ceiling(self, *names: str, window_bytes: int = 0) -> PatternCeiling:
        return PatternCeiling([Candidate(self.pattern(name, window_bytes)) for name in names], count(1))


def test_every_pattern_is_tried_in_turn_and_the_best_ones_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    speeds = {"a": 4.0, "b": 1.0, "c": 3.0, "d": 2.0, "e": 6.0, "f": 5.0}
    script = Script(monkeypatch, **{name: [time_s] * 9 for name, time_s in speeds.items()})
    ceiling = script.ceiling(*speeds)
    ceiling.settle()
    assert script.log == [*speeds] * TRIALS
    assert [one.pattern.config["variant"] for one in ceiling.candidates] == ["b", "d", "c", "a"][:FINALISTS]


def test_the_only_pattern_needs_no_trial(monkeypatch: pytest.MonkeyPatch) -> None:
    script = Script(monkeypatch, a=[1.0])
    ceiling = script.ceiling("a")
    ceiling.settle()
    assert script.log == []
    assert ceiling.take_turn() == (100.0, Turn(1.0, 0.0), "a", 0)


def test_a_lucky_turn_makes_no_pattern_the_best(monkeypatch: pytest.MonkeyPatch) -> None:
    """b is faster by its median; single turns of a, in the trials and later, are ten times as fast as any."""
    lucky = [2.0, 0.1, *[2.0] * (TRIALS - 2), *[0.1, 2.0, 2.0, 2.0] * 5]
    script = Script(monkeypatch, a=lucky, b=[1.0] * 40)
    ceiling = script.ceiling("a", "b")
    ceiling.settle()
    for _ in range(20):
        rate, turn, variant, _ = ceiling.take_turn()
        assert (rate, turn.time_s, variant) == (100.0, 1.0, "b")


def test_the_rate_is_that_of_this_turn_and_not_the_median(monkeypatch: pytest.MonkeyPatch) -> None:
    """A ceiling says what the memory does now; which pattern says so is what the medians decide."""
    times = RNG.uniform(0.9, 1.1, 40).tolist()
    script = Script(monkeypatch, fast=times, slow=[5.0] * 40)
    ceiling = script.ceiling("slow", "fast")
    ceiling.settle()
    for number in range(20):
        rate, turn, variant, _ = ceiling.take_turn()
        assert variant == "fast"
        assert turn.time_s == times[TRIALS + number]
        assert rate == 100.0 / turn.time_s


def test_a_challenger_that_becomes_faster_leads_after_half_of_what_is_remembered(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Threads move, pages are merged: what was best in the first turns need not stay so."""
    before = 20
    script = Script(monkeypatch, a=[1.0] * 60, b=[2.0] * (TRIALS + before) + [0.5] * 40)
    ceiling = script.ceiling("a", "b")
    ceiling.settle()
    variants = [ceiling.take_turn()[2] for _ in range(40)]
    change = before + MEMORY_TURNS // 2 + 1
    assert variants == ["a"] * change + ["b"] * (40 - change)
    assert max(ceiling.candidates[1].leads) < 1, "what was remembered of another leader is forgotten"


def test_the_memory_may_move_as_it_likes_without_a_change_of_the_leader(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Two patterns are compared in the same turn, so it does not matter that the leader's others were slower."""
    memory = RNG.uniform(1, 10, 60).tolist()
    trials = [1.0] * TRIALS
    script = Script(monkeypatch, a=trials + memory, b=[1.01 * t for t in trials + memory])
    ceiling = script.ceiling("a", "b")
    ceiling.settle()
    assert {ceiling.take_turn()[2] for _ in range(40)} == {"a"}


def test_who_is_no_more_than_equal_does_not_take_the_lead(monkeypatch: pytest.MonkeyPatch) -> None:
    almost = 1 / (0.5 + 0.5 * LEAD)
    script = Script(monkeypatch, a=[1.0] * 60, b=[1.0] * TRIALS + [almost] * 40)
    ceiling = script.ceiling("a", "b")
    ceiling.settle()
    assert {ceiling.take_turn()[2] for _ in range(30)} == {"a"}


def test_the_leader_and_one_challenger_play_in_each_turn_and_what_they_move_counts(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Who comes second needs no pause and no warm-up; nobody always comes second."""
    script = Script(monkeypatch, a=[1.0] * 20, b=[2.0] * 20, c=[3.0] * 20)
    ceiling = script.ceiling("a", "b", "c", window_bytes=1000)
    ceiling.settle()
    script.log.clear()
    script.pauses_s.clear()
    moved = [ceiling.take_turn()[3] for _ in range(4)]
    assert moved == [(3 + 1) * 1000] * 4, "the first has two calls to warm up"
    assert script.log == ["b", "a", "c", "a", "a", "b", "a", "c"]
    assert script.pauses_s == [PAUSE_S, 0.0] * 4


def test_windows_are_walked_through_by_all_in_one_order(monkeypatch: pytest.MonkeyPatch) -> None:
    """Or a pattern would find in the cache what the one before it has read."""
    script = Script(monkeypatch, a=[1.0] * 20, b=[2.0] * 20)
    ceiling = script.ceiling("a", "b")
    ceiling.settle()
    ceiling.take_turn()
    assert script.windows == list(range(1, len(script.windows) + 1))


# Of the processor


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    shrink(monkeypatch)


@pytest.mark.slow
@pytest.mark.usefixtures("small")
def test_the_processors_ceilings_have_rates_units_and_variants() -> None:
    ceilings = CpuCeilings(2, ["f32", "bf16", "int8"])
    assert next(iter(ceilings.units)) == "read"
    assert {"fma_f32", "dot_int8"} <= set(ceilings.units)
    assert {name: unit for name, unit in ceilings.units.items() if unit == "bytes/s"} == {"read": "bytes/s"}
    seen = ceilings.take_turn(list(ceilings.units))
    assert set(seen.rates) == set(seen.clean) == set(seen.variants) == set(ceilings.units)
    assert all(rate > 0 for rate in seen.rates.values())
    assert "streams" in seen.variants["read"]
    assert seen.moved_bytes > 0
    assert ceilings.take_turn([]).rates == {}
    with pytest.raises(CeilingError, match="there is no ceiling gemm_f32 here: read, fma_f32"):
        ceilings.take_turn(["read", "gemm_f32"])


@pytest.mark.usefixtures("small")
def test_a_kernel_with_a_wrong_result_is_no_ceiling(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(in_turn.stream, "read", lambda *args: -1.0)
    with pytest.raises(CeilingError, match=r"the read kernel .* gives a wrong result on this machine"):
        CpuCeilings(1, [])


def test_products_are_those_of_the_formats_that_were_asked_for() -> None:
    assert product_patterns([], 1) == {}
    assert list(product_patterns(["f32"], 1)) == ["fma_f32"]
    assert "fma_f32" not in product_patterns(["int8"], 1)
    assert "dot_int8" in product_patterns(["int8"], 1)
    assert "fma_f32" in product_patterns(["bf16"], 1)


# Of a device


class Device:
    """Limits that stand on one array each: the generator frees the array of the one before."""

    def __init__(self, costs_s: dict[tuple[str, str], float], has_clock: bool = True) -> None:
        self.costs_s, self.has_clock = costs_s, has_clock
        self.now_s, self.right = 0.0, True
        self.launched: list[tuple[str, int]] = []
        self.pending = 0

    def limits(self, quick: bool) -> Iterator[Limit]:
        for (name, variant), cost_s in self.costs_s.items():
            array = {"held": True}

            def launch(
                number: int, name: str = name, array: dict[str, bool] = array, cost_s: float = cost_s
            ) -> None:
                assert array["held"], "launched on memory that was freed"
                self.launched.append((name, number))
                self.pending += 1
                self.now_s += cost_s

            try:
                yield Limit(name, 8e9, "bytes/s", {"variant": variant}, launch, lambda: self.right)
            finally:
                array["held"] = False

    def sync(self) -> None:
        self.pending = 0

    def mark(self) -> float | None:
        return self.now_s if self.has_clock else None

    def elapsed_s(self, start: float, end: float) -> float:
        assert self.pending == 0
        return end - start


TWO = {("read", "slow"): 0.004, ("read", "fast"): 0.002, ("copy", "fast"): 0.001, ("link", ""): 0.01}


def test_limits_stay_alive_though_making_one_frees_the_one_before() -> None:
    device: Any = Device(TWO)
    ceilings = DeviceCeilings(device, {"copy": "fast", "read": "fast", "link": ""})
    assert ceilings.units == {"copy": "bytes/s", "read": "bytes/s", "link": "bytes/s"}
    for _ in range(3):
        seen = ceilings.take_turn(["read", "link", "copy"])
        assert seen.rates == {
            "read": pytest.approx(4e12),
            "link": pytest.approx(8e11),
            "copy": pytest.approx(8e12),
        }
        assert seen.variants == {"read": "fast", "link": "", "copy": "fast"}
        assert seen.clean == dict.fromkeys(seen.rates, True)
        assert seen.moved_bytes == 0, "of the processor's caches"
    assert set(ceilings.take_turn(["read"]).rates) == {"read"}


def test_a_turn_of_a_device_lasts_as_long_as_the_processors() -> None:
    device: Any = Device({("read", "x"): 1e-3, ("copy", "x"): 1e-9, ("link", "x"): 1.0})
    ceilings = DeviceCeilings(device, {"read": "x", "copy": "x", "link": "x"})
    for name, launches in (("read", round((BURST_S + WARM_S) / 1e-3)), ("copy", MOST_QUEUED), ("link", 1)):
        device.launched.clear()
        ceilings.take_turn([name])
        assert [who for who, _ in device.launched] == [name] * launches
    numbers = [number for _, number in device.launched]
    ceilings.take_turn(["link"])
    assert device.launched[-1][1] == numbers[-1] + 1, "windows go on rotating"


def test_a_limit_that_is_not_offered_or_wrong_is_no_ceiling() -> None:
    device: Any = Device(TWO)
    with pytest.raises(CeilingError, match="the backend offers no limit read, other"):
        DeviceCeilings(device, {"read": "other"})
    with pytest.raises(CeilingError, match="no limit triad, without a variant"):
        DeviceCeilings(device, {"triad": ""})
    with pytest.raises(CeilingError, match="there is no ceiling copy here: read"):
        DeviceCeilings(device, {"read": "fast"}).take_turn(["copy"])
    with pytest.raises(CeilingError, match="there is no ceiling read here: none"):
        DeviceCeilings(device, {}).take_turn(["read"])
    device.right = False
    with pytest.raises(CeilingError, match="read: its result is wrong"):
        DeviceCeilings(device, {"read": "fast"})


def test_a_device_that_tells_no_time_is_told() -> None:
    device: Any = Device({("read", "x"): 0.0})
    with pytest.raises(FigureError, match="which no clock can tell"):
        DeviceCeilings(device, {"read": "x"})


@pytest.mark.parametrize("has_clock", [True, False])
def test_a_queue_is_timed_by_the_devices_clock_or_by_ours(
    has_clock: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    device: Any = Device({}, has_clock)
    ours = iter([0.0, 6.0])
    monkeypatch.setattr(in_turn.time, "perf_counter", lambda: next(ours))

    def launch() -> None:
        device.now_s += 0.5
        device.pending += 1

    assert timed_queue(device, launch, 4) == (0.5 if has_clock else 1.5)
    assert device.pending == 0


def test_a_clock_that_stops_is_not_replaced_by_ours() -> None:
    for moments in ([1.0, None], [None, 1.0]):
        marks = iter(moments)
        device: Any = SimpleNamespace(mark=lambda marks=marks: next(marks), sync=lambda: None)
        with pytest.raises(FigureError, match="a moment once, and None another time"):
            timed_queue(device, lambda: None, 3)
