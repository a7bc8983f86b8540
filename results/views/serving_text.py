"""Points of load in Markdown, and comparisons of them for terminals and in Markdown.

>>> from membound.results.views.console import PlainConsole
>>> PlainConsole().print(compare_points_view(lines))
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from membound.results.plain_text import as_markdown, markdown_record
from membound.results.row import Row
from membound.results.serving.point import PERCENTILES, Point
from membound.results.serving.table import point_of_row
from membound.results.views.markdown import LEFT, RIGHT, table_lines
from membound.results.views.serving import WORDS, half_width, point_notes, rates
from membound.results.wording import amount, duration, percent

NAMES = {
    "ttft_p50_s": "first token, median",
    "ttft_p99_s": "first token, 99 %",
    "tpot_p50_s": "time a token, median",
    "itl_p50_s": "between tokens, median",
    "e2e_p50_s": "whole answer, median",
    "output_tokens_per_s": "throughput",
    "goodput_share": "goodput",
}
LEGEND = "B/A: the figure of B over that of A; interval: 95 % over server processes, of which three are needed on each side."


def points_markdown(rows: Sequence[Row]) -> str:
    """A heading and a table for each point of load among the rows; '' if there is none."""
    return "\n".join(line for row in rows if row.kind == "serving" for line in _point(row))


def _point(row: Row) -> Iterator[str]:
    yield from (f"**{as_markdown(row.work)}**", "")
    try:
        point = point_of_row(row)
    except ValueError as error:
        yield from (as_markdown(f"{row.status}: {row.reason or error}"), "")
        return
    yield from (rates(point), "")
    if row.status != "ok":
        yield from (as_markdown(f"{row.status}: {row.reason}"), "")
        return
    names = ("latency", "count", "median", *(f"{p} %" for p in PERCENTILES if p != 50), "± median")
    yield from table_lines(names, (LEFT, *(RIGHT,) * (len(names) - 1)), _latencies(point))
    notes = [f"- {as_markdown(line)}" for line in point_notes(row, point)]
    yield from (*notes, "") if notes else ()


def _latencies(point: Point) -> Iterator[list[str]]:
    for name, words in WORDS.items():
        one = point.latency[name]
        if one.count:
            cells = [duration(one.at.get(percentile), 3) for percentile in PERCENTILES]
            yield [words, str(one.count), *cells, half_width(one)]


def compare_points_view(lines: Sequence[dict[str, Any]]) -> Group:
    """A comparison (records of `compare_points`), a block a load."""
    first = lines[0]
    parts: list[RenderableType] = [
        Text(f"A: run {first['run_a']}, {first['device_a']}", style="bold"),
        Text(f"B: run {first['run_b']}, {first['device_b']}", style="bold"),
        Text(),
    ]
    for work in dict.fromkeys(x["work"] for x in lines):
        of_work = [x for x in lines if x["work"] == work]
        parts.append(Text(work, style="bold"))
        rated = [x for x in of_work if x["ratio"] is not None]
        if rated:
            table = Table(box=None, padding=(0, 1, 0, 0), pad_edge=False, header_style="dim")
            table.add_column("figure")
            for name in ("A", "B", "B/A", "interval"):
                table.add_column(name, justify="right", no_wrap=True)
            for x in rated:
                table.add_row(*_cells(x))
            parts.append(table)
        if of_work[0]["note"]:
            parts.append(Text(of_work[0]["note"], style="yellow"))
        parts.append(Text())
    return Group(*parts, Text(LEGEND, style="dim"))


def compare_points_markdown(lines: Sequence[dict[str, Any]]) -> str:
    """The same as Markdown tables; '' without a line."""
    if not lines:
        return ""
    found = [markdown_record(x) for x in lines]
    text = [f"### A: `{found[0]['run_a']}` · B: `{found[0]['run_b']}`", ""]
    for work in dict.fromkeys(x["work"] for x in found):
        of_work = [x for x in found if x["work"] == work]
        text += [f"**{work}**", ""]
        rated = [_cells(x) for x in of_work if x["ratio"] is not None]
        if rated:
            text += table_lines(("figure", "A", "B", "B/A", "interval"), (LEFT, *(RIGHT,) * 4), rated)
        text += [of_work[0]["note"], ""] if of_work[0]["note"] else []
    return "\n".join([*text, LEGEND, ""])


def _cells(line: dict[str, Any]) -> list[str]:
    ci = line["ratio_ci"]
    return [
        NAMES[line["figure"]],
        _value(line["figure"], line["a"]),
        _value(line["figure"], line["b"]),
        f"{line['ratio']:.3g}",
        "–" if ci is None else f"{ci[0]:.3g}–{ci[1]:.3g}",
    ]


def _value(figure: str, value: float) -> str:
    if figure == "goodput_share":
        return percent(value)
    return amount(value, "tokens/s") if figure == "output_tokens_per_s" else duration(value, 3)
