"""Duels: everybody cold, checked and on inputs of their own; outcomes as rows, each ratio from one run."""

from __future__ import annotations

from statistics import median
from typing import Any, ClassVar

import numpy as np
import pytest

from membound.backends.api import Backend, Device
from membound.backends.registry import UnknownBackend
from membound.bench.ceilings import cpu as ceilings
from membound.bench.ceilings import patterns
from membound.bench.commands.duel import duel
from membound.bench.measure import contestant
from membound.bench.measure.cold_memory import ColdMemory
from membound.bench.measure.contestant import Contestant
from membound.bench.measure.turns import Turn
from membound.errors import BackendUnavailable, Unsupported
from membound.kernels import reference
from membound.kernels.inputs import Inputs
from membound.kernels.seeded import make_inputs
from membound.kernels.work import Linear, Step, Work, parse

CACHE = 1 << 20
WORK = Linear(n=96, k=64, m=2, weight="f32")


class Right(Backend):
    """Knows the answers; keeps what it was given."""

    made: ClassVar[list[Right]] = []

    def __init__(self) -> None:
        self.made.append(self)
        self.closed = False
        self.slots: list[int] = []

    def open(self, device: str, threads: int) -> Device:
        return Device("right:cpu", "right", threads)

    def supports(self, work: Work) -> str | None:
        return None

    def prepare(self, work: Work, inputs: Inputs) -> None:
        self.inputs = inputs

    def launch(self, slot: int) -> None:
        self.slots.append(slot)

    def sync(self) -> None:
        pass

    def output(self) -> Any:
        return reference.compute(self.inputs, self.slots[-1]).astype(np.float32)

    def stored_bytes(self) -> int | None:
        return 12345

    def close(self) -> None:
        self.closed = True


class Wrong(Right):
    """Off by one."""

    def output(self) -> Any:
        return super().output() + 1


class WrongLater(Right):
    """Right at first, then wrong: as a kernel that reads what it wrote."""

    def output(self) -> Any:
        return super().output() + (len(self.slots) > 1)


class Picky(Right):
    """Does not do this work."""

    def supports(self, work: Work) -> str | None:
        return f"no {work.kind}"


class Late(Right):
    """Finds out while preparing."""

    def prepare(self, work: Work, inputs: Inputs) -> None:
        raise Unsupported("no such operator")


class Absent(Right):
    """Is not installed."""

    def open(self, device: str, threads: int) -> Device:
        raise BackendUnavailable("not installed", "pip install it")


class Broken(Right):
    """Raises what runtimes raise."""

    def prepare(self, work: Work, inputs: Inputs) -> None:
        raise RuntimeError("bad graph\nat node 7")


class Hungry(Right):
    """Takes too much memory."""

    def prepare(self, work: Work, inputs: Inputs) -> None:
        raise MemoryError


