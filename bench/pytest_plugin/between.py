"""What happens between two rounds of a benchmark: the ceiling takes its turn, threads come to rest, the callable warms up.

>>> between = Between(rotation, ceilings, began=time.perf_counter())
>>> benchmark.pedantic(rotation.launch, rounds=15, iterations=4, warmup_rounds=1, teardown=between)
>>> between.turns(benchmark.stats.stats.data, launches=4)[0].before
{'read': 4.9e10}

pytest-benchmark calls it after each round, the warm-up round too, and that is before the next one.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field

from membound.bench.measure.ceiling_process import CeilingProcess, Moment
from membound.bench.measure.rounds import between
from membound.bench.measure.turns import PAUSE_S, WARM_S, Watch
from membound.bench.pytest_plugin.rotation import Rotation
from membound.results.turns import StoredTurn


@dataclass(slots=True)
class Between:
    """Neighbours and disturbances of the rounds of one benchmark. `began` is by `time.perf_counter`."""

    rotation: Rotation
    ceilings: CeilingProcess | None
    began: float
    moments: list[Moment] = field(default_factory=list)
    watches: list[Watch] = field(default_factory=list)
    seen: list[tuple[float, float | None]] = field(default_factory=list)
    """When each round ended, and its disturbance a second of that round."""
    started: float = 0.0

    def __call__(self) -> None:
        """A round has ended, and the next one is about to begin."""
        ended = time.perf_counter()
        if self.watches:
            self.seen.append((ended, self.watches[-1].disturbance(ended - self.started)))
        self.moments.append(self.ceilings.take_turn() if self.ceilings is not None else Moment(ended))
        time.sleep(PAUSE_S)
        self.warm_up(WARM_S)
        self.watches.append(Watch())
        self.started = time.perf_counter()

    def warm_up(self, seconds: float) -> list[float]:
        """Launch on the next sets again and again, once at least; seconds of each launch."""
        taken: list[float] = []
        end = time.perf_counter() + seconds
        while not taken or time.perf_counter() < end:
            begun = time.perf_counter()
            self.rotation.launch()
            taken.append(time.perf_counter() - begun)
        return taken

    def turns(self, times_s: Sequence[float], launches: int) -> list[StoredTurn]:
        """The rounds as turns; `times_s` are seconds a launch."""
        found = []
        for number, time_s in enumerate(times_s):
            before, after, (ended, disturbance) = (
                self.moments[number],
                self.moments[number + 1],
                self.seen[number],
            )
            at = ended - time_s * launches / 2
            found.append(
                StoredTurn(
                    round=number,
                    at_s=max(0.0, at - self.began),
                    time_s=time_s,
                    launches=launches,
                    between=between(at, before, after),
                    before=before.rates,
                    after=after.rates,
                    disturbance=disturbance,
                )
            )
        return found
