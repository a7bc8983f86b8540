"""From raw rows to figures: one line a case, every statistic derived on load.

The process is the sampling unit: samples of one process agree with each other far better than with the
next process, so a case's time is the median over the medians of its processes, and its interval comes
from resampling processes, never single samples.

>>> table = summarize(load_rows(["results/runs"]))
>>> table.loc[table.work.str.startswith("linear"), ["backend", "time_s", "mbu", "verdict"]]
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from math import isfinite
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from membound.results.roofline import Limits, limits_of, settings
from membound.results.row import Row, RowError
from membound.results.verdict import Evidence, judge

RESAMPLES = 10_000
CONFIDENCE = 0.95
BOOTSTRAP_SEED = 20_250_101
"""Fixed, so that the same rows always give the same interval."""

WORST_FIRST = ("wrong", "crashed", "oom", "timeout", "error", "unavailable", "unsupported", "ok")
GRADES_WORST_FIRST = ("invalid", "contended", "unknown", "clean")

COLUMNS = {
    "run_id": "the run",
    "backend": "backend and device as asked for",
    "device": "the hardware's own name",
    "work": "canonical spec of the work",
    "threads": "CPU threads",
    "status": "ok, or the worst status of any replicate",
    "reason": "why the status is not ok",
    "validity": "worst grade of the replicates used: clean, unknown, contended or invalid",
    "validity_count": "replicates with that grade",
    "validity_reasons": "what disturbed them",
    "replicates": "processes used; disturbed ones are set aside if others are left",
    "replicates_aside": "processes set aside as invalid",
    "time_s": "median over the medians of the processes, seconds a launch",
    "time_ci_s": "95 % bootstrap interval over processes, (lower, upper); None with one process",
    "min_s": "fastest sample",
    "p95_s": "95th percentile of all samples",
    "device_time_s": "median over processes by the device's own clock, launches queued without waiting",
    "hot_time_s": "the same input set again and again; never the headline",
    "bytes": "bytes the work must move",
    "flops": "FLOPs the work must do",
    "stored_bytes": "bytes the runtime streams a launch where it stores weights or cache otherwise",
    "working_set_bytes": "bytes of all rotating input sets",
    "achieved_bytes_per_s": "bytes / time_s",
    "achieved_flops_per_s": "flops / time_s",
    "memory_ceiling": "the bandwidth that the bytes run into: read, or a link's",
    "read_ceiling_bytes_per_s": "measured bandwidth of memory_ceiling, same run, device and threads",
    "read_ceiling_lowest_bytes_per_s": "the lowest of its measurements before, between and after the cases",
    "compute_ceiling_flops_per_s": "measured peak of the work's arithmetic, same run, device and threads",
    "launch_s": "measured launch overhead of the backend",
    "mbu": "achieved / read ceiling, 0-1",
    "mfu": "achieved / compute ceiling, 0-1",
    "roofline": "the larger of mbu and mfu",
    "bound_s": "max(bytes / read ceiling, flops / compute ceiling)",
    "of_bound": "bound_s / time_s",
    "device_of_bound": "bound_s / device_time_s",
    "energy_j": "energy of the device a launch, joules",
    "energy_per_token_j": "energy of the device a token of a step, joules",
    "above_ceiling": "faster than a measured ceiling allows",
    "error": "worst relative root mean square error against the float64 reference",
    "tolerance": "largest error that passes",
    "verdict": "memory, compute, overhead, cache or inconclusive; None without a time",
    "verdict_reason": "what the verdict rests on",
}
"""Columns of `summarize` and what they hold."""


def process_medians(rows: Iterable[Row]) -> npt.NDArray[np.float64]:
    """The median sample of each process, seconds; rows without samples are left out."""
    return np.array([np.median(r.samples_s) for r in rows if r.samples_s], np.float64)


def resampled_medians(
    medians: npt.NDArray[np.float64], seed: int = BOOTSTRAP_SEED
) -> npt.NDArray[np.float64]:
    """RESAMPLES medians of processes drawn with replacement, shape [RESAMPLES]."""
    draws = np.random.default_rng(seed).integers(0, len(medians), (RESAMPLES, len(medians)))
    drawn: npt.NDArray[np.float64] = np.median(medians[draws], axis=1)
    return drawn


def percentile_interval(resampled: npt.NDArray[np.float64]) -> tuple[float, float]:
    """The central CONFIDENCE of resampled values (Efron's percentile interval)."""
    tail = (1 - CONFIDENCE) / 2
    low, high = np.quantile(resampled, (tail, 1 - tail))
    return float(low), float(high)


def interval(medians: npt.NDArray[np.float64]) -> tuple[float, float] | None:
    """Bootstrap interval of the median over processes; None with fewer than two processes."""
    return percentile_interval(resampled_medians(medians)) if len(medians) > 1 else None


def usable(rows: Sequence[Row]) -> list[Row]:
    """The replicates that count: those that ended ok, less the invalid ones if others are left.

    Empty if any replicate gave a wrong answer: a backend that is sometimes wrong has no time.
    """
    if any(r.status == "wrong" for r in rows):
        return []
    ok = [r for r in rows if r.status == "ok" and r.samples_s]
    return [r for r in ok if r.grade != "invalid"] or ok


def cases(rows: Iterable[Row]) -> dict[tuple[str, str, str], list[Row]]:
    """The replicates of each case by (run, backend, work), in the order they were met."""
    groups: dict[tuple[str, str, str], list[Row]] = {}
    for row in rows:
        if row.kind == "case":
            groups.setdefault((row.run_id, row.backend, row.work), []).append(row)
    return groups


def summarize(rows: Iterable[Row]) -> pd.DataFrame:
    """One line a case with COLUMNS; what could not be had is missing (NaN or None). Raises RowError on a bad batch."""
    rows = list(rows)
    lines = [_line(group, limits_of(group[0], rows)) for group in cases(rows).values()]
    table = pd.DataFrame(lines, columns=list(COLUMNS))
    floats = [c for c in COLUMNS if c.endswith("_s") and c != "time_ci_s"]
    floats += ["mbu", "mfu", "roofline", "of_bound", "device_of_bound", "error", "tolerance", "stored_bytes"]
    floats += ["energy_j", "energy_per_token_j"]
    return table.astype(dict.fromkeys(floats, "float64"))


def records(table: pd.DataFrame) -> list[dict[str, Any]]:
    """A table's lines as JSON can hold them; see `plain`."""
    return [plain(line) for line in table.to_dict("records")]


def plain(value: Any) -> Any:
    """A value as JSON can hold it: missing, NaN and infinite become None, tuples lists, NumPy's own numbers."""
    if isinstance(value, dict):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, tuple | list):
        return [plain(v) for v in value]
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float):
        return value if isfinite(value) else None
    return None if value is pd.NA else value


