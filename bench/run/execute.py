"""Doing what a plan says: a worker a cell, every outcome a row, nothing lost on a crash, a hang or Ctrl-C.

>>> with RunWriter(new_run_path(plan.out, run_id)) as writer:
...     rows = execute(plan, writer, progress)

Ceilings come first, then the cells in their order; replicates that were disturbed are kept and measured
once more; with high rigor, replicates are added until the mean of the process medians is known to 1 %.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from itertools import groupby
from math import inf
from statistics import median
from typing import Any

from membound.bench.machine.fingerprint import fingerprint
from membound.bench.machine.validity import grade
from membound.bench.planning.plan import Cell, Plan
from membound.bench.protocol.process import (
    Event,
    Worker,
    WorkerDiedError,
    WorkerTimeoutError,
    WorkerUnavailableError,
)
from membound.bench.run.progress import Reporter
from membound.bench.run.rounds import disturbed, imprecise
from membound.kernels.work import parse
from membound.results.roofline import device_class, limits_of
from membound.results.row import Row, RowError
from membound.results.store import SUFFIX, RunWriter

CEILING_MARGIN = 1.03
"""A case so far above a ceiling shows that the ceiling was measured too low, and has it measured again."""
MACHINE = "cpu"
"""Stands for the machine itself where a ceiling's row names a backend."""
FINAL_STATUSES = ("unsupported", "unavailable", "timeout", "oom", "error", "wrong")
"""A case that ended so is not tried again in later replicates; a crash may have had an outer cause."""


@dataclass(frozen=True, slots=True)
class Limits:
    """Seconds a worker may be silent. Timing gets timing_factor · budget + timing_s."""

    other_s: float = 300.0
    timing_factor: float = 10.0
    timing_s: float = 60.0

    def after(self, event: Event, plan: Plan) -> float:
        """The limit for the phase that `event` began."""
        if event.get("phase") == "timing":
            return self.timing_factor * (plan.budget.warmup_s + plan.budget.timing_s) + self.timing_s
        return self.other_s


@dataclass(slots=True)
class _Session:
    """What a run has so far."""

    plan: Plan
    writer: RunWriter
    progress: Reporter
    limits: Limits
    run_id: str
    machine: dict[str, Any]
    started: float
    rows: list[Row] = field(default_factory=list)
    shortest_s: dict[str, float] = field(default_factory=dict)
    with_ceilings: set[str] = field(default_factory=set)
    """Backends whose own ceilings were measured or tried."""
    skipped: int = 0
    too_low: set[str] = field(default_factory=set)
    """Backends that were faster than a ceiling allows."""

    @property
    def cases(self) -> list[Row]:
        return [row for row in self.rows if row.kind == "case"]

    def take_over(self, known: Sequence[Row]) -> None:
        """Begin with rows of the same run. A backend's ceilings come before its cases."""
        self.rows += known
        self.with_ceilings |= {row.backend for row in self.cases}
        for row in known:
            if row.config.get("above_ceiling"):
                self._notice_low_ceiling(row)

    @property
    def knows_machine(self) -> bool:
        """Whether the machine's ceilings are complete: what comes after them has begun."""
        return any(row.kind == "case" or row.backend != MACHINE for row in self.rows)

    def keep(self, row: Row) -> None:
        """Complete a row with what the harness knows, write it, report it."""
        row.run_id, row.machine, row.command = self.run_id, self.machine, self.plan.command
        row.seed, row.threads = self.plan.seed, self.plan.threads
        if row.kind == "case" and row.status == "ok":
            self._hold_against_ceilings(row)
        self.writer.append(row)
        self.rows.append(row)
        self.progress.done(row)

    def _hold_against_ceilings(self, row: Row) -> None:
        time_s, limits = median(row.samples_s), limits_of(row, self.rows)
        read, compute = limits.read_bytes_per_s or inf, limits.compute_flops_per_s or inf
        if max(row.bytes / time_s / read, row.flops / time_s / compute) > CEILING_MARGIN:
            row.config["above_ceiling"] = True
            self._notice_low_ceiling(row)

    def _notice_low_ceiling(self, row: Row) -> None:
        """A working set that fits the cache is not bound by memory, so it tells nothing about the ceiling."""
        cache_bytes = row.accelerator.get("cache_bytes") or self.machine["last_level_cache_bytes"]
        if row.working_set_bytes > cache_bytes:
            self.too_low.add(row.backend)

    def has_time_for(self, backend: str) -> bool:
        """Whether another cell of `backend` would end within the plan's limit, going by its fastest one."""
        if self.plan.time_limit_s is None:
            return True
        spent_s = time.monotonic() - self.started
        return spent_s + self.shortest_s.get(backend, 0.0) <= self.plan.time_limit_s


