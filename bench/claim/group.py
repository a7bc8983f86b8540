"""A group of arms on its way through a process: prepared together, taking turns, checked again, released.

>>> left = play_group(claim, ceilings, cell, process, arms, rng)       # observations are kept as they come
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from random import Random

from membound.bench.claim.arms import Arm, by_contestant
from membound.bench.claim.ceilings import TurningCeilings
from membound.bench.claim.claiming import FAILING, OUT_OF_TIME, Claiming, failure_in
from membound.bench.claim.observe import observed, unobserved
from membound.bench.claim.plan import LEAST_ROUNDS, ExperimentCell
from membound.bench.measure.contestant import ENDED, BackendProcess, Contestant
from membound.bench.measure.rounds import Pace, play
from membound.results.turns import StoredTurn


def play_group(
    claim: Claiming,
    ceilings: TurningCeilings,
    cell: ExperimentCell,
    process: BackendProcess,
    arms: Sequence[Arm],
    rng: Random,
) -> list[Arm]:
    """Measure arms that are compared with each other; those that are left where the process died of another one.

    Where time runs out while they are prepared, none of them is timed; while they are timed, the round at hand is
    the last.
    """
    group = _Group(claim, cell, process)
    shared = list(by_contestant(arms).values())
    group.prepare(shared)
    if group.entered and claim.left_s <= 0:
        claim.keep_unmeasured(cell, [arm for arm, _ in group.entered], OUT_OF_TIME)
    elif group.entered:
        group.play(ceilings, rng)
        group.check()
    for number in range(len(shared)):
        process.release(number)
    return group.left


@dataclass(slots=True)
class _Group:
    claim: Claiming
    cell: ExperimentCell
    process: BackendProcess
    entered: list[tuple[Arm, Contestant]] = field(default_factory=list)
    """Arms that take turns; those on the same prepared work are contestants with the same number."""
    left: list[Arm] = field(default_factory=list)

    def prepare(self, shared: Sequence[Sequence[Arm]]) -> None:
        """One work after the other. One that kills the process leaves all others."""
        claim, cell = self.claim, self.cell
        for number, members in enumerate(shared):
            if claim.left_s <= 0:
                claim.keep_unmeasured(cell, members, OUT_OF_TIME)
                continue
            claim.progress.cell(cell.backend, members[0].work, cell.replicate, "preparing")
            try:
                one = self.process.prepare(number, members[0].work, [arm.as_json() for arm in members])
            except FAILING as error:
                claim.keep_unmeasured(cell, members, failure_in(error))
                if not self.process.alive:
                    self.left = [arm for arm, _ in self.entered]
                    self.left += [arm for later in shared[number + 1 :] for arm in later]
                    self.entered = []
                    return
            else:
                self.entered += [
                    (arm, replace(one, arm=index, turns=[], stolen=[])) for index, arm in enumerate(members)
                ]
            finally:
                claim.clock.enter("")

    def play(self, ceilings: TurningCeilings, rng: Random) -> None:
        """Rounds of turns, the ceilings between them."""
        claim, cell = self.claim, self.cell
        between = ceilings.between(cell, [arm for arm, _ in self.entered])
        left_s = claim.left_s
        pace = Pace(claim.plan.rounds, min(claim.plan.group_s, left_s), LEAST_ROUNDS, left_s)

        def on_turn(one: Contestant, turn: StoredTurn) -> None:
            claim.progress.turn(cell.backend, one.work, cell.replicate, turn)

        claim.progress.cell(cell.backend, self.entered[0][0].work, cell.replicate, "timing")
        play([one for _, one in self.entered], between, pace, rng, claim.started_s, on_turn)
        ceilings.keep_failures()

    def check(self) -> None:
        """Keep what became of each arm; those that are not to blame for the death of their process are left."""
        for arm, one in self.entered:
            about = self.claim.about(self.cell, arm)
            checked = one.check() if one.turns else None
            self.claim.clock.enter("")
            if checked is not None:
                self.claim.keep(observed(self.cell, arm, one, checked, about))
                continue
            if one.failure is None:  # a contestant without a turn has failed in its first one
                raise AssertionError("neither a turn nor a failure")
            if one.failure.reason == ENDED:
                self.left.append(arm)
            else:
                self.claim.keep(unobserved(self.cell, arm, one.failure, about, one.turns))
