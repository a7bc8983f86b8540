"""Points of load in Markdown, and comparisons of them.

>>> print(points_markdown(rows))
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from membound.results.plain_text import as_markdown, markdown_record
from membound.results.row import Row
from membound.results.serving.compare import compare_engines, engines_in_turn
from membound.results.serving.point import PERCENTILES, Point
from membound.results.serving.table import point_of_row
from membound.results.stats import records
from membound.results.views.load_comparison import cells_of, legend_of, side_of
from membound.results.views.markdown import LEFT, RIGHT, table_lines
from membound.results.views.serving import WORDS, half_width, point_notes, rates
from membound.results.wording import duration


def points_markdown(rows: Sequence[Row]) -> str:
    """A heading and a table for each point of load among the rows, and engines that took turns side by side; '' if there is no point.

    The engine's own steps are looked for among the same rows.
    """
    steps = [row for row in rows if row.kind == "case"]
    several = engines_in_turn(rows)
    text = "\n".join(
        line for row in rows if row.kind == "serving" for line in _point(row, steps, bool(several))
    )
    compared = [records(compare_engines(rows, several[0], other)) for other in several[1:]]
    return "\n".join([text, *map(compare_points_markdown, compared)]) if compared else text


def _point(row: Row, steps: Sequence[Row], named: bool) -> Iterator[str]:
    name = f"{row.backend}, process {row.replicate + 1}: {row.work}" if named else row.work
    yield from (f"**{as_markdown(name)}**", "")
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
    notes = [f"- {as_markdown(line)}" for line in point_notes(row, point, steps)]
    yield from (*notes, "") if notes else ()


def _latencies(point: Point) -> Iterator[list[str]]:
    for name, words in WORDS.items():
        one = point.latency[name]
        if one.count:
            cells = [duration(one.at.get(percentile), 3) for percentile in PERCENTILES]
            yield [words, str(one.count), *cells, half_width(one)]


def compare_points_markdown(lines: Sequence[dict[str, Any]]) -> str:
    """The same as Markdown tables; '' without a line."""
    if not lines:
        return ""
    found = [markdown_record(x) for x in lines]
    text = [f"### {' · '.join(f'{side}: `{side_of(found[0], side)}`' for side in ('A', 'B'))}", ""]
    for work in dict.fromkeys(x["work"] for x in found):
        of_work = [x for x in found if x["work"] == work]
        text += [f"**{work}**", ""]
        rated = [cells_of(x) for x in of_work if x["ratio"] is not None]
        if rated:
            text += table_lines(("figure", "A", "B", "B/A", "interval"), (LEFT, *(RIGHT,) * 4), rated)
        text += [of_work[0]["note"], ""] if of_work[0]["note"] else []
    return "\n".join([*text, legend_of(lines), ""])
