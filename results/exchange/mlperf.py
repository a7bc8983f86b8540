"""Logs of MLPerf's LoadGen: ``mlperf_log_summary.txt`` and ``mlperf_log_detail.txt``.

>>> rows = summary_rows(Source("mlperf-summary", document))

A run that LoadGen calls INVALID is a row with the grade `invalid` and its reasons. The times are those of samples
(single stream), of queries (multi-stream) or the inverse of the samples a second (server, offline); all in nanoseconds.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

from membound.results.exchange.document import Document
from membound.results.exchange.measurement import Source, custom, number_of, time_of
from membound.results.row import Row, RowError

HEADING = "MLPerf Results Summary"
MARK = ":::MLLOG "
KINDS = {
    "latency": "request_latency",
    "first_token_latency": "time_to_first_token",
    "first token latency": "time_to_first_token",
    "time_to_output_token": "time_per_output_token",
    "time to output token": "time_per_output_token",
}
RATES = ("samples per second", "scheduled samples per second", "completed samples per second")
CONSTRAINTS = (
    "min duration satisfied",
    "min queries satisfied",
    "early stopping satisfied",
    "performance constraints satisfied",
)


def is_summary(document: Document) -> bool:
    """Whether it is the summary."""
    return HEADING in document.text[:1000]


def is_detail(document: Document) -> bool:
    """Whether it is the detailed log."""
    return document.head.startswith(MARK)


def summary_rows(source: Source) -> list[Row]:
    """A row for each latency of the summary, and for its throughput."""
    parts = (line.partition(":") for line in source.document.text.splitlines())
    found = {key.strip().lower(): value.strip() for key, colon, value in parts if colon and key.strip()}
    unmet = [key for key in CONSTRAINTS if found.get(key, "yes").lower() == "no"]
    return _rows(
        source,
        sut=found.get("sut name", ""),
        scenario=found.get("scenario", ""),
        valid=found.get("result is", ""),
        reasons=unmet,
        latencies=_latencies(
            found,
            r"^(min|max|mean|[\d.]+ percentile) (latency|first token latency|time to output token) \(ns\)$",
        ),
        rate=next((number_of(found[key]) for key in RATES if key in found), None),
    )


def detail_rows(source: Source) -> list[Row]:
    """The same of the detailed log."""
    found = dict(_events(source.document))
    scenario = str(found.get("effective_scenario") or found.get("requested_scenario") or "")
    if not scenario:
        raise RowError("its log names no scenario; it ends too early")
    if "result_validity" not in found:
        raise RowError("its log has no result: the run did not end")
    unmet = [key.removeprefix("result_") for key in found if key.endswith("_met") and found[key] is False]
    shortened = {
        key.removeprefix("result_"): value for key, value in found.items() if key.startswith("result_")
    }
    rates = ("samples_per_second", "completed_samples_per_sec", "scheduled_samples_per_sec")
    return _rows(
        source,
        sut=str(found.get("sut_name") or ""),
        scenario=scenario,
        valid=str(found["result_validity"]),
        reasons=unmet,
        latencies=_latencies(
            shortened,
            r"^(min|max|mean|[\d.]+_percentile)_(latency|first_token_latency|time_to_output_token)_ns$",
        ),
        rate=next((number_of(shortened[key]) for key in rates if key in shortened), None),
    )


def _events(document: Document) -> Iterator[tuple[str, Any]]:
    """Key and value of each line. Raises RowError on one that is cut off."""
    for number, line in enumerate(document.text.splitlines(), 1):
        if line.startswith(MARK):
            try:
                event = json.loads(line.removeprefix(MARK))
                yield event["key"], event["value"]
            except (ValueError, KeyError, TypeError):
                raise RowError(f"line {number} is no event of the log") from None


def _latencies(found: dict[str, Any], pattern: str) -> dict[str, dict[str, float]]:
    """Seconds by metric and statistic."""
    told: dict[str, dict[str, float]] = {}
    for key, value in found.items():
        matched = re.match(pattern, key)
        if matched:
            name = (
                matched[1]
                if matched[1][0] not in "0123456789"
                else f"p{float(re.split('[ _]', matched[1])[0]):g}"
            )
            told.setdefault(KINDS[matched[2]], {})[name] = time_of(value, key) * 1e-9
    return told


def _rows(
    source: Source,
    sut: str,
    scenario: str,
    valid: str,
    reasons: list[str],
    latencies: dict[str, dict[str, float]],
    rate: float | None,
) -> list[Row]:
    if not valid:
        raise RowError("it has no result: the run did not end")
    grade: dict[str, Any] = {}
    if valid != "VALID":
        grade = {"grade": "invalid", "grade_reasons": reasons or ["LoadGen calls the run invalid"]}
    elif reasons:
        source.contradiction(f"the result is VALID, but {', '.join(reasons)}: no")
    backend = f"{sut.replace(':', '-') or 'loadgen'}:unknown"
    rows = [
        source.case(
            backend, custom(metric, kind="request", metric=metric, scenario=scenario), [], told, **grade
        )
        for metric, told in latencies.items()
    ]
    if rate:
        work = custom("sample_interval", kind="request", metric="sample_interval", scenario=scenario)
        rows.append(
            source.case(
                backend, work, [1 / rate], summary="one figure: the inverse of the samples a second", **grade
            )
        )
    if not rows:
        raise RowError("it holds no latency and no rate")
    return rows
