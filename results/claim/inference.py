"""Statistics of the experiments: estimates with intervals over processes, and tests of equality.

>>> slope = elasticity(ln_bytes, ln_time)               # d ln t / d ln bytes, ln_time is [process, dose]
>>> slope.value, slope.low, slope.high
(0.98, 0.96, 1.01)

The process is the sampling unit. Intervals are percentile bootstraps that resample processes; with n of
them a percentile interval is too narrow, so its half-widths are stretched by √(n / (n - 1)) · t / z, the
factor by which Student's interval of a mean exceeds it (Hesterberg, "What Teachers Should Know About the
Bootstrap", The American Statistician 69, 2015, section 5.3, where quantiles are moved to the same end).
Missing cells are NaN. Whatever shifts a process as a whole cancels out, since doses are compared within a process.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.special import ndtri, stdtr, stdtrit

from membound.results.intervals import CONFIDENCE

Floats = npt.NDArray[np.float64]
Indices = npt.NDArray[np.int64]

RESAMPLES = 1000
BOOTSTRAP_SEED = 20_250_101
"""Fixed, so that the same observations always give the same interval."""
SIGNIFICANCE = 0.05
"""The level of tests: one-sided at this level for equivalence (as in TOST), at half of it for a rise."""


@dataclass(frozen=True, slots=True)
class Estimate:
    """A figure with its 95 % interval; low and high are NaN if there is only one process."""

    value: float
    low: float
    high: float

    def above(self, threshold: float) -> bool:
        """Whether the whole interval is above."""
        return self.low > threshold

    def below(self, threshold: float) -> bool:
        """Whether the whole interval is below."""
        return self.high < threshold

    def map(self, function: Callable[[float], float]) -> Estimate:
        """The estimate of a monotone function of the figure."""
        ends = sorted((function(self.low), function(self.high)))
        return Estimate(function(self.value), ends[0], ends[1])


@dataclass(frozen=True, slots=True)
class Plateau:
    """How constant times are over several doses, as ratios to the first dose."""

    largest: Estimate
    """The largest mean ratio, with the interval of its dose (95 % for all doses together)."""
    p_equal: float
    """TOST over all doses: the chance of such data if some dose were off by the margin or more."""
    p_above: float
    """The chance of such data if no dose were above the margin, corrected for the number of doses."""


def stretch(processes: int) -> float:
    """√(n / (n - 1)) · t / z: the factor by which a percentile interval over n processes is too narrow."""
    tail = (1 + CONFIDENCE) / 2
    return float(np.sqrt(processes / (processes - 1)) * stdtrit(processes - 1, tail) / ndtri(tail))


def bootstrap(
    statistic: Callable[[Indices], Floats],
    processes: int,
    resamples: int = RESAMPLES,
    seed: int = BOOTSTRAP_SEED,
) -> Estimate:
    """The estimate of a statistic that takes indices [resample, process] and returns a figure for each resample.

    There is no interval if more resamples lack a figure (NaN) than the interval leaves out on one side, nor with
    a single process. Raises ValueError without any process.
    """
    if processes < 1:
        raise ValueError("no process to estimate from")
    value = float(statistic(np.arange(processes)[None, :])[0])
    if processes == 1:
        return Estimate(value, np.nan, np.nan)
    draws = np.random.default_rng(seed).integers(0, processes, (resamples, processes))
    drawn = statistic(draws)
    tail = (1 - CONFIDENCE) / 2
    if np.isnan(value) or np.isnan(drawn).mean() > tail:
        return Estimate(value, np.nan, np.nan)
    drawn = drawn[~np.isnan(drawn)]
    low, high = np.quantile(drawn, (tail, 1 - tail), method="inverted_cdf")
    if not np.isfinite([value, low, high]).all():
        return Estimate(value, float(low), float(high))
    wider = stretch(processes)
    return Estimate(
        value, value - wider * max(0.0, value - float(low)), value + wider * max(0.0, float(high) - value)
    )


def mean(values: Floats) -> Estimate:
    """The mean over processes [process]; NaN are left out."""
    values = values[~np.isnan(values)]
    return bootstrap(lambda draws: values[draws].mean(axis=1), len(values))


def elasticity(ln_dose: Floats, ln_time: Floats) -> Estimate:
    """d ln t / d ln dose: least squares over doses within processes, ln_dose [dose], ln_time [process, dose].

    Each process has its own level, so a slow process shifts nothing. Intervals resample processes.
    """
    x = np.where(np.isnan(ln_time), np.nan, ln_dose[None, :])
    x = np.nan_to_num(x - _row_mean(x))
    y = np.nan_to_num(ln_time - _row_mean(ln_time))
    xy, xx = (x * y).sum(axis=1), (x * x).sum(axis=1)

    def slope(draws: Indices) -> Floats:
        return _quotient(xy[draws].sum(axis=1), xx[draws].sum(axis=1))

    return bootstrap(slope, len(ln_time))


def ratio_of_means(numerator: Floats, denominator: Floats) -> Estimate:
    """mean(numerator) / mean(denominator) of paired figures [process], which may be zero or negative.

    NaN where the denominator is not above 0.
    """

    def quotient(draws: Indices) -> Floats:
        return _quotient(numerator[draws].mean(axis=1), denominator[draws].mean(axis=1))

    return bootstrap(quotient, len(numerator))


def difference(first: Floats, second: Floats) -> Estimate:
    """mean(first) - mean(second) of figures from unpaired processes, resampled separately."""
    rng = np.random.default_rng(BOOTSTRAP_SEED)
    fewest = min(len(first), len(second))
    value = float(first.mean() - second.mean())
    if fewest < 2:
        return Estimate(value, np.nan, np.nan)
    drawn = [
        values[rng.integers(0, len(values), (RESAMPLES, len(values)))].mean(axis=1) - values.mean()
        for values in (first, second)
    ]
    tail = (1 - CONFIDENCE) / 2
    low, high = np.quantile(drawn[0] - drawn[1], (tail, 1 - tail)) * stretch(fewest)
    return Estimate(value, value + float(low), value + float(high))


def plateau(ln_ratio: Floats, margin: float) -> Plateau:
    """How close times are to those of the first dose: ln_ratio [process, dose], margin as a share such as 0.05.

    Student's tests of the mean of each dose with a variance pooled over doses. All ratios of a process
    share the time of its first dose, so the variances are correlated (squared: 1/4), and D doses of n
    processes have D·(n - 1) / (1 + (D - 1) / 4) degrees of freedom (Satterthwaite). Equivalence must hold at
    every dose, which needs no correction (Berger's intersection-union test); a rise at any dose refutes,
    which needs Bonferroni's.
    """
    processes, doses = ln_ratio.shape
    if processes < 2:
        raise ValueError("a plateau needs two processes at least")
    means = ln_ratio.mean(axis=0)
    variance = float(ln_ratio.var(axis=0, ddof=1).mean())
    freedom = doses * (processes - 1) / (1 + (doses - 1) / 4)
    error = max(float(np.sqrt(variance / processes)), 1e-12)
    low_p = stdtr(freedom, (np.log1p(-margin) - means) / error)
    high_p = stdtr(freedom, (means - np.log1p(margin)) / error)
    above_p = stdtr(freedom, (np.log1p(margin) - means) / error)
    half = float(stdtrit(freedom, 1 - (1 - CONFIDENCE) / 2 / doses)) * error
    top = float(means.max())
    return Plateau(
        Estimate(float(np.exp(top)), float(np.exp(top - half)), float(np.exp(top + half))),
        float(np.maximum(low_p, high_p).max()),
        min(1.0, float(above_p.min()) * doses),
    )


def equivalent(estimate: Estimate, margin: float) -> bool:
    """Whether a figure is 0 within ±margin. The 95 % interval must lie inside, which is stricter than TOST's 90 %."""
    return estimate.low > -margin and estimate.high < margin


def _row_mean(values: Floats) -> Floats:
    """Means of rows over their cells that are not NaN, [process, 1]; NaN for rows without any."""
    count = (~np.isnan(values)).sum(axis=1, keepdims=True).astype(np.float64)
    return _quotient(np.nansum(values, axis=1, keepdims=True), count)


def _quotient(above: Floats, below: Floats) -> Floats:
    """above / below, NaN where below is not above 0."""
    quotient = np.full_like(above, np.nan)
    np.divide(above, below, out=quotient, where=below > 0)
    return quotient
