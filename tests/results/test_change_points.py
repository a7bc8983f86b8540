"""Changes over runs: found where they are, and not where there is only noise."""

from __future__ import annotations

import numpy as np
import pytest

from membound.results.change_points import FEWEST_RUNS, change_points


def series(*levels: tuple[float, int], noise: float = 0.01, seed: int = 5) -> list[float]:
    rng = np.random.default_rng(seed)
    return [level * float(np.exp(rng.normal(0, noise))) for level, count in levels for _ in range(count)]


def test_a_step_is_found_where_it_is():
    (change,) = change_points(series((1.0, 8), (1.3, 8)))
    assert change.at == 8
    assert change.ratio == pytest.approx(1.3, rel=0.02)
    assert change.p < 0.01


def test_several_steps_are_found_in_order():
    changes = change_points(series((1.0, 10), (2.0, 10), (1.5, 10)))
    assert [change.at for change in changes] == [10, 20]


@pytest.mark.parametrize("values", [series((1.0, FEWEST_RUNS - 1)), [1.0] * 7, []])
def test_too_few_runs_tell_nothing(values):
    assert change_points(values) == []


def test_equal_values_and_small_steps_are_no_change():
    assert change_points([1.0] * 20) == []
    assert change_points(series((1.0, 10), (1.03, 10), noise=0.001)) == []


def test_noise_is_rarely_called_a_change():
    """At most 5 % by the rule; of 40 series more than 6 would have a chance of one in a thousand."""
    found = sum(bool(change_points(series((1.0, 12), noise=0.2, seed=seed))) for seed in range(40))
    assert found <= 6


def test_one_wild_run_is_no_change():
    assert change_points([*series((1.0, 8)), 3.0, *series((1.0, 8), seed=6)]) == []
