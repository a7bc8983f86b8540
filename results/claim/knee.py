"""Where a curve bends: the knee of a flat piece and a rising one, and the step between two levels.

>>> knee(np.log(batches), ln_time).map(np.exp)          # the batch from which time follows it
>>> change_point(np.log(working_sets), ln_rate).map(np.exp)

Curves are [process, dose], intervals resample processes (`inference.bootstrap`).
"""

from __future__ import annotations

import numpy as np

from membound.results.claim.inference import Estimate, Floats, Indices, bootstrap

CANDIDATES = 121
"""The number of places at which a knee is looked for, evenly spaced over the doses."""
LEAST_RISE = 0.05
"""If the rise over all doses (in ln) is smaller, there is no knee."""


def knee(x: Floats, y: Floats) -> Estimate:
    """Segmented regression: y = a for x ≤ K and a + s·(x - K) beyond, s > 0; the K of least squares.

    It is infinity if y does not rise by LEAST_RISE. x [dose] ascending, y [process, dose] without NaN.
    """
    places = np.linspace(x[0], x[-1], CANDIDATES)[:-1]
    hinge = np.maximum(0.0, x[None, :] - places[:, None])
    hinge -= hinge.mean(axis=1, keepdims=True)
    squares = (hinge * hinge).sum(axis=1)
    level = y - y.mean(axis=1, keepdims=True)
    spans = x[-1] - places

    def place(draws: Indices) -> Floats:
        curves = level[draws].mean(axis=1)
        products = curves @ hinge.T
        gains = np.where(products > 0, products**2 / squares, -1.0)
        best = gains.argmax(axis=1)
        rows = np.arange(len(draws))
        rise = products[rows, best] / squares[best] * spans[best]
        return np.where((gains[rows, best] > 0) & (rise > LEAST_RISE), places[best], np.inf)

    return _within(x, bootstrap(place, len(y)), (places[1] - places[0]) / 2)


def _within(x: Floats, place: Estimate, grain: float = 0.0) -> Estimate:
    """The interval, widened by the distance of two candidates. Its ends are on the curve, or at infinity (no knee)."""
    first, last = float(x[0]), float(x[-1])
    low = place.low if np.isinf(place.low) else max(first, place.low - grain)
    return Estimate(place.value, low, place.high if np.isinf(place.high) else min(last, place.high + grain))


def change_point(x: Floats, y: Floats) -> Estimate:
    """The x halfway between the two doses at which y steps from one level to another, by least squares.

    x [dose] ascending, y [process, dose] without NaN.
    """
    doses = len(x)
    splits = np.arange(1, doses)
    after = (np.arange(doses)[None, :] >= splits[:, None]).astype(np.float64)
    after -= after.mean(axis=1, keepdims=True)
    squares = (after * after).sum(axis=1)
    middles = (x[:-1] + x[1:]) / 2
    level = y - y.mean(axis=1, keepdims=True)

    def place(draws: Indices) -> Floats:
        gains = (level[draws].mean(axis=1) @ after.T) ** 2 / squares
        found: Floats = middles[gains.argmax(axis=1)]
        return found

    return _within(x, bootstrap(place, len(y)))
