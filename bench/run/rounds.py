"""What to measure again after a plan's own replicates: invalid ones, and cases not yet known well enough.

>>> imprecise(plan, rows)
[Cell(backend='torch:cpu', replicate=10, works=('linear:n=4096,k=4096,m=1,weight=bf16,act=float',))]
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence
from math import inf, sqrt
from statistics import fmean, median, stdev

from membound.bench.planning.plan import Cell, Plan
from membound.results.row import Row

PRECISION = 0.01
"""High rigor stops when the 95 % half-width of the mean of process medians is this share of it."""


def invalid_again(fresh: Iterable[Row], rows: Sequence[Row]) -> list[Cell]:
    """Cells that repeat what among the `fresh` rows was invalid; `rows` are all so far.

    A disturbed turn was taken again at once; here whole processes none of whose turns was clean are.
    """
    groups: dict[tuple[str, int], list[str]] = {}
    for row in fresh:
        if row.kind == "case" and row.status == "ok" and row.grade == "invalid":
            groups.setdefault((row.backend, row.replicate), []).append(row.work)
    return _numbered([(backend, works) for (backend, _), works in groups.items()], rows)


def imprecise(plan: Plan, rows: Sequence[Row]) -> list[Cell]:
    """With high rigor: one more replicate, in random order, of every case not yet known to PRECISION."""
    if plan.rigor != "high":
        return []
    groups: dict[tuple[str, str], list[Row]] = {}
    for row in rows:
        if row.kind == "case":
            groups.setdefault((row.backend, row.work), []).append(row)
    wanted: dict[str, list[str]] = {}
    for (backend, work), known in groups.items():
        medians = [median(r.times_s) for r in known if r.status == "ok" and r.grade != "invalid"]
        if len(known) < plan.max_replicates and half_width(medians) > PRECISION:
            wanted.setdefault(backend, []).append(work)
    order = random.Random(f"{plan.seed} {len(rows)}").sample(sorted(wanted), len(wanted))
    return _numbered([(backend, wanted[backend]) for backend in order], rows)


def half_width(medians: Sequence[float]) -> float:
    """Half of Student's 95 % interval of the mean of process medians, as a share of the mean."""
    from scipy.stats import t

    if len(medians) < 2:
        return inf
    quantile = float(t.ppf(0.975, len(medians) - 1))
    return quantile * stdev(medians) / sqrt(len(medians)) / fmean(medians)


def _numbered(wanted: Sequence[tuple[str, list[str]]], rows: Sequence[Row]) -> list[Cell]:
    """Cells with the next free replicate number, so that they take turns with each other."""
    number = max((r.replicate + 1 for r in rows if r.kind == "case"), default=0)
    return [Cell(backend, number, tuple(works)) for backend, works in wanted]
