"""What notebooks show of the tables that run, load and compare return."""

from __future__ import annotations

import pandas as pd
from report_rows import EVIL, report_rows
from rows import failed, run_rows, write

import membound
from membound.results.report.notebook import MOST_LINES, CaseTable
from membound.results.stats import summarize


def test_load_shows_sentences_and_figures_and_is_a_table(tmp_path):
    table = membound.load(write(tmp_path / "run.jsonl", run_rows()))
    assert isinstance(table, pd.DataFrame)
    html = table._repr_html_()
    assert "<b>run run-a</b>: Fastest: alpha:cpu in 1 of 1 works" in html
    assert 'title="95 % interval' in html
    assert "unsupported: no int4" in html
    assert type(table[table.status == "ok"]) is pd.DataFrame
    pd.testing.assert_frame_equal(pd.DataFrame(table), summarize(run_rows()))


def test_compare_says_what_b_is(tmp_path):
    for name, scale in (("run-a", 1.0), ("run-b", 2.0)):
        write(tmp_path / f"{name}.jsonl", run_rows(name, scale))
    table = membound.compare(tmp_path / "run-a.jsonl", tmp_path / "run-b.jsonl")
    assert "slower by at least" in table._repr_html_()


def test_texts_are_text_and_long_tables_end():
    rows = [*report_rows(evil=True), failed("error", EVIL)]
    assert EVIL not in str(CaseTable(summarize(rows))._repr_html_())
    lines = summarize(rows)
    many = CaseTable(pd.concat([lines] * 20))
    assert str(many._repr_html_()).count("<tr>") == 1 + MOST_LINES
    assert f"{20 * len(lines) - MOST_LINES} more lines are not shown." in str(many._repr_html_())


def test_a_table_without_its_columns_is_any_table():
    table = CaseTable(summarize(run_rows()))
    del table["turns"]
    assert 'class="dataframe"' in str(table._repr_html_())
