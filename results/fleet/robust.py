"""How far each of several values lies from the rest of them, in spreads that a few wild values cannot widen.

>>> spread = spread_of([0.00, 0.01, -0.01, 0.02, -0.02, 0.01, -0.01, 0.00, -0.30])
>>> round(spread.z(-0.30), 1), spread.chance(-0.30) < 1e-4
(-18.1, True)

The middle is the median and the spread the median absolute deviation from it (F. R. Hampel, The influence curve and its role in
robust estimation, J. Am. Stat. Assoc. 69, 1974), with the correction for few values of C. Croux and P. J. Rousseeuw
(Time-efficient algorithms for two highly robust estimators of scale, Computational Statistics 1, 1992). Measured times have
longer tails than normal values: where four fifths of the values lie further apart than that, these are the spread, so that both hold while fewer than a fifth of the values are wild. A spread of few values is itself uncertain, so that z is not normal: its chance is taken from
Student's t, with as many degrees of freedom as the deviation is worth.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import inf

import numpy as np
from scipy.special import stdtr, stdtrit

FEWEST = 8
"""Values of which one can be told apart: of fewer, three or four decide what the spread is."""
TO_DEVIATION = 1.4826
"""The standard deviation of a normal distribution over its median absolute deviation: 1/Φ⁻¹(3/4)."""
FEW = {8: 1.129, 9: 1.107}
"""Croux and Rousseeuw's factors; above nine values n/(n - 0.8)."""
MOST, MOST_DEVIATIONS = 0.8, 1.2816
"""A share of the values, and within how many standard deviations it lies if they are normal: Φ⁻¹(0.9)."""
EFFICIENCY = 0.3675
"""What the median absolute deviation is worth beside the standard deviation, of many normal values (Croux and Rousseeuw)."""
MORE = 1.0
"""Degrees of freedom that few values are worth beside that. With both, the farthest of 8 to 1,000 normal values is called at most as
often as it should be, at chances of 5 % to 0.05 % over all of them (simulated; tests/results/fleet/test_robust.py)."""


@dataclass(frozen=True, slots=True)
class Spread:
    """The median of `count` values and their spread, as a standard deviation."""

    middle: float
    deviation: float
    count: int

    @property
    def freedom(self) -> float:
        """Degrees of freedom that the spread is worth."""
        return EFFICIENCY * self.count + MORE

    def z(self, value: float) -> float:
        """Deviations from the median; infinite where more than half of the values are the same and this is another."""
        distance = value - self.middle
        if not self.deviation:
            return 0.0 if not distance else inf if distance > 0 else -inf
        return distance / self.deviation

    def chance(self, value: float) -> float:
        """Of a value as far from the median on either side, among normal ones."""
        return 2 * float(stdtr(self.freedom, -abs(self.z(value))))

    def distance(self, chance: float) -> float:
        """How far from the median a value of that chance lies."""
        return float(stdtrit(self.freedom, 1 - chance / 2)) * self.deviation


def spread_of(values: Sequence[float]) -> Spread:
    """Of FEWEST values or more. Raises ValueError for fewer."""
    count = len(values)
    if count < FEWEST:
        raise ValueError(f"{count} values are too few for a spread: it takes {FEWEST}")
    array = np.asarray(values, np.float64)
    middle = float(np.median(array))
    distances = np.abs(array - middle)
    factor = FEW.get(count, count / (count - 0.8))
    near = TO_DEVIATION * factor * float(np.median(distances))
    return Spread(middle, max(near, float(np.quantile(distances, MOST)) / MOST_DEVIATIONS), count)
