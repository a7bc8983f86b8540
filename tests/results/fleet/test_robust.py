"""Robust spreads, and that the chance of a value is what it says for few values and for many."""

from __future__ import annotations

from math import inf

import numpy as np
import pytest

from membound.results.fleet.robust import FEWEST, spread_of


def test_a_wild_value_does_not_widen_the_spread():
    values = [0.00, 0.01, -0.01, 0.02, -0.02, 0.01, -0.01, 0.00]
    clean, wild = spread_of(values), spread_of([*values, -0.30])
    assert wild.middle == 0.0
    assert wild.deviation == pytest.approx(clean.deviation, rel=0.05)
    assert wild.z(-0.30) < -15
    assert wild.chance(-0.30) < 1e-4
    assert wild.chance(0.01) > 0.4


def test_equal_values_have_no_spread_and_another_one_is_infinitely_far():
    spread = spread_of([1.0] * 9 + [2.0])
    assert (spread.z(1.0), spread.z(2.0), spread.z(0.0)) == (0.0, inf, -inf)
    assert (spread.chance(1.0), spread.chance(2.0)) == (1.0, 0.0)


def test_too_few_values_are_refused():
    with pytest.raises(ValueError, match="7 values are too few for a spread: it takes 8"):
        spread_of([1.0] * (FEWEST - 1))


@pytest.mark.parametrize("count", [8, 9, 10, 16, 64, 1000])
def test_the_farthest_of_normal_values_is_called_as_often_as_it_says(count):
    """At a chance of 5 % over all values. The bound is three standard errors of 2,000 fleets, or of 300 large ones."""
    fleets = 300 if count > 100 else 2000
    rng = np.random.default_rng(count)
    alarms = 0
    for values in rng.standard_normal((fleets, count)):
        spread = spread_of(values)
        alarms += spread.chance(float(values[np.abs(values - spread.middle).argmax()])) < 0.05 / count
    assert alarms / fleets <= 0.05 + 3 * (0.05 * 0.95 / fleets) ** 0.5


def test_the_distance_of_a_chance_has_that_chance():
    spread = spread_of(list(np.linspace(-1, 1, 20)))
    assert spread.chance(spread.middle + spread.distance(1e-3)) == pytest.approx(1e-3)
