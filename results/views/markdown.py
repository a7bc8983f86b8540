"""Runs as Markdown tables: for the summary of a CI job, an issue, a pull request.

>>> import os
>>> from pathlib import Path
>>> Path(os.environ["GITHUB_STEP_SUMMARY"]).write_text(run_markdown(rows))

The same figures and words as `table.py` has for terminals.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from membound.results.plain_text import as_markdown, markdown_record
from membound.results.row import Row
from membound.results.stats import records, summarize
from membound.results.views.sentences import sentences
from membound.results.views.table import (
    ABSENT,
    LEGEND,
    failure,
    lost_ceilings,
    machine_of,
    used_ceilings,
    work_size,
)
from membound.results.views.timed import half_width, notes, times_best
from membound.results.wording import duration, gigabytes_per_s, percent, short

LEFT, RIGHT = ":--", "--:"


def run_markdown(rows: Sequence[Row]) -> str:
    """Each run: its ceilings, a table for each work with its backends fastest first, what could not run."""
    lines: list[str] = []
    for run in dict.fromkeys(row.run_id for row in rows):
        lines += _run([row for row in rows if row.run_id == run])
    return "\n".join([*lines, *([LEGEND, ""] if any(row.kind != "serving" for row in rows) else [])])


def _run(rows: list[Row]) -> Iterator[str]:
    yield from (f"### {as_markdown(rows[0].run_id)}", "", as_markdown(machine_of(rows)), "")
    cases = records(summarize(rows))
    limits = list(used_ceilings(rows, cases))
    cases = [markdown_record(x) for x in cases]
    if limits:
        lines = ([as_markdown(name), as_markdown(what)] for name, what in limits)
        yield from table_lines(("ceiling", "measured"), (LEFT, LEFT), lines)
    yield from (f"**{as_markdown(text)}**" for text in lost_ceilings(rows))
    for work in dict.fromkeys(x["work"] for x in cases):
        yield from _work([x for x in cases if x["work"] == work])
    absent = [x for x in cases if x["status"] in ABSENT]
    if absent:
        yield from ("<details><summary>What could not run</summary>", "")
        yield from (f"- `{x['backend']}` {x['status']}: {x['reason']} ({short(x['work'])})" for x in absent)
        yield from ("", "</details>", "")
    yield from (*sentences(cases), "")


def _work(cases: list[dict[str, Any]]) -> Iterator[str]:
    """One work: measured backends as a table, failures as a list."""
    timed = sorted((x for x in cases if x["time_s"] is not None), key=lambda x: float(x["ratio_to_fastest"]))
    failed = [x for x in cases if x["time_s"] is None and x["status"] not in ABSENT]
    if not timed and not failed:
        return
    yield from (f"**`{cases[0]['work']}`** {work_size(cases[0])}".strip(), "")
    if timed:
        yield from table_lines(
            ("backend", "time", "±", "GB/s", "MBU", "MFU", "×best", "verdict", "notes"),
            (LEFT, *(RIGHT,) * 6, LEFT, LEFT),
            (_timed(x) for x in timed),
        )
    if failed:
        yield from (*(f"- **`{x['backend']}` {failure(x)}**" for x in failed), "")


def _timed(case: dict[str, Any]) -> list[str]:
    return [
        f"`{case['backend']}`",
        duration(case["time_s"]),
        half_width(case),
        gigabytes_per_s(case["achieved_bytes_per_s"]),
        percent(case["mbu"]),
        percent(case["mfu"]),
        times_best(case),
        case["verdict"],
        ", ".join(notes(case)),
    ]


def table_lines(
    names: Sequence[str], alignments: Sequence[str], lines: Iterable[Sequence[str]]
) -> Iterator[str]:
    """The lines of a Markdown table, and an empty one after it; bars within cells are escaped."""
    for line in (names, alignments, *lines):
        yield "| " + " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in line) + " |"
    yield ""
