"""Runs at which a case changed: where the times before and after differ by more than order alone would make them.

>>> change_points([1.0, 1.01, 0.99, 1.0, 1.3, 1.31, 1.29, 1.3])
[Change(at=4, ratio=1.3, p=0.0286)]

The run is the sampling unit: runs of a shared machine differ far more than the processes of one run, so an interval over
processes would find changes everywhere. The series is split where the means of the logarithms on both sides differ most for
their spread; how often a random order of the same values can be split as well (a permutation test, as Matteson and James,
A nonparametric approach for multiple change point analysis, 2014, do) is p. Each side is then split again.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]

FEWEST_RUNS = 8
"""Of fewer, every order is likely: four and four of seven or less cannot come below SIGNIFICANT."""
SHORTEST = 2
"""Runs on a side. One alone is an outlier."""
SIGNIFICANT = 0.05
LEAST_EFFECT = 0.05
"""Smaller changes are called the same elsewhere too (`wording.SAME`)."""
ORDERS = 2000
MOST_EXACT = 1 / ORDERS
"""So many orders tell no smaller p."""


@dataclass(frozen=True, slots=True)
class Change:
    """From run `at` (counted from 0) on the values are `ratio` times those before."""

    at: int
    ratio: float
    p: float


def change_points(values: Sequence[float], significant: float = SIGNIFICANT) -> list[Change]:
    """The changes in a series of positive values, in order; none with fewer than FEWEST_RUNS.

    significant: the largest p of a change, MOST_EXACT at least; smaller where many series are looked at.
    """
    if len(values) < FEWEST_RUNS:
        return []
    logs = np.log(np.asarray(values, np.float64))
    return sorted(_split(logs, 0, max(significant, MOST_EXACT)), key=lambda change: change.at)


def _split(series: Floats, offset: int, significant: float) -> list[Change]:
    if len(series) < FEWEST_RUNS:
        return []
    at = int(_gains(series[None])[0].argmax()) + SHORTEST
    ratio = float(np.exp(np.median(series[at:]) - np.median(series[:at])))
    p = _chance(series)
    if p > significant or max(ratio, 1 / ratio) < 1 + LEAST_EFFECT:
        return []
    change = Change(offset + at, ratio, p)
    rest = (*_split(series[:at], offset, significant), *_split(series[at:], offset + at, significant))
    return [change, *rest]


def _gains(series: Floats) -> Floats:
    """[order, split]: by how much each split lessens the sum of squares."""
    count = series.shape[1]
    sizes = np.arange(SHORTEST, count - SHORTEST + 1)
    sums = np.cumsum(series, axis=1)
    left = sums[:, sizes - 1]
    total = sums[:, -1:]
    gains: Floats = (left - total * sizes / count) ** 2 / (sizes * (count - sizes) / count)
    return gains


def _chance(series: Floats) -> float:
    """The share of random orders that can be split at least as well; its own order is one of them."""
    orders = np.random.default_rng(1).permuted(np.tile(series, (ORDERS, 1)), axis=1)
    seen = _gains(series[None]).max()
    better = int((_gains(orders).max(axis=1) >= seen * (1 - 1e-12)).sum())
    return (better + 1) / (ORDERS + 1)
