"""Results of NVBench (``--json``): a row a state, by the tags of its summaries.

>>> rows = rows_of(Source("nvbench", document))

The file holds statistics; samples lie in a binary file beside it, which is not read. The time is the GPU's, of cold
launches. Bytes come from the rate that the file gives. A skipped state is `unsupported` with its reason.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from membound.results.exchange.document import Document
from membound.results.exchange.measurement import Source, custom, number_of, time_of
from membound.results.row import Row

STATISTICS = {
    "mean": "nv/cold/time/gpu/mean",
    "min": "nv/cold/time/gpu/min",
    "max": "nv/cold/time/gpu/max",
    "std": "nv/cold/time/gpu/stdev/absolute",
    "count": "nv/cold/sample_size",
}
RATE = "nv/cold/bw/global/bytes_per_second"
CPU = ("nv/cpu_only/time/cpu/mean", "nv/cold/time/cpu/mean")


def recognises(document: Document) -> bool:
    """Whether it is a file of the library: benchmarks with states, and devices."""
    if not document.has("devices", "benchmarks") or not isinstance(document.content["benchmarks"], list):
        return False
    return all(
        isinstance(one, dict) and isinstance(one.get("states"), list)
        for one in document.content["benchmarks"]
    )


def rows_of(source: Source) -> list[Row]:
    """A row for each state of each benchmark."""
    content = source.document.content
    devices = {one.get("id"): one for one in content["devices"] if isinstance(one, dict)}
    return [
        _state(source, str(benchmark.get("name")), state, devices)
        for benchmark in content["benchmarks"]
        for state in benchmark["states"]
    ]


def _state(
    source: Source, name: str, state: Mapping[str, Any], devices: Mapping[Any, Mapping[str, Any]]
) -> Row:
    axes = {
        str(a["name"]).replace("=", "-"): a.get("value") or a.get("input_string")
        for a in state.get("axis_values") or ()
    }
    index = state.get("device")
    device = f"cuda:{index}" if index is not None else "cpu"
    values: dict[str, Any] = {"device": str(devices.get(index, {}).get("name") or "")}
    work, backend = custom(name, **axes), f"nvbench:{device}"
    if state.get("is_skipped"):
        reason = str(state.get("skip_reason") or "skipped")
        return source.case(backend, work, [], status="unsupported", reason=reason, **values)
    found = {str(one.get("tag")): _value(one) for one in state.get("summaries") or ()}
    told = {name: time_of(found[tag], tag) for name, tag in STATISTICS.items() if found.get(tag) is not None}
    note = "" if "mean" in told else "by the host's clock"
    if "mean" not in told:
        tag = next((tag for tag in CPU if found.get(tag) is not None), None)
        told = {} if tag is None else {"mean": time_of(found[tag], tag)}
    rate = number_of(found.get(RATE))
    values["bytes"] = round(rate * told["mean"]) if rate is not None and "mean" in told and not note else 0
    return source.case(backend, work, [], told, note=note, **values)


def _value(summary: Mapping[str, Any]) -> Any:
    """The figure of a summary, which the file holds as text among its data."""
    return next((d.get("value") for d in summary.get("data") or () if d.get("name") == "value"), None)
