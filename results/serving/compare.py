"""Points of load of two runs side by side: two engines, versions or settings under the same load.

>>> from membound.results.store import load_rows
>>> table = compare_points(load_rows([a]), load_rows([b]))
>>> table[["work", "figure", "ratio", "ratio_ci"]]

The server's process is the sampling unit: requests of one process agree with each other far better than with those of the
next, so that an interval is over processes, never over requests.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from membound.results.compare import machine_of, refuse_other_machine
from membound.results.frame import frame
from membound.results.intervals import ratio_interval
from membound.results.row import Row
from membound.results.serving.point import Point
from membound.results.serving.table import point_of_row
from membound.results.store import files_of

MARK = b'"kind":"serving"'
COLUMNS = {
    "work": "the load",
    "figure": "what is compared: a latency by percentile in seconds, tokens a second, or the share of goodput",
    "run_a": "run of side A",
    "run_b": "run of side B",
    "device_a": "server of side A",
    "device_b": "server of side B",
    "a": "median over processes of A",
    "b": "median over processes of B",
    "replicates_a": "processes of A",
    "replicates_b": "processes of B",
    "ratio": "B over A",
    "ratio_ci": "95 % interval over processes; None with fewer than three on a side",
    "differs": "True where the interval excludes 1; None without an interval",
    "note": "why there is no ratio, or what speaks against it",
}
"""Columns of `compare_points` and what they hold."""


def _percentile(name: str, percentile: int) -> Callable[[Point], float | None]:
    return lambda point: point.latency[name].at.get(percentile)


FIGURES: dict[str, Callable[[Point], float | None]] = {
    "ttft_p50_s": _percentile("ttft", 50),
    "ttft_p99_s": _percentile("ttft", 99),
    "tpot_p50_s": _percentile("tpot", 50),
    "itl_p50_s": _percentile("itl", 50),
    "e2e_p50_s": _percentile("e2e", 50),
    "output_tokens_per_s": lambda point: point.output_tokens_per_s,
    "goodput_share": lambda point: point.goodput_share,
}


def compare_points(a: Sequence[Row], b: Sequence[Row], force: bool = False) -> pd.DataFrame:
    """A line for each figure of each load that both runs played; empty if they share none.

    Raises CompareError if the client ran on different machines, unless `force`.
    """
    left, right = _by_work(a), _by_work(b)
    common = [work for work in left if work in right]
    if common and not force:
        refuse_other_machine(machine_of(row.machine for row in a), machine_of(row.machine for row in b))
    lines = [line for work in common for line in _lines(left[work], right[work])]
    return frame(lines, COLUMNS)


def holds_points(path: Path) -> bool:
    """Whether any line of a run says that it is a point of load. It is not parsed, as runs may have millions of lines."""
    return any(_holds(file) for file in files_of(path) if file.is_file())


def _holds(file: Path) -> bool:
    with file.open("rb") as lines:
        return any(MARK in line for line in lines)


def _by_work(rows: Iterable[Row]) -> dict[str, list[Row]]:
    groups: dict[str, list[Row]] = {}
    for row in rows:
        if row.kind == "serving":
            groups.setdefault(row.work, []).append(row)
    return groups


def _lines(a: list[Row], b: list[Row]) -> list[dict[str, Any]]:
    sides = [usable_points(rows) for rows in (a, b)]
    known: dict[str, Any] = dict.fromkeys(COLUMNS) | {
        "work": a[0].work,
        "run_a": a[0].run_id,
        "run_b": b[0].run_id,
        "device_a": a[0].device,
        "device_b": b[0].device,
        "replicates_a": len(sides[0]),
        "replicates_b": len(sides[1]),
        "note": "; ".join(_doubts(a, "A") + _doubts(b, "B")),
    }
    found = []
    for name, pick in FIGURES.items():
        left, right = ([v for p in side if (v := pick(p)) is not None and v > 0] for side in sides)
        if left and right:
            found.append(known | {"figure": name, **_ratio(left, right)})
    return found or [known]


def usable_points(rows: Sequence[Row]) -> list[Point]:
    """Points that are ok; of those, where any is left, the ones at which the client was not the limit."""
    ok = [row for row in rows if row.status == "ok"]
    return [point_of_row(row) for row in [row for row in ok if row.grade != "invalid"] or ok]


def _ratio(a: list[float], b: list[float]) -> dict[str, Any]:
    middle_a, middle_b = float(np.median(a)), float(np.median(b))
    ci = ratio_interval(b, a)
    return {
        "a": middle_a,
        "b": middle_b,
        "ratio": middle_b / middle_a,
        "ratio_ci": ci,
        "differs": None if ci is None else not ci[0] <= 1 <= ci[1],
    }


def _doubts(rows: Sequence[Row], side: str) -> list[str]:
    bad = next((row for row in rows if row.status != "ok"), None)
    if bad is not None:
        return [f"{side}: {bad.status} ({bad.reason})"]
    invalid = next((row for row in rows if row.grade == "invalid"), None)
    return (
        [f"{side}: {invalid.grade} ({invalid.grade_reasons[0]})"] if invalid and invalid.grade_reasons else []
    )
