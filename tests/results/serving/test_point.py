"""Figures of a point of load, on requests whose latencies are known."""

from __future__ import annotations

import numpy as np
import pytest

from membound.results.serving.point import point_of
from membound.results.serving.request import Request
from membound.results.serving.slo import parse_slo
from membound.results.serving.window import GROWS, Window, growth_of

RNG = np.random.default_rng()
WINDOW = Window(10.0, 50.0)


def request(due_s: float, ttft_s: float = 0.1, gap_s: float = 0.02, outcome: str = "ok") -> Request:
    at = due_s + ttft_s
    return Request(due_s, due_s, [at, at + gap_s], [1, 1], [0, 1], ended_s=at + gap_s, outcome=outcome)


def test_only_what_was_due_in_the_window_counts() -> None:
    found = [request(at, ttft_s=9.0) for at in (0.0, 9.99, 50.0)] + [request(at) for at in (10.0, 30.0, 49.9)]
    point = point_of(found, WINDOW)
    assert (point.due, point.ok, point.seconds) == (3, 3, 40.0)
    assert point.latency["ttft"].at == {50: pytest.approx(0.1)}
    assert point.output_tokens_per_s == pytest.approx(6 / 40)
    with pytest.raises(ValueError, match="no request"):
        point_of(found[:3], WINDOW)


def test_what_failed_enters_no_latency_and_stands_beside() -> None:
    found = [request(at) for at in range(10, 40)] + [
        request(at, 0.001, 0.001, "refused") for at in range(40, 50)
    ]
    point = point_of(found, WINDOW, parse_slo("ttft=500"))
    assert point.outcomes == {"ok": 30, "refused": 10}
    assert point.latency["ttft"].at[50] == pytest.approx(0.1)
    assert point.goodput_share == pytest.approx(0.75)
    assert point.goodput_per_s == pytest.approx(30 / 40)
    assert point_of(found, WINDOW).goodput_share is None


def test_percentiles_need_values_beyond_them_and_intervals_cover() -> None:
    few = point_of([request(at) for at in np.linspace(10, 49.9, 49)], WINDOW)
    assert set(few.latency["ttft"].at) == {50}
    covered = 0
    for _ in range(40):
        dues = np.sort(RNG.uniform(10, 50, 1200))
        point = point_of([request(at, RNG.lognormal(-2, 0.5)) for at in dues], WINDOW)
        assert set(point.latency["ttft"].at) == {50, 90, 99}
        low, high = point.latency["ttft"].ci[50]
        covered += low <= np.exp(-2) <= high
    assert covered >= 33


def test_a_queue_that_grows_is_not_steady_and_noise_is() -> None:
    dues = np.linspace(10, 49.9, 400)
    growing = growth_of([request(at, 0.1 + 0.05 * (at - 10)) for at in dues], WINDOW)
    assert growing is not None
    assert growing.significant
    assert growing.ratio > 5
    assert not growing.steady
    alarms = 0
    for _ in range(50):
        noise = growth_of([request(at, RNG.lognormal(-2, 0.3)) for at in dues], WINDOW)
        assert noise is not None
        alarms += not noise.steady
    assert alarms <= 2


def test_a_small_rise_is_steady_however_certain() -> None:
    dues = np.linspace(10, 49.9, 400)
    little = growth_of([request(at, 0.1 + 0.0003 * (at - 10)) for at in dues], WINDOW)
    assert little is not None
    assert little.significant
    assert 1 < little.ratio < GROWS
    assert little.steady
    assert growth_of([request(20.0)], WINDOW) is None
