"""From raw rows to figures: one line a case, every statistic derived on load.

The process is the sampling unit: turns of one process agree with each other far better than with the next process,
so a case's time is the median over the medians of its processes, and its interval is over processes, never over turns;
how far processes lie apart is learnt from all cases of the run together.
Shares are of the ceilings of each turn's own moment, ratios of turns of the same round.

>>> from membound.results.store import load_rows
>>> table = summarize(load_rows(["results/runs"]))
>>> table.loc[table.work.str.startswith("linear"), ["backend", "time_s", "mbu", "verdict"]]
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from math import isfinite, log
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from membound.results.aftermath import ceiling_fall
from membound.results.frame import frame
from membound.results.intervals import interval
from membound.results.ranks import predicted_s
from membound.results.ratios import Ratio, process_medians, ratio_from, ratio_of, round_ratios
from membound.results.roofline import Limits, limits_of
from membound.results.row import SUMMARY, Row
from membound.results.shares import Shares, middle, shares_of
from membound.results.spreads import Spread, common_spread
from membound.results.verdict import CEILING_SLACK, Evidence, judge
from membound.spec_text import settings

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
    "turns": "timed bursts in all of them; 0 in rows of older versions",
    "turns_clean": "those that nothing disturbed",
    "time_s": "median over the medians of the processes, seconds a launch",
    "time_ci_s": "95 % interval over processes, (lower, upper); None with fewer than three",
    "ratio_to_fastest": "time over that of the fastest backend on this work: the median over rounds, then over processes",
    "ratio_to_fastest_ci": "95 % interval over processes; None with fewer than three, and for the fastest itself",
    "predicted_s": "of a step that ranks share: the slowest rank's own time and its exchanges by the measured link, median over processes",
    "min_s": "fastest turn",
    "p95_s": "95th percentile of all turns; None with fewer than twenty, or where a file has only their summary",
    "device_time_s": "median over processes by the device's own clock, launches queued without waiting",
    "hot_time_s": "the same input set again and again; never the headline",
    "bytes": "bytes the work must move",
    "flops": "FLOPs the work must do",
    "stored_bytes": "bytes the runtime streams a launch where it stores weights or cache otherwise",
    "working_set_bytes": "the fewest bytes that passed through the caches before an input set was used again",
    "achieved_bytes_per_s": "bytes / time_s; None where the bytes are not known",
    "achieved_flops_per_s": "flops / time_s; None where the FLOPs are not known",
    "memory_ceiling": "the bandwidth that the bytes run into: read, or a link's",
    "read_ceiling_bytes_per_s": "measured bandwidth of memory_ceiling at the moments of the turns, median",
    "read_ceiling_lowest_bytes_per_s": "the lowest of its measurements beside these turns",
    "read_ceiling_highest_bytes_per_s": "the highest of them",
    "compute_ceiling_flops_per_s": "measured peak of the work's arithmetic, at those moments where it took turns",
    "launch_s": "measured launch overhead of the backend",
    "mbu": "share of the read ceiling of each turn's own moment, 0-1: median over turns, then over processes",
    "mfu": "the same of the compute ceiling",
    "roofline": "the same as of_bound: how much of the machine's limit is reached",
    "bound_s": "of_bound * time_s: the time that the ceilings allow",
    "of_bound": "max(bytes / read ceiling, flops / compute ceiling) over the time, of each turn; median as mbu",
    "of_bound_ci": "95 % interval of of_bound over processes; None with fewer than three",
    "device_of_bound": "the same by the device's own clock",
    "energy_j": "energy of the device a launch, joules",
    "energy_per_token_j": "energy of the device a token of a step, joules",
    "above_ceiling": "faster than the measured ceilings allow, beyond their slack",
    "ceiling_fall": "by which share memory_ceiling is lower right after its turns than right before; None where that may be chance",
    "error": "worst relative root mean square error against the float64 reference",
    "tolerance": "largest error that passes",
    "verdict": "memory, compute, overhead, cache or inconclusive; None without a time",
    "verdict_reason": "what the verdict rests on",
}
"""Columns of `summarize` and what they hold."""


FEWEST_FOR_P95 = 20
"""Samples of which one lies beyond the 95th percentile."""


def usable(rows: Sequence[Row]) -> list[Row]:
    """The replicates that count: those that ended ok, less the invalid ones if others are left.

    Empty if any replicate gave a wrong answer: a backend that is sometimes wrong has no time.
    """
    if any(r.status == "wrong" for r in rows):
        return []
    ok = [r for r in rows if r.status == "ok" and r.times_s]
    return [r for r in ok if r.grade != "invalid"] or ok


def cases(rows: Iterable[Row]) -> dict[tuple[str, str, str], list[Row]]:
    """The replicates of each case by (run, backend, work), in the order they were met."""
    groups: dict[tuple[str, str, str], list[Row]] = {}
    for row in rows:
        if row.kind == "case":
            groups.setdefault((row.run_id, row.backend, row.work), []).append(row)
    return groups


def summarize(rows: Iterable[Row]) -> pd.DataFrame:
    """One line a case with COLUMNS; what could not be had is missing (NaN or None)."""
    rows = list(rows)
    groups = list(cases(rows).values())
    taken = [_Case(group, usable(group), limits_of(group[0], rows)) for group in groups]
    times = _by_run((case.first.run_id, case.medians) for case in taken)
    bounds = _by_run((case.first.run_id, case.bounds) for case in taken)
    lines = [_line(case, times[case.first.run_id], bounds[case.first.run_id]) for case in taken]
    for line, ratio in zip(lines, _ratios_to_fastest(groups, lines), strict=True):
        if ratio is not None:
            line |= {"ratio_to_fastest": ratio.value, "ratio_to_fastest_ci": ratio.ci}
    table = frame(lines, list(COLUMNS))
    floats = [c for c in COLUMNS if c.endswith("_s") and not c.endswith("_ci_s")]
    floats += ["mbu", "mfu", "roofline", "of_bound", "device_of_bound", "error", "tolerance", "stored_bytes"]
    floats += ["achieved_bytes_per_s", "achieved_flops_per_s"]
    floats += ["energy_j", "energy_per_token_j", "ratio_to_fastest"]
    return table.astype(dict.fromkeys(floats, "float64"))


def _ratios_to_fastest(groups: Sequence[list[Row]], lines: Sequence[dict[str, Any]]) -> list[Ratio | None]:
    """Each case's time over that of the fastest backend on the same work, by rounds where they took turns."""
    ratios: list[Ratio | None] = [None] * len(groups)
    works: dict[tuple[str, str, int], list[int]] = {}
    for index, line in enumerate(lines):
        if line["time_s"] is not None:
            works.setdefault((line["run_id"], line["work"], line["threads"]), []).append(index)
    used = {index: usable(groups[index]) for members in works.values() for index in members}
    fastest: dict[int, int] = {}
    for members in works.values():
        fastest |= dict.fromkeys(members, _fastest({index: used[index] for index in members}))
    rounds = {
        index: round_ratios(used[first], used[index]) for index, first in fastest.items() if index != first
    }
    spreads = _by_run((lines[index]["run_id"], found) for index, found in rounds.items())
    for index, first in fastest.items():
        ratios[index] = (
            Ratio(1.0, None, True, len(used[index]))
            if index == first
            else ratio_from(rounds[index], used[first], used[index], spreads[lines[index]["run_id"]])
        )
    return ratios