def _line(rows: list[Row], limits: Limits) -> dict[str, Any]:
    first = next((r for r in rows if r.status == "ok"), rows[0])
    used = usable(rows)
    status, reason = _status(rows)
    line: dict[str, Any] = dict.fromkeys(COLUMNS)
    line |= {
        "run_id": first.run_id,
        "backend": first.backend,
        "device": first.device,
        "work": first.work,
        "threads": first.threads,
        "status": status,
        "reason": reason,
        "replicates": len(used),
        "replicates_aside": sum(r.status == "ok" and r.grade == "invalid" for r in rows if r not in used),
        "bytes": first.bytes,
        "flops": first.flops,
        "stored_bytes": first.stored_bytes,
        "working_set_bytes": first.working_set_bytes,
        "memory_ceiling": first.memory_ceiling,
        "read_ceiling_bytes_per_s": limits.read_bytes_per_s,
        "read_ceiling_lowest_bytes_per_s": limits.read_lowest_bytes_per_s,
        "compute_ceiling_flops_per_s": limits.compute_flops_per_s,
        "launch_s": limits.launch_s,
        "error": max((r.error for r in rows if r.error is not None), default=None),
        "tolerance": max((r.tolerance for r in rows if r.tolerance is not None), default=None),
        "above_ceiling": False,
        "verdict_reason": "",
    }
    line |= _validity(used or rows)
    return line | _figures(used, first, limits) if used else line


