"""Requests: exact lengths, nothing that a cache has seen, and fields that a server may refuse."""

from __future__ import annotations

import json

import pytest

from membound.bench.serving.bodies import FIRST_ID, ORDER, Asked, Fields, Prompts, body


def test_prompts_have_their_length_and_differ_from_the_first_token_on() -> None:
    prompts = Prompts(seed=3, vocab=32000)
    one, two = prompts.ids(50, 0), prompts.ids(50, 1)
    assert len(one) == len(two) == 50
    assert one[0] != two[0]
    assert one == Prompts(3, 32000).ids(50, 0)
    assert one != Prompts(4, 32000).ids(50, 0)
    assert all(FIRST_ID <= i < 32000 for i in one)
    texts = [prompts.text(20, number).split() for number in range(3)]
    assert {len(words) for words in texts} == {20}
    assert len({words[0] for words in texts}) == 3


def test_a_shared_prefix_is_shared_and_no_longer_than_the_prompt() -> None:
    prompts = Prompts(seed=3, vocab=32000, shared=30)
    one, two = prompts.ids(50, 0), prompts.ids(50, 1)
    assert one[:30] == two[:30]
    assert one[30:] != two[30:]
    assert prompts.ids(10, 5) == one[:10]
    assert prompts.text(40, 0).split()[:30] == prompts.text(40, 1).split()[:30]
    assert len(prompts.text(30, 0).split()) == 30


def test_bodies_of_completions_and_chats() -> None:
    made = json.loads(body(Asked("completions", "m", 7), [11, 12], Fields()))
    assert made == {
        "model": "m",
        "prompt": [11, 12],
        "max_tokens": 7,
        "stream": True,
        "temperature": 0,
        "ignore_eos": True,
        "stream_options": {"include_usage": True},
        "return_token_ids": True,
    }
    bare = json.loads(body(Asked("chat/completions", "m", 7), "a b", Fields(False, False, False, False)))
    assert bare == {
        "model": "m",
        "messages": [{"role": "user", "content": "a b"}],
        "max_tokens": 7,
        "stream": True,
        "temperature": 0,
    }


@pytest.mark.parametrize(
    ("words", "dropped"),
    [
        ("Unrecognized request argument supplied: stream_options", "include_usage"),
        ("ignore_eos: extra fields not permitted", "ignore_eos"),
        ("prompt must be a string", "ids"),
        ("bad request", "return_token_ids"),
    ],
)
def test_the_field_that_a_refusal_names_goes_first(words: str, dropped: str) -> None:
    left = Fields().without(words)
    assert left is not None
    assert left.dropped == [dropped]


def test_fields_run_out() -> None:
    left: Fields | None = Fields()
    for count in range(len(ORDER)):
        assert left is not None
        assert len(left.dropped) == count
        left = left.without("no")
    assert left is not None
    assert left.dropped == list(ORDER)
    assert left.without("no") is None