BACKENDS = {
    f"{cls.__name__.lower()}:cpu": cls
    for cls in (Right, Wrong, WrongLater, Picky, Late, Absent, Broken, Hungry)
}


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Small caches, no pauses, no retakes, and the backends above."""
    Right.made.clear()
    monkeypatch.setattr(contestant.registry, "create", lambda name: BACKENDS[name]())
    monkeypatch.setattr(duel.registry, "entry_for", lambda name: name)
    shrink(monkeypatch)


def shrink(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (ceilings, duel):
        monkeypatch.setattr(module, "last_level_cache_bytes", lambda: CACHE)
    monkeypatch.setattr(ceilings, "BYTES_PER_THREAD", CACHE)
    monkeypatch.setattr(patterns, "FMA_ITERATIONS", 1000)
    monkeypatch.setattr(patterns, "DOT_REPEATS", 10)

    def turn(warm: Any, burst: Any, *_: Any, before: Any = None) -> Turn:
        if before is not None:
            before()
        if warm is not None:
            warm()
        burst()
        return Turn(0.001, 0.0)

    monkeypatch.setattr(contestant, "take_turn", turn)
    monkeypatch.setattr(duel, "take_turn", turn)


def hold(*backends: str, work: Work = WORK, rounds: int = 3) -> list[dict[str, Any]]:
    return duel.duel(work, backends, threads=2, rounds=rounds, seed=5, tell=lambda _: None)


@pytest.mark.usefixtures("quick")
def test_rows_hold_times_ratios_and_the_limits_of_the_same_run() -> None:
    first, second, read, compute = hold("right:cpu", "right:cpu")
    assert [r["kind"] for r in (first, second, read, compute)] == ["case", "case", "ceiling", "ceiling"]
    for row in (first, second):
        assert row["status"] == "ok"
        assert row["backend"] == "right:cpu"
        assert row["work"] == WORK.spec
        assert row["clean"] == row["rounds"] == 3
        assert row["time_s"] == row["p25_s"] == row["p75_s"] == pytest.approx(0.001 / row["launches"])
        assert row["achieved_bytes_per_s"] == pytest.approx(WORK.traffic.total_bytes / row["time_s"])
        assert row["bound_s"] == pytest.approx(
            max(
                WORK.traffic.total_bytes / row["read_ceiling_bytes_per_s"],
                WORK.flops / row["compute_ceiling_flops_per_s"],
            )
        )
        assert row["of_bound"] == pytest.approx(row["bound_s"] / row["time_s"])
        assert row["error"] <= row["tolerance"]
        assert row["stored_bytes"] == 12345
    assert first["time_ratio"] == 1.0
    assert second["time_ratio"] == pytest.approx(second["time_s"] / first["time_s"])
    assert read["achieved_bytes_per_s"] == first["read_ceiling_bytes_per_s"] > 0
    assert compute["achieved_flops_per_s"] == first["compute_ceiling_flops_per_s"] > 0
    assert {frozenset(row) for row in (first, second, read, compute)} == {frozenset(first)}


@pytest.mark.usefixtures("quick")
def test_who_cannot_take_part_has_a_row_with_the_reason() -> None:
    names = ["picky:cpu", "right:cpu", "late:cpu", "absent:cpu", "broken:cpu", "hungry:cpu", "wrong:cpu"]
    rows = hold(*names, "wronglater:cpu")
    assert [(r["backend"], r["status"]) for r in rows[:8]] == [
        ("picky:cpu", "unsupported"),
        ("right:cpu", "ok"),
        ("late:cpu", "unsupported"),
        ("absent:cpu", "unavailable"),
        ("broken:cpu", "error"),
        ("hungry:cpu", "oom"),
        ("wrong:cpu", "wrong"),
        ("wronglater:cpu", "wrong"),
    ]
    reasons = [r["reason"] for r in rows[:6]]
    assert reasons == [
        *("no linear", "", "no such operator", "not installed; pip install it", "bad graph", "out of memory"),
    ]
    assert all("against the reference" in r["reason"] for r in rows[6:8])
    assert all(r["time_s"] is None and r["of_bound"] is None for r in rows[:8] if r["status"] != "ok")
    assert rows[1]["time_ratio"] is None  # the first backend has no time to be set against
    assert all(backend.closed for backend in Right.made)


@pytest.mark.usefixtures("quick")
def test_contestants_share_no_operand_and_get_the_same_numbers() -> None:
    hold("right:cpu", "right:cpu")
    one, two = (backend.inputs for backend in Right.made)
    assert not np.shares_memory(one.x, two.x)
    np.testing.assert_array_equal(one.x, two.x)
    assert not np.shares_memory(one.weight(1).values, two.weight(1).values)
    np.testing.assert_array_equal(one.weight(1).values, two.weight(1).values)


@pytest.mark.usefixtures("quick")
def test_integer_work_is_held_against_the_integer_peak() -> None:
    *_, compute = hold("right:cpu", work=Linear(n=32, k=64, weight="int8", act="int8"))
    assert "tile" in compute["variant"]
    *_, compute = hold("right:cpu", work=parse("attention:context=8,q_heads=2,kv_heads=1,head_dim=64"))
    assert "chains" in compute["variant"]


@pytest.mark.usefixtures("quick")
def test_bad_duels_are_refused() -> None:
    with pytest.raises(duel.DuelError, match="a backend and a round at least"):
        hold("right:cpu", rounds=0)
    with pytest.raises(duel.DuelError, match="a backend and a round at least"):
        hold()


def test_unknown_backends_are_refused_before_anything_is_measured() -> None:
    with pytest.raises(UnknownBackend, match="nosuch"):
        hold("numpy:cpu", "nosuch:cpu")


@pytest.mark.usefixtures("quick")
def test_a_work_that_does_not_fit_is_refused_with_its_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(duel, "available_memory_bytes", lambda: 1 << 20)
    with pytest.raises(duel.DuelError, match=r"2 backends need \d+ bytes"):
        hold("right:cpu", "right:cpu", work=Linear(n=1024, k=1024, weight="f32"))
    assert not Right.made


def test_slots_rotate_through_four_caches_together_within_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    work = Linear(n=1024, k=1024, weight="f32")
    size = work.footprint_bytes
    monkeypatch.setattr(duel, "available_memory_bytes", lambda: 1 << 40)
    assert duel._slots(work, 40 * size, 4) == 11
    assert duel._slots(work, 4000 * size, 4) == contestant.MAX_LAUNCHES + 1
    assert duel._slots(Step("tiny"), 1 << 40, 2) == 1
    monkeypatch.setattr(duel, "available_memory_bytes", lambda: 50 * size)
    assert duel._slots(work, 40 * size, 4) == 5


class Use:
    """Watches a contestant's launches: how many bytes passed between two uses of an input set."""

    def __init__(self, cold: ColdMemory) -> None:
        self.cold = cold
        self.last: dict[int, int] = {}
        self.gaps: list[int] = []
        self.timed = True

    def launch(self, slot: int) -> None:
        if slot in self.last and self.timed:
            self.gaps.append(self.cold.passed_bytes - self.last[slot])
        self.last[slot] = self.cold.passed_bytes

    def sync(self) -> None:
        pass


