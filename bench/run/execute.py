"""Doing what a plan says: processes take turns, every outcome is a row, nothing is lost on a crash, a hang or Ctrl-C.

>>> from membound.results.store import RunWriter, new_run_path
>>> with RunWriter(new_run_path(plan.out, run_id)) as writer:
...     rows = execute(plan, writer, progress)

Ceilings that do not take turns come first; a quick run leaves out those that no verdict of its works rests on. Then replicates: in
each, every backend has a process of its own, and the works follow each other; for each work all backends are prepared, take turns
with the ceilings between them, are checked again and released. What does not fit memory together plays in groups.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from itertools import groupby
from random import Random

from membound.bench.machine.fingerprint import fingerprint
from membound.bench.measure.contestant import Timeouts
from membound.bench.planning.plan import Cell, Plan
from membound.bench.protocol.interrupts import deferred
from membound.bench.protocol.messages import Phase
from membound.bench.run.apart import is_complete, keep_apart
from membound.bench.run.case_rows import About, unchecked_row
from membound.bench.run.journal import Journal
from membound.bench.run.machine_ceilings import MACHINE, machine_ceilings
from membound.bench.run.minutes import Minutes
from membound.bench.run.neighbours import unwritten_rows
from membound.bench.run.progress import Reporter
from membound.bench.run.replicate import Replicate
from membound.bench.run.rounds import imprecise, invalid_again
from membound.bench.run.running import Running
from membound.bench.run.scope import scope_of
from membound.results.roofline import compute_ceilings, device_class
from membound.results.row import Row
from membound.results.store import SUFFIX, RunWriter

FINAL_STATUSES = ("unsupported", "unavailable", "timeout", "oom", "error", "wrong")
"""A case that ended so is not tried again in later replicates; a crash may have had an outer cause."""


def execute(
    plan: Plan,
    writer: RunWriter,
    progress: Reporter,
    timeouts: Timeouts | None = None,
    known: Sequence[Row] = (),
) -> list[Row]:
    """Run a plan to its end or to Ctrl-C, and finish the row file. Returns the rows in order of writing.

    `known` are the rows that an earlier process wrote before it was killed; `plan` has the cells that are left.
    Raises StoreError if rows cannot be written; what was written stays in the partial file.
    """
    began = time.perf_counter()
    with deferred() as interrupts, Journal(writer.path) as journal:
        run = Running(
            plan,
            writer,
            journal,
            progress,
            timeouts or Timeouts(),
            writer.path.name.removesuffix(SUFFIX),
            fingerprint() | _where(plan),
            began,
            Minutes(plan.time_limit_s, began),
            list(known),
            with_ceilings={one for one in {row.backend for row in known} if is_complete(known, one)},
            products=_products(plan),
            gemms=_gemms(plan) if plan.quick else (),
        )
        journal.settle((row.backend, row.replicate, row.work) for row in run.cases)
        for note in plan.notes:
            progress.note(note)
        progress.start(scope_of(plan))
        try:
            with interrupts:
                _run_all(run)
        except KeyboardInterrupt:
            progress.note(f"interrupted; the {len(run.cases)} cases measured so far are kept")
            _keep_left(run)
        for row in unwritten_rows(run.rows, run.run_id, plan.threads):
            run.keep(row)
        writer.finish()
    return run.rows


def _keep_left(run: Running) -> None:
    """The turns of an earlier process that was killed, which this one was ended too soon to go on with."""
    for (backend, replicate, work), turns in list(run.journal.left.items()):
        row = unchecked_row(
            About(run.run_id, backend, work, replicate, run.plan.threads, run.plan.seed), turns
        )
        known = next((one for one in run.rows if one.backend == backend and one.device), row)
        row.device, row.versions = known.device, dict(known.versions)
        row.accelerator, row.memory_ceiling = dict(known.accelerator), known.memory_ceiling
        run.keep(row)
        run.journal.settle([(backend, replicate, work)])


def _where(plan: Plan) -> dict[str, str]:
    """What rows say of where they were measured, as far as the plan has it."""
    told = {"placement": plan.placement, "beside": ", ".join(plan.beside)}
    return {name: text for name, text in told.items() if text}


def _products(plan: Plan) -> tuple[str, ...]:
    """Formats of the arithmetic that any work of the plan is compared with."""
    names = _compute_ceilings(plan)
    formats = {"fma_f32": "f32"} | {f"{kind}_{f}": f for kind in ("dot", "tile") for f in ("bf16", "int8")}
    return tuple(sorted({fmt for name, fmt in formats.items() if name in names}))


def _gemms(plan: Plan) -> tuple[str, ...]:
    """Formats of the square products that any work of the plan is compared with."""
    found = (name.partition("gemm_") for name in sorted(_compute_ceilings(plan)))
    return tuple(fmt for _, gemm, fmt in found if gemm)


def _compute_ceilings(plan: Plan) -> set[str]:
    return {name for cell in plan.cells for work in cell.works for name in compute_ceilings(work)}


def _run_all(run: Running) -> None:
    plan = run.plan
    on_machine = any(device_class(cell.backend) == MACHINE for cell in plan.cells)
    if plan.ceilings and not plan.quick and on_machine and not is_complete(run.rows, MACHINE):
        _measure_machine(run)
    rounds = [list(cells) for _, cells in groupby(plan.cells, key=lambda cell: cell.replicate)]
    for index, cells in enumerate(rounds):
        _run_replicate(run, cells, rounds[index + 1 :])
    _run_together(run, [Cell(backend, number, (work,)) for backend, number, work in run.journal.left])
    for _ in range(plan.repeats):
        _run_together(run, invalid_again(plan, run.rows))
    while cells := imprecise(plan, run.rows):
        before = len(run.rows)
        _run_together(run, cells)
        if len(run.rows) == before:
            break
    if run.skipped:
        run.progress.note(
            f"time limit of {plan.time_limit_s:.0f} s reached: {run.skipped} times a work was left out of a "
            "replicate (each case has at least one process); --replicates N measures them all"
        )


def _run_together(run: Running, cells: Sequence[Cell]) -> None:
    """Cells beyond the plan, those of one number at once."""
    ordered = sorted(cells, key=lambda cell: cell.replicate)
    for _, same in groupby(ordered, key=lambda cell: cell.replicate):
        _run_replicate(run, list(same), [])


def _run_replicate(run: Running, cells: Sequence[Cell], coming: Sequence[Sequence[Cell]]) -> None:
    """One process of each backend, through all its works. First replicates always run; others while there is time."""
    number = cells[0].replicate
    hopeless = {(r.backend, r.work) for r in run.cases if r.status in FINAL_STATUSES}
    players: dict[str, list[str]] = {}
    for cell in cells:
        for work in cell.works:
            if (cell.backend, work) not in hopeless:
                players.setdefault(work, []).append(cell.backend)
    works = Random(f"{run.plan.seed} {number} works").sample(sorted(players), len(players))
    later = [work for one in coming for work in dict.fromkeys(w for cell in one for w in cell.works)]
    begun = {work for _, replicate, work in run.journal.left if replicate == number}
    pace, start, opened = run.plan.pace, time.perf_counter(), False
    with Replicate(run, number, list(dict.fromkeys(b for found in players.values() for b in found))) as one:
        for index, work in enumerate(works):
            if number and work not in begun and not run.minutes.has_time(work, pace.least):
                run.skipped += 1
                continue
            if not opened:
                opened = True
                one.open_all()
                run.minutes.enter("")
                run.minutes.start_s = time.perf_counter() - start
            due = run.minutes.pace(work, pace, [*works[index:], *later], len(coming))
            one.play(work, players[work], due)


def _measure_machine(run: Running) -> None:
    """The machine's limits that take no turns; a failure is a row as well."""

    def phase(seen: Phase) -> None:
        run.minutes.enter(seen.name)
        run.progress.phase("ceilings", seen.name)

    plan = run.plan
    rows = machine_ceilings(run.run_id, plan.threads, plan.rigor != "high", run.timeouts.other_s, phase)
    keep_apart(run, rows)
    run.minutes.enter("")
