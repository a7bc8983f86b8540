"""One process of an experiment on a backend: all its groups of arms, in fresh workers where one dies.

>>> run_cell(claim, ceilings, cell, arms, refused={"attention_f32": "no such cache"})
True
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from random import Random

from membound.bench.claim.arms import Arm, grouped
from membound.bench.claim.ceilings import TurningCeilings
from membound.bench.claim.claiming import FAILING, Claiming, failure_in
from membound.bench.claim.group import play_group
from membound.bench.claim.plan import ExperimentCell
from membound.bench.measure.failures import Failure
from membound.bench.run.execute import FINAL_STATUSES


def run_cell(
    claim: Claiming,
    ceilings: TurningCeilings,
    cell: ExperimentCell,
    arms: Sequence[Arm],
    refused: Mapping[str, str],
) -> bool:
    """All arms of a cell that have hope; one that kills its worker is left out of the next. Whether any has a time.

    `refused` says why the backend cannot do arms, by their names: where it refuses all, no worker is started.
    """
    left = hopeful(claim, cell, arms)
    if {arm.name for arm in left} <= refused.keys():  # a runtime starts in seconds, to say the same
        for arm in left:
            claim.keep_unmeasured(cell, [arm], Failure("unsupported", refused[arm.name]))
        return False
    known = len(claim.observations)
    while left:
        left = _run_worker(claim, ceilings, cell, left)
    return any(one.status == "ok" for one in claim.observations[known:])


def hopeful(claim: Claiming, cell: ExperimentCell, arms: Sequence[Arm]) -> list[Arm]:
    """Those of a cell's arms that are not known to fail."""
    hopeless = {
        (one.experiment, one.backend, one.arm, one.work)
        for one in claim.observations
        if one.status in FINAL_STATUSES
    }
    return [arm for arm in arms if (*cell.pair, arm.name, arm.work) not in hopeless]


def _run_worker(
    claim: Claiming, ceilings: TurningCeilings, cell: ExperimentCell, arms: list[Arm]
) -> list[Arm]:
    """One worker, group after group; the arms that its death left unmeasured and that are not to blame."""
    plan = claim.plan
    rng = Random(f"{plan.seed} {cell.replicate} {cell.backend} {cell.experiment}")
    process = claim.process(cell.backend, plan.threads_of(cell.experiment, cell.backend))
    groups = list(grouped(arms).values())
    with ExitStack() as stack:
        try:
            stack.enter_context(process)
            process.open()
        except FAILING as error:
            claim.keep_unmeasured(cell, arms, failure_in(error))
            return []
        for index, group in enumerate(groups):
            left = play_group(claim, ceilings, cell, process, group, rng)
            if not process.alive:
                return [*left, *(arm for later in groups[index + 1 :] for arm in later)]
    return []
