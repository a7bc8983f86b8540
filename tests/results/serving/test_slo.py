"""Service levels: who kept them."""

from __future__ import annotations

import pytest

from membound.results.serving.request import OUTCOMES, Request
from membound.results.serving.slo import PRESETS, Slo, SloError, goodput, parse_slo


def request(ttft_s: float = 0.1, gap_s: float = 0.015, outcome: str = "ok") -> Request:
    return Request(
        0.0, 0.0, [ttft_s, ttft_s + gap_s], [1, 1], [0, 1], ended_s=ttft_s + gap_s, outcome=outcome
    )


def test_levels_are_milliseconds_or_the_name_of_a_preset() -> None:
    assert parse_slo("ttft=500,tpot=30") == Slo(0.5, 0.03)
    assert parse_slo(" e2e=2000 ") == Slo(e2e_s=2.0)
    assert parse_slo("mlperf-llama3.1-8b-interactive") == Slo(0.5, 0.03)
    assert all(parse_slo(name).ttft_s for name in PRESETS)


@pytest.mark.parametrize(
    "text", ["", "ttft", "ttft=", "ttft=0", "ttft=-1", "ttft=nan", "p99=5", "ttft=1,ttft=2", "mlperf"]
)
def test_what_is_no_level_is_refused(text: str) -> None:
    with pytest.raises(SloError, match="service level"):
        parse_slo(text)


def test_all_limits_must_be_kept() -> None:
    level = parse_slo("ttft=100,tpot=20,e2e=200")
    assert level.keeps(request())
    assert not level.keeps(request(ttft_s=0.11))
    assert not level.keeps(request(gap_s=0.021))
    assert level.keeps(Request(0.0, 0.0, [0.1], [9], [0], ended_s=0.1))
    assert not level.keeps(Request(0.0, 0.0, [0.1], [9], [0], ended_s=0.3))


def test_goodput_is_of_all_that_were_due() -> None:
    level = parse_slo("ttft=100")
    bad = [request(outcome=outcome) for outcome in OUTCOMES if outcome != "ok"]
    rate, share = goodput([request(), request(ttft_s=0.5), *bad], level, 2.0)
    assert rate == 0.5
    assert share == pytest.approx(1 / (2 + len(bad)))
    with pytest.raises(ValueError, match="no request"):
        goodput([], level, 1.0)
