"""A chart draws what it has room for, and its caption says what it leaves out."""

from __future__ import annotations

import re

import pytest
from rows import MACHINE, case, ceiling

from membound.results.report.cases import cases_of
from membound.results.report.ceilings import ceilings_of
from membound.results.report.charts import figures_of
from membound.results.report.room import (
    MOST_BACKENDS,
    MOST_MARKS,
    MOST_PLACES,
    of_leading_backends,
    places_with_room,
    with_room,
)

WORK = "linear:n={n},k=4096,m=1,weight={weight},act=float"


def rows(backends=20, works=40, machines=1):
    """Backend i takes 1 + i / 10 times as long as the limit allows; the last one is the fastest of all on the first work."""
    found = []
    for number in range(machines):
        common = {"run_id": f"run-{number}", "machine": MACHINE | {"cpu": f"CPU {number}"}}
        found.append(ceiling("read", 1e10, "bytes/s", **common))
        found.append(ceiling("fma_f32", 1e12, "FLOP/s", **common))
        for w in range(works):
            work = WORK.format(n=256 * (w + 1), weight=("f32", "bf16")[w % 2])
            for i in range(backends):
                share = 0.99 if w == 0 and i == backends - 1 else 1 + i / 10
                values = {"bytes": 10**8, "flops": 10**8 * (w + 1), **common}
                found.append(case(f"b{i:02d}:cpu", work, [0.01 * share], **values))
    return found


@pytest.fixture(scope="module")
def crowd():
    return cases_of(rows())


def test_what_fits_is_drawn_whole():
    shown = cases_of(rows(backends=MOST_BACKENDS, works=3))
    assert with_room(shown) == (shown, "")
    assert of_leading_backends(shown) == (shown, "")
    assert places_with_room(shown) == ([shown[0].place], "")


def test_of_a_crowd_the_winners_are_kept_and_of_each_work_the_fastest(crowd):
    kept, left_out = with_room(crowd)
    assert len(kept) == MOST_MARKS
    assert kept == [one for one in crowd if one in kept]
    by_work = {}
    for one in kept:
        by_work.setdefault(one.work, set()).add(one.backend)
    assert len(by_work) == 40
    assert {len(backends) for backends in by_work.values()} == {MOST_MARKS // 40}
    assert all("b00:cpu" in backends for backends in by_work.values())
    assert "b19:cpu" in by_work[crowd[0].work]  # the fastest once
    assert left_out == (
        " Left out: 8 backends that are the fastest less often (b11:cpu, b12:cpu, b13:cpu, …); 80 slower cases. "
        "The table of all cases has them."
    )


def test_charts_of_a_crowd_stay_readable_and_say_what_they_leave_out(crowd):
    figures = {one.name: one for one in figures_of(crowd, ceilings_of(rows(1, 1)), [])}
    for name in ("roofline-1", "shares-1"):
        lines = [line for table in figures[name].chart.to_dict()["datasets"].values() for line in table]
        marks = [line for line in lines if "tip" in line]
        assert len(marks) == MOST_MARKS
        assert len({line["backend"] for line in marks}) <= MOST_BACKENDS
        assert "Left out: 8 backends" in figures[name].caption
        assert "80 slower cases" in figures[name].caption


def test_of_many_machines_those_with_most_cases_have_charts():
    some = rows(backends=2, works=1, machines=MOST_PLACES + 3)
    more = case("c:cpu", WORK.format(n=8, weight="f32"), run_id="run-14", machine=MACHINE | {"cpu": "CPU 14"})
    shown = cases_of([*some, more])
    figures = list(figures_of(shown, ceilings_of(some), []))
    for family in ("roofline", "shares", "time"):
        drawn = [one for one in figures if re.fullmatch(rf"{family}-\d+", one.name)]
        assert len(drawn) == MOST_PLACES
        assert any("CPU 14" in one.title for one in drawn)
        (rest,) = [one.absent for one in figures if one.name == f"{family}-more"]
        assert rest == "3 more machines; a report of fewer runs draws them"
