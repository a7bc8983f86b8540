"""The page of the published runs: a line for each, and for each machine a chart and the fastest backend of every work.

>>> published_markdown(entries, rows_by_run, charts={})
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from membound.results.plain_text import as_markdown
from membound.results.published_runs import Entry, fastest
from membound.results.row import Row
from membound.results.stats import records, summarize
from membound.results.views.markdown import LEFT, RIGHT, table_lines
from membound.results.views.timed import half_width
from membound.results.wording import duration, percent, rate, short

INDEX_HEAD = ("run", "machine", "threads", "works", "backends", "read", "of the limit")


def published_markdown(
    entries: Sequence[Entry], rows: Mapping[str, Sequence[Row]], charts: Mapping[str, str]
) -> str:
    """The generated part of the page; `charts` are links by run."""
    lines = [
        *table_lines(INDEX_HEAD, (LEFT, LEFT, RIGHT, RIGHT, LEFT, RIGHT, RIGHT), map(index_cells, entries))
    ]
    for place in dict.fromkeys(entry.folder for entry in entries):
        lines += [f"## {as_markdown(place)}", ""]
        for entry in entries:
            if entry.folder == place:
                lines += _run(entry, rows[entry.run], charts.get(entry.run))
    return "\n".join(lines)


def index_cells(entry: Entry) -> list[str]:
    """The cells of a run under INDEX_HEAD."""
    limit = "–"
    if entry.lowest_of_bound is not None:
        limit = f"{percent(entry.lowest_of_bound)} to {percent(entry.highest_of_bound)}"
    read = entry.read_ceiling_bytes_per_s
    return [
        as_markdown(entry.run),
        as_markdown(entry.machine),
        str(entry.threads),
        str(entry.works),
        ", ".join(map(as_markdown, entry.backends)),
        "–" if read is None else rate(read, "bytes/s"),
        limit,
    ]


def _run(entry: Entry, rows: Sequence[Row], chart: str | None) -> Iterator[str]:
    counted = ", ".join(f"{name} {count}" for name, count in entry.verdicts.items())
    yield from (f"### {as_markdown(entry.run)}", "")
    yield from (
        f"{as_markdown(entry.machine)}, {entry.threads} threads; {entry.cases} cases, {entry.failed} failed. "
        f"What holds back the fastest: {counted}.",
        "",
        f"    membound show published/{entry.run}",
        "",
    )
    if chart:
        yield from (f"![Share of the machine's limit by work and backend]({chart})", "")
    yield from table_lines(
        ("work", "fastest", "time", "of the limit", "±", "verdict", "next"),
        (LEFT, LEFT, RIGHT, RIGHT, RIGHT, LEFT, LEFT),
        _works(records(summarize(rows))),
    )


def _works(lines: list[dict[str, Any]]) -> Iterator[list[str]]:
    for best in fastest(lines):
        others = sorted(
            (float(str(x["ratio_to_fastest"])), str(x["backend"]))
            for x in lines
            if x["work"] == best["work"] and x is not best and x["ratio_to_fastest"] is not None
        )
        yield [
            f"`{short(str(best['work']))}`",
            as_markdown(str(best["backend"])),
            duration(best["time_s"]),
            percent(best["of_bound"]),
            half_width(best),
            str(best["verdict"]),
            f"{as_markdown(others[0][1])} ×{others[0][0]:.2f}" if others else "–",
        ]
