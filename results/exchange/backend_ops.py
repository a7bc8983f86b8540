"""Results of ggml's ``test-backend-ops perf`` as SQL or CSV: a row an operation.

>>> rows = rows_of(Source("test-backend-ops", document))

Its ``bandwidth_gb_s`` divides by 1024³ and is 0 where it counts FLOPs instead; ``flops`` is a rate. Operations that a
backend does not support, and those that failed, are rows with that status.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from membound.results.exchange.document import Document
from membound.results.exchange.measurement import Source, custom, number_of, time_of
from membound.results.exchange.moment import moment_of
from membound.results.exchange.sql_rows import rows_of_sql
from membound.results.row import Row, RowError

NEEDED = ("backend_name", "op_name", "op_params", "test_mode", "supported", "time_us")
TABLE = "test_backend_ops"
GIB = 1024**3


def recognises(document: Document) -> bool:
    """Whether it is one of the two kinds of file."""
    return bool(document.table(*NEEDED) or rows_of_sql(document, TABLE))


def rows_of(source: Source) -> list[Row]:
    """A row for each operation that was timed or refused; those that were only checked have no time and are left out."""
    found = source.document.table(*NEEDED) or rows_of_sql(source.document, TABLE)
    timed = [one for one in found if one.get("test_mode") == "perf"]
    if not timed:
        raise RowError("no operation was timed: its test_mode is not perf")
    return [_operation(source, one) for one in timed]


def _operation(source: Source, one: Mapping[str, Any]) -> Row:
    name, params = str(one["op_name"]), str(one["op_params"])
    values: dict[str, Any] = {"device": str(one.get("device_description") or one["backend_name"])}
    values["versions"] = {"llama.cpp": str(one.get("build_commit") or "")}
    samples = []
    if not _true(one["supported"]):
        values |= {
            "status": "unsupported",
            "reason": str(one.get("error_message") or f"no {name} for {params}"),
        }
    elif not _true(one.get("passed", 1)):
        values |= {"status": "error", "reason": str(one.get("error_message") or "it failed")}
    else:
        time_s = time_of(one["time_us"], "time_us") * 1e-6
        samples = [time_s]
        bandwidth, flops = number_of(one.get("bandwidth_gb_s")) or 0.0, number_of(one.get("flops")) or 0.0
        values |= {"bytes": round(bandwidth * GIB * time_s), "flops": round(flops * time_s)}
    runs = number_of(one.get("n_runs")) or 0
    row = source.case(
        f"ggml:{str(one['backend_name']).lower()}",
        custom(name, kind="ggml", op=name, params=params),
        samples,
        note=f"mean of {runs:g} runs" if samples and runs else "",
        **values,
    )
    row.started_at = moment_of(one.get("test_time"))
    return row


def _true(value: Any) -> bool:
    return str(value).strip().lower() in ("1", "true", "yes")
