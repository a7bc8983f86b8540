"""Which experiments of a backend get all their processes in the minutes that are left.

>>> budget = TimeBudget(plan.processes_of)
>>> budget.costs_s[5, "mine:cpu"] = 12.0
>>> budget.affordable([(5, "other:cpu"), (1, "other:cpu")], left_s=30.0)
[]

A verdict needs all its processes, so that an experiment is begun only if there is time for the last of
them. What an experiment takes on a backend is known after its first process; before, other backends tell.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field
from statistics import fmean

Pair = tuple[int, str]
"""An experiment and a backend."""

PREFERENCE = (5, 1, 2, 3, 4, 6, 7, 10, 11, 12, 13, 8, 9)
"""Experiments in the order in which they get time: the control of the instrument, then those that change bytes
or FLOPs and are the claim itself, then its edges. 11 to 13 have the most kernels to compile, 8 takes the most processes; 9 reads
stored rows."""
RESERVE = 0.05
"""Share of the time left that is not promised to a new experiment: estimates scatter."""
ONCE = ("compiling", "checking")
"""Phases whose results later processes find on disk."""


@dataclass(slots=True)
class CellClock:
    """What a process of an experiment costs: its seconds, less those for what all later ones find done."""

    start_s: float = field(default_factory=lambda: time.perf_counter())
    once_s: float = 0.0
    _phase: str = ""
    _since_s: float = 0.0

    def start(self) -> None:
        """A process begins."""
        self.start_s, self.once_s, self._phase = time.perf_counter(), 0.0, ""

    def enter(self, phase: str) -> None:
        """A phase begins, and with it the one before ends; "" is none in particular."""
        at = time.perf_counter()
        self.once_s += at - self._since_s if self._phase.startswith(ONCE) else 0.0
        self._phase, self._since_s = phase, at

    @property
    def cost_s(self) -> float:
        """Seconds that a later process will take as well."""
        self.enter(self._phase)
        return time.perf_counter() - self.start_s - self.once_s


@dataclass(slots=True)
class TimeBudget:
    """What experiments cost, and which of them fit."""

    processes_of: Callable[[int], int]
    """Processes that a verdict on an experiment needs."""
    costs_s: dict[Pair, float] = field(default_factory=dict)
    """Seconds of the latest process of each pair that was measured, less what its successors find done."""

    def estimate_s(self, pair: Pair) -> float:
        """Seconds of a process: measured; or those of other backends, scaled by what both did; or the mean.

        0 for the first of all, about which nothing is known.
        """
        number, backend = pair
        if pair in self.costs_s:
            return self.costs_s[pair]
        own = {n: cost for (n, b), cost in self.costs_s.items() if b == backend}
        others = self._of_others(backend)
        if number in others:
            both = own.keys() & others.keys()
            scale = sum(own[n] for n in both) / sum(others[n] for n in both) if both else 1.0
            return others[number] * scale
        return fmean(own.values()) if own else 0.0

    def known(self, pairs: Collection[Pair]) -> bool:
        """Whether the experiment of each of these pairs was measured, here or on another backend."""
        return {number for number, _ in pairs} <= {number for number, _ in self.costs_s}

    def affordable(self, pairs: Collection[Pair], left_s: float, done: int = 0) -> list[Pair]:
        """The pairs, preferred ones first, whose processes after `done` of each all fit into the time left."""
        kept, need_s = [], 0.0
        for pair in sorted(pairs, key=rank):
            cost_s = self.estimate_s(pair) * max(0, self.processes_of(pair[0]) - done)
            if need_s + cost_s <= left_s:
                kept.append(pair)
                need_s += cost_s
        return kept

    def admits(self, pair: Pair, waiting: Sequence[Pair], begun: Sequence[Pair], left_s: float) -> bool:
        """Whether a pair among those that `wait` for their first process may begin.

        The processes to come of those that have begun, and of waiting pairs that are preferred, come first.
        """
        promised_s = sum(self.estimate_s(p) * (self.processes_of(p[0]) - 1) for p in begun)
        return pair in self.affordable(waiting, (1 - RESERVE) * left_s - promised_s)

    def _of_others(self, backend: str) -> dict[int, float]:
        """Mean seconds of a process of each experiment on other backends."""
        seen: dict[int, list[float]] = {}
        for (number, name), cost in self.costs_s.items():
            if name != backend:
                seen.setdefault(number, []).append(cost)
        return {number: fmean(costs) for number, costs in seen.items()}


def rank(pair: Pair) -> int:
    """The place of a pair's experiment in PREFERENCE."""
    return PREFERENCE.index(pair[0])


def named_pairs(pairs: Collection[Pair]) -> str:
    """Pairs for a note: ``3, 6 on mine:cpu; 1 on other:cpu``."""
    return "; ".join(_named(pairs))


def _named(pairs: Collection[Pair]) -> Iterator[str]:
    for backend in dict.fromkeys(backend for _, backend in pairs):
        yield f"{', '.join(str(n) for n, b in sorted(pairs) if b == backend)} on {backend}"
