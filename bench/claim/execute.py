"""Doing the experiments on the claim: ceilings, then a worker a cell, every outcome an observation on disk.

>>> with RunWriter(new_claim_path(plan.out, run_id)) as writer:
...     claim = Claiming(plan, writer, progress, run_id).run()

Ceilings come first, with the threads of the works that they are held against. Backends follow each other, the one
that can do most experiments first; on each, a process of every experiment comes before the next one of any.
Where minutes are short, an experiment is begun only if all its processes fit, and the run says which were not.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from contextlib import ExitStack, suppress
from dataclasses import astuple, dataclass, field, replace
from math import inf
from random import Random
from typing import Any

from membound.bench.claim.arms import Arm, arms_of, by_contestant, grouped, named
from membound.bench.claim.budget import Budget, Pair, named_pairs, rank
from membound.bench.claim.observe import BLIND, AboutArm, observed, unobserved
from membound.bench.claim.plan import CLOCKS, LEAST_ROUNDS, Cell, ClaimPlan, fitting
from membound.bench.claim.scene import Scene, scene_of
from membound.bench.machine.fingerprint import HARNESS_PACKAGES, fingerprint, package_versions
from membound.bench.measure.ceiling_process import CeilingProcess
from membound.bench.measure.contestant import (
    BROKEN,
    ENDED,
    BackendProcess,
    Contestant,
    FailedError,
    Setting,
    Timeouts,
    Traffic,
)
from membound.bench.measure.failures import Failure, failure_of
from membound.bench.measure.rounds import Pace, play
from membound.bench.protocol.messages import (
    AskOffers,
    Ceilings,
    Failed,
    MeasureBackend,
    MeasureMachine,
    Offers,
)
from membound.bench.protocol.process import Worker
from membound.bench.run.ceiling_rows import ceiling_rows, failed_ceilings, now
from membound.bench.run.execute import FINAL_STATUSES
from membound.bench.run.progress import Reporter
from membound.bench.run.scope import Scope
from membound.kernels.work import Linear
from membound.results.claim.experiments import Register
from membound.results.claim.observation import NO_TIME, SKIPPED, ClaimMeta, Observation
from membound.results.roofline import Limits, best_ceilings, device_class, limits_of
from membound.results.row import Row
from membound.results.store import RunWriter

SILENCE_S = 300.0
"""Seconds a worker may be silent: compiling the largest kernels takes a fraction of it."""
PRODUCTS = ("f32", "bf16", "int8")
"""Formats whose arithmetic peaks take turns."""
FLOAT32 = Linear(1, 1, weight="f32").spec
"""Extra multiply-adds are float32, whatever the format of the weights."""
ONCE = ("compiling", "checking")
"""Phases whose results later processes find on disk."""
FREE_COMPUTE = 1
Arms = dict[Pair, list[Arm]]


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
    phase: str = ""
    since: float = 0.0
    began: float = field(default_factory=time.perf_counter)
    traffic: Traffic = field(default_factory=Traffic)
    playing: dict[tuple[str, int], CeilingProcess] = field(default_factory=dict)
    """Ceilings that take turns, by device and threads."""
    stack: ExitStack = field(default_factory=ExitStack)
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
            with self.stack:
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
            package_versions(HARNESS_PACKAGES),
        )

    def _measure(self) -> None:
        """Backend after backend, the one that can do most experiments first."""
        plan = self.plan
        self._measure_ceilings()
        arms = {pair: members for pair, members in self._arms().items() if members}
        cases = sum(plan.processes_of(pair[0]) * len(members) for pair, members in arms.items())
        self.progress.start(Scope(cases, limit_s=plan.time_limit_s))
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
        self._tell(cell, self._hopeful(cell, arms), Failure(SKIPPED, NO_TIME))

    # Ceilings

    def _measure_ceilings(self) -> None:
        """What takes no turns: the processor's limits, then each backend's own and what it can do."""
        plan = self.plan
        for threads in sorted({plan.threads_of(number) for number in plan.experiments} | {plan.threads}):
            self._measure_machine(threads)
        for backend in plan.backends:
            asked = {n: arms_of(n, self._scene(backend, asking=True)) for n in plan.experiments}
            self.asked |= {(n, backend): arms for n, arms in asked.items()}
            with self._process(backend, plan.threads) as process:
                self._ask_backend(process, asked)

    def _measure_machine(self, threads: int) -> None:
        """A failure is a row as well."""
        about = (self.run_id, "cpu", 0, threads)
        try:
            with Worker(threads) as worker:
                worker.greet()
                command = MeasureMachine(self.plan.rigor != "high")
                answer = worker.ask(
                    command, SILENCE_S, lambda seen: self.progress.phase("ceilings", seen.name)
                )
                worker.close()
        except BROKEN as error:
            answer = Failed(*astuple(failure_of(error)))
        if isinstance(answer, Failed):
            self._keep_ceiling(failed_ceilings(*about, answer.status, answer.reason))
        elif isinstance(answer, Ceilings):
            for row in ceiling_rows(answer, *about):
                self._keep_ceiling(row)

    def _ask_backend(self, process: BackendProcess, asked: dict[int, list[Arm]]) -> None:
        """Its offers and its ceilings. If it fails, the ceilings' row and its arms say how."""
        backend, threads = process.backend, self.plan.threads
        about = (self.run_id, backend, 0, threads)
        arms = {str(n): [arm.as_json() for arm in found] for n, found in asked.items()}
        try:
            process.open()
            with suppress(FailedError):
                offers = process.ask(AskOffers(arms), Offers, SILENCE_S, "asking")
                self.refused[backend] = {int(n): refused for n, refused in offers.refused.items()}
            found = process.ask(MeasureBackend(True), Ceilings, SILENCE_S, "measuring its ceilings")
        except FailedError as error:
            if error.failure.status != "unavailable":  # of those every arm says so
                self._keep_ceiling(failed_ceilings(*about, error.failure.status, error.failure.reason))
        except BROKEN as error:
            failure = failure_of(error)
            self._keep_ceiling(failed_ceilings(*about, failure.status, failure.reason))
        else:
            for row in ceiling_rows(found, *about):
                self._keep_ceiling(row)

    def _in_turn(self, backend: str, threads: int) -> dict[str, CeilingProcess]:
        """The ceilings that play between the arms of a backend with this many threads, one process for the whole claim."""
        device = device_class(backend)
        if (device, threads) not in self.playing:
            one = CeilingProcess(
                self._setting(threads),
                PRODUCTS,
                traffic=self.traffic,
                note=self.progress.note,
                on_phase=self._phase,
            )
            if device != "cpu":
                known = [r for _, r in best_ceilings(self.ceilings) if device_class(r.backend) == device]
                fastest = next((row for row in known if row.work == "read"), None)
                if fastest is None:
                    return {}
                one.backend, one.python = fastest.backend, self.plan.python_for(fastest.backend) or ""
                one.variants = {"read": str(fastest.config.get("variant", ""))}
            self.playing[device, threads] = self.stack.enter_context(one)
        return {device: self.playing[device, threads]}

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
        more = (len(plan.co_runner_cpus), cache, plan.variants.get(backend, ()))
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
                self._tell(cell, [arm], Failure("unsupported", refused[arm.name]))
            return False
        start, self.once_s, known = time.monotonic(), 0.0, len(self.observations)
        while left:
            left = self._run_worker(cell, left)
        measured = any(one.status == "ok" for one in self.observations[known:])
        if measured:
            self.budget.costs_s[cell.pair] = time.monotonic() - start - self.once_s
        return measured

    def _setting(self, threads: int) -> Setting:
        plan = self.plan
        return Setting(
            threads,
            plan.seed,
            plan.memory_bytes,
            str(plan.reference_dir),
            Timeouts(SILENCE_S),
            plan.co_runner_cpus,
        )

    def _process(self, backend: str, threads: int) -> BackendProcess:
        return BackendProcess(
            backend, self._setting(threads), self.plan.python_for(backend), self.traffic, self._phase
        )

    def _phase(self, backend: str, phase: str) -> None:
        """A worker has come to a phase; what is done once for all later processes does not count as a cost."""
        at = time.monotonic()
        self.once_s += at - self.since if self.phase.startswith(ONCE) else 0.0
        self.since, self.phase = at, phase
        self.progress.phase(backend, phase)

    def _run_worker(self, cell: Cell, arms: list[Arm]) -> list[Arm]:
        """One process, group after group; the arms that its death left unmeasured and that are not to blame."""
        threads, self.phase = self.plan.threads_of(cell.experiment), ""
        groups = [list(found) for found in grouped(arms).values()]
        with self._process(cell.backend, threads) as process:
            try:
                process.open()
            except FailedError as error:
                self._tell(cell, arms, error.failure)
                return []
            except BROKEN as error:
                self._tell(cell, arms, failure_of(error))
                return []
            rng = Random(f"{self.plan.seed} {cell.replicate} {cell.backend} {cell.experiment}")
            for index, group in enumerate(groups):
                left = self._play_group(cell, process, group, rng)
                if not process.alive:
                    return [*left, *(arm for later in groups[index + 1 :] for arm in later)]
        return []

    def _play_group(self, cell: Cell, process: BackendProcess, arms: list[Arm], rng: Random) -> list[Arm]:
        """Arms that are compared with each other, prepared together; those that a death left unmeasured."""
        if self._left_s() <= 0:
            self._tell(cell, arms, Failure(SKIPPED, NO_TIME))
            return []
        players: list[tuple[Arm, Contestant]] = []
        shared = list(by_contestant(arms).values())
        for number, members in enumerate(shared):
            self.progress.cell(cell.backend, members[0].work, cell.replicate, "preparing")
            try:
                one = process.prepare(number, members[0].work, [arm.as_json() for arm in members])
            except FailedError as error:
                self._tell(cell, members, error.failure)
            except BROKEN as error:
                self._tell(cell, members, failure_of(error))
                players_left = [arm for arm, _ in players]
                return [*players_left, *(arm for later in shared[number + 1 :] for arm in later)]
            else:
                players += [(arm, replace(one, arm=i, turns=[], stolen=[])) for i, arm in enumerate(members)]
        contestants = [one for _, one in players]
        ceilings = self._in_turn(cell.backend, process.setting.threads)
        pace = Pace(self.plan.rounds, min(self.plan.group_s, self._left_s()), LEAST_ROUNDS)
        if contestants:
            play(contestants, ceilings, pace, rng, self.began, lambda one, turn: None)
        left = [arm for arm, one in players if not self._ended(cell, arm, one)]
        for number in range(len(shared)):
            process.release(number)
        return left

    def _ended(self, cell: Cell, arm: Arm, one: Contestant) -> bool:
        """Keep what became of an arm; False if it is not to blame for the death of its process."""
        about = self._about(cell, arm)
        checked = one.check() if one.turns else None
        if checked is not None:
            self._keep(observed(cell, arm, one, checked, about))
        elif one.failure is not None and one.failure.reason == ENDED:
            return False
        elif one.failure is not None:
            self._keep(unobserved(cell, arm, one.failure, about))
        return True

    def _about(self, cell: Cell, arm: Arm) -> AboutArm:
        threads = self.plan.threads_of(cell.experiment)
        limits = self._limits(cell.backend, arm, threads)
        whole = self._limits(cell.backend, arm, self.plan.threads).read_bytes_per_s
        return AboutArm(threads, limits, arm.work if arm.extra_fmas is None else FLOAT32, whole)

    def _tell(self, cell: Cell, arms: Iterable[Arm], failure: Failure) -> None:
        """Observations of arms that were not measured."""
        for arm in arms:
            self._keep(unobserved(cell, arm, failure, self._about(cell, arm)))

    def _keep(self, one: Observation) -> None:
        self.writer.append(one)
        self.observations.append(one)
        if one.status != SKIPPED:  # one note names them all
            row = Row(self.run_id, "case", one.backend, one.work, one.status, one.reason, one.replicate)
            self.progress.done(row)
