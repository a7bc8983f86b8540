"""The kernel's stamps by CLOCK_MONOTONIC, and what becomes of them when somebody sets the wall clock."""

from __future__ import annotations

import time

import pytest

from membound.bench.serving.clocks import NS, TIMESPEC, Clocks, received_ns

MS = 1_000_000


def stamp(wall_ns: int) -> bytes:
    return TIMESPEC.pack(*divmod(wall_ns, NS))


def clocks(monkeypatch: pytest.MonkeyPatch, *samples: tuple[int, int]) -> Clocks:
    """Samples of (monotonic, wall) nanoseconds."""
    made = Clocks()
    for mono, wall in samples:
        monkeypatch.setattr(time, "monotonic_ns", lambda mono=mono: mono)
        monkeypatch.setattr(time, "time_ns", lambda wall=wall: wall)
        made.sample()
    monkeypatch.undo()
    return made


def test_a_stamp_is_what_the_wall_clock_was_ahead_by_earlier(monkeypatch: pytest.MonkeyPatch) -> None:
    found = clocks(monkeypatch, (1000 * MS, 5000 * MS), (1005 * MS, 5005 * MS))
    assert found.monotonic(stamp(5001 * MS), 1002 * MS) == 1001 * MS
    assert found.monotonic(stamp(5006 * MS), 1007 * MS) == 1006 * MS  # behind the last sample


def test_a_clock_that_was_set_tells_nothing_of_what_came_then(monkeypatch: pytest.MonkeyPatch) -> None:
    found = clocks(monkeypatch, (1000 * MS, 5000 * MS), (1005 * MS, 9005 * MS), (1010 * MS, 9010 * MS))
    assert found.monotonic(stamp(5001 * MS), 1002 * MS) == 1002 * MS
    assert found.monotonic(stamp(9006 * MS), 1007 * MS) == 1006 * MS


@pytest.mark.parametrize("wall_ns", [5003 * MS, 3000 * MS])
def test_what_cannot_be_is_the_time_of_reading(monkeypatch: pytest.MonkeyPatch, wall_ns: int) -> None:
    """A stamp after the read, and one of seconds before."""
    found = clocks(monkeypatch, (1000 * MS, 5000 * MS))
    assert found.monotonic(stamp(wall_ns), 1002 * MS) == 1002 * MS


def test_without_a_stamp_or_a_sample_the_time_is_that_of_reading(monkeypatch: pytest.MonkeyPatch) -> None:
    assert clocks(monkeypatch, (1, 2)).monotonic(b"", 77) == 77
    assert Clocks().monotonic(stamp(5), 77) == 77


def test_what_was_read_just_now_was_received_before() -> None:
    before = time.monotonic_ns()
    wall = time.time_ns()
    found = received_ns(stamp(wall))
    assert before - MS < found <= time.monotonic_ns()
