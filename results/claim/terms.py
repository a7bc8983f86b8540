"""t = t0 · operations + bytes / BW + FLOPs / F: the three terms of a backend, fitted to its times.

>>> terms = fit_terms(operations, bytes_, flops, time_s)    # time_s is [process, work]
>>> terms.launch_s.value, terms.read_bytes_per_s, terms.misfit
(2.1e-06, 2.9e+10, 0.04)

Coefficients cannot be negative (Lawson and Hanson's non-negative least squares). Errors count relative to the time,
since works differ by orders of magnitude.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.optimize import nnls

from membound.results.claim.inference import Estimate, Floats, Indices, bootstrap

RESAMPLES = 200
"""Each resample is a separate regression."""


@dataclass(frozen=True, slots=True)
class Terms:
    """The three terms of a backend; a rate is infinite where its term explains nothing."""

    launch_s: Estimate
    """Seconds per operation, whatever it moves and computes."""
    read_bytes_per_s: float
    flops_per_s: float
    misfit: float
    """Median over works of |predicted - measured| / measured."""

    def time_s(self, operations: float, moved_bytes: float, flops: float) -> float:
        """Seconds that the terms predict."""
        return (
            self.launch_s.value * operations + moved_bytes / self.read_bytes_per_s + flops / self.flops_per_s
        )


ROUNDING = 1e-9
"""A term that explains no more than this part of any work's time is a rounding error."""


def fit_terms(operations: Floats, moved_bytes: Floats, flops: Floats, time_s: Floats) -> Terms:
    """The terms of works [work] from times [process, work]; NaN times are left out."""
    features = np.stack([operations, moved_bytes, flops], axis=1)
    scale = features.max(axis=0)
    scale[scale == 0] = 1.0

    def coefficients(times: Floats) -> Floats:
        mean_s = np.exp(np.nanmean(np.log(times), axis=0))
        shares = features / scale / mean_s[:, None]
        solved: Floats = nnls(shares, np.ones(len(mean_s)))[0]
        solved[solved * shares.max(axis=0) < ROUNDING] = 0.0
        unscaled: Floats = solved / scale
        return unscaled

    whole = coefficients(time_s)
    predicted = features @ whole
    measured = np.exp(np.nanmean(np.log(time_s), axis=0))

    def launch(draws: Indices) -> Floats:
        return np.array([coefficients(time_s[rows])[0] for rows in draws])

    t0 = bootstrap(launch, len(time_s), RESAMPLES)
    return Terms(
        Estimate(t0.value, max(0.0, t0.low), t0.high),
        _rate(whole[1]),
        _rate(whole[2]),
        float(np.median(np.abs(predicted - measured) / measured)),
    )


def _rate(coefficient: float) -> float:
    return 1.0 / coefficient if coefficient > 0 else np.inf
