"""The search for the highest rate, on servers whose edge is known."""

from __future__ import annotations

import numpy as np
import pytest

from membound.bench.serving.schedule import Pattern
from membound.bench.serving.search import CLOSE, MOST_POINTS, highest_rate
from membound.results.serving.search import GOODPUT, TIMES


@pytest.mark.parametrize("edge", [0.037, 0.9, 1.0, 7.3, 900.0])
def test_a_sharp_edge_is_found_from_below(edge: float) -> None:
    played: list[tuple[float, int]] = []

    def kept(rate: float, attempt: int) -> bool:
        played.append((rate, attempt))
        return rate <= edge

    found = highest_rate(kept, start=1.0)
    assert found.rate is not None
    assert found.failed is not None
    assert found.rate <= edge < found.failed <= CLOSE * found.rate
    assert found.points == len(played) <= MOST_POINTS
    assert len(set(played)) == len(played), "an attempt is never played twice with the same numbers"
    assert [attempt for rate, attempt in played if rate == found.rate] == list(range(TIMES))


def test_chance_near_the_edge_does_not_lift_the_result() -> None:
    rng = np.random.default_rng()
    found = [
        highest_rate(lambda rate, attempt: rng.random() < 1 / (1 + (rate / 5) ** 40), start=1.0).rate
        for _ in range(200)
    ]
    rates = np.array([rate for rate in found if rate is not None])
    assert len(rates) >= 195
    assert np.median(rates) == pytest.approx(5, rel=0.1)
    assert np.percentile(rates, 95) < 5.5


def test_a_machine_that_stands_still_now_and_then_does_not_end_the_search_early() -> None:
    """One point in twenty misses the level whatever the rate: a search of ten points would mostly meet one."""
    rng = np.random.default_rng(1)
    found = [
        highest_rate(lambda rate, attempt: rate <= 50.0 and rng.random() > 0.05, start=1.0)
        for _ in range(300)
    ]
    rates = np.array([one.rate or 0.0 for one in found])
    assert np.mean(rates >= 50 / 1.1) >= 0.9
    assert rates.max() <= 50.0
    assert max(one.points for one in found) < MOST_POINTS


def test_a_rate_that_was_missed_is_played_again_with_other_numbers() -> None:
    said = {1.0: [False, True, True], 2.0: [False, False]}
    played: list[tuple[float, int]] = []

    def kept(rate: float, attempt: int) -> bool:
        played.append((rate, attempt))
        return said[rate][attempt] if rate in said else False

    assert highest_rate(kept, start=1.0, highest=2.0).failed is not None
    assert played[:5] == [(1.0, 0), (1.0, 1), (1.0, 2), (2.0, 0), (2.0, 1)]


def test_a_server_that_keeps_nothing_or_everything_ends_the_search() -> None:
    assert highest_rate(lambda rate, attempt: False, start=1.0, lowest=0.1).rate is None
    found = highest_rate(lambda rate, attempt: True, start=1.0, highest=10.0)
    assert (found.rate, found.failed) == (8.0, None)


SERVICE_S, LEVEL_S, WINDOW_S = 0.020, 0.100, 120.0


def goodput_of_a_queue(rate: float, seed: int, attempt: int) -> float:
    """Share of the requests that one server, which takes SERVICE_S for each, answers within LEVEL_S of when they were due."""
    rng = np.random.default_rng((seed, attempt, int(1e6 * rate)))
    due = Pattern("poisson").due_s(rate, WINDOW_S, rng)
    waits, wait = [], 0.0
    for gap in np.diff(due, prepend=due[0]):
        wait = max(0.0, wait + SERVICE_S - gap) if waits else 0.0
        waits.append(wait)
    return float(np.mean(np.array(waits) + SERVICE_S <= LEVEL_S))


def test_three_searches_of_one_server_agree_within_a_tenth() -> None:
    rates = []
    for seed in range(3):
        found = highest_rate(
            lambda rate, attempt, seed=seed: goodput_of_a_queue(rate, seed, attempt) >= GOODPUT, start=5.0
        )
        assert found.rate is not None
        rates.append(found.rate)
    assert 0 < min(rates) < 1 / SERVICE_S
    assert max(rates) <= 1.1 * min(rates)
