"""Doing the experiments on the claim: ceilings, then a worker a cell, every outcome an observation on disk.

>>> with RunWriter(new_claim_path(plan.out, run_id)) as writer:
...     claim = Claiming(plan, writer, progress, run_id).run()

Ceilings come first, with the threads of the works that they are held against. Cells are interleaved in random
order, a process of every experiment and backend before the next one of any. Where minutes run out, whole
pairs of experiment and backend end after one process, the dearest first, and the run says which.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from math import inf
from typing import Any

from membound.bench.arms import Arm, arms_of, named
from membound.bench.claim_plan import Cell, ClaimPlan, affordable, fitting, ordered
from membound.bench.machine import fingerprint, package_versions
from membound.bench.process import Event, Worker, WorkerDiedError, WorkerTimeoutError, WorkerUnavailableError
from membound.bench.progress import Reporter
from membound.bench.run import FINAL_STATUSES, ceiling_rows
from membound.bench.scene import scene_of
from membound.kernels.work import Linear
from membound.results.experiments import Register
from membound.results.observation import ClaimMeta, Observation, median_s
from membound.results.roofline import Limits, limits_of
from membound.results.row import Row
from membound.results.store import RunWriter

SILENCE_S = 300.0
"""Seconds a worker may be silent: compiling the largest kernels takes a fraction of it."""
FLOAT32 = Linear(1, 1, weight="f32").spec
"""Extra multiply-adds are float32, whatever the format of the weights."""
ONCE = ("compiling", "checking")
"""Phases whose results later processes find on disk."""
FREE_COMPUTE, CLOCKS = 1, 8
PACKAGES = ("membound", "numpy", "numba", "llvmlite")


@dataclass(slots=True)
class Claiming:
    """A run of the experiments and what it has so far."""

    plan: ClaimPlan
    register: Register
    writer: RunWriter
    progress: Reporter
    run_id: str
    started: float = field(default_factory=lambda: time.monotonic())
    machine: dict[str, Any] = field(default_factory=fingerprint)
    ceilings: list[Row] = field(default_factory=list)
    observations: list[Observation] = field(default_factory=list)
    costs_s: dict[tuple[int, str], float] = field(default_factory=dict)
    """Seconds of a process, by experiment and backend, less what its successors find done."""
    once_s: float = 0.0
    """Seconds of the cell at hand that went into kernels and references, which are kept."""
    interrupted: bool = False

    def run(self, stored: Iterable[Observation] = ()) -> Claiming:
        """All experiments to their end or to Ctrl-C; `stored` are observations of other runs, kept first.

        Raises StoreError if nothing can be written any more; what was written stays in the partial file.
        """
        self.writer.append(self._meta())
        try:
            for one in stored:
                self._keep(one)
            self._measure()
        except KeyboardInterrupt:
            self.interrupted = True
            self.progress.note(f"interrupted; {len(self.observations)} observations are kept")
        self.writer.finish()
        return self

    def _meta(self) -> ClaimMeta:
        plan = self.plan
        return ClaimMeta(
            self.run_id,
            self.register.version,
            self.register.sha256,
            self.machine,
            plan.threads,
            plan.seed,
            _now(),
            plan.command,
            plan.rigor,
            list(plan.experiments),
            package_versions(PACKAGES),
        )

    def _measure(self) -> None:
        plan = self.plan
        self._measure_ceilings()
        arms = self._arms()
        pairs = {pair for pair, members in arms.items() if members}
        self.progress.start(plan.processes * sum(len(members) for members in arms.values()))
        late: set[tuple[int, str]] = set()
        for replicate in range(plan.processes):
            if replicate:
                pairs = self._pairs_left(pairs, plan.processes - replicate)
            for cell in plan.cells(replicate):
                pair = (cell.experiment, cell.backend)
                if pair in pairs and self._left_s() < 0:
                    late.add(pair)
                elif pair in pairs:
                    self._run_cell(cell, arms[pair])
        if late:
            self._note_limit(f"left out, at least in one process: experiment {', '.join(ordered(late))}")

    def _left_s(self) -> float:
        """Seconds until the time limit; infinite without one."""
        limit_s = self.plan.time_limit_s
        return inf if limit_s is None else limit_s - (time.monotonic() - self.started)

    def _note_limit(self, what: str) -> None:
        limit_s = self.plan.time_limit_s
        self.progress.note(f"time limit of {limit_s:.0f} s: {what}; --rigor high measures them all")

    def _pairs_left(self, pairs: set[tuple[int, str]], times: int) -> set[tuple[int, str]]:
        """The pairs that go on: those that could be measured, and for which there is time."""
        going = {(one.experiment, one.backend) for one in self.observations if one.status == "ok"}
        costs = {pair: cost for pair, cost in self.costs_s.items() if pair in pairs & going}
        kept = affordable(costs, self._left_s(), times)
        if set(costs) - kept:
            self._note_limit(f"no further process of experiment {', '.join(ordered(set(costs) - kept))}")
        return kept

    # Ceilings

    def _measure_ceilings(self) -> None:
        plan = self.plan
        for threads in sorted({plan.threads_of(number) for number in plan.experiments} | {plan.threads}):
            job = {"job": "ceilings", "threads": threads, "quick": plan.rigor != "high"}
            self._run_ceilings(job, "cpu", sys.executable)
        for backend in plan.backends:
            job = self._job(Cell(0, backend, 0), plan.threads) | {
                "job": "measure",
                "works": [],
                "ceilings": True,
                "quick": True,
            }
            self._run_ceilings(job, backend, plan.python_for(backend) or sys.executable)

    def _run_ceilings(self, job: dict[str, Any], backend: str, python: str) -> None:
        """Measure limits in a worker; a failure is a row as well."""
        try:
            with Worker(job, python) as worker:
                for event in worker.events(lambda _: SILENCE_S):
                    if event["event"] == "phase":
                        self.progress.cell("ceilings", "", 0, event["phase"])
                    elif event["event"] == "ceilings":
                        for row in ceiling_rows(event, self.run_id, backend, 0, job["threads"]):
                            self._keep_ceiling(row)
        except (WorkerUnavailableError, WorkerDiedError, WorkerTimeoutError) as error:
            status = "timeout" if isinstance(error, WorkerTimeoutError) else "crashed"
            row = Row(self.run_id, "ceiling", backend, "ceilings", status, str(error), started_at=_now())
            row.threads = job["threads"]
            self._keep_ceiling(row)

    def _keep_ceiling(self, row: Row) -> None:
        row.machine, row.command = self.machine, self.plan.command
        self.writer.append(row)
        self.ceilings.append(row)
        self.progress.done(row)

    def _limits(self, backend: str, arm: Arm, threads: int) -> Limits:
        work = arm.work if arm.extra_fmas is None else FLOAT32
        name = named(backend, arm.variant)
        return limits_of(Row(self.run_id, "case", name, work, "ok", threads=threads), self.ceilings)

    # Cells

    def _arms(self) -> dict[tuple[int, str], list[Arm]]:
        """The arms of every experiment on every backend."""
        plan, made, told = self.plan, {}, set()
        for backend in plan.backends:
            room = min(plan.memory_bytes, plan.device_room.get(backend, plan.memory_bytes))
            cache = plan.device_cache.get(backend, 0)
            thieves = len(plan.thief_cpus)
            more = (thieves, cache, plan.variants.get(backend, ()))
            scene = scene_of(backend, self.machine, self.ceilings, plan.threads, room, *more)
            if not scene.ridge and FREE_COMPUTE in plan.experiments:
                told.add("no ceilings: experiment 1 is left out, which needs a ridge")
            for number in plan.experiments:
                made[number, backend], left_out = fitting(arms_of(number, scene), scene)
                told |= {f"left out for lack of memory: experiment {number}, {a.work}" for a in left_out}
        for note in sorted(told):
            self.progress.note(note)
        return made

    def _run_cell(self, cell: Cell, arms: list[Arm]) -> None:
        """All arms of a cell that have hope; one that kills its worker is left out of the next."""
        hopeless = {
            (one.experiment, one.backend, one.arm, one.work)
            for one in self.observations
            if one.status in FINAL_STATUSES
        }
        left = [a for a in arms if (cell.experiment, cell.backend, a.name, a.work) not in hopeless]
        start, self.once_s = time.monotonic(), 0.0
        while left:
            left = self._run_worker(cell, left)
        self.costs_s[cell.experiment, cell.backend] = time.monotonic() - start - self.once_s

    def _job(self, cell: Cell, threads: int) -> dict[str, Any]:
        plan = self.plan
        return {
            "job": "trial",
            "backend": cell.backend,
            "seed": plan.seed,
            "threads": threads,
            "replicate": cell.replicate,
            "rounds": plan.rounds,
            "seconds": plan.group_s,
            "memory_bytes": plan.memory_bytes,
            "thief_cpus": list(plan.thief_cpus),
            "reference_dir": str(plan.reference_dir),
        }

    def _run_worker(self, cell: Cell, arms: list[Arm]) -> list[Arm]:
        """One worker; returns the arms that its death left unmeasured and that are not to blame."""
        job = self._job(cell, self.plan.threads_of(cell.experiment)) | {"arms": [a.as_json() for a in arms]}
        left, at, phase = dict(enumerate(arms)), list[int](), ""
        since = time.monotonic()
        try:
            with Worker(job, self.plan.python_for(cell.backend) or sys.executable) as worker:
                for event in worker.events(lambda _: SILENCE_S):
                    now = time.monotonic()
                    self.once_s += now - since if phase.startswith(ONCE) else 0.0
                    since = now
                    if event["event"] == "phase":
                        at, phase = event["arms"], event["phase"]
                        work = arms[at[0]].work if at else ""
                        self.progress.cell(cell.backend, work, cell.replicate, phase)
                    elif event["event"] == "outcome":
                        arm = left.pop(event["index"])
                        self._keep(self._observation(cell, arm, event))
        except WorkerUnavailableError as error:
            self._fail(cell, left.values(), "unavailable", str(error))
            return []
        except (WorkerDiedError, WorkerTimeoutError) as error:
            status = "timeout" if isinstance(error, WorkerTimeoutError) else "crashed"
            blamed = [i for i in at if i in left] or list(left)
            reason = f"while {phase}: {error}" if phase else str(error)
            self._fail(cell, [left.pop(i) for i in blamed], status, reason)
            return list(left.values())
        return []

    # Observations

    def _observation(self, cell: Cell, arm: Arm, event: Event) -> Observation:
        """What a worker told about an arm, with the ceilings that it is held against."""
        ok, telemetry = event["status"] == "ok", event["telemetry"]
        threads = self.plan.threads_of(cell.experiment)
        limits = self._limits(cell.backend, arm, threads)
        factors = arm.factors | event["factors"]
        whole = self._limits(cell.backend, arm, self.plan.threads).read_bytes_per_s
        if arm.thief and whole:
            factors["machine_read_bytes_per_s"] = whole
        status, reason = event["status"], event["reason"]
        if cell.experiment == CLOCKS and ok:
            factors |= _clocks(telemetry)
            if len(factors) < 2:
                ok, status, reason = (
                    False,
                    "unsupported",
                    "the clocks of memory and cores cannot both be read",
                )
        return Observation(
            cell.experiment,
            cell.backend,
            arm.name,
            cell.replicate,
            factors,
            arm.work,
            arm.parsed.traffic.total_bytes,
            arm.flops,
            median_s(event["samples_s"]) if ok else None,
            event["samples_s"] if ok else [],
            event["grade"],
            event["grade_reasons"],
            status,
            reason,
            threads,
            limits.read_bytes_per_s,
            limits.compute_flops_per_s,
            limits.launch_s,
            _now(),
            telemetry,
        )

    def _fail(self, cell: Cell, arms: Iterable[Arm], status: str, reason: str) -> None:
        """Observations of arms that a worker could not report on itself."""
        nothing: Event = {
            "factors": {},
            "telemetry": {},
            "samples_s": [],
            "grade": "unknown",
            "grade_reasons": [],
        }
        for arm in arms:
            event = nothing | {"status": status, "reason": reason}
            self._keep(self._observation(cell, arm, event))

    def _keep(self, one: Observation) -> None:
        self.writer.append(one)
        self.observations.append(one)
        row = Row(self.run_id, "case", one.backend, one.work, one.status, one.reason, one.replicate)
        self.progress.done(row)


def _clocks(telemetry: dict[str, Any]) -> dict[str, float]:
    """The clocks that could be read, of an accelerator or of the processor."""
    core = telemetry.get("device_clock_hz") or telemetry.get("frequency_hz")
    memory = telemetry.get("device_memory_clock_hz")
    return {name: value for name, value in (("core_clock_hz", core), ("memory_clock_hz", memory)) if value}


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")
