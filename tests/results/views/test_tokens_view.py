"""The first tokens of backends beside each other."""

from __future__ import annotations

from typing import Any

import pytest
from rows import case, failed

from membound.results.views.tokens import NONE, tokens_lines

STEP = "step:model=tiny,batch=3"


def test_backends_stand_beside_each_other_and_what_is_equal_is_counted() -> None:
    rows = [
        case("alpha:cpu", STEP, config={"greedy_tokens": [7, 88, 9]}),
        case("beta:cpu", STEP, config={"greedy_tokens": [7, 5, 9]}, error=2e-3),
        case("beta:cpu", STEP, config={"greedy_tokens": [1, 1, 1]}),  # another process of the same backend
        failed("unsupported", "no", backend="gamma:cpu", work=STEP),
        case("alpha:cpu", "step:model=tiny", config={"greedy_tokens": [4]}),
        case(),
    ]
    assert tokens_lines(rows) == [
        "step:model=tiny,batch=3",
        "  backend    first tokens  error",
        "  alpha:cpu  7 88 9        0.001 of 0.01",
        "  beta:cpu   7 5 9         0.002 of 0.01",
        "  2 of 3 equal in all 2 backends",
        "",
        "step:model=tiny",
        "  backend    first tokens  error",
        "  alpha:cpu  4             0.001 of 0.01",
        "  one backend alone",
    ]


@pytest.mark.parametrize("told", [5, "7 8", {"a": 1}, [[1], [2]], ["7"], [1.5], [True], [None], []])
def test_what_is_no_list_of_tokens_is_none(told: Any) -> None:
    assert tokens_lines([case("alpha:cpu", STEP, config={"greedy_tokens": told})]) == [NONE]


def test_other_numbers_of_sequences_and_no_tolerance_are_told() -> None:
    rows = [
        case("alpha:cpu", STEP, config={"greedy_tokens": [7, 88]}, tolerance=None),
        case("beta:cpu", STEP, config={"greedy_tokens": [7]}),
    ]
    lines = tokens_lines(rows)
    assert lines[2] == "  alpha:cpu  7 88          0.001"
    assert lines[-1] == "  of different numbers of sequences"


def test_rows_without_tokens_say_so() -> None:
    assert tokens_lines([case()]) == [NONE]
