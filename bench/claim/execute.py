"""Doing the experiments on the claim: ceilings, then a worker a cell, every outcome an observation on disk.

>>> with RunWriter(new_claim_path(plan.out, run_id)) as writer:
...     claim = Claiming(plan, writer, progress, run_id).run()

Ceilings come first, with the threads of the works that they are held against. Backends follow each other, the one
that can do most experiments first; on each, a process of every experiment comes before the next one of any.
Where minutes are short, an experiment is begun only if all its processes fit, and the run says which were not.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from math import inf
from typing import Any

from membound.bench.claim.arms import Arm, arms_of, named
from membound.bench.claim.budget import Budget, Pair, named_pairs, rank
from membound.bench.claim.observe import BLIND, nothing, now, observed
from membound.bench.claim.plan import CLOCKS, Cell, ClaimPlan, fitting
from membound.bench.claim.scene import Scene, scene_of
from membound.bench.machine.fingerprint import fingerprint, package_versions
from membound.bench.protocol.process import (
    Worker,
    WorkerDiedError,
    WorkerTimeoutError,
    WorkerUnavailableError,
)
from membound.bench.run.execute import FINAL_STATUSES, ceiling_rows
from membound.bench.run.progress import Reporter
from membound.kernels.work import Linear
from membound.results.claim.experiments import Register
from membound.results.claim.observation import NO_TIME, SKIPPED, ClaimMeta, Observation
from membound.results.roofline import Limits, device_class, limits_of
from membound.results.row import Row
from membound.results.store import RunWriter

SILENCE_S = 300.0
"""Seconds a worker may be silent: compiling the largest kernels takes a fraction of it."""
FLOAT32 = Linear(1, 1, weight="f32").spec
"""Extra multiply-adds are float32, whatever the format of the weights."""
ONCE = ("compiling", "checking")
"""Phases whose results later processes find on disk."""
FREE_COMPUTE = 1
Arms = dict[Pair, list[Arm]]
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
    asked: dict[Pair, list[Arm]] = field(default_factory=dict)
    """What each backend was asked about, doses as they may be."""
    refused: dict[str, dict[int, dict[str, str]]] = field(default_factory=dict)
    """What each backend cannot do, by its own word: experiment, name of the arms, reason."""
    left_out: dict[Pair, int] = field(default_factory=dict)
    """Pairs that time did not suffice for, and the first process that was left out."""
    budget: Budget = field(init=False)
    once_s: float = 0.0
    """Seconds of the cell at hand that went into kernels and references, which are kept."""
    interrupted: bool = False

    def __post_init__(self) -> None:
        self.budget = Budget(self.plan.processes_of)

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
            now(),
            plan.command,
            plan.rigor,
            list(plan.experiments),
            package_versions(PACKAGES),
        )

    def _measure(self) -> None:
        """Backend after backend, the one that can do most experiments first."""
        plan = self.plan
        self._measure_ceilings()
        arms = {pair: members for pair, members in self._arms().items() if members}
        self.progress.start(sum(plan.processes_of(pair[0]) * len(members) for pair, members in arms.items()))
        for backend in self._backends():
            begun = self._first_processes(backend, arms)
            for replicate in range(1, max((plan.processes_of(n) for n, _ in begun), default=0)):
                begun = self._further_processes(backend, replicate, arms, begun)
        if self.left_out:
            never, short = (
                [pair for pair, replicate in self.left_out.items() if bool(replicate) == late]
                for late in (False, True)
            )
            parts = (("not begun", never), ("fewer processes than planned", short))
            told = "; ".join(f"{what}: experiment {named_pairs(pairs)}" for what, pairs in parts if pairs)
            limit_s = plan.time_limit_s
            self.progress.note(f"time limit of {limit_s:.0f} s: {told}; --rigor high measures them all")

    def _backends(self) -> list[str]:
        """By the number of experiments of which they say that they can do something; then as given."""
        return sorted(self.plan.backends, key=lambda backend: -len(self._offered(backend)))

    def _offered(self, backend: str) -> list[int]:
        """Experiments with an arm that the backend has not refused; none if it could not be asked."""
        asked, refused = self.asked, self.refused.get(backend, {})
        return [n for n in refused if {arm.name for arm in asked[n, backend]} - refused[n].keys()]

    def _left_s(self) -> float:
        """Seconds until the time limit; infinite without one."""
        limit_s = self.plan.time_limit_s
        return inf if limit_s is None else limit_s - (time.monotonic() - self.started)

    def _first_processes(self, backend: str, arms: Arms) -> list[Pair]:
        """A process of each experiment for which there is time until its last; the pairs that could be measured.

        In random order; in the order of preference where time is limited and nobody knows what they take.
        """
        cells = [cell for cell in self.plan.cells(backend, 0) if cell.pair in arms]
        waiting, begun = [cell.pair for cell in cells], list[Pair]()
        if self.plan.time_limit_s is not None and not self.budget.known(waiting):
            cells.sort(key=lambda cell: rank(cell.pair))
        for cell in cells:
            if not self.budget.admits(cell.pair, waiting, begun, self._left_s()):
                self._leave_out(cell, arms[cell.pair])
            elif self._run_cell(cell, arms[cell.pair]):
                begun.append(cell.pair)
            waiting.remove(cell.pair)
        return begun

    def _further_processes(self, backend: str, replicate: int, arms: Arms, begun: list[Pair]) -> list[Pair]:
        """One more process, in random order, of those that have begun and fit; returns these."""
        due = [pair for pair in begun if replicate < self.plan.processes_of(pair[0])]
        kept = self.budget.affordable(due, self._left_s(), replicate)
        for cell in self.plan.cells(backend, replicate):
            if cell.pair in kept and self._left_s() > 0:
                self._run_cell(cell, arms[cell.pair])
            elif cell.pair in due:
                self._leave_out(cell, arms[cell.pair])
        return kept

    def _leave_out(self, cell: Cell, arms: Sequence[Arm]) -> None:
        """Observations that say that no time was left for a process."""
        self.left_out.setdefault(cell.pair, cell.replicate)
        self._tell(cell, self._hopeful(cell, arms), SKIPPED, NO_TIME)

    # Ceilings

    def _measure_ceilings(self) -> None:
        plan = self.plan
        for threads in sorted({plan.threads_of(number) for number in plan.experiments} | {plan.threads}):
            job = {"job": "ceilings", "threads": threads, "quick": plan.rigor != "high"}
            self._run_ceilings(job, "cpu", sys.executable)
        for backend in plan.backends:
            asked = {n: arms_of(n, self._scene(backend, asking=True)) for n in plan.experiments}
            self.asked |= {(n, backend): arms for n, arms in asked.items()}
            job = self._job(Cell(0, backend, 0), plan.threads) | {
                "job": "measure",
                "works": [],
                "asked": {n: [arm.as_json() for arm in arms] for n, arms in asked.items()},
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
                    elif event["event"] == "offers":
                        self.refused[backend] = {int(n): arms for n, arms in event["refused"].items()}
                    elif event["event"] == "ceilings":
                        for row in ceiling_rows(event, self.run_id, backend, 0, job["threads"]):
                            self._keep_ceiling(row)
        except (WorkerUnavailableError, WorkerDiedError, WorkerTimeoutError) as error:
            status = "timeout" if isinstance(error, WorkerTimeoutError) else "crashed"
            row = Row(self.run_id, "ceiling", backend, "ceilings", status, str(error), started_at=now())
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

    def _scene(self, backend: str, asking: bool = False) -> Scene:
        """What a backend's arms depend on; `asking` what it can do, it needs no ridge of its own."""
        plan = self.plan
        room = min(plan.memory_bytes, plan.device_room.get(backend, plan.memory_bytes))
        cache = plan.device_cache.get(backend, 0)
        more = (len(plan.thief_cpus), cache, plan.variants.get(backend, ()))
        scene = scene_of(backend, self.machine, self.ceilings, plan.threads, room, *more)
        return replace(scene, ridge=scene.ridge or 1.0) if asking else scene

    def _arms(self) -> Arms:
        """The arms of every experiment on every backend."""
        plan, made, told = self.plan, Arms(), set()
        for backend in plan.backends:
            scene = self._scene(backend)
            if not scene.ridge and FREE_COMPUTE in plan.experiments:
                told.add("no ceilings: experiment 1 is left out, which needs a ridge")
            for number in plan.experiments:
                made[number, backend], left_out = fitting(arms_of(number, scene), scene)
                told |= {f"left out for lack of memory: experiment {number}, {a.work}" for a in left_out}
        for note in sorted(told):
            self.progress.note(note)
        return made

    def _hopeful(self, cell: Cell, arms: Sequence[Arm]) -> list[Arm]:
        """Those of a cell's arms that are not known to fail."""
        hopeless = {
            (one.experiment, one.backend, one.arm, one.work)
            for one in self.observations
            if one.status in FINAL_STATUSES
        }
        return [a for a in arms if (*cell.pair, a.name, a.work) not in hopeless]

    def _run_cell(self, cell: Cell, arms: Sequence[Arm]) -> bool:
        """All arms of a cell that have hope; one that kills its worker is left out of the next. Whether any has a time."""
        refused = self.refused.get(cell.backend, {}).get(cell.experiment, {})
        if (
            cell.experiment == CLOCKS and device_class(cell.backend) == "cpu"
        ):  # no system tells its memory's clock
            refused = dict.fromkeys((arm.name for arm in arms), BLIND)
        left = self._hopeful(cell, arms)
        if {arm.name for arm in left} <= refused.keys():  # a runtime starts in seconds, to say the same
            for arm in left:
                self._tell(cell, [arm], "unsupported", refused[arm.name])
            return False
        start, self.once_s, known = time.monotonic(), 0.0, len(self.observations)
        while left:
            left = self._run_worker(cell, left)
        measured = any(one.status == "ok" for one in self.observations[known:])
        if measured:
            self.budget.costs_s[cell.pair] = time.monotonic() - start - self.once_s
        return measured

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
            "left_s": None if plan.time_limit_s is None else max(0.0, self._left_s()),
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
                        self._keep(observed(cell, arm, event, self.plan, self._limits))
        except WorkerUnavailableError as error:
            self._tell(cell, left.values(), "unavailable", str(error))
            return []
        except (WorkerDiedError, WorkerTimeoutError) as error:
            status = "timeout" if isinstance(error, WorkerTimeoutError) else "crashed"
            blamed = [i for i in at if i in left] or list(left)
            reason = f"while {phase}: {error}" if phase else str(error)
            self._tell(cell, [left.pop(i) for i in blamed], status, reason)
            return list(left.values())
        return []

    def _tell(self, cell: Cell, arms: Iterable[Arm], status: str, reason: str) -> None:
        """Observations of arms that no worker reported on."""
        for arm in arms:
            self._keep(observed(cell, arm, nothing(status, reason), self.plan, self._limits))

    def _keep(self, one: Observation) -> None:
        self.writer.append(one)
        self.observations.append(one)
        if one.status != SKIPPED:  # one note names them all
            row = Row(self.run_id, "case", one.backend, one.work, one.status, one.reason, one.replicate)
            self.progress.done(row)