@pytest.mark.parametrize(("slots", "launches"), [(2, 1), (7, 3), (33, 32)])
def test_no_operand_of_a_burst_is_used_again_before_four_caches_have_passed(
    slots: int, launches: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    def turn(warm: Any, burst: Any, before: Any) -> Turn:
        for _ in range(3):  # attempts
            before()
            use.timed = False
            for _ in range(5):
                warm()
            use.timed = True
            burst()
        return Turn(0.001, 0.0)

    monkeypatch.setattr(contestant, "take_turn", turn)
    cold = ColdMemory(need_bytes=1_000_000, evict=lambda: 30_000)
    use: Any = Use(cold)
    one = Contestant("x:cpu", use, make_inputs(WORK, 1, slots), cold, [0] * slots, launches=launches)
    for _ in range(6):
        one.take_turn()
    assert len(use.gaps) >= 6
    assert min(use.gaps) >= 1_000_000
    warm_bytes = 5 * WORK.footprint_bytes
    assert max(use.gaps) <= 2 * (1_000_000 + 30_000 + warm_bytes)


def test_a_single_input_set_is_not_warmed_up_unless_it_pushes_itself_out() -> None:
    size = WORK.footprint_bytes
    for need, warms in ((size + 1, False), (size, True)):
        cold = ColdMemory(need_bytes=need, evict=lambda: 1000)
        use: Any = Use(cold)
        one = Contestant("x:cpu", use, make_inputs(WORK, 1, 1), cold, [0])
        assert (one.warm is not None) == warms
        one.launch()
        one.make_cold()
        if one.warm is not None:
            one.warm()
        one.burst()
        assert min(use.gaps) >= need


def test_bursts_last_two_milliseconds_and_use_no_set_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter(np.arange(0, 1, 0.0001))
    monkeypatch.setattr(contestant.time, "perf_counter", lambda: float(next(clock)))
    for slots, launches in ((33, 20), (6, 5), (2, 1), (1, 1)):
        cold = ColdMemory(need_bytes=10, evict=lambda: 10)
        use: Any = Use(cold)
        one = Contestant("x:cpu", use, make_inputs(WORK, 1, slots), cold, [0] * slots)
        one.fit_burst()
        assert one.launches == launches


@pytest.mark.usefixtures("quick")
def test_rounds_alternate_so_that_nobody_always_follows_the_same() -> None:
    played: list[str] = []

    class Player:
        def __init__(self, name: str) -> None:
            self.name = name

        def take_turn(self) -> None:
            played.append(self.name)

    players: Any = [Player(name) for name in "abcd"]
    duel._play(players, 4, lambda _: None)
    assert "".join(played) == "abcd" + "dcba" + "cdab" + "badc"


def test_real_backends_meet_in_one_process(monkeypatch: pytest.MonkeyPatch) -> None:
    shrink(monkeypatch)
    numpy_row, numba_row, *_ = hold("numpy:cpu", "numba:cpu", work=Linear(n=160, k=96, m=1, weight="f32"))
    assert [numpy_row["status"], numba_row["status"]] == ["ok", "ok"]
    assert max(numpy_row["error"], numba_row["error"]) < 1e-5
    assert median([numpy_row["slots"], numba_row["slots"]]) == contestant.MAX_LAUNCHES + 1
