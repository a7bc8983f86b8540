"""Serving results as a Benchmark Report of llm-d-benchmark, version 0.2, in JSON, which is YAML too.

>>> path.write_text(report_text(rows))

A report describes one load, so the rows must be of one: imported from a load generator. Its
schema allows no fields of others. Latencies are in seconds, with the statistics of the single requests where the rows have
them, else with those that the tool reported.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

import numpy as np

from membound.errors import MemboundError
from membound.results.row import SUMMARY, Row
from membound.spec_text import settings

VERSION = "0.2"
LATENCIES = {
    "time_to_first_token": ("time_to_first_token", "s"),
    "request_latency": ("request_latency", "s"),
    "time_per_output_token": ("time_per_output_token", "s/token"),
    "inter_token_latency": ("inter_token_latency", "s/token"),
    "request_latency_per_token": ("normalized_time_per_output_token", "s/token"),
}
RATES = {
    "request_interval": ("request_rate", "queries/s"),
    "output_token_interval": ("output_token_rate", "tokens/s"),
}
PERCENTILES = {
    "p0p1": 0.1,
    "p1": 1,
    "p5": 5,
    "p10": 10,
    "p25": 25,
    "p50": 50,
    "p75": 75,
    "p90": 90,
    "p95": 95,
    "p99": 99,
}
REPORTED = {"mean": "mean", "std": "stddev", "min": "min", "max": "max", "p0.1": "p0p1", "p99.9": "p99p9"}
REPORTED |= {name: name for name in PERCENTILES if name != "p0p1"}


class NoReport(MemboundError, ValueError):
    """The rows are not of one load; the message says what they are."""


def report_text(rows: Iterable[Row]) -> str:
    """The report. Raises NoReport."""
    timed = [
        row for row in rows if row.kind == "case" and row.status == "ok" and row.work.startswith("request:")
    ]
    if not timed:
        raise NoReport("a Benchmark Report is about requests to a server, and these rows hold none")
    loads = {(row.run_id, row.backend, row.replicate, _load(row)) for row in timed}
    if len(loads) > 1:
        raise NoReport(
            f"a Benchmark Report describes one load, and these rows hold {len(loads)}; export one at a time"
        )
    by_metric = {settings(row.work)["metric"]: row for row in timed}
    aggregate: dict[str, Any] = {}
    if requests := _requests(by_metric):
        aggregate["requests"] = requests
    aggregate["latency"] = {
        name: {"units": unit} | told
        for metric, (name, unit) in LATENCIES.items()
        if metric in by_metric and "mean" in (told := _statistics(by_metric[metric]))
    }
    aggregate["throughput"] = {
        name: {"units": unit, "mean": 1 / by_metric[metric].samples_s[0]}
        for metric, (name, unit) in RATES.items()
        if metric in by_metric
    }
    report = {
        "version": VERSION,
        "run": {"uid": timed[0].run_id},
        "results": {"request_performance": {"aggregate": {k: v for k, v in aggregate.items() if v}}},
    }
    return json.dumps(report, indent=2, allow_nan=False) + "\n"


def _load(row: Row) -> tuple[tuple[str, str], ...]:
    return tuple((key, value) for key, value in settings(row.work).items() if key != "metric")


def _requests(by_metric: dict[str, Row]) -> dict[str, Any]:
    """Counts, where a latency is that of single requests; a file of statistics may not say how many there were."""
    row = by_metric.get("request_latency") or by_metric.get("time_to_first_token")
    if row is None:
        return {}
    reported = row.config.get("reported") or {}
    count = len(row.samples_s) if SUMMARY not in row.config else int(reported.get("count") or 0)
    failed = int(row.config.get("failed") or 0)
    return {"total": count + failed, "failures": failed} if count else {}


def _statistics(row: Row) -> dict[str, float]:
    if SUMMARY in row.config:
        told = row.config.get("reported") or {}
        return {REPORTED[name]: value for name, value in told.items() if name in REPORTED}
    values = np.asarray(row.samples_s)
    quantiles = np.percentile(values, list(PERCENTILES.values()))
    return {
        "mean": float(values.mean()),
        "stddev": float(values.std()),
        "min": float(values.min()),
        "max": float(values.max()),
    } | {name: float(value) for name, value in zip(PERCENTILES, quantiles, strict=True)}
