"""Results of Google Benchmark (``--benchmark_format=json``): repetitions as replicates, counters as bytes where they are.

>>> rows = rows_of(Source("google-benchmark", document))

The time is ``real_time``. ``bytes_per_second`` is over CPU time unless the benchmark asked for real time, which its name
says; so bytes are computed from the time that it was divided by. With threads it is a sum, and bytes stay missing.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from membound.results.exchange.document import Document
from membound.results.exchange.measurement import Source, custom, number_of, scale_of, time_of
from membound.results.exchange.moment import moment_of
from membound.results.row import Row

REAL = ("/real_time", "/manual_time")
AGGREGATE = "aggregate"
MIDDLE = ("median", "mean")
NEAR_WHOLE = 1e-3
"""Bytes are whole: a product that is further from a whole number than this share says that it was another time."""


def recognises(document: Document) -> bool:
    """Whether it is a file of the library: its benchmarks have a context and units of time."""
    if not document.has("context", "benchmarks") or not isinstance(document.content["benchmarks"], list):
        return False
    found = document.content["benchmarks"]
    return all(
        isinstance(one, dict) and "name" in one and ("real_time" in one or "error_occurred" in one)
        for one in found
    )


def rows_of(source: Source) -> list[Row]:
    """A row for each repetition of a benchmark, or for its median where the file holds only aggregates."""
    context = source.document.content["context"]
    source.started_at = moment_of(context.get("date"))
    if context.get("library_build_type") == "debug":
        source.contradiction(
            "the library was built for debugging, which its own warning calls no measurement"
        )
    found = source.document.content["benchmarks"]
    single = [one for one in found if one.get("run_type", "iteration") != AGGREGATE]
    known = {_name(one) for one in single}
    alone: dict[str, Mapping[str, Any]] = {}
    for wanted in MIDDLE:
        for one in found:
            if one.get("aggregate_name") == wanted and _name(one) not in known:
                alone.setdefault(_name(one), one)
    return [_benchmark(source, one) for one in (*single, *alone.values())]


def _name(one: Mapping[str, Any]) -> str:
    return str(one.get("run_name") or one["name"])


def _benchmark(source: Source, one: Mapping[str, Any]) -> Row:
    values: dict[str, Any] = {
        "replicate": int(one.get("repetition_index") or 0),
        "threads": int(one.get("threads") or 0),
    }
    work = custom(_name(one))
    if one.get("error_occurred"):
        return source.case(
            "google-benchmark:cpu", work, [], status="error", reason=str(one.get("error_message")), **values
        )
    scale = scale_of(one.get("time_unit"), "real_time")
    time_s = time_of(one["real_time"], "real_time") * scale
    base_s = time_s if any(word in _name(one) for word in REAL) else number_of(one.get("cpu_time"))
    if base_s is not None and base_s is not time_s:
        base_s *= scale
    rate = number_of(one.get("bytes_per_second"))
    notes = (
        [f"mean of {one['iterations']} iterations"]
        if one.get("iterations") and "aggregate_name" not in one
        else []
    )
    notes += (
        [f"{one['aggregate_name']} of {one.get('repetitions')} repetitions"]
        if "aggregate_name" in one
        else []
    )
    return source.case(
        "google-benchmark:cpu",
        work,
        [time_s],
        note="; ".join(notes),
        config={key: one[key] for key in ("items_per_second", "bytes_per_second", "label") if key in one},
        bytes=_bytes(rate, base_s) if values["threads"] == 1 else 0,
        **values,
    )


def _bytes(rate: float | None, base_s: float | None) -> int:
    if rate is None or base_s is None:
        return 0
    found = rate * base_s
    return round(found) if abs(found - round(found)) <= NEAR_WHOLE * found else 0
