"""What to measure again after a plan's own replicates: invalid ones, and cases not yet known well enough.

>>> imprecise(plan, rows)
[Cell(backend='torch:cpu', replicate=10, works=('linear:n=4096,k=4096,m=1,weight=bf16,act=float',))]
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from math import inf, sqrt
from statistics import fmean, median, stdev

from membound.bench.planning.plan import Cell, Plan
from membound.results.row import Row

PRECISION = 0.01
"""High rigor stops when the 95 % half-width of the mean of process medians is this share of it."""


def invalid_again(plan: Plan, rows: Sequence[Row]) -> list[Cell]:
    """Cells that repeat processes none of whose turns was clean; a disturbed turn was taken again at once.

    Each process beyond the plan has repeated an invalid one of its case, whichever run of the harness began it; one
    that was invalid itself is repeated again, as often as `plan.repeats` says.
    """
    waiting: dict[tuple[str, str], list[int]] = {}  # to be repeated, with the count of repeats before
    for row in sorted((r for r in rows if r.kind == "case"), key=lambda r: r.replicate):
        asked, before = waiting.setdefault((row.backend, row.work), []), 0
        if row.replicate >= plan.replicates:
            if not asked:
                continue
            before = asked.pop(0) + 1
        if row.status == "ok" and row.grade == "invalid" and before < plan.repeats:
            asked.append(before)
    number, cells = _next_number(rows), []
    for more in range(max(map(len, waiting.values()), default=0)):
        for backend in dict.fromkeys(backend for backend, _ in waiting):
            works = tuple(w for (b, w), asked in waiting.items() if b == backend and len(asked) > more)
            cells += [Cell(backend, number + more, works)] if works else []
    return cells


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
    number = _next_number(rows)  # one for all, so that they take turns with each other
    return [Cell(backend, number, tuple(wanted[backend])) for backend in order]


def half_width(medians: Sequence[float]) -> float:
    """Half of Student's 95 % interval of the mean of process medians, as a share of the mean."""
    from scipy.special import stdtrit

    if len(medians) < 2:
        return inf
    quantile = float(stdtrit(len(medians) - 1, 0.975))
    return quantile * stdev(medians) / sqrt(len(medians)) / fmean(medians)


def _next_number(rows: Sequence[Row]) -> int:
    """The next replicate number that no case has."""
    return max((r.replicate + 1 for r in rows if r.kind == "case"), default=0)