def _by_run(values: Iterable[tuple[str, Sequence[float]]]) -> dict[str, Spread | None]:
    """What the cases of each run tell about how far processes lie apart, of (run, value of each process)."""
    logs: dict[str, list[list[float]]] = {}
    for run_id, of_processes in values:
        logs.setdefault(run_id, []).append([log(value) for value in of_processes if value > 0])
    return {run_id: common_spread(some) for run_id, some in logs.items()}


def records(table: pd.DataFrame) -> list[dict[str, Any]]:
    """A table's lines as JSON can hold them; see `plain`."""
    columns = [[plain(value) for value in table[name].tolist()] for name in table.columns]
    names = [str(name) for name in table.columns]
    return [dict(zip(names, line, strict=True)) for line in zip(*columns, strict=True)]


def plain(value: Any) -> Any:
    """A value as JSON can hold it: missing, NaN and infinite become None, tuples lists, NumPy's own numbers."""
    if isinstance(value, str):
        return value
    if isinstance(value, dict):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, tuple | list):
        return [plain(v) for v in value]
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float):
        return value if isfinite(value) else None
    return None if value is pd.NA else value


@dataclass(frozen=True)
class _Case:
    """The rows of a case, those that count, and the ceilings of its run."""

    rows: list[Row]
    used: list[Row]
    limits: Limits

    @cached_property
    def first(self) -> Row:
        return next((r for r in self.rows if r.status == "ok"), self.rows[0])

    @cached_property
    def medians(self) -> list[float]:
        return process_medians(self.used)

    @cached_property
    def shares(self) -> list[Shares]:
        return [shares_of(row, self.limits) for row in self.used]

    @property
    def bounds(self) -> list[float]:
        """The share of the limit that each process reached."""
        return [s.of_bound for s in self.shares if s.of_bound is not None]


def _line(case: _Case, times: Spread | None, bounds: Spread | None) -> dict[str, Any]:
    rows, used, first, limits = case.rows, case.used, case.first, case.limits
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
        "launch_s": limits.launch_s,
        "error": max((r.error for r in rows if r.error is not None), default=None),
        "tolerance": max((r.tolerance for r in rows if r.tolerance is not None), default=None),
        "above_ceiling": False,
        "verdict_reason": "",
    }
    line |= _validity(used or rows)
    return line | _figures(case, times, bounds) if used else line


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


