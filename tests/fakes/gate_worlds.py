"""Pairs of a base and a head as a machine of known noise would give them.

>>> world = World(random.Random(1), spread=0.02)
>>> first = world.pairs({"a": 0.0, "b": 0.10})
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass
from math import log1p

from rows import case

from membound.results.pairs import BASE, HEAD, Case, Pairs

OUTLIERS = 0.05
OUTLIER_MEAN = 0.15
ROWS = {BASE: [case("alpha:cpu#base")], HEAD: [case("alpha:cpu#head")]}
"""A row a side, which says that nothing failed."""


def named(name: str) -> Case:
    return Case("alpha:cpu", f"linear:{name}", 2)


def paired(name: str, log_ratios: tuple[float, ...], **rows: object) -> Pairs:
    return Pairs(named(name), log_ratios, rows={side: list(of) for side, of in ROWS.items()} | rows)


@dataclass
class World:
    """Pairs are normal with that spread; one in twenty is off by more, to either side."""

    rng: random.Random
    spread: float
    count: int = 12

    def values(self, slowdown: float = 0.0) -> tuple[float, ...]:
        return tuple(log1p(slowdown) + self._noise() for _ in range(self.count))

    def _noise(self) -> float:
        found = self.rng.gauss(0.0, self.spread)
        if self.rng.random() < OUTLIERS:
            found += self.rng.choice((-1, 1)) * self.rng.expovariate(1 / OUTLIER_MEAN)
        return found

    def pairs(self, slowdowns: Mapping[str, float]) -> dict[Case, Pairs]:
        return {named(name): paired(name, self.values(by)) for name, by in slowdowns.items()}
