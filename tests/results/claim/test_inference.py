"""Estimates and intervals: exact where there is no noise, right about 95 % of the time where there is."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats as scipy_stats

from membound.results.claim.inference import (
    Estimate,
    bootstrap,
    difference,
    elasticity,
    equivalent,
    mean,
    plateau,
    ratio_of_means,
    stretch,
)
from membound.results.claim.knee import change_point, knee
from membound.results.claim.terms import fit_terms

RNG = np.random.default_rng()
DOSES = np.log([1.0, 2.0, 3.0, 7.0, 12.0])


def test_an_elasticity_is_the_exponent_of_a_power_law():
    exponent = RNG.uniform(-2, 2)
    levels = RNG.normal(size=(4, 1))
    found = elasticity(DOSES, levels + exponent * DOSES)
    assert [found.value, found.low, found.high] == pytest.approx([exponent] * 3)


def test_a_missing_dose_leaves_the_exponent_alone():
    ln_time = RNG.normal(size=(5, 1)) + 0.7 * DOSES
    ln_time[0, 0] = ln_time[2, 4] = np.nan
    assert elasticity(DOSES, ln_time).value == pytest.approx(0.7)


def test_an_elasticity_agrees_with_least_squares():
    ln_time = RNG.normal(size=(1, 5))
    found = elasticity(DOSES, ln_time)
    assert found.value == pytest.approx(scipy_stats.linregress(DOSES, ln_time[0]).slope)
    assert np.isnan([found.low, found.high]).all()


@pytest.mark.parametrize("processes", [3, 5, 10])
def test_intervals_hold_the_truth_as_often_as_they_say(processes):
    rng = np.random.default_rng(7)
    inside = [
        found.low <= 2.0 <= found.high
        for found in (mean(2 + rng.normal(0, 0.3, processes)) for _ in range(600))
    ]
    assert 0.92 <= np.mean(inside) <= 0.99


def test_the_stretch_is_that_of_students_interval():
    assert stretch(10) == pytest.approx(np.sqrt(10 / 9) * 2.262157 / 1.959964, rel=1e-5)
    assert stretch(1000) == pytest.approx(1.0, abs=2e-3)


def test_a_bootstrap_without_processes_is_an_error():
    with pytest.raises(ValueError, match="no process"):
        mean(np.array([np.nan]))
    assert np.isnan(bootstrap(lambda draws: np.full(len(draws), np.nan), 3).value)


def test_ratios():
    a = RNG.uniform(1, 2, 6)
    assert ratio_of_means(a, 4 * a).high == pytest.approx(0.25)
    assert np.isnan(ratio_of_means(a, -a).value)
    assert ratio_of_means(-a, 2 * a).value == pytest.approx(-0.5)


def test_a_ratio_over_what_may_be_nothing_has_no_interval():
    found = ratio_of_means(np.array([1.0, 1.0, 1.0]), np.array([3.0, -1.0, -1.0]))
    assert found.value == pytest.approx(3.0)
    assert np.isnan([found.low, found.high]).all()
    assert not found.above(0.25)
    assert not found.below(9.0)


def test_a_difference_of_unpaired_processes_covers_the_truth():
    rng = np.random.default_rng(3)
    found = [difference(rng.normal(1, 0.1, 4), rng.normal(0, 0.1, 5)) for _ in range(300)]
    assert np.mean([f.low <= 1 <= f.high for f in found]) >= 0.92
    assert difference(np.array([1.0]), np.array([0.0, 0.0])).value == 1.0


def test_a_plateau_on_its_margin_is_called_flat_or_risen_rarely():
    """The error rates of both tests where they are largest: every dose, or one dose, exactly at the margin."""
    rng = np.random.default_rng(11)
    seeds, margin = 1000, 0.05
    flat = risen = 0
    for _ in range(seeds):
        base = rng.normal(0, 0.01, (4, 1))
        found = plateau(np.log1p(margin) + rng.normal(0, 0.01, (4, 5)) - base, margin)
        risen += found.largest.low > 1 + margin
        one = np.array([0, 0, 0, 0, np.log1p(margin)]) + rng.normal(0, 0.01, (4, 5)) - base
        flat += plateau(one, margin).p_equal < 0.05
    assert risen / seeds <= 0.05
    assert flat / seeds <= 0.065


def test_a_flat_plateau_is_called_flat_and_a_risen_one_risen():
    found = plateau(np.random.default_rng(0).normal(0, 0.004, (5, 6)), 0.05)
    assert found.p_equal < 0.01
    assert found.p_above > 0.5
    risen = plateau(np.random.default_rng(0).normal(np.log(1.2), 0.004, (5, 6)), 0.05)
    assert risen.p_equal > 0.5
    assert risen.p_above < 0.01
    assert risen.largest.value == pytest.approx(1.2, rel=0.01)
    with pytest.raises(ValueError, match="two processes"):
        plateau(np.zeros((1, 3)), 0.05)


def test_equivalence_needs_the_whole_interval():
    assert equivalent(Estimate(0.0, -0.04, 0.04), 0.05)
    assert not equivalent(Estimate(0.0, -0.06, 0.04), 0.05)
    assert not equivalent(Estimate(0.0, np.nan, np.nan), 0.05)


def test_a_map_keeps_the_order_of_the_ends():
    found = Estimate(2.0, 1.0, 4.0).map(lambda value: 1 / value)
    assert (found.value, found.low, found.high) == (0.5, 0.25, 1.0)


@pytest.mark.parametrize("place", [1.5, 3.1, 4.0])
def test_a_knee_is_found_where_it_is(place):
    x = np.linspace(0, 6, 13)
    curve = np.maximum(0, x - place) * RNG.uniform(0.4, 2)
    found = knee(x, RNG.normal(size=(3, 1)) + curve)
    assert found.value == pytest.approx(place, abs=0.06)
    assert found.low <= found.value <= found.high


def test_the_interval_of_a_knee_holds_it():
    rng = np.random.default_rng(5)
    x = np.linspace(0, 5, 11)
    exact = np.maximum(0, x - 2.3)
    found = [knee(x, exact + rng.normal(0, 0.05, (4, 1)) + rng.normal(0, 0.05, (4, 11))) for _ in range(100)]
    assert np.mean([f.low - 0.05 <= 2.3 <= f.high + 0.05 for f in found]) >= 0.9
    assert all(0 <= f.low <= f.high <= 5 for f in found)


def test_a_curve_that_does_not_rise_has_no_knee():
    x = np.linspace(0, 5, 8)
    assert knee(x, np.zeros((3, 8))).value == np.inf
    assert knee(x, np.repeat(-x[None, :], 3, axis=0)).value == np.inf


@pytest.mark.parametrize("split", [1, 3, 6])
def test_a_step_is_found_between_its_doses(split):
    x = np.cumsum(RNG.uniform(0.5, 1.5, 7))
    y = np.where(np.arange(7) < split, 1.0, 0.2) + RNG.normal(0, 0.3, (4, 1))
    found = change_point(x, y)
    assert found.value == found.low == found.high == pytest.approx((x[split - 1] + x[split]) / 2)


def test_three_terms_are_recovered():
    operations = np.array([1.0, 1.0, 1.0, 40.0, 160.0, 1.0])
    moved = np.array([1e6, 6e7, 2e8, 4e6, 2e9, 7e7])
    flops = np.array([5e5, 3e7, 1e8, 2e6, 1e9, 3e9])
    time_s = 4e-6 * operations + moved / 2.5e10 + flops / 3e11
    found = fit_terms(operations, moved, flops, np.repeat(time_s[None, :], 3, axis=0))
    assert found.launch_s.value == pytest.approx(4e-6)
    assert found.read_bytes_per_s == pytest.approx(2.5e10)
    assert found.flops_per_s == pytest.approx(3e11)
    assert found.misfit < 1e-9
    assert found.time_s(2, 1e7, 1e8) == pytest.approx(8e-6 + 4e-4 + 1e8 / 3e11)


def test_a_term_that_explains_nothing_is_left_out():
    moved = np.array([1e6, 6e7, 2e8, 4e6])
    found = fit_terms(np.ones(4), moved, np.array([7e6, 1e6, 2e6, 9e6]), np.tile(moved / 1e10, (3, 1)))
    assert found.flops_per_s == np.inf
    assert found.launch_s.value == pytest.approx(0.0, abs=1e-15)
    assert found.launch_s.low >= 0.0
