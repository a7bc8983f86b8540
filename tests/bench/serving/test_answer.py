"""Answers as engines send them, and each way in which one goes wrong, told apart."""

from __future__ import annotations

import json
from typing import Any

import pytest

from membound.bench.serving.answer import read_answer, read_stream
from membound.bench.serving.raw import RawAnswer
from membound.results.serving.request import Request

MS = 1_000_000


def chunk(text: str = " a", **more: Any) -> dict[str, Any]:
    return {"choices": [{"index": 0, "text": text, "finish_reason": None, **more}]}


def chat(**delta: Any) -> dict[str, Any]:
    return {"choices": [{"index": 0, "delta": delta, "finish_reason": None}]}


LAST = {"choices": [{"index": 0, "text": "", "finish_reason": "length"}]}
USAGE = {"choices": [], "usage": {"prompt_tokens": 5, "completion_tokens": 3}}


def answered(*found: Any, end: str = "complete", asked: int | None = None, status: int = 200) -> Request:
    """An event every ten milliseconds, each in a read of its own; bytes are sent as they are."""
    raw = RawAnswer(due_ns=0, sent_ns=1 * MS, status=status)
    for i, one in enumerate(found):
        body = one if isinstance(one, bytes) else b"data: " + json.dumps(one).encode() + b"\n\n"
        raw.feed((10 * i + 10) * MS, i, body)
    raw.finish(end, 1000 * MS, "" if end == "complete" else f"it is {end}")
    return read_answer(raw, 0, asked)


DONE = b"data: [DONE]\n\n"


def test_a_completion_is_a_chunk_a_token() -> None:
    one = answered(chunk(), chunk(), chunk(), LAST, USAGE, DONE, asked=3)
    assert (one.outcome, one.tokens, one.counted_by, one.prompt_tokens) == ("ok", [1, 1, 1], "usage", 5)
    assert one.arrivals_s == pytest.approx([0.01, 0.02, 0.03])
    assert (one.due_s, one.sent_s, one.ended_s) == (0.0, 0.001, 1.0)


def test_ids_count_and_show_chunks_of_several_tokens() -> None:
    one = answered(
        chunk(token_ids=[7]), chunk(token_ids=[8, 9, 3]), chunk("", token_ids=[4]), LAST, DONE, asked=5
    )
    assert (one.outcome, one.tokens, one.counted_by) == ("ok", [1, 3, 1], "ids")


def test_usage_that_says_more_than_the_chunks_wins() -> None:
    one = answered(chunk(), chunk(), LAST, USAGE, DONE, asked=3)
    assert (one.outcome, one.output_tokens, one.chunks_told, one.counted_by) == ("ok", 3, False, "usage")


def test_without_ids_and_usage_chunks_are_counted_and_that_is_said() -> None:
    one = answered(chunk(), chunk(), LAST, DONE)
    assert (one.outcome, one.output_tokens, one.counted_by) == ("ok", 2, "chunks")


@pytest.mark.parametrize("told", [10**400, 1 << 40, 1e400, -1, True, "3", [3], None])
def test_a_count_that_no_answer_has_is_not_told(told: Any) -> None:
    usage = {"choices": [], "usage": {"prompt_tokens": told, "completion_tokens": told}}
    one = answered(chunk(), chunk(), LAST, usage, DONE, asked=2)
    assert (one.outcome, one.output_tokens, one.counted_by, one.prompt_tokens) == ("ok", 2, "chunks", 0)
    assert Request.from_fields(one.as_json()) == one


def test_ids_of_no_vocabulary_count_and_are_told_by_one_number() -> None:
    told = {"choices": [{"text": "a", "token_ids": [7, 10**400, -5, 1 << 31, "x", None]}]}
    raw = RawAnswer(0, ended_ns=2 * MS, status=200, end="complete")
    raw.parts = [(MS, 0, b"data: " + json.dumps(told).encode() + b"\n\n")]
    seen = read_stream(raw)
    assert (seen.ids, seen.tokens) == ([7, -1, -1, -1], [4])


def test_the_chunk_that_names_a_role_is_no_token_and_reasoning_is() -> None:
    one = answered(
        chat(role="assistant", content=""),
        chat(reasoning_content="hm"),
        chat(reasoning="h"),
        chat(content="a"),
        LAST,
        DONE,
    )
    assert one.tokens == [1, 1, 1]
    assert one.arrivals_s[0] == pytest.approx(0.02)


def test_events_may_come_in_pieces_with_other_line_ends_and_between_comments() -> None:
    text = b": ping\r\n\r\ndata: " + json.dumps(chunk()).encode() + b"\r\n\r\n"
    one = answered(text[:25], text[25:60], text[60:], LAST, DONE)
    assert (one.tokens, one.arrivals_s) == ([1], pytest.approx([0.03]))


def test_events_of_one_read_keep_that_they_came_together() -> None:
    both = b"".join(b"data: " + json.dumps(chunk()).encode() + b"\n\n" for _ in range(2))
    one = answered(chunk(), both, LAST, DONE)
    assert one.reads == [0, 1, 1]


def test_a_server_that_closes_after_done_has_answered() -> None:
    assert answered(chunk(), LAST, DONE, end="closed").outcome == "ok"
    assert answered(chunk(), LAST).outcome == "ok"


@pytest.mark.parametrize(
    ("found", "options", "outcome", "words"),
    [
        ((b'{"error":{"message":"slow down"}}',), {"status": 429}, "refused", "HTTP 429: slow down"),
        ((b"overloaded",), {"status": 503}, "refused", "HTTP 503: overloaded"),
        ((chunk(), {"error": {"message": "EngineDeadError"}}, DONE), {}, "failed", "EngineDeadError"),
        ((chunk(), b'data: {"id": "x", "choi\n\n', chunk(), DONE), {}, "broken", "no JSON"),
        ((chunk(), b"data: [1]\n\n", DONE), {}, "broken", "no object"),
        ((chunk(), b'data: {"choices": [3]}\n\n', DONE), {}, "broken", "choice"),
        ((chunk(), chunk()), {"end": "closed"}, "cut", "closed"),
        ((chunk(), chunk()), {}, "cut", "without"),
        ((chunk(),), {"end": "stalled"}, "stalled", "stalled"),
        ((chunk(),), {"end": "timeout"}, "timeout", "timeout"),
        ((), {"end": "unreachable", "status": 0}, "unreachable", "unreachable"),
        ((), {"end": "not http", "status": 0}, "broken", "not http"),
        ((LAST, DONE), {}, "broken", "without a token"),
        ((chunk(), LAST, DONE), {"asked": 2}, "short", "1 tokens, 2 were asked for"),
    ],
)
def test_failures_are_told_apart(found: Any, options: dict[str, Any], outcome: str, words: str) -> None:
    one = answered(*found, **options)
    assert one.outcome == outcome
    assert words in one.reason


def test_words_of_a_server_are_kept_short_and_on_one_line() -> None:
    one = answered(b"line\n" * 1000, status=500)
    assert len(one.reason) <= 200
    assert "\n" not in one.reason
