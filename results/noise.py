"""What a machine's noise alone does to pairs, learnt from stored runs of a commit against itself, case by case.

>>> from membound.results.store import load_rows
>>> learnt(load_rows("results/noise"), machine)[case]
Noise(spread=0.011, likely=0.015, mean=0.001, pairs=12, runs=1)

The gate asks for an effect that is at least as large as the spread, and says which slowdown it can find at all.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from membound.results.paired_test import detectable, likely_spread, spread_of, trimmed
from membound.results.pairs import Case, both_sides, side_of
from membound.results.row import Row

FEWEST = 6
"""Pairs from which a spread is learnt."""
MACHINE = ("cpu", "cpu_model", "cpus", "cores", "last_level_cache_bytes")
"""What must be alike for noise of one machine to be that of another, as far as it is known."""


@dataclass(frozen=True, slots=True)
class Noise:
    """Of one case: the spread of its pairs, what that stays below in all likelihood, their mean; logarithms of ratios."""

    spread: float
    likely: float
    mean: float
    pairs: int
    runs: int

    def effect(self, least: float) -> float:
        """The effect that a gate tests against: `least`, or the spread where that is larger."""
        return max(least, self.spread)

    def detectable(self, pairs: int, cases: int, least: float) -> float:
        """The smallest slowdown that a gate of that many pairs and cases finds."""
        return detectable(self.likely, pairs, cases, self.effect(least))


def noise_of(log_ratios: tuple[float, ...], runs: int = 1) -> Noise:
    """Of pairs of a commit against itself."""
    mean = trimmed(log_ratios).mean
    return Noise(spread_of(log_ratios), likely_spread(log_ratios), mean, len(log_ratios), runs)


def learnt(rows: Iterable[Row], machine: Mapping[str, Any]) -> dict[Case, Noise]:
    """What stored runs of this machine say, all pairs of a case together; cases with fewer than FEWEST have none."""
    alike = [row for row in rows if same_machine(row.machine, machine) and side_of(row)[1]]
    if not alike:
        return {}
    found = {}
    for case, pairs in both_sides(alike).items():
        if len(pairs.log_ratios) >= FEWEST:
            runs = len({row.run_id for side in pairs.rows.values() for row in side})
            found[case] = noise_of(pairs.log_ratios, runs)
    return found


def same_machine(a: Mapping[str, Any], b: Mapping[str, Any]) -> bool:
    """Whether what is known of both is alike, the processor at least."""
    return bool(a.get("cpu")) and all(a.get(name) == b.get(name) for name in MACHINE)
