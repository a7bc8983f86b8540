"""Turns: retaken while disturbed, the least disturbed kept; medians over the clean ones."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from membound.bench.measure import turns
from membound.bench.measure.turns import Turn, take_turn, usable


@pytest.fixture
def events(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What happened, in order; nothing sleeps, and warming up is one call."""
    happened: list[str] = []
    monkeypatch.setattr(turns, "WARM_S", 0.0)
    monkeypatch.setattr(time, "sleep", lambda seconds: happened.append(f"pause {1e3 * seconds:.0f}"))
    return happened


def bursts_of(monkeypatch: pytest.MonkeyPatch, disturbances: list[float | None]) -> None:
    times = iter(Turn(float(i + 1), share) for i, share in enumerate(disturbances))

    def timed(burst: object, alone: bool, helpers: object) -> Turn:
        assert alone
        assert helpers == ()
        burst()  # type: ignore[operator]
        return next(times)

    monkeypatch.setattr(turns, "_timed", timed)


def attempt(events: list[str]) -> Turn:
    return take_turn(
        lambda: events.append("warm"),
        lambda: events.append("burst"),
        before=lambda: events.append("before"),
    )


def test_a_clean_burst_is_not_repeated(events: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    bursts_of(monkeypatch, [0.01, 0.0])
    assert attempt(events) == Turn(1.0, 0.01)
    assert events == ["before", "pause 6", "warm", "burst"]


def test_warm_calls_follow_each_other_for_their_time(monkeypatch: pytest.MonkeyPatch) -> None:
    now, calls = [0.0], []

    def warm() -> None:
        calls.append("warm")
        now[0] += 0.25 * turns.WARM_S

    monkeypatch.setattr(time, "sleep", lambda seconds: None)
    monkeypatch.setattr(turns.time, "perf_counter", lambda: now[0])
    bursts_of(monkeypatch, [0.0, 0.0])
    take_turn(warm, lambda: calls.append("burst"))
    assert calls == ["warm"] * 4 + ["burst"]
    calls.clear()
    take_turn(None, lambda: calls.append("burst"))
    assert calls == ["burst"]


def test_a_disturbed_burst_is_repeated_after_longer_pauses(
    events: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    bursts_of(monkeypatch, [0.5, 0.04, 0.0, 0.0])
    turn = attempt(events)
    assert turn == Turn(3.0, 0.0, ((1.0, 0.5), (2.0, 0.04)))
    assert turn.clean
    assert [e for e in events if e.startswith("pause")] == ["pause 6", "pause 12", "pause 18"]
    assert events.count("before") == events.count("warm") == events.count("burst") == 3


def test_the_least_disturbed_of_six_attempts_counts(
    events: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    bursts_of(monkeypatch, [0.9, 0.5, 0.2, 0.4, 0.8, 0.7, 0.0])
    turn = attempt(events)
    assert (turn.time_s, turn.disturbance) == (3.0, 0.2)
    assert sorted(turn.retaken) == [(1.0, 0.9), (2.0, 0.5), (4.0, 0.4), (5.0, 0.8), (6.0, 0.7)]
    assert not turn.clean
    assert events.count("burst") == 6


def test_attempts_end_when_the_turn_has_lasted_long_enough(
    events: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A step of a large model, disturbed as it is, does not hold up all others."""
    now = [0.0]
    bursts_of(monkeypatch, [0.9, 0.5, 0.2, 0.4, 0.8, 0.7])
    monkeypatch.setattr(turns.time, "perf_counter", lambda: now[0])

    def burst() -> None:
        now[0] += 0.1

    turn = take_turn(None, burst, limit_s=0.25)
    assert (turn.time_s, turn.disturbance, len(turn.retaken)) == (3.0, 0.2, 2)
    once = take_turn(None, burst, attempts=1, limit_s=0.0)
    assert once == Turn(4.0, 0.4)


def test_the_first_of_equally_disturbed_attempts_counts(
    events: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    bursts_of(monkeypatch, [0.5] * 6)
    assert attempt(events).time_s == 1.0


def test_a_burst_that_fails_is_no_turn(events: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    def burst() -> None:
        raise RuntimeError("lost the device")

    with pytest.raises(RuntimeError, match="lost the device"):
        take_turn(lambda: events.append("warm"), burst)
    assert events == ["pause 6", "warm"]


def test_unknown_disturbance_is_neither_clean_nor_retaken(
    events: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    bursts_of(monkeypatch, [None, 0.0])
    turn = attempt(events)
    assert turn == Turn(1.0, None)
    assert not turn.clean


def test_a_system_that_tells_nothing_leaves_disturbance_unknown(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(turns, "PROC", tmp_path)
    assert turns._timed(lambda: None, True).disturbance is None


def test_waiting_and_other_processes_count_as_disturbance(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    thread = tmp_path / "self/task/1"
    thread.mkdir(parents=True)
    (tmp_path / "self/task/2").mkdir()  # a thread that has ended: no schedstat any more
    hertz = turns.os.sysconf("SC_CLK_TCK")

    def state(waited_ns: int, busy_s: float) -> None:
        (thread / "schedstat").write_text(f"123 {waited_ns} 7\n")
        (tmp_path / "stat").write_text(f"cpu {round(busy_s * hertz)} 0 0 999 0 0 0 0 0 0\ncpu0 0\n")

    monkeypatch.setattr(turns, "PROC", tmp_path)
    state(1_000_000, 5.0)
    waited = turns._timed(lambda: state(3_000_000, 5.0), True)
    assert waited.disturbance == pytest.approx(0.002 / waited.time_s)
    others = turns._timed(lambda: state(3_000_000, 8.0), True)
    assert others.disturbance is not None
    assert others.disturbance * others.time_s == pytest.approx(3.0 - turns.OTHERS_GRAIN_S, abs=0.1)
    with_others = turns._timed(lambda: state(4_000_000, 12.0), False)  # they are meant to run
    assert with_others.disturbance == pytest.approx(0.001 / with_others.time_s)


def test_the_time_of_helpers_is_ones_own(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    threads = {process: tmp_path / process / "task/1" for process in ("self", "41", "42")}
    for folder in threads.values():
        folder.mkdir(parents=True)

    def state(ran_s: float, waited_s: float, busy_s: float) -> None:
        for folder in threads.values():
            (folder / "schedstat").write_text(f"{round(ran_s * 1e9)} {round(waited_s * 1e9)} 7\n")
        ticks = round(busy_s * turns.os.sysconf("SC_CLK_TCK"))
        (tmp_path / "stat").write_text(f"cpu {ticks} 0 0 999 0 0 0 0 0 0\ncpu0 0\n")

    monkeypatch.setattr(turns, "PROC", tmp_path)
    monkeypatch.setattr(turns.time, "process_time", lambda: 0.0)
    state(1.0, 0.0, 5.0)
    watch = turns.Watch([41, 42])
    state(4.0, 0.5, 11.0)  # both ran for three of the six seconds
    assert watch.disturbance(10.0) == pytest.approx(3 * 0.5 / 10)
    state(4.0, 0.0, 12.0)
    assert watch.disturbance(10.0) == pytest.approx((1.0 - turns.OTHERS_GRAIN_S) / 10)
    state(1.0, 0.0, 5.0)
    alone = turns.Watch()
    state(4.0, 0.0, 11.0)
    assert alone.disturbance(10.0) == pytest.approx((6.0 - turns.OTHERS_GRAIN_S) / 10)


def test_a_helpers_thread_that_waits_behind_its_own_working_one_is_no_disturbance(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """As in a rank on one core: one thread computes, one passes messages on."""
    monkeypatch.setattr(turns, "PROC", tmp_path)
    monkeypatch.setattr(turns.time, "process_time", lambda: 0.0)

    def state(busy_s: float, **threads: tuple[float, float]) -> None:
        for name, (ran_s, waited_s) in threads.items():
            folder = tmp_path / ("self" if name == "own" else "41") / "task" / name
            folder.mkdir(parents=True, exist_ok=True)
            (folder / "schedstat").write_text(f"{round(ran_s * 1e9)} {round(waited_s * 1e9)} 7\n")
        ticks = round(busy_s * turns.os.sysconf("SC_CLK_TCK"))
        (tmp_path / "stat").write_text(f"cpu {ticks} 0 0 999 0 0 0 0 0 0\ncpu0 0\n")

    state(0.0, own=(0.0, 0.0), computes=(0.0, 0.0), passes=(0.0, 0.0))
    watch = turns.Watch([41])
    state(9.5, own=(0.0, 0.0), computes=(9.0, 0.1), passes=(0.5, 4.0))
    assert watch.disturbance(10.0) == pytest.approx(0.1 / 10)
    state(9.5, own=(0.0, 0.0), computes=(8.0, 2.0), passes=(1.5, 3.0))
    assert watch.disturbance(10.0) == pytest.approx((2.0 + 3.0) / 10)


def test_clean_turns_alone_count_when_there_are_three() -> None:
    clean = [Turn(float(i), 0.0) for i in range(3)]
    assert usable([*clean, Turn(99.0, 0.5)]) == [0.0, 1.0, 2.0]


def test_with_fewer_clean_turns_the_least_disturbed_third_counts() -> None:
    dirty = [Turn(float(i), 0.1 * (i + 1)) for i in range(12)]
    assert usable(dirty) == [0.0, 1.0, 2.0, 3.0]
    assert usable(dirty[5:7]) == [5.0, 6.0]


def test_where_nobody_can_tell_all_turns_count() -> None:
    unknown = [Turn(float(i + 1), None) for i in range(12)]
    assert usable(unknown) == [turn.time_s for turn in unknown]
    assert usable([*unknown, Turn(99.0, 0.5)])[0] == 99.0
