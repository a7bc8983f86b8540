"""Markdown has the figures and words of the tables on a terminal."""

from __future__ import annotations

import re

from rows import LINEAR, case, failed, run_rows

from membound.results.views.markdown import run_markdown
from membound.results.views.table import LEGEND


def tables(text):
    """Lines of tables as lists of cells."""
    lines = [line for line in text.splitlines() if line.startswith("| ")]
    return [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines]


def test_a_run_has_ceilings_works_and_what_could_not_run():
    text = run_markdown(run_rows())
    lines = tables(text)
    assert text.startswith("### run-a\n\nTest CPU, 2 threads\n")
    assert ["read", "11.0 GB/s through alpha:cpu, before the works"] in lines
    alpha, beta = (line for line in lines if line[0].startswith(("`alpha", "`beta")))
    assert alpha == ["`alpha:cpu`", "10.15 ms", "2%", "9.9", "90%", "25%", "1.00", "memory", ""]
    assert (beta[0], beta[6], beta[7]) == ("`beta:cpu+x`", "2.04", "overhead")
    assert f"**`{LINEAR}`** 100 MB, 1 GFLOP" in text
    assert "- `beta:cpu+x` unsupported: no int4 (linear n=8 k=32)" in text
    assert text.endswith(f"{LEGEND}\n")


def test_every_line_of_a_table_has_as_many_cells():
    for block in re.findall(r"(?:^\| .*\n)+", run_markdown(run_rows()), re.M):
        assert len({len(line) for line in tables(block)}) == 1


def test_failures_are_told_without_a_time():
    text = run_markdown([case(), failed("wrong", "error 2", backend="beta:cpu")])
    assert "- **`beta:cpu` wrong, so no time is given: error 2**" in text
    assert len([line for line in tables(text) if line[0] == "`alpha:cpu`"]) == 1


def test_bars_in_a_cell_do_not_end_it():
    (line,) = (x for x in tables(run_markdown([case("a|b:cpu")])) if x[0].startswith("`a"))
    assert line[0] == r"`a\|b:cpu`"
    assert len(line) == 9


def test_a_run_without_ceilings_or_machine_is_shown():
    text = run_markdown([case(machine={})])
    assert "unknown machine, 2 threads" in text
    assert "ceiling |" not in text


def test_threads_that_nobody_told_are_not_none_at_all():
    """Files of other tools do not say: "0 threads" stood there."""
    shown = run_markdown([case(threads=0)])
    assert "Test CPU\n" in shown
    assert "threads" not in shown.partition("backend")[0]
