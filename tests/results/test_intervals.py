"""Intervals over few processes: as often right as they say, around the median, and finite whatever the values."""

from __future__ import annotations

from math import exp, sqrt

import numpy as np
import pytest

from membound.results import intervals
from membound.results.intervals import CONFIDENCE, FEWEST, interval, ratio_interval, sums_ratio_interval

T_95 = {1: 12.706, 2: 4.303, 3: 3.182, 4: 2.776, 9: 2.262, 18: 2.101}
"""Student's t, two-sided 95 %, by degrees of freedom: any table has it."""
TRIES = 2000
SEED = 20261128


def rounds(share: float) -> float:
    """Four standard deviations of a share of TRIES."""
    return 4 * sqrt(share * (1 - share) / TRIES)


@pytest.mark.parametrize("processes", [2, 3, 5, 10])
@pytest.mark.parametrize("spread", [0.001, 0.05, 0.5])
def test_the_true_value_is_inside_as_often_as_it_says(
    processes: int, spread: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(intervals, "FEWEST", 2)
    rng = np.random.default_rng(SEED)
    hits = 0
    for values in np.exp(rng.normal(np.log(3e-3), spread, (TRIES, processes))):
        found = interval(values.tolist())
        assert found is not None
        hits += found[0] <= 3e-3 <= found[1]
    assert abs(hits / TRIES - CONFIDENCE) < rounds(CONFIDENCE)


@pytest.mark.parametrize(("left", "right"), [(2, 2), (3, 3), (3, 10), (5, 4), (10, 10)])
@pytest.mark.parametrize("ratio", [1.0, 0.3])
def test_a_ratio_of_independent_sides_is_inside_as_often(
    left: int, right: int, ratio: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Welch's degrees of freedom are approximate: with two values a side it says too little, never too much."""
    monkeypatch.setattr(intervals, "FEWEST", 2)
    rng = np.random.default_rng(SEED)
    hits = 0
    for _ in range(TRIES):
        a = np.exp(rng.normal(np.log(ratio), 0.1, left))
        b = np.exp(rng.normal(0.0, 0.05, right))
        found = ratio_interval(a.tolist(), b.tolist())
        assert found is not None
        hits += found[0] <= ratio <= found[1]
    slack = 0.01 if min(left, right) > 2 else 0.05
    assert hits / TRIES > CONFIDENCE - rounds(CONFIDENCE) - 0.01
    assert hits / TRIES < CONFIDENCE + rounds(CONFIDENCE) + slack


@pytest.mark.parametrize(("rates", "processes"), [((1.0, 1.0), 3), ((1.0, 0.2, 3.0), 3), ((1.0, 4.0), 8)])
def test_a_ratio_of_sums_is_inside_as_often(rates: tuple[float, ...], processes: int) -> None:
    rng = np.random.default_rng(SEED)
    hits = 0
    for _ in range(TRIES):
        alone = [np.exp(rng.normal(np.log(rate), 0.05, processes)).tolist() for rate in rates]
        together = [np.exp(rng.normal(np.log(0.8 * rate), 0.1, processes)).tolist() for rate in rates]
        found = sums_ratio_interval(together, alone)
        assert found is not None
        hits += found[0] <= 0.8 <= found[1]
    assert CONFIDENCE - rounds(CONFIDENCE) - 0.01 < hits / TRIES < CONFIDENCE + rounds(CONFIDENCE) + 0.01


def test_a_sum_that_one_term_makes_up_has_the_interval_of_that_term() -> None:
    a, b, tiny = [1.0, 1.1, 0.95], [2.0, 2.1, 2.2], [1e-12, 9e-12, 2e-12]
    found, expected = sums_ratio_interval([a, tiny], [b, tiny]), ratio_interval(a, b)
    assert found is not None
    assert expected is not None
    assert found == pytest.approx(expected, rel=1e-9)
    assert sums_ratio_interval([a, tiny[:2]], [b, tiny]) is None


@pytest.mark.parametrize("processes", [3, 4, 5, 10])
def test_it_is_that_of_students_t(processes: int) -> None:
    logs = np.random.default_rng().normal(0, 0.1, processes)
    half = T_95[processes - 1] * logs.std(ddof=1) / sqrt(processes)
    found = interval(np.exp(logs).tolist())
    assert found is not None
    assert found == (
        pytest.approx(exp(logs.mean() - half), rel=1e-4),
        pytest.approx(exp(logs.mean() + half), rel=1e-4),
    )


def test_sides_of_equal_spread_have_the_freedom_of_both() -> None:
    a = np.random.default_rng().normal(0, 0.1, 10)
    half = T_95[18] * sqrt(2 * a.var(ddof=1) / 10)
    found = ratio_interval(np.exp(a).tolist(), np.exp(a + 1).tolist())
    assert found == (
        pytest.approx(exp(-1 - half), rel=1e-4),
        pytest.approx(exp(-1 + half), rel=1e-4),
    )


def test_fewer_than_three_have_none() -> None:
    assert FEWEST == 3
    assert [interval([1e-3] * n) is None for n in range(5)] == [True, True, True, False, False]
    assert ratio_interval([1.0] * 2, [1.0] * 9) is None
    assert ratio_interval([1.0] * 9, [1.0] * 2) is None
    assert ratio_interval([], [1.0] * 9) is None


def test_it_neither_depends_on_the_order_nor_on_the_unit() -> None:
    values = np.random.default_rng().uniform(1, 2, 7)
    found = interval(values.tolist())
    assert found is not None
    assert interval(values[::-1].tolist()) == pytest.approx(found)
    assert interval((1e-6 * values).tolist()) == pytest.approx((1e-6 * found[0], 1e-6 * found[1]))
    inverse = interval((1 / values).tolist())
    assert inverse == pytest.approx((1 / found[1], 1 / found[0]), rel=0.01)


@pytest.mark.parametrize("count", [3, 4, 6, 7, 20, 101])
def test_the_median_lies_in_it_whatever_the_values(count: int) -> None:
    rng = np.random.default_rng()
    for _ in range(50):
        values = rng.choice(
            [rng.uniform(1, 2, count), rng.choice([1.0, 4.0, 1e3], count), rng.pareto(0.5, count) + 1]
        )
        found = interval(values.tolist())
        assert found is not None
        assert found[0] <= float(np.median(values)) <= found[1]
        others = rng.uniform(1, 2, count)
        both = ratio_interval(values.tolist(), others.tolist())
        assert both is not None
        assert both[0] <= float(np.median(values)) / float(np.median(others)) <= both[1]


def test_the_median_of_two_heaps_lies_in_it() -> None:
    """Reported is the middle between them; the middle of their logarithms is lower."""
    values = [1.0] * 50 + [4.0] * 50
    found = interval(values)
    assert found is not None
    assert found[0] < 2.5 <= found[1]


@pytest.mark.parametrize("value", [0.1, 1e-3, 2.0, 1 / 3, 1e-12, 1e30])
def test_equal_processes_leave_no_width(value: float) -> None:
    low, high = interval([value] * 4) or (0.0, 0.0)
    assert low <= value <= high
    assert (low, high) == pytest.approx((value, value), rel=1e-12)
    low, high = ratio_interval([value] * 3, [3 * value] * 5) or (0.0, 0.0)
    assert (low, high) == pytest.approx((1 / 3, 1 / 3), rel=1e-12)


@pytest.mark.parametrize("values", [[1e-12, 1.0, 1e30], [1e-300, 1e-300, 1e300], [1e300] * 3], ids=str)
def test_values_that_no_machine_gives_have_an_interval_still(values: list[float]) -> None:
    for low, high in (interval(values) or (0.0, 0.0), ratio_interval(values, values[::-1]) or (0.0, 0.0)):
        assert 0 < low <= high < float("inf")


def test_a_value_that_is_not_positive_has_no_logarithm_and_no_interval() -> None:
    assert interval([0.0, 1.0, 2.0]) is None
    assert interval([-1.0, 1.0, 2.0]) is None
