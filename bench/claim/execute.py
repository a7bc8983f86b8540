"""Doing the experiments on the claim: ceilings, then a process a cell, every outcome an observation on disk.

>>> from membound.results.claim.file import new_claim_path
>>> from membound.results.store import RunWriter
>>> with RunWriter(new_claim_path(plan.out, run_id)) as writer:
...     execute(Claiming(plan, register, writer, progress, run_id))

Ceilings that take no turns come first, with the threads of the works that are compared with them. Backends follow
each other, the one that can do most experiments first; on each, a process of every experiment comes before the next
one of any. Where minutes are short, an experiment is begun only if all its processes fit, and the run says which
were not.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace

from membound.bench.claim.arms import Arm, arms_of
from membound.bench.claim.budget import Pair, TimeBudget, named_pairs, rank
from membound.bench.claim.ceilings import Refused, TurningCeilings, ask_backend, measure_machine
from membound.bench.claim.cell import hopeful, run_cell
from membound.bench.claim.claiming import OUT_OF_TIME, Claiming
from membound.bench.claim.observe import BLIND
from membound.bench.claim.plan import CLOCKS, ExperimentCell, fitting
from membound.bench.protocol.interrupts import deferred
from membound.bench.run.scope import Scope
from membound.results.claim.observation import SKIPPED, Observation
from membound.results.roofline import device_class

FREE_COMPUTE = 1
Arms = dict[Pair, list[Arm]]


def execute(claim: Claiming, stored: Iterable[Observation] = ()) -> Claiming:
    """All experiments to their end or to Ctrl-C; `stored` are observations of other runs, kept first.

    Raises StoreError if nothing can be written any more; what was written stays in the partial file.
    """
    with deferred() as interrupts:
        claim.writer.append(claim.meta)
        try:
            for one in stored:
                claim.keep(one)
            with interrupts, TurningCeilings(claim) as ceilings:
                _Course(claim, ceilings, TimeBudget(claim.plan.processes_of)).run()
        except KeyboardInterrupt:
            claim.interrupted = True
            claim.progress.note(f"interrupted; {len(claim.observations)} observations are kept")
        claim.writer.finish()
    return claim


@dataclass(slots=True)
class _Course:
    """The order of a claim's processes, and what is left out of it."""

    claim: Claiming
    ceilings: TurningCeilings
    budget: TimeBudget
    asked: Arms = field(default_factory=dict)
    """What each backend was asked about, doses as they may be."""
    refused: dict[str, Refused] = field(default_factory=dict)
    left_out: dict[Pair, int] = field(default_factory=dict)
    """Pairs that time did not suffice for, and the first process that was left out."""
    cut_short: dict[Pair, None] = field(default_factory=dict)
    """Pairs whose time ran out within a process."""

    def run(self) -> None:
        """Backend after backend, the one that can do most experiments first."""
        plan = self.claim.plan
        self._measure_ceilings()
        arms = {pair: members for pair, members in self._arms().items() if members}
        cases = sum(plan.processes_of(pair[0]) * len(members) for pair, members in arms.items())
        self.claim.progress.start(Scope(cases, limit_s=plan.time_limit_s))
        for backend in sorted(plan.backends, key=lambda backend: -len(self._offered(backend))):
            begun = self._first_processes(backend, arms)
            for replicate in range(1, max((plan.processes_of(n) for n, _ in begun), default=0)):
                begun = self._further_processes(backend, replicate, arms, begun)
        self._note_what_is_missing()

    def _measure_ceilings(self) -> None:
        """The processor's limits that take no turns, if a backend runs there; then each backend's own and what it can do."""
        claim, plan = self.claim, self.claim.plan
        pairs = [(number, backend) for number in plan.experiments for backend in plan.backends]
        on_cpu = [pair for pair in pairs if device_class(pair[1]) == "cpu"]
        for threads in sorted({plan.threads_of(*pair) for pair in on_cpu} | {plan.threads} if on_cpu else ()):
            measure_machine(claim, threads)
        for backend in plan.backends:
            scene = claim.scene(backend)
            scene = replace(scene, ridge=scene.ridge or 1.0)  # what it can do needs no ridge of its own
            asked = {number: arms_of(number, scene) for number in plan.experiments}
            self.asked |= {(number, backend): arms for number, arms in asked.items()}
            refused = ask_backend(claim, backend, asked)
            if refused is not None:
                self.refused[backend] = refused

    def _arms(self) -> Arms:
        """The arms of every experiment on every backend."""
        plan, made, notes = self.claim.plan, Arms(), set()
        for backend in plan.backends:
            scene = self.claim.scene(backend)
            if not scene.ridge and FREE_COMPUTE in plan.experiments:
                notes.add("no ceilings: experiment 1 is left out, which needs a ridge")
            for number in plan.experiments:
                made[number, backend], left_out = fitting(arms_of(number, scene), scene)
                notes |= {f"left out for lack of memory: experiment {number}, {a.work}" for a in left_out}
        for note in sorted(notes):
            self.claim.progress.note(note)
        return made

    def _offered(self, backend: str) -> list[int]:
        """Experiments with an arm that the backend has not refused; none if it could not be asked."""
        refused = self.refused.get(backend, {})
        return [n for n in refused if {arm.name for arm in self.asked[n, backend]} - refused[n].keys()]

    def _first_processes(self, backend: str, arms: Arms) -> list[Pair]:
        """A process of each experiment for which there is time until its last; the pairs that could be measured.

        In random order; in the order of preference where time is limited and nobody knows what they take.
        """
        claim = self.claim
        cells = [cell for cell in claim.plan.cells(backend, 0) if cell.pair in arms]
        waiting, begun = [cell.pair for cell in cells], list[Pair]()
        if claim.plan.time_limit_s is not None and not self.budget.known(waiting):
            cells.sort(key=lambda cell: rank(cell.pair))
        for cell in cells:
            if not self.budget.admits(cell.pair, waiting, begun, claim.left_s):
                self._leave_out(cell, arms[cell.pair])
            elif self._run_cell(cell, arms[cell.pair]):
                begun.append(cell.pair)
            waiting.remove(cell.pair)
        return begun

    def _further_processes(self, backend: str, replicate: int, arms: Arms, begun: list[Pair]) -> list[Pair]:
        """One more process, in random order, of those that have begun and fit; returns these."""
        plan = self.claim.plan
        due = [pair for pair in begun if replicate < plan.processes_of(pair[0])]
        kept = self.budget.affordable(due, self.claim.left_s, replicate)
        for cell in plan.cells(backend, replicate):
            if cell.pair in kept and self.claim.left_s > 0:
                self._run_cell(cell, arms[cell.pair])
            elif cell.pair in due:
                self._leave_out(cell, arms[cell.pair])
        return kept

    def _run_cell(self, cell: ExperimentCell, arms: Sequence[Arm]) -> bool:
        """Measure a cell and learn what it costs. Whether any arm has a time."""
        claim, known = self.claim, len(self.claim.observations)
        refused = self.refused.get(cell.backend, {}).get(cell.experiment, {})
        if cell.experiment == CLOCKS and device_class(cell.backend) == "cpu":
            refused = {arm.name: BLIND for arm in arms}  # no system tells the clock of its memory
        claim.clock.start()
        measured = run_cell(claim, self.ceilings, cell, arms, refused)
        if measured:
            self.budget.costs_s[cell.pair] = claim.clock.cost_s
        if any(one.status == SKIPPED for one in claim.observations[known:]):
            self.cut_short[cell.pair] = None
        return measured

    def _leave_out(self, cell: ExperimentCell, arms: Sequence[Arm]) -> None:
        """Observations that say that no time was left for a process."""
        self.left_out.setdefault(cell.pair, cell.replicate)
        self.claim.keep_unmeasured(cell, hopeful(self.claim, cell, arms), OUT_OF_TIME)

    def _note_what_is_missing(self) -> None:
        """One line that names all for which there was no time."""
        never = [pair for pair, replicate in self.left_out.items() if not replicate]
        short = [pair for pair, replicate in self.left_out.items() if replicate]
        cut = [pair for pair in self.cut_short if pair not in self.left_out]
        parts = (("not begun", never), ("fewer processes than planned", short), ("cut short", cut))
        missing = "; ".join(f"{what}: experiment {named_pairs(pairs)}" for what, pairs in parts if pairs)
        if missing:
            limit_s = self.claim.plan.time_limit_s
            self.claim.progress.note(
                f"time limit of {limit_s:.0f} s: {missing}; --rigor high measures them all"
            )
