"""Results of SGLang's ``bench_serving``: JSON lines, one object a run.

>>> rows = rows_of(Source("sglang-serving", document))

It goes back to vLLM's benchmark and has most of its keys; ``total_throughput`` and ``*_e2e_latency_ms`` are its own.
With ``--output-details`` a line holds every request, but not when one ended: its end is that of its last token.
"""

from __future__ import annotations

from membound.results.exchange.document import Document
from membound.results.exchange.measurement import Source, number_of
from membound.results.exchange.vllm_bench import NAMES, load_rows_of, samples_of
from membound.results.row import Row

TOOL = "sglang-serving"
OWN_NAMES = {short: metric for short, metric in NAMES.items() if short != "e2el"} | {
    "e2e_latency": "request_latency"
}


def is_serving(document: Document) -> bool:
    """Whether every line is a result of ``bench_serving``."""
    return bool(document.records("mean_e2e_latency_ms", "completed", "duration", "output_throughput"))


def rows_of(source: Source) -> list[Row]:
    """A row for each latency and throughput of each line."""
    rows = []
    for found in source.document.records("completed"):
        raw = samples_of(found)
        raw["e2e_latency"] = raw.pop("e2el", [])
        described = dict(found)
        described.setdefault("request_throughput", None)
        # Both of these are settings of the command line and stand beside its results.
        described["model_id"] = found.get("model") or (found.get("server_info") or {}).get("model_path")
        failed = sum(bool(error) for error in found.get("errors") or ())
        if number_of(found.get("accept_length")) is not None:
            described["backend"] = (
                f"{found.get('backend')}, {found['accept_length']:.3g} tokens accepted a step"
            )
        rows += load_rows_of(source, described, raw, OWN_NAMES, TOOL, failed)
    return rows
