"""Intervals over processes, few as they are: Student's t of the logarithms.

>>> interval([1.00e-3, 1.02e-3, 0.99e-3])
(0.00096..., 0.00104...)

Times and ratios are positive and their errors multiply, so logarithms are what is near normal. Resampling three
processes cannot give an interval that covers more than 75 % of the time; t with two degrees of freedom does. The other
cases of the run tell how far processes lie apart as well (`spreads.py`), which makes it a third narrower.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import exp, fsum, log, sqrt
from statistics import fmean, median

from scipy.special import stdtrit

from membound.results.spreads import Spread, variance_of

CONFIDENCE = 0.95
FEWEST = 3
"""Processes below which there is no interval: with two, t has one degree of freedom, and its quantile is 12.7."""

MOST_LOG = 690.0
"""The logarithm of 1e299: a file may hold values that no machine gives."""


def interval(values: Sequence[float], common: Spread | None = None) -> tuple[float, float] | None:
    """The central CONFIDENCE interval of the typical value; None with fewer than FEWEST, or if one is not positive.

    The median of the values lies in it, which is what is reported beside it. `common` is how far processes lie apart
    in the other cases of the same run.
    """
    if len(values) < FEWEST or min(values) <= 0:
        return None
    logs = [log(value) for value in values]
    variance, freedom = variance_of(logs), float(len(logs) - 1)
    if common is not None:
        variance, freedom = common.drawn(variance, freedom)
    half = _quantile(freedom) * sqrt(variance / len(logs))
    return _around(fmean(logs), half, float(median(values)))


def ratio_interval(numerators: Sequence[float], denominators: Sequence[float]) -> tuple[float, float] | None:
    """The same of a ratio whose two sides are independent (Welch, The generalization of Student's problem, 1947).

    The ratio of the medians lies in it. None with fewer than FEWEST values on a side.
    """
    return sums_ratio_interval([numerators], [denominators])


def sums_ratio_interval(
    numerators: Sequence[Sequence[float]], denominators: Sequence[Sequence[float]]
) -> tuple[float, float] | None:
    """The same of one sum of typical values over another, each known by several values of its own.

    Errors of a sum's logarithm are those of its terms by their parts of it (to first order), with Welch's and Satterthwaite's degrees
    of freedom over all terms. None with fewer than FEWEST values of a term.
    """
    if min(map(len, (*numerators, *denominators))) < FEWEST:
        return None
    middles, parts, counts = [], [], []
    for terms in (numerators, denominators):
        logs = [[log(value) for value in values] for values in terms]
        largest = max(map(fmean, logs))
        shares = [exp(fmean(some) - largest) for some in logs]
        middles.append(largest + log(fsum(shares)))
        for some, share in zip(logs, shares, strict=True):
            parts.append((share / fsum(shares)) ** 2 * variance_of(some) / len(some))
            counts.append(len(some))
    spread = sum(parts)
    weights = sum(part**2 / (count - 1) for part, count in zip(parts, counts, strict=True))
    freedom = spread**2 / weights if weights > 0 else sum(counts) - len(counts)
    half = _quantile(freedom) * sqrt(spread)
    medians = (fsum(map(median, terms)) for terms in (numerators, denominators))
    return _around(middles[0] - middles[1], half, next(medians) / next(medians))


def _around(middle: float, half: float, median: float) -> tuple[float, float]:
    """From logarithms; wide enough for the median, and finite however wild the values are."""
    low, high = (exp(min(MOST_LOG, max(-MOST_LOG, edge))) for edge in (middle - half, middle + half))
    return min(low, median), max(high, median)


def _quantile(freedom: float) -> float:
    return float(stdtrit(freedom, 0.5 + CONFIDENCE / 2))
