"""How much there is to do, as far as whoever reports progress needs to know.

>>> scope_of(plan).cases
87
"""

from __future__ import annotations

from dataclasses import dataclass

from membound.bench.planning.plan import Plan


@dataclass(frozen=True, slots=True)
class Scope:
    """Cases in all; the works and backends of a table, none for other jobs; seconds that it may take, if limited."""

    cases: int
    works: tuple[str, ...] = ()
    backends: tuple[str, ...] = ()
    replicates: int = 1
    limit_s: float | None = None


def scope_of(plan: Plan) -> Scope:
    """The scope of a run."""
    return Scope(
        plan.total_cells,
        tuple(dict.fromkeys(work for cell in plan.cells for work in sorted(cell.works))),
        tuple(dict.fromkeys(cell.backend for cell in sorted(plan.cells, key=lambda cell: cell.backend))),
        plan.replicates,
        plan.time_limit_s,
    )
