"""What a fleet prints: lines, or a table that fits its terminal."""

from __future__ import annotations

import io
import time

import pytest
from fleets import CASES, assigned
from rich.console import Console

from membound.bench.fleet import view
from membound.bench.fleet.view import Lines, Live, Pace, progress_of, stragglers, summary, view_on


@pytest.fixture
def suites():
    """One that is done, one at work, one that waits for its node, one that failed."""
    made = assigned(4)
    for one, state in zip(made, ("done", "measuring", "starting", "failed"), strict=True):
        one.state, one.since = state, time.monotonic()
        one.cases = CASES if state != "starting" else ()
    made[0].got, made[0].rows = set(CASES), 3
    made[1].got, made[1].doing = set(CASES[:1]), "mine:cpu: preparing"
    made[2].doing = "waits for 4 processors of its node"
    made[3].doing, made[3].failures = "its node died", 3
    return made


def printed(height=40, width=100):
    return Console(file=io.StringIO(), width=width, height=height)


def test_all_of_it_in_one_line(suites):
    pace = Pace()
    pace.stored = 4
    line = summary(suites, pace)
    assert line.startswith("1 starting, 1 measuring, 1 done, 1 failed · 4 of 12 cases · ")
    assert line.endswith(" rows/s")


def test_time_left_goes_by_the_cases_after_the_first(suites, monkeypatch):
    now = [100.0]
    monkeypatch.setattr(view.time, "monotonic", lambda: now[0])
    pace = Pace()
    assert pace.left_s(suites) is None
    now[0] += 10
    suites[1].got = set(CASES)  # two more cases in ten seconds, six to come
    assert pace.left_s(suites) == pytest.approx(30.0)
    assert summary(suites, pace).endswith("0:30 left")


class Counted(list):
    """Suites that count how often they are gone through."""

    rounds = 0

    def __iter__(self):
        self.rounds += 1
        return super().__iter__()


def test_a_fleet_without_plans_is_gone_through_as_often_however_large_it_is():
    """Each suite looked for another one with a plan: ten thousand of them, all at their start, took five seconds to draw."""
    rounds = set()
    for count in (3, 300):
        made = Counted(assigned(count))
        line = summary(made, Pace())
        assert line.startswith(f"{count} waiting · 0 of ? cases · ")
        rounds.add(made.rounds)
    assert len(rounds) == 1


def test_suites_without_a_plan_count_as_many_cases_as_one_that_has_it(suites):
    assert progress_of(suites) == (4, 12)
    suites[3].cases = ()  # it failed, and nobody knows of what
    assert progress_of(suites) == (4, 9)


def test_stragglers_are_named_with_what_they_wait_for(suites):
    assert list(stragglers(suites)) == []
    suites[1].since -= 75
    suites[2].since -= 61
    assert list(stragglers(suites)) == [
        "host#2 all: nothing for 75 s; mine:cpu: preparing",
        "host#3 all: nothing for 61 s; waits for 4 processors of its node",
    ]


def test_off_a_terminal_each_end_is_a_line(suites):
    console = printed()
    with view_on(console) as lines:
        assert isinstance(lines, Lines)
        for one in (suites[0], suites[3]):
            lines.ended(one)
        lines.show(suites)
    assert console.file.getvalue().splitlines() == [
        "host all: done: 3 cases",
        "host#4 all: failed: its node died (3 cases without an answer)",
    ]


@pytest.mark.parametrize("height", [6, 8, 40])
def test_a_table_fits_its_terminal_and_keeps_what_matters(suites, height):
    console = printed(height)
    console.print(Live(console, None).table(suites, height))
    lines = console.file.getvalue().splitlines()
    assert len(lines) <= height - 1
    assert max(map(len, lines)) <= 100
    shown = [line.split()[2] for line in lines[1:-1] if "all" in line]
    assert shown == ["failed", "measuring", "starting", "done"][: len(shown)]
    assert ("more" in " ".join(lines)) == (len(shown) < 4)


def test_on_a_terminal_only_failures_are_lines(suites):
    console = printed()
    live = Live(console, None)
    for one in suites:
        live.ended(one)
    assert console.file.getvalue().count("\n") == 1
