"""Where a gate's pairs come from: turns of two interpreters in one run, or two commands one after the other.

>>> source = Turns.of(["linear:n=4096,k=4096"], ["mine:cpu"], {"base": python, "head": other}, options, progress)
>>> path, rows = source.measure(None, pairs=12, stage=0)
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from random import Random
from typing import Protocol

from membound.backends import registry
from membound.bench.api import measure
from membound.bench.gate.alternate import OUT, SideCommand, alternate
from membound.bench.machine.fingerprint import available_memory_bytes, fingerprint
from membound.bench.measure.rounds import Pace
from membound.bench.planning.choice import choose_backends
from membound.bench.planning.plan import Cell, Options, Plan, make_plan
from membound.bench.run.progress import Reporter
from membound.bench.run.session import noticing_interrupts
from membound.results.pairs import SIDES, Case, labelled
from membound.results.row import Row
from membound.results.store import RunWriter, new_run_id, new_run_path

ROUNDS = 9
LONGEST_S = 3.0
LEAST_ROUNDS = 3
STAGE = 100_000
"""Replicates of different stages have numbers this far apart, from which the order of their turns is drawn."""


class Source(Protocol):
    """What measures pairs of fresh processes."""

    def measure(self, cases: Sequence[Case] | None, pairs: int, stage: int) -> tuple[Path, list[Row]]:
        """The row file and the rows of that many pairs of these cases, or of all. Raises MemboundError."""


def pace_of(rounds: int) -> Pace:
    """So many rounds; fewer of works that take longer than LONGEST_S."""
    return Pace(rounds, LONGEST_S, min(LEAST_ROUNDS, rounds))


@dataclass(frozen=True, slots=True)
class Turns:
    """Base and head as two contestants of each backend, in processes of their own interpreters."""

    plan: Plan
    works: Mapping[str, tuple[str, ...]]
    """Of each backend, without a label."""
    progress: Reporter

    @classmethod
    def of(
        cls,
        works: Sequence[str],
        backends: Sequence[str],
        pythons: Mapping[str, str],
        options: Options,
        progress: Reporter,
    ) -> Turns:
        """Check what was asked and find the backends, asking the head. Raises as `bench.api.prepare`."""
        new_run_path(options.out, "")
        memory = available_memory_bytes()
        make_plan(registry.names()[:1], works, options, memory)
        of_head = dict.fromkeys(registry.names(), pythons["head"])
        choice = choose_backends(backends, options.threads, of_head)
        plan = make_plan(choice.chosen, works, options, memory, choice.device_memory)
        chosen = {labelled(name, side): pythons[side] for name in choice.chosen for side in SIDES}
        found = {cell.backend: tuple(sorted(cell.works)) for cell in plan.cells}
        return cls(
            replace(plan, pythons=chosen, ceilings=False, time_limit_s=None, repeats=0), found, progress
        )

    def measure(self, cases: Sequence[Case] | None, pairs: int, stage: int) -> tuple[Path, list[Row]]:
        """A run of these cases, each backend's pair in replicates of its own."""
        works = self.works
        if cases is not None:
            of_cases = {name: {case.work for case in cases if case.backend == name} for name in works}
            works = {name: tuple(w for w in found if w in of_cases[name]) for name, found in works.items()}
        works = {name: found for name, found in works.items() if found}
        plan = self.plan
        cells, rng = [], Random(f"{plan.seed} {stage} pairs")
        for pair in range(pairs):
            for index, name in enumerate(rng.sample(sorted(works), len(works))):
                number = stage * STAGE + pair * len(works) + index
                sides = rng.sample(SIDES, len(SIDES))
                cells += [Cell(labelled(name, side), number, works[name]) for side in sides]
        count = pairs * len(works)
        run = replace(plan, cells=tuple(cells), replicates=count, max_replicates=count, notes=())
        with noticing_interrupts() as interrupts:
            found = measure(run, self.progress)
        if interrupts:  # what was measured is kept, and judges nothing
            raise KeyboardInterrupt
        return found


@dataclass(frozen=True, slots=True)
class Commands:
    """Two commands, each run afresh for each pair; what they measure is theirs to choose."""

    commands: Mapping[str, SideCommand]
    out: Path
    seed: int
    note: Callable[[str], None]

    def measure(self, cases: Sequence[Case] | None, pairs: int, stage: int) -> tuple[Path, list[Row]]:
        """All that the commands measure; of it the named cases."""
        path = new_run_path(self.out, new_run_id(str(fingerprint()["cpu"])))
        wanted = None if cases is None else {(case.backend, case.work, case.threads) for case in cases}
        rows = []
        with RunWriter(path) as writer:
            run_id = path.name.partition(".")[0]
            for row in alternate(self.commands, range(pairs), run_id, self.seed + stage, self.note):
                if wanted is None or (row.backend.rpartition("#")[0], row.work, row.threads) in wanted:
                    writer.append(row)
                    rows.append(row)
        return path, rows


def whole_runs(
    works: Sequence[str], backends: Sequence[str], threads: int, python: str, side: str
) -> SideCommand:
    """A commit's own harness, for one process of each case: where it does not speak as this one does."""
    words = [python, "-P", "-m", "membound", "run", *works, "--quick", "--replicates", "1"]
    words += ["--threads", str(threads), "--out", OUT]
    words += [word for name in backends for word in ("--backends", name)]
    return SideCommand(tuple(words), f"membound run of the {side}", accepted=(0, 1))