def _figures(case: _Case, times: Spread | None, bounds: Spread | None) -> dict[str, Any]:
    used, first, limits, shares = case.used, case.first, case.limits, case.shares
    samples = np.concatenate([r.times_s for r in used])
    hot = [np.median(r.hot_samples_s) for r in used if r.hot_samples_s]
    device_s = middle(_device_s(row) for row in used)
    time_s, ci = float(np.median(case.medians)), interval(case.medians, times)
    mbu, mfu = middle(s.mbu for s in shares), middle(s.mfu for s in shares)
    of_bound = middle(s.of_bound for s in shares)
    share_ci = interval(case.bounds, bounds)
    read, compute = middle(s.read_bytes_per_s for s in shares), middle(s.compute_flops_per_s for s in shares)
    lowest = min((s.read_lowest_bytes_per_s for s in shares if s.read_lowest_bytes_per_s), default=None)
    in_turn = any(row.turns for row in used)
    bound_s = None if of_bound is None else of_bound * time_s
    verdict = judge(
        Evidence(
            time_s=time_s,
            time_ci_s=ci
            if not in_turn or share_ci is None or bound_s is None
            else (bound_s / share_ci[1], bound_s / share_ci[0]),
            memory_s=None if mbu is None else mbu * time_s,
            memory_most_s=None if in_turn else _quotient(first.bytes, lowest),
            compute_s=None if mfu is None else mfu * time_s,
            launch_s=limits.launch_s,
            working_set_bytes=first.working_set_bytes,
            cache_bytes=_last_level_cache_bytes(first),
            valid=any(r.grade != "invalid" for r in used),
            memory_name="memory" if first.memory_ceiling == "read" else first.memory_ceiling,
        )
    )
    return {
        "time_s": time_s,
        "time_ci_s": ci,
        "predicted_s": predicted_s(used),
        "min_s": float(samples.min()),
        "p95_s": _p95_s(used, samples),
        "turns": sum(len(row.turns) for row in used),
        "turns_clean": sum(turn.clean for row in used for turn in row.turns),
        "device_time_s": device_s,
        "hot_time_s": float(np.median(hot)) if hot else None,
        "achieved_bytes_per_s": _quotient(first.bytes or None, time_s),
        "achieved_flops_per_s": _quotient(first.flops or None, time_s),
        "read_ceiling_bytes_per_s": read,
        "read_ceiling_lowest_bytes_per_s": lowest,
        "read_ceiling_highest_bytes_per_s": max(
            (s.read_highest_bytes_per_s for s in shares if s.read_highest_bytes_per_s), default=None
        ),
        "compute_ceiling_flops_per_s": compute,
        "mbu": mbu,
        "mfu": mfu,
        "roofline": of_bound,
        "bound_s": bound_s,
        "of_bound": of_bound,
        "of_bound_ci": share_ci,
        "device_of_bound": middle(s.device_of_bound for s in shares),
        **_energy(used, first),
        "ceiling_fall": ceiling_fall((turn for row in used for turn in row.turns), first.memory_ceiling),
        "above_ceiling": of_bound is not None and of_bound > 1 + CEILING_SLACK,
        "verdict": verdict.name,
        "verdict_reason": verdict.why,
    }


def _p95_s(used: Sequence[Row], samples: npt.NDArray[np.float64]) -> float | None:
    """Of fewer samples the 95th percentile would be made of the slowest two, of a summary of numbers that are no samples."""
    if len(samples) < FEWEST_FOR_P95 or any(SUMMARY in row.config for row in used):
        return None
    return float(np.quantile(samples, 0.95))


def _device_s(row: Row) -> float | None:
    """Seconds a launch of one process by the device's own clock; None where it has none."""
    of_turns = [turn.device_s for turn in row.turns if turn.device_s is not None]
    return middle(of_turns or row.device_samples_s)


def _fastest(used: dict[int, list[Row]]) -> int:
    """The case that no other one beats by rounds; of a ring of near equals, the one that is beaten by least."""
    return max(used, key=lambda one: min(ratio_of(used[one], other).value for other in used.values()))


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
    tokens = int(batch) if first.work.startswith(("step:", "onnx:")) else None
    return {"energy_j": energy_j, "energy_per_token_j": _quotient(energy_j, tokens)}


def _last_level_cache_bytes(row: Row) -> int:
    """The accelerator's cache, or all last-level caches of the machine; 0 where nothing says."""
    return int(row.accelerator.get("cache_bytes") or row.machine.get("last_level_cache_bytes") or 0)