def execute(
    plan: Plan,
    writer: RunWriter,
    progress: Reporter,
    limits: Limits | None = None,
    known: Sequence[Row] = (),
) -> list[Row]:
    """Run a plan to its end or to Ctrl-C, and finish the row file. Returns the rows in order of writing.

    `known` are the rows that an earlier process wrote before it was killed; `plan` has the cells that are left.
    Raises StoreError if rows cannot be written; what was written stays in the partial file.
    """
    run_id = writer.path.name.removesuffix(SUFFIX)
    session = _Session(plan, writer, progress, limits or Limits(), run_id, fingerprint(), time.monotonic())
    session.take_over(known)
    for note in plan.notes:
        progress.note(note)
    progress.start(plan.total_cells)
    try:
        _run_all(session)
    except KeyboardInterrupt:
        progress.note(f"interrupted; the {len(session.cases)} cases measured so far are kept")
    writer.finish()
    return session.rows


def _run_all(session: _Session) -> None:
    plan = session.plan
    if plan.ceilings and not session.knows_machine:
        _run_ceilings(session, quick=plan.quick)
    for _, one_round in groupby(plan.cells, key=lambda cell: cell.replicate):
        _run_round(session, list(one_round))
    judged = 0
    for _ in range(plan.repeats):
        fresh, judged = session.rows[judged:], len(session.rows)
        _run_cells(session, disturbed(fresh, session.rows))
    while cells := imprecise(plan, session.rows):
        before = len(session.rows)
        _run_cells(session, cells)
        if len(session.rows) == before:
            break
    if plan.ceilings and session.too_low:
        session.progress.note("a case was faster than a ceiling: measuring the ceilings again")
        _run_ceilings_again(session)
    if session.skipped:
        session.progress.note(
            f"time limit of {plan.time_limit_s:.0f} s reached: {session.skipped} worker processes were left out "
            "(each case has at least one replicate); --replicates N measures them all"
        )


def _run_round(session: _Session, cells: list[Cell]) -> None:
    """A replicate of everything; then the read ceiling again, which moves where others use the memory too."""
    before = len(session.cases)
    _run_cells(session, cells)
    fresh = session.cases[before:]
    if session.plan.ceilings and any(device_class(r.backend) == "cpu" and r.status == "ok" for r in fresh):
        _run_ceilings(session, quick=True, only_read=True)


def _run_cells(session: _Session, cells: Iterable[Cell]) -> None:
    """Run cells in order. First replicates always run; others while there is time and hope."""
    for cell in cells:
        hopeless = {(r.backend, r.work) for r in session.cases if r.status in FINAL_STATUSES}
        works = [work for work in cell.works if (cell.backend, work) not in hopeless]
        if not works:
            continue
        if cell.replicate and not session.has_time_for(cell.backend):
            session.skipped += 1
            continue
        start = time.monotonic()
        while works:
            works = _run_worker(session, cell, works)
        spent_s = time.monotonic() - start
        session.shortest_s[cell.backend] = min(spent_s, session.shortest_s.get(cell.backend, inf))


def _run_worker(session: _Session, cell: Cell, works: list[str]) -> list[str]:
    """One worker for `works`; returns those that its death left unmeasured."""
    plan, left, phase = session.plan, list(works), _Phase()
    wants_ceilings = plan.ceilings and cell.backend not in session.with_ceilings
    session.with_ceilings.add(cell.backend)
    job = {
        "job": "measure",
        "backend": cell.backend,
        "works": works,
        "seed": plan.seed,
        "threads": plan.threads,
        "replicate": cell.replicate,
        "budget": asdict(plan.budget),
        "reference_dir": str(plan.reference_dir),
        "memory_bytes": plan.memory_bytes,
        "ceilings": wants_ceilings,
        "quick": plan.rigor != "high",
    }
    try:
        with Worker(job, plan.python_for(cell.backend) or sys.executable) as worker:
            for event in worker.events(lambda event: session.limits.after(event, plan)):
                if event["event"] == "phase":
                    phase = _Phase(event["work"], event["phase"])
                    session.progress.cell(cell.backend, phase.work, cell.replicate, phase.name)
                elif event["event"] == "ceilings":
                    phase = _Phase()
                    _keep_ceilings(session, event, cell.backend, cell.replicate)
                elif event["event"] == "result":
                    session.keep(Row.from_json(json.dumps(event["row"])))
                    left.remove(event["work"])
                    phase = _Phase()
    except WorkerUnavailableError as error:
        _fail(session, cell, left, "unavailable", str(error))
    except RowError as error:
        reason = f"the membound of its interpreter does not go with this one: {error}"
        _fail(session, cell, left, "unavailable", reason)
    except (WorkerDiedError, WorkerTimeoutError) as error:
        status = "timeout" if isinstance(error, WorkerTimeoutError) else "crashed"
        if not phase.work and phase.name:
            _fail_ceilings(session, cell.backend, cell.replicate, status, f"while {phase.name}: {error}")
            return left
        if not phase.work and (wants_ceilings or len(left) < len(works)):
            return left  # it died between two works: neither is to blame
        failed = [phase.work] if phase.work else left
        _fail(session, cell, failed, status, f"while {phase.name}: {error}" if phase.name else str(error))
        return [work for work in left if work not in failed]
    return []


