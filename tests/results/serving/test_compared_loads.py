"""Loads side by side: of two runs, and of engines that took turns in one."""

from __future__ import annotations

from dataclasses import replace

import pytest
from load_points import row as point
from rows import MACHINE

from membound.results.compare import CompareError
from membound.results.row import Row
from membound.results.serving.compare import compare_engines, compare_points, engines_in_turn
from membound.results.stats import records
from membound.results.views.console import PlainConsole
from membound.results.views.serving import serving_view
from membound.results.views.serving_text import compare_points_markdown, points_markdown

ITL_S = (0.010, 0.020, 0.040)
"""Of the rounds: the machine was slower from round to round."""


def rows(run_id: str = "a-run") -> list[Row]:
    """Two engines in three rounds, the second a tenth slower each time."""
    return [
        replace(point(2, itl_s * factor), run_id=run_id, backend=name, replicate=number, machine=MACHINE)
        for number, itl_s in enumerate(ITL_S)
        for name, factor in (("alpha", 1.0), ("alpha#2", 1.1))
    ]


def line(table: object, figure: str = "tpot_p50_s") -> dict[str, object]:
    (found,) = (one for one in records(table) if one["figure"] == figure)
    return found


def test_engines_that_took_turns_are_compared_round_by_round() -> None:
    """Over processes alone the interval would be as wide as the machine's own way from 10 to 40 ms."""
    found = line(compare_engines(rows(), "alpha", "alpha#2"))
    assert found["rounds"] == 3
    assert found["ratio"] == pytest.approx(1.1)
    low, high = found["ratio_ci"]
    assert 1.099 < low <= high < 1.101
    assert found["differs"] is True


def test_runs_that_took_no_turns_are_compared_by_processes() -> None:
    a = [row for row in rows("a") if row.backend == "alpha"]
    b = [replace(row, backend="alpha") for row in rows("b") if row.backend != "alpha"]
    found = line(compare_points(a, b))
    assert (found["rounds"], found["ratio"]) == (0, pytest.approx(1.1))
    low, high = found["ratio_ci"]
    assert low < 0.5
    assert high > 2


def test_a_round_that_one_side_lacks_is_left_out() -> None:
    some = rows()
    some[1] = replace(some[1], status="crashed", reason="the server ended", requests=[])
    found = line(compare_engines(some, "alpha", "alpha#2"))
    assert (found["rounds"], found["ratio_ci"], found["replicates_b"]) == (2, None, 2)
    assert "B: crashed (the server ended)" in str(found["note"])


def test_engines_in_turn_are_those_of_one_run() -> None:
    assert engines_in_turn(rows()) == ("alpha", "alpha#2")
    assert engines_in_turn([*rows("a"), *rows("b")]) == ()
    assert engines_in_turn([row for row in rows() if row.backend == "alpha"]) == ()


def test_an_engine_that_is_not_there_is_told() -> None:
    with pytest.raises(CompareError, match="no point of load of 'beta'; there are those of alpha, alpha#2"):
        compare_engines(rows(), "alpha", "beta")


def test_what_a_load_of_two_engines_came_to_is_shown(capsys: pytest.CaptureFixture[str]) -> None:
    PlainConsole(width=80).print(serving_view(rows()))
    shown = capsys.readouterr().out
    assert "alpha#2, process 3: serving:users=2" in shown
    assert "A: alpha, run a-run" in shown
    assert "median of the rounds in which both took turns" in " ".join(shown.split())
    text = points_markdown(rows())
    assert "### A: `alpha, run a-run` · B: `alpha#2, run a-run`" in text
    assert "| time a token, median | 20 ms | 22 ms | 1.1 | 1.1–1.1 |" in text
    assert compare_points_markdown([]) == ""
