"""The trimmed t, Holm's correction and what can be detected, against tables and simulation."""

from __future__ import annotations

import random
from math import exp, log1p, sqrt

import numpy as np
import pytest
from gate_worlds import World
from scipy.stats import mstats, ttest_1samp

from membound.results.paired_test import (
    ALPHA,
    CONFIRM_ALPHA,
    detectable,
    holm,
    likely_spread,
    p_slower,
    spread_of,
    trimmed,
)

VALUES = [0.03, -0.01, 0.02, 0.9, 0.01, 0.00, 0.04, -0.8, 0.02, 0.01, 0.03, 0.02]


def test_the_trimmed_mean_and_its_error_are_those_of_the_books():
    """scipy.stats.mstats has both: the trimmed mean, and its standard error by winsorizing."""
    found = trimmed(VALUES)
    assert found.mean == pytest.approx(float(mstats.trimmed_mean(VALUES, (2 / 12, 2 / 12))))
    ordered = np.sort(VALUES)
    winsorized = np.concatenate([[ordered[2]] * 2, ordered[2:-2], [ordered[-3]] * 2])
    assert found.error == pytest.approx(winsorized.std(ddof=1) / ((1 - 2 * 2 / 12) * sqrt(12)))
    assert found.freedom == 7


def test_with_nothing_to_trim_it_is_students_t():
    values = [0.05, 0.02, 0.04, 0.03]
    chance = ttest_1samp(values, log1p(0.01), alternative="greater").pvalue
    assert p_slower(values, 0.01) == pytest.approx(chance)


def test_one_wild_process_at_either_end_changes_nothing():
    tame = [0.05] * 10 + [0.06, 0.04]
    wild = [*tame[:10], 3.0, -3.0]
    assert trimmed(wild).mean == pytest.approx(trimmed(tame).mean)
    assert p_slower(wild, 0.03) == p_slower(tame, 0.03) == 0.0


def test_pairs_that_are_all_alike_are_slower_or_not():
    assert p_slower([0.05] * 6, 0.03) == 0.0
    assert p_slower([0.01] * 6, 0.03) == 1.0


@pytest.mark.parametrize(
    ("chances", "fallen"),
    [
        ([0.01, 0.02, 0.03], [True, True, True]),
        ([0.01, 0.026, 0.03], [True, False, False]),
        ([0.04, 0.001], [True, True]),
        ([0.06], [False]),
        ([], []),
    ],
)
def test_holm_goes_down_from_the_least_chance(chances, fallen):
    assert holm(chances) == fallen


@pytest.mark.parametrize("count", [6, 12])
@pytest.mark.parametrize("spread", [0.005, 0.05])
def test_what_is_called_detectable_is_found_19_times_of_20(count, spread):
    """Of normal pairs, for which it is reckoned; both stages of a gate of eight cases."""
    rng = random.Random(f"{count} {spread}")
    limit = detectable(spread, count, 8, 0.03)

    def found() -> bool:
        stages = [[rng.gauss(log1p(limit), 0.99 * spread) for _ in range(count)] for _ in range(2)]
        chances = [p_slower(values, 0.03) for values in stages]
        return chances[0] <= ALPHA / 8 and chances[1] <= CONFIRM_ALPHA

    share = sum(found() for _ in range(400)) / 400
    assert 0.90 <= share <= 0.99


def test_more_noise_more_cases_and_fewer_pairs_hide_larger_slowdowns():
    plain = detectable(0.02, 12, 1, 0.03)
    assert 0.05 < plain < 0.06
    assert detectable(0.04, 12, 1, 0.03) > detectable(0.02, 12, 8, 0.03) > plain
    assert detectable(0.02, 6, 1, 0.03) > plain > detectable(0.02, 12, 1, 0.01)
    assert detectable(0.0, 12, 8, 0.03) == 0.03
    assert detectable(5.0, 6, 8, 0.03) == float("inf")


def test_the_likely_spread_is_above_the_true_one_four_times_of_five():
    world = World(random.Random(3), 0.02)
    above = sum(likely_spread(world.values()) > 0.02 for _ in range(500)) / 500
    assert 0.75 <= above <= 0.92
    assert likely_spread(VALUES) > spread_of(VALUES)
    assert exp(spread_of([0.02] * 12)) == 1.0
