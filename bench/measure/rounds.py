"""Rounds of turns: each contestant once in a round, in random order, the ceilings between any two.

>>> play(contestants, ceilings, Pace(rounds=9, seconds=3.0), Random(1), began, lambda one, turn: None)
>>> contestants[0].turns[0].before, contestants[0].turns[0].time_s
({'read': 4.9e10}, 0.00123)

Only one process works at a time. A contestant that fails leaves the game; the others play on.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import inf
from random import Random

from membound.bench.measure.ceiling_process import CeilingProcess, Moment
from membound.bench.measure.contestant import Contestant
from membound.bench.protocol.messages import Turned
from membound.results.roofline import device_class
from membound.results.turns import StoredTurn

OnTurn = Callable[[Contestant, StoredTurn], None]
NONE = Moment(0.0)


@dataclass(frozen=True, slots=True)
class Pace:
    """How long a game lasts: `rounds`, or the first round after `seconds`, but `least` rounds in any case.

    After `limit_s` the round at hand is the last, however few there were.
    """

    rounds: int
    seconds: float
    least: int = 3
    limit_s: float = inf


def play(
    contestants: Sequence[Contestant],
    ceilings: Mapping[str, CeilingProcess],
    pace: Pace,
    rng: Random,
    began: float,
    on_turn: OnTurn,
    first_round: int = 0,
    process: int = 0,
) -> int:
    """Take turns until the pace says enough or nobody is left; the number of rounds that were begun.

    `ceilings` by device class (``cpu``, ``cuda:0``); a contestant without one has turns without neighbours. `began`
    is the run's start by `time.perf_counter`.
    """
    latest: dict[str, Moment] = {}
    start, before_kind = time.perf_counter(), ""
    for done in range(pace.rounds):
        alive, spent_s = [one for one in contestants if one.failure is None], time.perf_counter() - start
        if not alive or (done >= pace.least and spent_s > pace.seconds) or (done and spent_s > pace.limit_s):
            return done
        for one in rng.sample(alive, len(alive)):
            kind = device_class(one.backend)
            own = ceilings.get(kind)
            if own is not None and (kind not in latest or kind != before_kind):
                latest[kind] = own.take_turn()
            turned = one.take_turn()
            at = time.perf_counter()
            before, after = latest.get(kind, NONE), own.take_turn() if own is not None else NONE
            latest[kind], before_kind = after, kind
            if turned is not None:
                at -= turned.time_s * turned.launches / 2
                turn = stored(turned, first_round + done, at, began, before, after, process)
                one.turns.append(turn)
                one.stolen.append(turned.stolen)
                on_turn(one, turn)
    return pace.rounds


def stored(
    turned: Turned, number: int, at: float, began: float, before: Moment, after: Moment, process: int = 0
) -> StoredTurn:
    """A turn with its neighbours; `at` is the middle of its burst by `time.perf_counter`."""
    return StoredTurn(
        round=number,
        at_s=max(0.0, at - began),
        time_s=turned.time_s,
        launches=turned.launches,
        between=between(at, before, after),
        before=before.rates,
        after=after.rates,
        device_s=turned.device_s,
        disturbance=turned.disturbance,
        retaken_s=turned.retaken_s,
        process=process,
    )


def between(at: float, before: Moment, after: Moment) -> float:
    """Where a moment stands between two ceilings, from 0 to 1; in the middle where they are one moment."""
    span = after.at - before.at
    return min(1.0, max(0.0, (at - before.at) / span)) if span > 0 else 0.5
