"""Points of load side by side, of two runs or of two engines of one: engines, versions or settings under the same load.

>>> from membound.results.store import load_rows
>>> table = compare_points(load_rows([a]), load_rows([b]))
>>> table[["work", "figure", "ratio", "ratio_ci"]]

The server's process is the sampling unit: requests of one process agree with each other far better than with those of the
next, so that an interval is over processes, never over requests. Engines of one run took turns: processes of the same round
followed each other, and what counts is the ratio of each round.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from membound.results.compare import CompareError, machine_of, refuse_other_machine
from membound.results.frame import frame
from membound.results.intervals import interval, ratio_interval
from membound.results.row import Row
from membound.results.run_files import files_of
from membound.results.serving.point import Point
from membound.results.serving.table import point_of_row

MARK = b'"kind":"serving"'
CHUNK_BYTES = 4 << 20
COLUMNS = {
    "work": "the load",
    "figure": "what is compared: a latency by percentile in seconds, tokens a second, or the share of goodput",
    "run_a": "run of side A",
    "run_b": "run of side B",
    "backend_a": "engine of side A, or `url`",
    "backend_b": "engine of side B, or `url`",
    "device_a": "server of side A",
    "device_b": "server of side B",
    "a": "median over processes of A",
    "b": "median over processes of B",
    "replicates_a": "processes of A",
    "replicates_b": "processes of B",
    "rounds": "processes of both that took turns: the ratio is the median of theirs; 0 where they did not",
    "ratio": "B over A",
    "ratio_ci": "95 % interval over rounds, or over processes; None with fewer than three",
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
    before = b""
    with file.open(
        "rb", buffering=0
    ) as opened:  # read, since a search through mapped memory takes three times as long
        while some := opened.read(CHUNK_BYTES):
            if MARK in some or MARK in before + some[: len(MARK)]:
                return True
            before = some[-len(MARK) :]
    return False


def compare_engines(rows: Sequence[Row], a: str, b: str) -> pd.DataFrame:
    """The same of two engines of one run. Raises CompareError if it has no point of one of them."""
    points = [row for row in rows if row.kind == "serving"]
    sides = [[row for row in points if row.backend == name] for name in (a, b)]
    for name, side in zip((a, b), sides, strict=True):
        if not side:
            known = ", ".join(dict.fromkeys(row.backend for row in points)) or "none"
            raise CompareError(f"there is no point of load of {name!r}; there are those of {known}")
    return compare_points(sides[0], sides[1], force=True)  # one run is of one machine


def engines_in_turn(rows: Sequence[Row]) -> tuple[str, ...]:
    """The engines that took turns in one run, by name; () where there was one."""
    found = dict.fromkeys(row.backend for row in rows if row.kind == "serving")
    runs = {row.run_id for row in rows if row.kind == "serving"}
    return tuple(sorted(found)) if len(found) > 1 and len(runs) == 1 else ()


Process = tuple[str, int]
"""A run, and the number of a server's process in it."""


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
        "backend_a": a[0].backend,
        "backend_b": b[0].backend,
        "device_a": a[0].device,
        "device_b": b[0].device,
        "replicates_a": len(sides[0]),
        "replicates_b": len(sides[1]),
        "note": "; ".join(_doubts(a, "A") + _doubts(b, "B")),
    }
    found = []
    for name, pick in FIGURES.items():
        left, right = (
            {process: v for process, p in side.items() if (v := pick(p)) is not None and v > 0}
            for side in sides
        )
        if left and right:
            found.append(known | {"figure": name, **_ratio(left, right)})
    return found or [known]


def usable_points(rows: Sequence[Row]) -> dict[Process, Point]:
    """Points that are ok, by process; of those, where any is left, the ones at which the client was not the limit."""
    ok = [row for row in rows if row.status == "ok"]
    used = [row for row in ok if row.grade != "invalid"] or ok
    return {(row.run_id, row.replicate): point_of_row(row) for row in used}


def _ratio(a: Mapping[Process, float], b: Mapping[Process, float]) -> dict[str, Any]:
    middle_a, middle_b = (float(np.median([*side.values()])) for side in (a, b))
    rounds = [b[process] / a[process] for process in a if process in b]
    ratio = float(np.median(rounds)) if rounds else middle_b / middle_a
    ci = interval(rounds) if rounds else ratio_interval([*b.values()], [*a.values()])
    return {
        "a": middle_a,
        "b": middle_b,
        "rounds": len(rounds),
        "ratio": ratio,
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
