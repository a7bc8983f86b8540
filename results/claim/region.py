"""The map of the claim: batch × context × format, and which term bounds a decode step there.

>>> cells = region_of(claim, findings, points)
>>> cells[0].bound, cells[0].how
('memory', 'predicted')

A step that was measured is judged by its time (`verdict.py`). Every other cell is a prediction from measured
ceilings: the longest of bytes / BW, FLOPs / F and t0 · operations, or the cache if everything fits it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from membound.results.claim.dose_table import counted
from membound.results.claim.file import Claim
from membound.results.claim.finding import Finding
from membound.results.claim.observation import Observation
from membound.results.roofline import Limits, limits_of
from membound.results.row import Row
from membound.results.shares import middle
from membound.results.verdict import CACHE_FITS, Evidence, judge

OVERHEAD = 7
"""The experiment that separates the overhead."""


@dataclass(frozen=True, slots=True)
class RegionPoint:
    """A decode step by its place on the map, and what it moves and does."""

    work: str
    """Canonical spec."""
    model: str
    batch: int
    context: int
    format: str
    """Formats of weights, cache and arithmetic."""
    bytes: int
    flops: int
    operations: int
    footprint_bytes: int


@dataclass(frozen=True, slots=True)
class RegionCell:
    """One cell of the map on one backend. Seconds are those of a step; None if a ceiling is missing."""

    backend: str
    point: RegionPoint
    bound: str
    """memory, compute, overhead, cache, or inconclusive."""
    how: str
    """measured or predicted."""
    memory_s: float | None
    compute_s: float | None
    overhead_s: float
    time_s: float | None
    """Measured."""


def region_of(claim: Claim, findings: Sequence[Finding], points: Sequence[RegionPoint]) -> list[RegionCell]:
    """The map of every backend with a time in this claim, from its ceilings and the overhead that was fitted for it."""
    timed = counted(claim.observations)
    cells = []
    for backend in dict.fromkeys(one.backend for one in timed):
        own = [one for one in timed if one.backend == backend and one.threads == claim.meta.threads]
        launch_s = fitted_launch_s(findings, backend)
        for point in points:
            time_s, seen = _fastest_arm([one for one in own if one.work == point.work])
            limits = _at_its_moments(_limits(claim, backend, point), seen)
            cells.append(_cell(backend, point, limits, launch_s, time_s, _cache(claim)))
    return cells


def _fastest_arm(seen: Sequence[Observation]) -> tuple[float | None, list[Observation]]:
    """The geometric mean time of the fastest arm of a work, as with t0, and its observations; None of none."""
    arms: dict[str, list[Observation]] = {}
    for one in seen:
        arms.setdefault(one.arm, []).append(one)
    means = {arm: float(np.exp(np.mean(np.log([one.seconds for one in of])))) for arm, of in arms.items()}
    fastest = min(means, key=lambda arm: means[arm], default=None)
    return (None, []) if fastest is None else (means[fastest], arms[fastest])


def _at_its_moments(limits: Limits, seen: Sequence[Observation]) -> Limits:
    """Ceilings as they were while a step was measured; those of the claim's start where it was not."""
    read = middle(one.read_bytes_per_s for one in seen)
    peak = middle(one.compute_flops_per_s for one in seen)
    return replace(
        limits,
        read_bytes_per_s=read or limits.read_bytes_per_s,
        compute_flops_per_s=peak or limits.compute_flops_per_s,
    )


def fitted_launch_s(findings: Iterable[Finding], backend: str) -> float | None:
    """t0 of experiment 7, the smallest if several arms have one; None if none was fitted."""
    found = [
        one.figure("t0").value
        for one in findings
        if one.experiment == OVERHEAD and one.backend == backend and one.figures
    ]
    return min(found, default=None)


def counts(cells: Iterable[RegionCell]) -> Counter[tuple[str, str]]:
    """Cells by (bound, how)."""
    return Counter((cell.bound, cell.how) for cell in cells)


def _cell(
    backend: str,
    point: RegionPoint,
    limits: Limits,
    launch_s: float | None,
    time_s: float | None,
    cache_bytes: int,
) -> RegionCell:
    memory_s = point.bytes / limits.read_bytes_per_s if limits.read_bytes_per_s else None
    compute_s = point.flops / limits.compute_flops_per_s if limits.compute_flops_per_s else None
    each_s = launch_s if launch_s is not None else limits.launch_s
    overhead_s = (each_s or 0.0) * point.operations
    if time_s is not None:
        bound = judge(
            Evidence(
                time_s,
                memory_s=memory_s,
                compute_s=compute_s,
                launch_s=overhead_s if each_s is not None else None,
                working_set_bytes=point.footprint_bytes,
                cache_bytes=cache_bytes,
            )
        ).name
    else:
        bound = predicted(
            {"memory": memory_s, "compute": compute_s, "overhead": overhead_s},
            point.footprint_bytes,
            cache_bytes,
        )
    how = "predicted" if time_s is None else "measured"
    return RegionCell(backend, point, bound, how, memory_s, compute_s, overhead_s, time_s)


def predicted(terms_s: Mapping[str, float | None], footprint_bytes: int, cache_bytes: int) -> str:
    """The longest term; `cache` if bytes are the longest and fit the cache; `inconclusive` unless both ceilings are known."""
    known = {name: term for name, term in terms_s.items() if term is not None}
    if len(known) < len(terms_s):
        return "inconclusive"
    longest = max(known, key=lambda name: known[name])
    if longest == "memory" and 0 < footprint_bytes <= CACHE_FITS * cache_bytes:
        return "cache"
    return longest


def _limits(claim: Claim, backend: str, point: RegionPoint) -> Limits:
    """The ceilings of a step on that backend, by the rules for rows; none if the claim measured none."""
    if not claim.ceilings:
        return Limits(None, None, None)
    asked = Row(claim.ceilings[0].run_id, "case", backend, point.work, "ok", threads=claim.meta.threads)
    return limits_of(asked, claim.ceilings)


def _cache(claim: Claim) -> int:
    return int(claim.meta.machine.get("last_level_cache_bytes") or 0)