def _status(rows: list[Row]) -> tuple[str, str]:
    """The worst status and its reason, with the count where replicates differ."""
    worst = min((r.status for r in rows), key=WORST_FIRST.index)
    if worst == "ok":
        return "ok", ""
    same = [r for r in rows if r.status == worst]
    reason = next((r.reason for r in same if r.reason), "")
    count = f"{len(same)} of {len(rows)} replicates" if len(same) < len(rows) else ""
    return worst, ": ".join(filter(None, (count, reason)))


def _validity(rows: list[Row]) -> dict[str, Any]:
    worst = min((r.grade for r in rows), key=GRADES_WORST_FIRST.index)
    reasons = Counter(reason for r in rows if r.grade == worst for reason in r.grade_reasons)
    return {
        "validity": worst,
        "validity_count": sum(r.grade == worst for r in rows),
        "validity_reasons": "; ".join(reasons),
    }


def _figures(used: list[Row], first: Row, limits: Limits) -> dict[str, Any]:
    medians = process_medians(used)
    samples = np.concatenate([r.samples_s for r in used])
    hot = [np.median(r.hot_samples_s) for r in used if r.hot_samples_s]
    on_device = [np.median(r.device_samples_s) for r in used if r.device_samples_s]
    device_s = float(np.median(on_device)) if on_device else None
    time_s, ci = float(np.median(medians)), interval(medians)
    memory_s = _quotient(first.bytes, limits.read_bytes_per_s)
    compute_s = _quotient(first.flops, limits.compute_flops_per_s)
    bound_s = max((s for s in (memory_s, compute_s) if s is not None), default=None)
    verdict = judge(
        Evidence(
            time_s=time_s,
            time_ci_s=ci,
            memory_s=memory_s,
            memory_most_s=_quotient(first.bytes, limits.read_lowest_bytes_per_s),
            compute_s=compute_s,
            launch_s=limits.launch_s,
            working_set_bytes=first.working_set_bytes,
            cache_bytes=_last_level_cache_bytes(first),
            valid=any(r.grade != "invalid" for r in used),
            memory_name="memory" if first.memory_ceiling == "read" else first.memory_ceiling,
        )
    )
    of_bound = _quotient(bound_s, time_s)
    return {
        "time_s": time_s,
        "time_ci_s": ci,
        "min_s": float(samples.min()),
        "p95_s": float(np.quantile(samples, 0.95)),
        "device_time_s": device_s,
        "hot_time_s": float(np.median(hot)) if hot else None,
        "achieved_bytes_per_s": first.bytes / time_s,
        "achieved_flops_per_s": first.flops / time_s,
        "mbu": _quotient(memory_s, time_s),
        "mfu": _quotient(compute_s, time_s),
        "roofline": of_bound,
        "bound_s": bound_s,
        "of_bound": of_bound,
        "device_of_bound": _quotient(bound_s, device_s),
        **_energy(used, first),
        "above_ceiling": of_bound is not None and of_bound > 1,
        "verdict": verdict.name,
        "verdict_reason": verdict.why,
    }


def _quotient(part: float | None, whole: float | None) -> float | None:
    return part / whole if part is not None and whole else None


def _energy(used: Sequence[Row], first: Row) -> dict[str, float | None]:
    """Joules a launch and, of a step, a token: the median over processes that tell their energy."""
    told = [
        r.telemetry["device_energy_j"] / r.timed_launches
        for r in used
        if r.telemetry.get("device_energy_j") and r.timed_launches
    ]
    energy_j = float(np.median(told)) if told else None
    batch = settings(first.work).get("batch", "1")
    if not batch.isdecimal():
        raise RowError(f"work {first.work!r}: batch={batch!r} is not a number")
    tokens = int(batch) if first.work.startswith("step:") else None
    return {"energy_j": energy_j, "energy_per_token_j": _quotient(energy_j, tokens)}


def _last_level_cache_bytes(row: Row) -> int:
    """The accelerator's cache, or all last-level caches of the machine; 0 where nothing says."""
    return int(row.accelerator.get("cache_bytes") or row.machine.get("last_level_cache_bytes") or 0)