@dataclass(frozen=True, slots=True)
class _Phase:
    """What a worker is at: a work and preparing, compiling, checking or timing; empty between works."""

    work: str = ""
    name: str = ""


def _fail(session: _Session, cell: Cell, works: list[str], status: str, reason: str) -> None:
    """Rows for works that a worker could not report on itself."""
    for spec in works:
        work = parse(spec)
        session.keep(
            Row(
                run_id=session.run_id,
                kind="case",
                backend=cell.backend,
                work=spec,
                status=status,
                reason=reason,
                replicate=cell.replicate,
                started_at=_now(),
                bytes=work.traffic.total_bytes,
                flops=work.flops,
                traffic=asdict(work.traffic),
            )
        )


def _run_ceilings(session: _Session, quick: bool, only_read: bool = False) -> None:
    """Measure the machine's limits in a worker; a failure is a row as well."""
    job = {"job": "ceilings", "threads": session.plan.threads, "quick": quick, "only_read": only_read}
    replicate = max((r.replicate + 1 for r in session.rows if r.kind == "ceiling"), default=0)
    try:
        with Worker(job) as worker:
            for event in worker.events(lambda _: session.limits.other_s):
                if event["event"] == "phase":
                    session.progress.cell("ceilings", "", replicate, event["phase"])
                elif event["event"] == "ceilings":
                    _keep_ceilings(session, event, MACHINE, replicate)
    except (WorkerUnavailableError, WorkerDiedError, WorkerTimeoutError) as error:
        status = "timeout" if isinstance(error, WorkerTimeoutError) else "crashed"
        _fail_ceilings(session, MACHINE, replicate, status, str(error))


def _run_ceilings_again(session: _Session) -> None:
    """The machine's limits, and those of an accelerator through every backend that measured them before."""
    classes = {device_class(backend) for backend in session.too_low}
    if "cpu" in classes:
        _run_ceilings(session, quick=True)
    for backend in sorted(session.with_ceilings):
        if device_class(backend) in classes - {"cpu"}:
            session.with_ceilings.discard(backend)
            replicates = [r.replicate for r in session.rows if r.backend == backend]
            _run_worker(session, Cell(backend, max(replicates, default=0) + 1, ()), [])


def _keep_ceilings(session: _Session, event: Event, backend: str, replicate: int) -> None:
    """A row for each ceiling that a worker measured."""
    for row in ceiling_rows(event, session.run_id, backend, replicate, session.plan.threads):
        session.keep(row)


def ceiling_rows(event: Event, run_id: str, backend: str, replicate: int, threads: int) -> list[Row]:
    """The rows of a worker's `ceilings` event."""
    found, reasons = grade(event["telemetry"], threads)
    return [
        Row(
            run_id=run_id,
            kind="ceiling",
            backend=backend,
            work=ceiling["name"],
            status=ceiling["status"],
            reason=ceiling["reason"],
            replicate=replicate,
            threads=threads,
            started_at=_now(),
            value=ceiling["value"],
            unit=ceiling["unit"],
            config=ceiling["config"],
            samples_s=list(ceiling["samples"]),
            telemetry=event["telemetry"],
            grade=found,
            grade_reasons=reasons,
        )
        for ceiling in event["ceilings"]
    ]


def _fail_ceilings(session: _Session, backend: str, replicate: int, status: str, reason: str) -> None:
    """One row for ceilings that a worker could not report on."""
    session.keep(
        Row(session.run_id, "ceiling", backend, "ceilings", status, reason, replicate, started_at=_now())
    )


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")
