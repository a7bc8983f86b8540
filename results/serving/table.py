"""Stored points of load as figures, and as a table for programs.

>>> points(load_rows("results/runs")).loc[:, ["work", "due_per_s", "ttft_p50_s", "goodput_share"]]
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pandas as pd

from membound.results.row import Row
from membound.results.serving.point import PERCENTILES, Point, point_of
from membound.results.serving.slo import SloError, parse_slo
from membound.results.serving.window import Window


def point_of_row(row: Row) -> Point:
    """The figures of a stored point. Raises ValueError if nothing was due in its window."""
    window = Window(row.config["warm_s"], row.config["end_s"])
    try:
        slo = parse_slo(row.config.get("slo", "")) if row.config.get("slo") else None
    except SloError:  # written by another version: the figures that need none are shown
        slo = None
    return point_of(row.requests, window, slo)


def point_records(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """An object for each point among the rows, in their order, as JSON can hold it; seconds, and null for what is not known."""
    return [_record(row) for row in rows if row.kind == "serving"]


def points(rows: Sequence[Row]) -> pd.DataFrame:
    """The same as a table."""
    return pd.DataFrame(point_records(rows))


def _record(row: Row) -> dict[str, Any]:
    found: dict[str, Any] = {
        "run_id": row.run_id,
        "backend": row.backend,
        "device": row.device,
        "work": row.work,
        "replicate": row.replicate,
        "status": row.status,
        "reason": row.reason,
        "validity": row.grade,
        "validity_reasons": row.grade_reasons,
        "slo": row.config.get("slo", ""),
    }
    try:
        return found | _figures(point_of_row(row))
    except ValueError:  # nothing was due in the window
        return found


def _figures(point: Point) -> dict[str, Any]:
    figures: dict[str, Any] = {
        "seconds": point.seconds,
        "due": point.due,
        "outcomes": point.outcomes,
        "due_per_s": point.due_per_s,
        "ok_per_s": point.ok_per_s,
        "output_tokens_per_s": point.output_tokens_per_s,
        "prompt_tokens": point.prompt_tokens,
        "output_tokens": point.output_tokens,
        "seen_itl_share": point.seen_itl_share,
        "goodput_per_s": point.goodput_per_s,
        "goodput_share": point.goodput_share,
        "steady": None if point.growth is None else point.growth.steady,
        "growth": None if point.growth is None else point.growth.ratio,
    }
    for name, one in point.latency.items():
        figures[f"{name}_count"] = one.count
        for percentile in PERCENTILES:
            figures[f"{name}_p{percentile}_s"] = one.at.get(percentile)
            figures[f"{name}_p{percentile}_ci_s"] = one.ci.get(percentile)
    return figures
