"""Ratios of times: of the turns of one round where two cases took turns, of their processes where they did not."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from rows import LINEAR, case

from membound.results.intervals import interval, ratio_interval
from membound.results.ratios import Ratio, process_medians, ratio_of, round_ratios
from membound.results.row import Row
from membound.results.turns import StoredTurn

RNG = np.random.default_rng()


def played(times: Any, backend: str = "alpha:cpu", replicate: int = 0, **values: Any) -> Row:
    """A process whose turns took these times; a number among `dirty` is a round that was disturbed, `first` the first one."""
    dirty, first = values.pop("dirty", ()), values.pop("first", 0)
    turns = [
        StoredTurn(first + i, float(i), float(t), 1, disturbance=0.9 if first + i in dirty else 0.0)
        for i, t in enumerate(times)
    ]
    return case(backend, samples=(), turns=turns, replicate=replicate, **values)


def test_rounds_cancel_what_the_machine_does_in_them() -> None:
    """B takes 1.2 times as long in every round, however the machine's speed drifts or jumps between rounds."""
    rows_a, rows_b = [], []
    for replicate in range(3):
        speed = np.cumprod(RNG.uniform(0.5, 2, 15))
        rows_a.append(played(speed, replicate=replicate))
        rows_b.append(played(1.2 * speed, "beta:cpu", replicate))
    found = ratio_of(rows_a, rows_b)
    assert found.value == pytest.approx(1.2)
    assert found.paired
    assert found.processes == 3
    assert found.ci == (pytest.approx(1.2), pytest.approx(1.2))


def test_a_ratio_is_the_median_over_rounds_then_over_processes() -> None:
    ratios = [[1.0, 2.0, 9.0], [3.0, 4.0, 5.0], [1.5, 1.5, 1.5]]
    rows_a = [played([1.0] * 3, replicate=i) for i in range(3)]
    rows_b = [played(r, "beta:cpu", i) for i, r in enumerate(ratios)]
    assert round_ratios(rows_a, rows_b) == [2.0, 4.0, 1.5]
    assert ratio_of(rows_a, rows_b) == Ratio(2.0, interval([2.0, 4.0, 1.5]), True, 3)
    assert round_ratios(rows_b, rows_a) == pytest.approx([1 / 2, 1 / 4, 1 / 1.5])


def test_only_rounds_that_both_played_are_compared() -> None:
    """A resumed run, or one who dropped out: rounds 2 to 4 are common."""
    a = played([1.0, 1.0, 2.0, 4.0, 8.0])
    b = played([6.0, 12.0, 24.0, 99.0, 99.0], "beta:cpu", first=2)
    assert round_ratios([a], [b]) == [3.0]


def test_disturbed_rounds_do_not_count_while_there_are_three_others() -> None:
    a = played([1.0] * 5, dirty=(0,))
    b = played([9.0, 2.0, 9.0, 2.0, 2.0], "beta:cpu", dirty=(2,))
    assert round_ratios([a], [b]) == [2.0]
    noisy = played([9.0, 2.0, 9.0, 2.0, 2.5], "beta:cpu", dirty=(2, 4))
    assert round_ratios([a], [noisy]) == [2.5], "two clean rounds are too few: the median of all five"


@pytest.mark.parametrize(
    "other", [{"replicate": 1}, {"run_id": "run-b"}, {"work": LINEAR.replace("m=1", "m=2")}], ids=str
)
def test_other_minutes_are_never_paired(other: dict[str, Any]) -> None:
    assert (
        round_ratios([played([1.0] * 3)], [played([2.0] * 3, "beta:cpu", **({"replicate": 0} | other))]) == []
    )


def test_the_same_backend_once_more_is_paired_like_any_other() -> None:
    assert round_ratios([played([1.0, 2.0, 3.0])], [played([1.0, 2.0, 3.0], "alpha:cpu#2")]) == [1.0]


def test_groups_that_did_not_fit_together_share_no_round() -> None:
    """Their processes are compared instead."""
    rows_a = [played([1.0, 1.1, 0.9], replicate=i) for i in range(3)]
    rows_b = [played([2.0, 2.2, 1.8], "beta:cpu", i, first=3) for i in range(3)]
    assert ratio_of(rows_a, rows_b) == Ratio(2.0, ratio_interval([2.0] * 3, [1.0] * 3), False, 3)


def test_rows_without_turns_are_compared_process_by_process() -> None:
    a = [case(samples=[s, 1.1 * s, 0.9 * s]) for s in (1.0, 2.0, 3.0)]
    b = [case("beta:cpu", samples=[s]) for s in (2.0, 4.0, 6.0, 8.0)]
    found = ratio_of(a, b)
    assert found == Ratio(2.5, ratio_interval([2.0, 4.0, 6.0, 8.0], [1.0, 2.0, 3.0]), False, 3)
    assert found.ci is not None
    assert found.ci[0] < 2.5 < found.ci[1]


def test_few_processes_have_a_ratio_and_no_interval() -> None:
    pair = ratio_of([played([1.0] * 3)], [played([2.0] * 3, "beta:cpu")])
    assert pair == Ratio(2.0, None, True, 1)
    assert ratio_of([case(samples=[1.0])], [case(samples=[3.0])] * 5) == Ratio(3.0, None, False, 1)


def test_processes_that_are_paired_outweigh_those_that_are_not() -> None:
    """One replicate of B was lost: the others are compared within themselves."""
    rows_a = [played([s] * 3, replicate=i) for i, s in enumerate((1.0, 10.0, 100.0, 1000.0))]
    rows_b = [played([1.5 * s] * 3, "beta:cpu", i) for i, s in enumerate((1.0, 10.0, 100.0))]
    found = ratio_of(rows_a, rows_b)
    assert (found.value, found.paired, found.processes) == (pytest.approx(1.5), True, 3)


def test_process_medians_are_of_the_turns_that_count() -> None:
    rows = [played([1.0, 5.0, 2.0, 3.0], dirty=(1,)), case(samples=[4.0, 6.0]), case(samples=())]
    assert process_medians(rows) == [2.0, 5.0]
