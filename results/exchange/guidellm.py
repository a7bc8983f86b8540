"""Reports of GuideLLM (``guidellm run``, version 2 of its metadata; ``guidellm benchmark``, version 1): one JSON object.

>>> rows = rows_of(Source("guidellm", document))

Its ``inter_token_latency_ms`` is a request's mean after the first token, which others call TPOT, and its
``time_per_output_token_ms`` divides the whole latency by all tokens; the statistics of both weigh a request by its tokens,
so they are not those of the requests beside them. Only successful requests count here; how many
failed stands in the config. A rate that was asked for is compared with when the requests really left.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from membound.results.exchange.document import Document
from membound.results.exchange.measurement import Source, number_of, time_of
from membound.results.exchange.moment import moment_of
from membound.results.exchange.request_metrics import Load
from membound.results.row import Row

TOOL = "guidellm"
NAMES = {
    "time_to_first_token_ms": ("time_to_first_token", 1e-3),
    "inter_token_latency_ms": ("time_per_output_token", 1e-3),
    "request_latency": ("request_latency", 1.0),
    "time_per_output_token_ms": ("request_latency_per_token", 1e-3),
}
BY_TOKENS = ("inter_token_latency_ms", "time_per_output_token_ms")
STATISTICS = {"mean": "mean", "median": "p50", "std_dev": "std", "min": "min", "max": "max"}
PERCENTILES = {"p001": "p0.1", "p01": "p1", "p05": "p5", "p999": "p99.9"}
OFF = 2.0
"""Arrivals at more than this many times the rate, or less than its inverse, are not what was asked for: with the 24
requests of a short run a Poisson stream is within 1.5 in 19 of 20 runs."""
FEWEST_ARRIVALS = 8


def is_report(document: Document) -> bool:
    """Whether it is a report of either version."""
    if not document.has("benchmarks") or not isinstance(document.content["benchmarks"], list):
        return False
    first = next(iter(document.content["benchmarks"]), None)
    return (
        isinstance(first, dict)
        and isinstance(first.get("metrics"), dict)
        and "request_totals" in first["metrics"]
    )


def rows_of(source: Source) -> list[Row]:
    """A row for each latency and throughput of each benchmark of the report."""
    return [row for one in source.document.content["benchmarks"] for row in _benchmark(source, one)]


def _benchmark(source: Source, one: dict[str, Any]) -> list[Row]:
    source.started_at = moment_of(one.get("start_time"))
    metrics, totals = one["metrics"], one["metrics"]["request_totals"]
    requests = _requests(one)
    config = one.get("config") or one.get("args") or {}
    strategy = config.get("strategy") or (one.get("scheduler") or {}).get("strategy") or {}
    load = Load(
        source,
        TOOL,
        model=(config.get("backend") or {}).get("model") or (one.get("worker") or {}).get("backend_model"),
        input_tokens=number_of(_successful(metrics, "prompt_token_count").get("mean")),
        output_tokens=number_of(_successful(metrics, "output_token_count").get("mean")),
        concurrency=strategy.get("streams"),
        rate=strategy.get("rate"),
        failed=int(totals.get("errored") or 0),
        config={
            "strategy": str(strategy.get("type_") or ""),
            "incomplete": int(totals.get("incomplete") or 0),
        },
    )
    _check_arrivals(source, one, number_of(strategy.get("rate")))
    rows = []
    for name, (metric, scale) in NAMES.items():
        found = _successful(metrics, name)
        samples = [time_of(r[name], name) * scale for r in requests if r.get(name) is not None]
        reported = {} if samples and name in BY_TOKENS else _reported(found, name, scale)
        if samples or reported:
            note = "over tokens, not over requests" if reported and name in BY_TOKENS else ""
            rows.append(load.latency(metric, samples, reported, note))
    duration_s = _duration(one)
    completed = number_of(totals.get("successful"))
    tokens = number_of(_successful(metrics, "output_token_count").get("total_sum"))
    return [*rows, *load.rates(duration_s, completed, tokens)]


def _duration(one: Mapping[str, Any]) -> float | None:
    stated = number_of(one.get("duration"))
    start, end = number_of(one.get("start_time")), number_of(one.get("end_time"))
    return stated if stated is not None or start is None or end is None else end - start


def _requests(one: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The successful requests, where the file holds them: under this name in both versions."""
    found = (one.get("requests") or {}).get("successful") or []
    return [request for request in found if isinstance(request, dict)]


def _successful(metrics: Mapping[str, Any], name: str) -> dict[str, Any]:
    return (metrics.get(name) or {}).get("successful") or {}


def _reported(found: Mapping[str, Any], name: str, scale: float) -> dict[str, float]:
    if not found.get("count"):
        return {}
    told = {short: found.get(key) for key, short in STATISTICS.items()}
    told |= {PERCENTILES.get(key, key): value for key, value in (found.get("percentiles") or {}).items()}
    seconds = {short: time_of(value, name) * scale for short, value in told.items() if value is not None}
    return seconds | {"count": float(found["count"])}


def _check_arrivals(source: Source, one: Mapping[str, Any], rate: float | None) -> None:
    """Requests that left all at once, though a rate was asked for, were no open loop."""
    starts = [(r.get("info") or {}).get("timings", {}).get("request_start") for r in _requests(one)]
    known = sorted(start for start in map(number_of, starts) if start is not None)
    if rate is None or len(known) < FEWEST_ARRIVALS or known[-1] == known[0]:
        return
    observed = (len(known) - 1) / (known[-1] - known[0])
    if not rate / OFF <= observed <= rate * OFF:
        source.contradiction(
            f"{rate:g} requests a second were asked for, but {len(known)} left within "
            f"{known[-1] - known[0]:.3g} s, which is {observed:.3g} a second"
        )
