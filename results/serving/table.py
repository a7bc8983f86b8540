"""Stored points of load as figures, and as a table for programs.

>>> from membound.results.store import load_rows
>>> points(load_rows("results/runs")).loc[:, ["work", "due_per_s", "ttft_p50_s", "goodput_share"]]
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pandas as pd

from membound.results.frame import frame
from membound.results.row import Row
from membound.results.serving.engine_step import how_to_measure
from membound.results.serving.point import PERCENTILES, Point, point_of
from membound.results.serving.roofline import frontier, roofline_of
from membound.results.serving.slo import SloError, parse_slo
from membound.results.serving.window import Window

COLUMNS = {
    "run_id": "the run",
    "backend": "`url` for a server that was there before, or the engine that was started",
    "device": "where it listened",
    "work": "canonical text of the load",
    "replicate": "number of the server's process",
    "status": "ok; error if no answer in the window was whole; wrong if its tokens are not the model's; crashed if the server ended",
    "reason": "why it is not ok",
    "validity": "invalid where the client was the limit, else clean",
    "validity_reasons": "what the client was short of",
    "truth_requests": "answers that were compared with the float64 reference, token by token",
    "truth_error": "by how much they miss it; above the tolerance the point is wrong. Missing where nothing could be compared",
    "engine": "what decides the server's speed, as far as it is known: formats, cache, sequences, threads, versions",
    "decode_batch": "sequences that decoded at once, mean over tokens",
    "decode_context": "tokens in the cache of a sequence, mean over tokens; missing where the server does not tell lengths",
    "bytes_per_token": "weights over the batch, and a sequence's cache; missing where the model is not known",
    "mbu": "bytes of a step at the measured bandwidth over the mean time between tokens",
    "itl_mean_s": "seconds between first and last tokens over the tokens in between",
    "itl_bytes_s": "part of it: the step's bytes at the measured bandwidth",
    "itl_step_s": "part of it: the rest of the engine's step alone, as `membound run` measured it; missing where nobody did",
    "itl_engine_s": "part of it: the rest of the engine's own time, by its metrics",
    "itl_http_s": "part of it: from the engine's clock to the client's, less what the client adds",
    "itl_client_s": "part of it: what the client adds, as measured before the run",
    "step_s": "the engine's step alone at that batch and context, median over processes",
    "step_run": "the run that it is of",
    "step_work": "the step that it is",
    "step_how": "where it was not measured, the command that measures it",
    "frontier": "whether no other point of the run is better both for the device and for one user",
    "slo": "the service level that goodput is of",
    "seconds": "length of the window",
    "due": "requests that were due in it",
    "outcomes": "how many ended how",
    "due_per_s": "requests due a second",
    "ok_per_s": "whole answers a second, by when they were due",
    "output_tokens_per_s": "tokens of whole answers a second",
    "prompt_tokens": "tokens of prompts, by the server",
    "output_tokens": "tokens of whole answers",
    "seen_itl_share": "share of the gaps between tokens that were seen; the others came several at once",
    "goodput_per_s": "requests a second that kept the service level",
    "goodput_share": "their share of all that were due",
    "steady": "False where answers took longer and longer through the window",
    "growth": "whole answers of its last quarter over those of its first, medians",
}
"""Columns of `points`, less those of the latencies: ``ttft``, ``ttft_sent``, ``tpot``, ``itl`` and ``e2e`` have each
a ``_count``, and for the percentiles 50, 90 and 99 a ``_p50_s`` and its interval over the blocks of the window, ``_p50_ci_s``."""


def point_of_row(row: Row) -> Point:
    """The figures of a stored point. Raises ValueError if nothing was due in its window."""
    window = Window(row.config["warm_s"], row.config["end_s"])
    try:
        slo = parse_slo(row.config.get("slo", "")) if row.config.get("slo") else None
    except SloError:  # written by another version: the figures that need none are shown
        slo = None
    return point_of(row.requests, window, slo)


def point_records(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """An object for each point among the rows, in their order, as JSON can hold it; seconds, and null for what is not known.

    The engine's own steps are looked for among the same rows.
    """
    best = {id(row): mark for row, _, _, mark in frontier(rows)}
    steps = [row for row in rows if row.kind == "case"]
    return [_record(row, steps) | {"frontier": best.get(id(row))} for row in rows if row.kind == "serving"]


def points(rows: Sequence[Row]) -> pd.DataFrame:
    """The same as a table."""
    lines = point_records(rows)
    return frame(lines, lines[0] if lines else ())


def _record(row: Row, steps: Sequence[Row]) -> dict[str, Any]:
    found: dict[str, Any] = dict.fromkeys(COLUMNS)
    found |= {
        "run_id": row.run_id,
        "backend": row.backend,
        "device": row.device,
        "work": row.work,
        "replicate": row.replicate,
        "status": row.status,
        "reason": row.reason,
        "validity": row.grade,
        "validity_reasons": row.grade_reasons,
        "truth_requests": row.config.get("truth", {}).get("requests"),
        "truth_error": row.error,
        "engine": row.config.get("engine", {}),
        "slo": row.config.get("slo", ""),
    }
    try:
        return found | _figures(point_of_row(row)) | _of_roofline(row, steps)
    except ValueError:  # nothing was due in the window
        return found


def _of_roofline(row: Row, steps: Sequence[Row]) -> dict[str, Any]:
    one = roofline_of(row, steps)
    if one is None:
        return {}
    alone = one.step
    told: dict[str, Any] = {"step_how": how_to_measure(row, one.decoding) or None}
    if alone is not None:
        told = {"step_s": alone.seconds, "step_run": alone.run_id, "step_work": alone.work}
    return told | {
        "decode_batch": one.decoding.batch,
        "decode_context": one.decoding.context,
        "bytes_per_token": one.bytes_per_token,
        "mbu": one.mbu,
        "itl_mean_s": one.decoding.itl_s,
        **{f"itl_{name}_s": seconds for name, seconds in one.split.items()},
    }


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
