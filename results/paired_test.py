"""Is the head slower than the base by more than a stated effect: a one-sided trimmed t over pairs of fresh processes.

>>> p_slower([0.081, 0.077, 0.084, 0.079, 0.090, 0.076], effect=0.03) < 0.01
True
>>> round(detectable(spread=0.02, pairs=12, cases=1, effect=0.03), 3)
0.054

A pair is log(time of head / time of base) of one process each, which took turns. The fifth of the pairs at either end is
trimmed, since one process in twenty is slow for reasons of its own (K. K. Yuen, The two-sample trimmed t for unequal
population variances, Biometrika 61, 1974; for one sample: J. W. Tukey and D. H. McLaughlin, Sankhya A 25, 1963).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import exp, inf, log1p, sqrt

import numpy as np
from scipy.special import chdtri, nctdtr, stdtr, stdtrit

TRIM = 0.2
"""Share of the pairs that is trimmed at either end."""
ALPHA = 0.05
"""Chance, over all cases, of suspecting one that is slower by just the effect (S. Holm, Scand. J. Statist. 6, 1979)."""
CONFIRM_ALPHA = 0.05
"""The same of the fresh pairs that confirm a suspicion."""
POWER = 0.95
"""A slowdown is called detectable if the gate finds it this often."""
SPREAD_DOUBT = 0.2
"""A spread is known from few pairs: that it is larger than what is reckoned with has this chance."""
SMALLEST_ERROR = 1e-12
"""Pairs that are all alike have an error by rounding alone."""
MOST_LOG = 5.0
"""No slowdown is looked for beyond this logarithm: a factor of 148."""


@dataclass(frozen=True, slots=True)
class Trimmed:
    """A trimmed mean, its standard error and the degrees of freedom of its t."""

    mean: float
    error: float
    freedom: int

    def bound(self, chance: float) -> float:
        """What the mean stays below with that chance."""
        return self.mean + float(stdtrit(self.freedom, chance)) * self.error


def trimmed(values: Sequence[float]) -> Trimmed:
    """The trimmed mean of at least three values, with its error from their winsorized deviation."""
    ordered = np.sort(np.asarray(values, np.float64))
    count = len(ordered)
    cut = int(TRIM * count)
    kept = ordered[cut : count - cut]
    winsorized = np.clip(ordered, kept[0], kept[-1])
    error = float(winsorized.std(ddof=1)) / ((1 - 2 * cut / count) * sqrt(count))
    return Trimmed(float(kept.mean()), error, len(kept) - 1)


def spread_of(values: Sequence[float]) -> float:
    """How far pairs lie apart: the error of their trimmed mean times the root of their number."""
    return trimmed(values).error * sqrt(len(values))


def likely_spread(values: Sequence[float]) -> float:
    """A spread that the true one stays below, but for a chance of SPREAD_DOUBT."""
    freedom = trimmed(values).freedom
    return spread_of(values) * sqrt(freedom / float(chdtri(freedom, 1 - SPREAD_DOUBT)))


def p_slower(log_ratios: Sequence[float], effect: float) -> float:
    """Chance of pairs like these, or slower ones, if the head is slower by just `effect` (0.03: 3 %)."""
    found = trimmed(log_ratios)
    distance = found.mean - log1p(effect)
    if found.error < SMALLEST_ERROR:
        return 0.0 if distance > 0 else 1.0
    return float(stdtr(found.freedom, -distance / found.error))


def holm(chances: Sequence[float], alpha: float = ALPHA) -> list[bool]:
    """Which of several hypotheses fall, with at most `alpha` chance that a true one does."""
    fallen = [False] * len(chances)
    for done, index in enumerate(sorted(range(len(chances)), key=chances.__getitem__)):
        if chances[index] > alpha / (len(chances) - done):
            break
        fallen[index] = True
    return fallen


def detectable(spread: float, pairs: int, cases: int, effect: float, power: float = POWER) -> float:
    """The smallest slowdown (0.06: 6 %) that both stages of the gate find with a chance of `power`.

    `spread` as in `spread_of`; each stage has that many `pairs`, and the first tests as many `cases`.
    """
    if spread == 0.0:
        return effect
    freedom = pairs - 2 * int(TRIM * pairs) - 1
    error = spread / sqrt(pairs)
    first, second = (float(stdtrit(freedom, 1 - a)) for a in (ALPHA / cases, CONFIRM_ALPHA))
    low, high = 0.0, MOST_LOG / error
    while high - low > 1e-3:
        middle = (low + high) / 2
        if (1 - nctdtr(freedom, middle, first)) * (1 - nctdtr(freedom, middle, second)) < power:
            low = middle
        else:
            high = middle
    found = log1p(effect) + high * error
    return exp(found) - 1 if found < MOST_LOG else inf
