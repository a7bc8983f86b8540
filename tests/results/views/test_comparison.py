"""Comparisons on a terminal and in Markdown say the same."""

from __future__ import annotations

import re

import pytest
from rows import LINEAR, case, run_rows

from membound.results.compare import Comparison, compare_backends, compare_by, compare_runs
from membound.results.stats import records
from membound.results.views import comparison
from membound.results.views.comparison import LEGEND, comparison_markdown, comparison_view
from membound.results.views.console import PlainConsole


def parts(found: Comparison):
    return *(records(part) for part in (found.table, found.groups, found.without_partner)), found.doubt


def text(found, width=80):
    console = PlainConsole(width=width, force_terminal=False, no_color=True)
    with console.capture() as capture:
        console.print(comparison_view(*parts(found)))
    return capture.get()


def line_of(shown, start):
    (only,) = [line for line in shown.splitlines() if line.startswith(start)]
    return only


def cells(markdown):
    lines = [line for line in markdown.splitlines() if line.startswith("| ")]
    return [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines]


def test_a_comparison_of_runs_names_them_and_how_much_slower_b_is_at_least():
    shown = text(compare_runs(run_rows("run-a"), run_rows("run-b", scale=2.0)))
    assert shown.startswith("A: run run-a\nB: run run-b\n")
    line = line_of(shown, "alpha:cpu  ")
    assert line.split()[:7] == ["alpha:cpu", "10.15", "ms", "20.3", "ms", "2", "1.96–2.05"]
    assert line.endswith("slower by at least 95 %")
    assert "beta:cpu+x no ratio; A: unsupported (no int4); B: unsupported (no int4)" in shown


def test_geometric_means_stand_above_the_pairs():
    shown = " ".join(text(compare_runs(run_rows("run-a"), run_rows("run-b", scale=2.0))).split())
    told = "alpha:cpu in run-b against alpha:cpu in run-a, linear: geometric mean of B/A 2 (1.96–2.05)"
    assert f"{told}, slower by at least 95 %; 1 pair: 1 slower" in shown
    assert shown.index(told) < shown.index(LINEAR)


def test_a_comparison_says_when_nothing_can_be_told():
    assert "same within 2.3 %" in text(compare_runs(run_rows("run-a"), run_rows("run-b")))
    single = [case(), case("beta:cpu")]
    shown = text(compare_backends(single, "alpha:cpu", "beta:cpu"))
    assert "cannot tell: too few processes" in " ".join(shown.split())


def test_what_has_no_partner_is_told_with_the_field():
    more = case(run_id="run-b", work=LINEAR.replace("bf16", "int8"))
    found = compare_runs([case()], [case(run_id="run-b"), more])
    told = "only in B: alpha:cpu linear n=4096 k=4096 m=1 int8, 2 threads; weight: int8 against bf16"
    assert told in " ".join(text(found).split())
    assert f"- {told}" in comparison_markdown(*parts(found))


@pytest.mark.parametrize(
    ("swapped", "ratio", "words"),
    [(False, "2.04", "slower by at least"), (True, "0.49", "faster by at least")],
)
def test_markdown_has_the_same_words(swapped, ratio, words):
    names = ("alpha:cpu", "beta:cpu+x")[:: -1 if swapped else 1]
    markdown = comparison_markdown(*parts(compare_backends(run_rows(), *names)))
    assert markdown.startswith("### A: `run-a` · B: `run-a`")
    (line,) = (x for x in cells(markdown) if "·" in x[1] and x[1] != "A · B")
    assert (line[1], line[4]) == (" · ".join(names), ratio)
    assert line[6].startswith(words)
    assert markdown.endswith(f"{LEGEND}\n")


def test_of_a_long_comparison_the_pairs_that_differ_most_are_shown(monkeypatch):
    monkeypatch.setattr(comparison, "MOST_PAIRS", 2)
    works = [LINEAR.replace("m=1", f"m={m}") for m in range(1, 5)]
    a, b = (
        [
            case(work=work, samples=[1 + (run == "b") * m / 10 + noise], run_id=run, replicate=i)
            for m, work in enumerate(works)
            for i, noise in enumerate((0.0, 0.001, 0.002))
        ]
        for run in "ab"
    )
    shown = text(compare_runs(a, b))
    assert [m for m in range(1, 5) if f"m={m}," in shown] == [3, 4]
    assert "2 more pairs, which differ less: --json has all" in shown


def test_a_doubt_about_all_of_it_is_told():
    a, b = ([case(run_id=run, machine={}, config={"format": "guidellm"})] for run in ("a", "b"))
    found = compare_runs(a, b)
    assert "the files do not name their machines" in " ".join(text(found).split())
    assert "the files do not name their machines" in comparison_markdown(*parts(found))


def test_names_from_files_are_text():
    hostile = [case("[red]x[/red]:cpu"), case("<b>:cpu")]
    found = compare_by(hostile, "backend")
    assert "[red]x[/red]:cpu" in text(found, 120)
    assert "<b>" not in comparison_markdown(*parts(found))
