"""Schedules: drawn once, with the distribution that was asked for."""

from __future__ import annotations

import numpy as np
import pytest

from membound.bench.serving.schedule import LoadError, Pattern, dispersion, parse_pattern

RNG = np.random.default_rng()


def gaps(pattern: str, rate: float = 20.0, seconds: float = 500.0) -> np.ndarray:
    return np.diff(parse_pattern(pattern).due_s(rate, seconds, RNG))


@pytest.mark.parametrize("pattern", ["constant", "poisson", "gamma:cv=3", "gamma:cv=0.3"])
def test_the_rate_is_the_one_asked_for(pattern: str) -> None:
    counts = [len(parse_pattern(pattern).due_s(20.0, 100.0, RNG)) for _ in range(20)]
    assert np.mean(counts) == pytest.approx(2000, rel=0.06)


@pytest.mark.parametrize(
    ("pattern", "cv"), [("constant", 0), ("poisson", 1), ("gamma:cv=3", 3), ("gamma:cv=0.3", 0.3)]
)
def test_gaps_vary_as_they_are_asked_to(pattern: str, cv: float) -> None:
    found = gaps(pattern)
    assert found.std() / found.mean() == pytest.approx(cv, rel=0.15, abs=1e-6)


def test_a_thousand_poisson_requests_pass_the_dispersion_test() -> None:
    outside = 0
    for _ in range(100):
        due = parse_pattern("poisson").due_s(10.0, 100.0, RNG)
        index = dispersion(due, 100.0)
        assert index is not None
        outside += abs(index - 1) > 1.96 * np.sqrt(2 / (len(due) // 10 - 1))
    assert outside <= 15


def test_what_is_no_poisson_process_fails_it() -> None:
    even, bursts = (parse_pattern(p).due_s(10.0, 100.0, RNG) for p in ("constant", "gamma:cv=4"))
    assert dispersion(even, 100.0) == pytest.approx(0, abs=0.05)
    bursty = dispersion(bursts, 100.0)
    assert bursty is not None
    assert bursty > 2
    assert dispersion(even[:15], 2.0) is None


def test_a_ramp_rises_from_where_it_was_told() -> None:
    due = parse_pattern("ramp:start=0.2").due_s(200.0, 100.0, RNG)
    first, last = np.sum(due < 10) / 10, np.sum(due >= 90) / 10
    assert first == pytest.approx(200 * (0.2 + 0.8 * 0.05), rel=0.2)
    assert last == pytest.approx(200 * (0.2 + 0.8 * 0.95), rel=0.1)


def test_moments_ascend_from_zero_to_the_end() -> None:
    for pattern in ("constant", "poisson", "gamma", "ramp"):
        due = parse_pattern(pattern).due_s(50.0, 4.0, RNG)
        assert (np.diff(due) >= 0).all()
        assert due.min() >= 0
        assert due.max() < 4.0


def test_the_same_generator_draws_the_same_schedule() -> None:
    one, two = (Pattern("poisson").due_s(5.0, 50.0, np.random.default_rng(7)) for _ in range(2))
    np.testing.assert_array_equal(one, two)


@pytest.mark.parametrize(
    "text", ["", "poison", "poisson:cv=2", "gamma:cv=0", "gamma:cv=x", "ramp:start=1", "ramp:cv=1"]
)
def test_what_is_no_pattern_is_refused(text: str) -> None:
    with pytest.raises(LoadError, match="pattern"):
        parse_pattern(text)


@pytest.mark.parametrize(("rate", "seconds"), [(0, 1), (-1, 1), (float("nan"), 1), (1, 0), (1e8, 1e3)])
def test_a_load_without_end_or_beginning_is_refused(rate: float, seconds: float) -> None:
    with pytest.raises(LoadError):
        parse_pattern("poisson").due_s(rate, seconds, RNG)
