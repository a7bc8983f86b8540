"""Exports of AIPerf (JSON, CSV, and JSON lines with a line a request) and of GenAI-Perf, which it grew out of (JSON).

>>> rows = json_rows(Source("aiperf-json", document))

Each metric carries its unit. ``inter_token_latency`` is a request's mean after the first token, which others call TPOT;
``inter_chunk_latency`` holds the single gaps. The client itself may be starved of CPU: then chunks are read in a bunch and
the gaps between them are 0, which the rows say.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Mapping
from typing import Any

from membound.results.exchange.document import Document
from membound.results.exchange.measurement import Source, number_of, scale_of, time_of
from membound.results.exchange.moment import moment_of
from membound.results.exchange.request_metrics import Load, mean_of
from membound.results.row import Row, RowError

NAMES = {
    "time_to_first_token": "time_to_first_token",
    "inter_token_latency": "time_per_output_token",
    "inter_chunk_latency": "inter_chunk_latency",
    "request_latency": "request_latency",
}
STATISTICS = {
    "avg": "mean",
    "p50": "p50",
    "std": "std",
    "min": "min",
    "max": "max",
    "count": "count",
    "sum": "sum",
}
HEADER = ("Metric", "avg", "min", "max", "p99", "std")
UNIT = re.compile(r"^(.*?)(?: \(([^()]*)\))?$")
PHASE = "profiling"
"""Requests of other phases warm the server up."""


def is_json(document: Document) -> bool:
    """Whether it is AIPerf's summary."""
    return _is_summary(document) and document.has("aiperf_version")


def is_genai_perf(document: Document) -> bool:
    """Whether it is GenAI-Perf's summary, which names no version."""
    return _is_summary(document) and not document.has("aiperf_version")


def _is_summary(document: Document) -> bool:
    found = document.content
    return document.has("request_latency", "request_throughput", "input_config") and all(
        isinstance(found[key], dict) and "unit" in found[key]
        for key in ("request_latency", "request_throughput")
    )


def is_lines(document: Document) -> bool:
    """Whether it is AIPerf's export with a line a request."""
    found = document.records("metadata", "metrics")
    return bool(found) and all("request_start_ns" in one["metadata"] for one in found)


def is_csv(document: Document) -> bool:
    """Whether it is AIPerf's summary as CSV: sections with different columns, so that it is no table as a whole."""
    cells = document.head.split(",")
    return cells[0] == "Metric" and set(HEADER) <= set(cells)


def json_rows(source: Source) -> list[Row]:
    """A row for each latency and throughput of a summary of AIPerf."""
    return _summary(source, source.document.content, "aiperf")


def genai_perf_rows(source: Source) -> list[Row]:
    """The same of GenAI-Perf."""
    return _summary(source, source.document.content, "genai-perf")


def _summary(source: Source, found: Mapping[str, Any], tool: str) -> list[Row]:
    source.started_at = moment_of(found.get("start_time"))
    load = _load(source, found, tool)
    rows = []
    for name, metric in NAMES.items():
        if isinstance(found.get(name), dict):
            rows.append(load.latency(metric, (), _reported(found[name], name)))
    duration_s = _seconds(found.get("benchmark_duration"), "benchmark_duration")
    requests, tokens = _figure(found, "request_count"), _figure(found, "total_output_tokens")
    rate = _figure(found, "request_throughput")
    if duration_s and requests:
        source.expect("request_throughput", rate, requests / duration_s, "requests over duration")
    elif rate and requests:
        duration_s = requests / rate
    return [*rows, *load.rates(duration_s, requests, tokens)]


def _load(source: Source, found: Mapping[str, Any], tool: str) -> Load:
    asked = found.get("input_config") or {}
    phase = next((p for p in reversed(asked.get("phases") or []) if isinstance(p, dict)), {})
    stimulus = (asked.get("perf_analyzer") or {}).get("stimulus") or {}
    models = (asked.get("models") or {}).get("items") if isinstance(asked.get("models"), dict) else None
    names = asked.get("model_names") or (
        asked.get("models") if isinstance(asked.get("models"), list) else None
    )
    model = models[0].get("name") if models else names[0] if names else asked.get("formatted_model_name")
    return Load(
        source,
        tool,
        model=model,
        input_tokens=_figure(found, "input_sequence_length"),
        output_tokens=_figure(found, "output_sequence_length"),
        concurrency=phase.get("concurrency") or stimulus.get("concurrency") or asked.get("concurrency"),
        rate=phase.get("rate") or stimulus.get("request_rate") or asked.get("request_rate"),
        failed=int(_figure(found, "error_request_count") or 0),
    )


