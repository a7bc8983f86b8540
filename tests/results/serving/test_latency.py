"""Latencies of requests: from due, and never a gap that nobody saw."""

from __future__ import annotations

import pytest

from membound.results.serving.latency import latency_of, seen_share
from membound.results.serving.request import OUTCOMES, Request


def test_latencies_count_from_due_and_those_from_sending_stand_beside() -> None:
    one = latency_of(Request(10.0, 11.5, [12.0, 12.25, 12.75], [1, 1, 1], [0, 1, 2], ended_s=13.0))
    assert (one.ttft_s, one.ttft_sent_s, one.e2e_s) == (2.0, 0.5, 3.0)
    assert one.tpot_s == pytest.approx(0.375)
    assert one.itl_s == pytest.approx([0.25, 0.5])
    assert one.spread_s == []


def test_a_chunk_of_several_tokens_is_no_gap_that_was_seen() -> None:
    one = latency_of(Request(0.0, 0.0, [1.0, 2.0, 2.9], [1, 4, 1], [0, 1, 2], ended_s=3.0))
    assert one.itl_s == pytest.approx([0.9])
    assert one.spread_s == pytest.approx([0.25] * 4)
    assert one.tpot_s == pytest.approx(1.9 / 5)
    assert seen_share([one]) == pytest.approx(1 / 5)


def test_chunks_of_one_read_share_a_time_and_give_no_gap_of_zero() -> None:
    one = latency_of(Request(0.0, 0.0, [1.0, 2.0, 2.0, 3.0], [1, 1, 1, 1], [0, 1, 1, 2], ended_s=3.0))
    assert one.itl_s == pytest.approx([1.0])
    assert one.spread_s == pytest.approx([0.5, 0.5])


def test_where_chunks_do_not_tell_their_tokens_no_gap_was_seen() -> None:
    told = latency_of(Request(0.0, 0.0, [1.0, 2.0, 3.0], [1, 1, 1], [0, 1, 2], told_tokens=5, ended_s=3.0))
    assert told.itl_s == []
    assert told.spread_s == pytest.approx([0.5] * 4)
    assert told.tpot_s == pytest.approx(0.5)
    same = latency_of(Request(0.0, 0.0, [1.0, 2.0, 3.0], [1, 1, 1], [0, 1, 2], told_tokens=3, ended_s=3.0))
    assert same.itl_s == pytest.approx([1.0, 1.0])


def test_tokens_of_the_first_chunk_have_no_time_per_token() -> None:
    assert latency_of(Request(0.0, 0.0, [1.0], [5], [0], ended_s=1.0)).tpot_s is None
    assert latency_of(Request(0.0, 0.0, [1.0, 2.0], [5, 2], [0, 1], ended_s=2.0)).tpot_s == pytest.approx(0.5)
    assert seen_share([]) is None


@pytest.mark.parametrize("outcome", [name for name in OUTCOMES if name != "ok"])
def test_what_failed_has_no_latency(outcome: str) -> None:
    with pytest.raises(ValueError, match=outcome):
        latency_of(Request(0.0, 0.0, [1.0], [1], [0], ended_s=1.0, outcome=outcome))


def test_a_stored_request_comes_back() -> None:
    one = Request(0.5, 0.6, [1.0, 2.0], [1, 2], [0, 1], ended_s=2.5, prompt_tokens=7, counted_by="ids")
    assert Request.from_fields(one.as_json()) == one
    assert Request(0.5).as_json() == {"due_s": 0.5}


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"outcome": "fine"}, "outcome 'fine'"),
        ({"counted_by": "guess"}, "counted_by"),
        ({"reads": [0]}, "differ in length"),
        ({"tokens": [1, 0]}, "without a token"),
        ({"arrivals_s": [2.0, 1.0]}, "out of order"),
        ({"sent_s": 0.1}, "out of order"),
        ({"ended_s": None}, "has no end"),
        ({"arrivals_s": [], "tokens": [], "reads": []}, "no token"),
        ({"colour": 1}, "colour"),
    ],
)
def test_what_no_client_can_have_seen_is_refused(fields: dict[str, object], words: str) -> None:
    good = Request(0.5, 0.6, [1.0, 2.0], [1, 2], [0, 1], ended_s=2.5).as_json()
    with pytest.raises(ValueError, match=words):
        Request.from_fields(good | fields)
