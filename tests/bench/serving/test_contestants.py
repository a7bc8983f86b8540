"""Engines that take turns: what each is started with, and in which order."""

from __future__ import annotations

import sys

import pytest

from membound.bench.serving.contestants import engines_of, in_turn, parse_options
from membound.bench.serving.engine import Engine, EngineOptions
from membound.bench.serving.schedule import LoadError
from membound.bench.serving.served import parse_served

SERVED = parse_served("step:model=tiny,weight=f32,layers=1")
NAMES = ["vllm", "vllm#2", "llamacpp"]


def engines(names: list[str], options: list[str], pythons: list[str]) -> tuple[Engine, ...]:
    return engines_of(names, SERVED, EngineOptions(threads=1), options, pythons)


def test_each_has_what_is_said_to_all_and_what_is_said_to_it() -> None:
    options = ["max-model-len=64", "vllm#2:block-size=64", "vllm#2:enforce-eager", "llamacpp:n_batch=8"]
    found = engines(NAMES, options, [sys.executable, "vllm#2=/usr/bin/python3"])
    assert [one.name for one in found] == NAMES
    assert [one.kind.name for one in found] == ["vllm", "vllm", "llamacpp"]
    assert [dict(one.options.options) for one in found] == [
        {"max-model-len": "64"},
        {"max-model-len": "64", "block-size": "64", "enforce-eager": ""},
        {"max-model-len": "64", "n_batch": "8"},
    ]
    assert [one.python for one in found] == [sys.executable, "/usr/bin/python3", sys.executable]
    assert {one.options.threads for one in found} == {1}


@pytest.mark.parametrize(
    ("names", "options", "words"),
    [
        (["vllm", "vllm"], [], "call one that comes twice vllm#2"),
        (["vllm#"], [], "is not NAME or NAME#LABEL"),
        (["#2"], [], "is not NAME or NAME#LABEL"),
        (["vllm#a b"], [], "is not NAME or NAME#LABEL"),
        (
            ["vllm"],
            ["llamacpp:n_batch=8"],
            "is not NAME=VALUE or ENGINE:NAME=VALUE, with an ENGINE of --engine",
        ),
    ],
)
def test_what_is_no_contestant_is_refused(names: list[str], options: list[str], words: str) -> None:
    with pytest.raises(LoadError, match=words):
        engines(names, options, [sys.executable])


def test_options_are_the_engines_own() -> None:
    assert parse_options(["--max-num-seqs=8", "enforce-eager", "a_b=c=d"]) == {
        "max-num-seqs": "8",
        "enforce-eager": "",
        "a_b": "c=d",
    }
    for text in ("", "=3", "a b=3", "$x=1"):
        with pytest.raises(LoadError, match="is not NAME=VALUE"):
            parse_options([text])


def test_every_round_has_all_and_neither_is_always_first() -> None:
    found = engines(NAMES, [], [sys.executable])
    orders = [[one.name for one in in_turn(found, 1, number)] for number in range(20)]
    assert all(sorted(order) == sorted(NAMES) for order in orders)
    assert {order[0] for order in orders} == {*NAMES}
    assert orders == [[one.name for one in in_turn(found, 1, number)] for number in range(20)]
    assert orders != [[one.name for one in in_turn(found, 2, number)] for number in range(20)]