def _figure(found: Mapping[str, Any], name: str) -> float | None:
    metric = found.get(name)
    return number_of(metric.get("avg")) if isinstance(metric, dict) else None


def _seconds(metric: Any, name: str) -> float | None:
    if not isinstance(metric, dict) or metric.get("avg") is None:
        return None
    return time_of(metric["avg"], name) * scale_of(metric.get("unit"), name)


def _reported(metric: Mapping[str, Any], name: str) -> dict[str, float]:
    scale = scale_of(metric.get("unit"), name)
    told = {}
    for key, value in metric.items():
        short = STATISTICS.get(key, key)
        if value is not None and (key in STATISTICS or re.fullmatch(r"p[\d.]+", key)):
            told[short] = time_of(value, f"{key} of {name}") * (1.0 if short == "count" else scale)
    return told


def lines_rows(source: Source) -> list[Row]:
    """A row for each latency, from single requests; those of other phases than `profiling`, and failed ones, are left out."""
    lines = source.document.records("metadata", "metrics")
    measured = [one for one in lines if one["metadata"].get("benchmark_phase", PHASE) == PHASE]
    good = [one for one in measured if not one.get("error")]
    if not good:
        raise RowError("none of its requests succeeded")
    lengths = {
        name: [
            number
            for one in good
            if (number := number_of((one["metrics"].get(name) or {}).get("value"))) is not None
        ]
        for name in ("input_sequence_length", "output_sequence_length")
    }
    load = Load(
        source,
        "aiperf",
        input_tokens=mean_of(lengths["input_sequence_length"]),
        output_tokens=mean_of(lengths["output_sequence_length"]),
        failed=len(measured) - len(good),
    )
    starts = [time_of(one["metadata"]["request_start_ns"], "request_start_ns") for one in good]
    source.started_at = moment_of(min(starts) * 1e-9)
    rows = [load.latency(metric, found) for name, metric in NAMES.items() if (found := _values(good, name))]
    ends = [time_of(one["metadata"]["request_end_ns"], "request_end_ns") for one in good]
    duration_s = (max(ends) - min(starts)) * 1e-9
    return [*rows, *load.rates(duration_s, len(good), sum(lengths["output_sequence_length"]))]


def _values(lines: list[dict[str, Any]], name: str) -> list[float]:
    """Seconds of a metric over all requests; one that is a list within a request contributes each of its values."""
    found: list[float] = []
    for one in lines:
        metric = one["metrics"].get(name)
        if metric is not None:
            scale = scale_of(metric.get("unit"), name)
            values = metric["value"] if isinstance(metric["value"], list) else [metric["value"]]
            found += [time_of(value, name) * scale for value in values]
    return found


def csv_rows(source: Source) -> list[Row]:
    """The same as `json_rows`, from figures that were rounded to two digits; model and load are not in the file."""
    found: dict[str, dict[str, Any]] = {}
    header: list[str] = []
    try:
        lines = list(csv.reader(io.StringIO(source.document.text)))
    except csv.Error as error:
        raise RowError(f"no CSV: {error}") from None
    for line in lines:
        if not line or line[0] in ("Metric", "Endpoint"):
            header = line
        elif header and header[0] == "Metric":
            if len(line) != len(header):
                raise RowError(f"{len(line)} cells under a header of {len(header)}: {','.join(line)[:60]}")
            matched = UNIT.match(line[0])
            name, unit = (matched[1], matched[2]) if matched else (line[0], None)
            cells = {key: value for key, value in zip(header[1:], line[1:], strict=True) if value != ""}
            if "Value" in cells:
                cells["avg"] = cells.pop("Value")
            found[name.lower().replace(" ", "_")] = cells | {"unit": unit}
    return _summary(source, found, "aiperf")
