"""Tables as notebooks show them: what it comes to in sentences, then the figures as the page of a report has them.

>>> from membound.results.stats import summarize
>>> CaseTable(summarize(rows))._repr_html_()[:7]
'<p><b>r'

Both classes are DataFrames in everything else; whatever is made from one (a selection, a group) is a plain DataFrame.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import chain
from typing import Any

import pandas as pd

from membound.results.plain_text import as_html
from membound.results.report.case_table import SIGNS
from membound.results.report.cases import interval_text, validity_text
from membound.results.stats import records
from membound.results.views.comparison import interval, pair
from membound.results.views.sentences import sentences
from membound.results.views.table import failure
from membound.results.views.timed import half_width, notes, times_best
from membound.results.wording import duration, gigabytes_per_s, percent, short

MOST_LINES = 200
MOST_RUNS = 4
CASE_HEAD = ("work", "backend", "time", "±", "GB/s", "of the limit", "×best", "bound by", "validity", "notes")
PAIR_HEAD = ("work", "A · B", "time A", "time B", "B/A", "interval", "B is")


class CaseTable(pd.DataFrame):
    """Cases with the columns of `stats.summarize`."""

    def _repr_html_(self) -> str | None:
        try:
            return "".join(_cases(records(self[:MOST_LINES]), len(self)))
        except KeyError:  # a column was taken out: then it is any table
            return _any_table(self)


class PairTable(pd.DataFrame):
    """Pairs with the columns of `compare.COLUMNS`."""

    def _repr_html_(self) -> str | None:
        try:
            return "".join(_pairs(records(self[:MOST_LINES]), len(self), str(self.attrs.get("doubt", ""))))
        except KeyError:
            return _any_table(self)


def _any_table(table: pd.DataFrame) -> str | None:
    found: str | None = pd.DataFrame(table)._repr_html_()  # type: ignore[operator]
    return found


def _cases(lines: Sequence[dict[str, Any]], count: int) -> Iterator[str]:
    runs = list(dict.fromkeys(str(line["run_id"]) for line in lines))
    for run in runs[:MOST_RUNS]:
        told = " ".join(sentences([line for line in lines if line["run_id"] == run]))
        yield f"<p><b>run {as_html(run)}</b>: {as_html(told or 'nothing was measured.')}</p>"
    yield from _table(CASE_HEAD, map(_case, lines))
    yield _rest(len(lines), count)


def _case(line: dict[str, Any]) -> str:
    told: list[tuple[str, str]] = [(short(line["work"]), line["work"]), (line["backend"], "")]
    if line["time_s"] is None:
        return _cells([*told, ("–", failure(line)), *[("", "")] * 6, (failure(line), "")])
    around, of_share = interval_text(line, "time"), interval_text(line, "of_bound")
    told += [
        (duration(line["time_s"]), around),
        (half_width(line), of_share if line["turns"] else around),
        (gigabytes_per_s(line["achieved_bytes_per_s"]), around),
        (percent(line["of_bound"]), of_share),
        (times_best(line), ""),
        (str(line["verdict"]), str(line["verdict_reason"])),
        (f"{SIGNS[line['validity']]} {line['validity']}", validity_text(line)),
        (", ".join(notes(line)), ""),
    ]
    return _cells(told)


def _pairs(lines: Sequence[dict[str, Any]], count: int, doubt: str) -> Iterator[str]:
    if doubt:
        yield f"<p>{as_html(doubt)}</p>"
    yield from _table(PAIR_HEAD, map(_pair, lines))
    yield _rest(len(lines), count)


def _pair(line: dict[str, Any]) -> str:
    ratio = line["time_ratio"]
    return _cells(
        [
            (short(line["work"]), line["work"]),
            (pair(line), ""),
            (duration(line["time_a_s"]), f"run {line['run_a']}"),
            (duration(line["time_b_s"]), f"run {line['run_b']}"),
            ("–" if ratio is None else f"{ratio:.3g}", str(line["note"])),
            (interval(line), ""),
            (str(line["words"] or f"no ratio; {line['note']}"), ""),
        ]
    )


def _table(head: Sequence[str], lines: Iterator[str]) -> Iterator[str]:
    yield f"<table><thead><tr>{''.join(f'<th>{as_html(name)}</th>' for name in head)}</tr></thead><tbody>"
    yield from chain(lines, ("</tbody></table>",))


def _cells(told: Sequence[tuple[str, str]]) -> str:
    """Texts with their hints."""
    cells = (
        f'<td title="{as_html(hint)}">{as_html(text)}</td>' if hint else f"<td>{as_html(text)}</td>"
        for text, hint in told
    )
    return f"<tr>{''.join(cells)}</tr>"


def _rest(shown: int, count: int) -> str:
    return f"<p>{count - shown} more lines are not shown.</p>" if count > shown else ""
