"""Going on with a run that was cut short: its plan lies beside its rows, and only what has no row is measured.

>>> from membound.results.store import load_rows
>>> keep_plan(plan, path)                       # before the first row, removed with the last: <run>.jsonl.plan
>>> plan, path = find_cut("latest", Path("results/runs"))
>>> remaining(plan, load_rows(partial_of(path)))

A killed harness, a full disk or a power failure leaves rows in ``<run>.jsonl.partial``. Ctrl-C does not: such a
run was ended by its user and is finished.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

from membound.bench.machine.fingerprint import available_memory_bytes, fingerprint
from membound.bench.planning.plan import Cell, Plan
from membound.bench.planning.suites import PlanError, check_memory, check_weights
from membound.bench.run.journal import journal_of
from membound.bench.run.stored_plan import UnfitPlanError, plan_of, text_of
from membound.kernels.work import parse
from membound.results.row import Row
from membound.results.store import PARTIAL, SUFFIX, StoreError
from membound.results.stored_runs import stored_runs

PLAN = ".plan"


def partial_of(path: Path) -> Path:
    """Where the rows of a run lie while it is not finished."""
    return path.with_name(path.name + PARTIAL)


def keep_plan(plan: Plan, path: Path) -> None:
    """Write a run's plan beside its row file `path`, all or nothing. Raises StoreError."""
    target = plan_path(path)
    try:
        with target.open("x", encoding="utf-8") as file:
            file.write(text_of(plan))
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        target.unlink(missing_ok=True)
        raise StoreError(f"{target} cannot be written: {error.strerror}") from None


def sweep(out: Path) -> None:
    """Remove plans and turns of runs in `out` that are finished: of that which has just ended, and of killed ones."""
    for plan in out.glob(f"*{SUFFIX}{PLAN}"):
        path = plan.with_name(plan.name.removesuffix(PLAN))
        if path.exists():
            for left in (journal_of(path), plan):
                left.unlink(missing_ok=True)


def find_cut(name: str, out: Path) -> tuple[Plan, Path]:
    """The plan and the (future) row file of the run in `out` that `name` means: ``latest``, or how it begins.

    The latest is that of those with a plan, where there are any; claims cannot be gone on with and are passed by.

    Raises StoreError that lists which runs were cut short; PlanError where its plan is not there, was
    changed, or is another version's.
    """
    cut = [path for path in stored_runs(out) if path.name.endswith(PARTIAL)]
    known = ", ".join(path.name.removesuffix(SUFFIX + PARTIAL) for path in cut[-5:])
    if not cut:
        raise StoreError(f"no run in {out} was cut short: there is nothing to resume")
    if name == "latest":
        planned = [path for path in cut if plan_path(_finished(path)).is_file()]
        found = (planned or cut)[-1:]
    else:
        found = [path for path in cut if path.name.startswith(Path(name).name)]
    if len(found) != 1:
        raise StoreError(f"{name!r} names {len(found)} of the runs in {out} that were cut short: {known}")
    path = _finished(found[0])
    return _read_plan(path), path


def remaining(plan: Plan, rows: Iterable[Row]) -> tuple[Cell, ...]:
    """The cells of a plan with the works that have no row yet; cells without any are left out."""
    done = {(row.backend, row.replicate, row.work) for row in rows if row.kind == "case"}
    cells = (
        replace(cell, works=tuple(w for w in cell.works if (cell.backend, cell.replicate, w) not in done))
        for cell in plan.cells
    )
    return tuple(cell for cell in cells if cell.works)


def check_resumable(cells: Sequence[Cell], rows: Sequence[Row], seed: int) -> None:
    """Raises PlanError on another machine than that of `rows`, where what is left does not fit its memory, or for a damaged folder."""
    here = fingerprint()["cpu"]
    there = next((row.machine["cpu"] for row in rows if row.machine.get("cpu")), here)
    if here != there:
        raise PlanError(
            f"that run was begun on {there}, this is {here}: rows of two machines do not make a run"
        )
    for spec in dict.fromkeys(work for cell in cells for work in cell.works):
        work = parse(spec)
        check_memory(work, available_memory_bytes())
        check_weights(work, seed)


def _finished(partial: Path) -> Path:
    return partial.with_name(partial.name.removesuffix(PARTIAL))


def plan_path(path: Path) -> Path:
    """Where the plan of a run lies while it is not finished."""
    return path.with_name(path.name + PLAN)


def _read_plan(path: Path) -> Plan:
    where = plan_path(path)
    try:
        return plan_of(where.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise PlanError(f"{where} is not there, so what was planned is not known: start afresh") from None
    except UnfitPlanError as error:
        raise PlanError(f"{where} {error}") from None
    except (OSError, ValueError) as error:
        raise PlanError(f"{where} cannot be read: {error!r}") from None
