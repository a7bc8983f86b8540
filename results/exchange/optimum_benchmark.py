"""Reports of optimum-benchmark: ``benchmark_report.json``, or ``benchmark.json``, which has the configuration too.

>>> rows = rows_of(Source("optimum-benchmark", document))

A report names neither model nor device; only ``benchmark.json`` does. Latencies are lists of seconds. `throughput` is left
out: of `per_token` it divides tokens by time and calls them samples.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from membound.results.exchange.document import Document
from membound.results.exchange.measurement import Source, custom, number_of, scale_of, time_of
from membound.results.row import Row

TOOL = "optimum-benchmark"
PHASES = ("prefill", "decode", "per_token", "generate", "forward", "call")
SETUP = ("load_model", "first_generate", "first_forward", "load")
FORMATS = {"float32": "f32", "float16": "f16", "bfloat16": "bf16"}


def recognises(document: Document) -> bool:
    """Whether it is a report, alone or with its configuration."""
    return bool(_phases(document))


def _phases(document: Document) -> dict[str, Any]:
    found = document.content
    if document.has("config", "report") and isinstance(found["report"], dict):
        found = found["report"]
    if not isinstance(found, dict) or not set(found) & {*PHASES, *SETUP}:
        return {}
    phases = {
        name: one
        for name, one in found.items()
        if isinstance(one, dict) and isinstance(one.get("latency"), dict)
    }
    return (
        phases
        if all("unit" in one["latency"] and "values" in one["latency"] for one in phases.values())
        else {}
    )


def rows_of(source: Source) -> list[Row]:
    """A row for each phase; those that set the model up, and the first call, are no measurement and are left out."""
    document = source.document
    config = document.content["config"] if document.has("config", "report") else {}
    return [_phase(source, config, name, one) for name, one in _phases(document).items() if name in PHASES]


def _phase(source: Source, config: Mapping[str, Any], name: str, one: Mapping[str, Any]) -> Row:
    latency = one["latency"]
    scale = scale_of(latency["unit"], f"{name} latency")
    samples = [time_of(value, f"{name} latency") * scale for value in latency["values"]]
    reported = {
        key: time_of(latency[key], f"{name} {key}") * (1.0 if key == "count" else scale)
        for key in ("mean", "p50", "p90", "p95", "p99", "count")
        if latency.get(key) is not None
    }
    backend, scenario = config.get("backend") or {}, config.get("scenario") or {}
    shapes, generate = scenario.get("input_shapes") or {}, scenario.get("generate_kwargs") or {}
    environment = config.get("environment") or {}
    cpu, memory_mb = environment.get("cpu"), number_of(environment.get("cpu_ram_mb"))
    dtype = str(backend.get("torch_dtype") or backend.get("dtype") or "")
    return source.case(
        f"{backend.get('name') or TOOL}:{backend.get('device') or 'unknown'}",
        custom(
            name,
            kind="model",
            phase=name,
            model=backend.get("model"),
            batch=shapes.get("batch_size"),
            input=shapes.get("sequence_length"),
            output=generate.get("max_new_tokens"),
            weight=FORMATS.get(dtype.removeprefix("torch."), dtype or None),
        ),
        samples,
        reported,
        device=" ".join(environment.get("gpu") or [])
        if backend.get("device") == "cuda"
        else str(cpu or "").strip(),
        machine={"cpu": str(cpu).strip()} | ({"memory_bytes": int(memory_mb * 1e6)} if memory_mb else {})
        if cpu
        else {},
        versions={
            key.removesuffix("_version"): str(value)
            for key, value in environment.items()
            if key.endswith("_version") and value
        },
    )
