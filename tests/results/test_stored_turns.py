"""Turns as they are stored: read back as they were, refused where nobody can have measured them, graded by disturbance."""

from __future__ import annotations

import json
from dataclasses import fields, replace
from typing import Any

import numpy as np
import pytest
from rows import case

from membound.results.row import GRADES, Row, RowError
from membound.results.turns import (
    CLEAN_SHARE,
    DISTURBED,
    FEWEST_CLEAN,
    INVALID,
    StoredTurn,
    grade_of,
    usable,
)

RNG = np.random.default_rng()


def turn(time_s: float = 1e-3, disturbance: float | None = 0.0, **values: Any) -> StoredTurn:
    base: dict[str, Any] = {"round": 0, "at_s": 0.0, "launches": 1}
    return StoredTurn(time_s=time_s, disturbance=disturbance, **(base | values))


def any_turn() -> StoredTurn:
    def rates() -> dict[str, float]:
        return {name: float(10 ** RNG.uniform(9, 13)) for name in ("read", "tile_bf16")[: RNG.integers(3)]}

    return StoredTurn(
        round=int(RNG.integers(1000)),
        at_s=float(RNG.uniform(0, 1e4)),
        time_s=float(10 ** RNG.uniform(-7, 2)),
        launches=int(RNG.integers(1, 1001)),
        between=float(RNG.choice([0.0, 0.5, 1.0, RNG.random()])),
        before=rates(),
        after=rates(),
        device_s=None if RNG.integers(2) else float(10 ** RNG.uniform(-7, 2)),
        disturbance=None if RNG.integers(2) else float(RNG.choice([0.0, RNG.random() * 3])),
        retaken_s=[float(x) for x in RNG.random(RNG.integers(4))],
        process=int(RNG.integers(3)),
    )


# In a file


def test_a_turn_is_read_back_as_it_was() -> None:
    for _ in range(200):
        one = any_turn()
        assert StoredTurn.from_fields(json.loads(json.dumps(one.as_json()))) == one


def test_what_is_as_by_default_takes_no_room() -> None:
    plain = StoredTurn(round=0, at_s=0.0, time_s=0.25, launches=1)
    assert plain.as_json() == {"round": 0, "at_s": 0.0, "time_s": 0.25, "launches": 1}
    for one in fields(StoredTurn):
        if one.name not in plain.as_json():
            other = replace(plain, **{one.name: getattr(FULL, one.name)})
            assert list(other.as_json()) == [*plain.as_json(), one.name]


FULL = StoredTurn(3, 1.5, 2e-3, 4, 0.25, {"read": 4e10}, {"read": 5e10}, 1e-3, 0.0, [3e-3], 1)


@pytest.mark.parametrize("name", ["round", "at_s", "time_s", "launches"])
def test_a_field_that_every_turn_has_may_not_be_missing(name: str) -> None:
    rest = {key: value for key, value in FULL.as_json().items() if key != name}
    with pytest.raises(ValueError, match=f"no field '{name}'"):
        StoredTurn.from_fields(rest)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"speed": 1}, "unknown field 'speed'"),
        ({"round": -1}, "round=-1 is not a whole number from 0"),
        ({"round": 1.0}, "round=1.0 is not a whole number"),
        ({"at_s": -0.1}, "at_s=-0.1 is not a number from 0"),
        ({"at_s": None}, "at_s=None is not a number"),
        ({"time_s": 0}, "a turn of 0 s"),
        ({"time_s": 1e-13}, "a turn of 1e-13 s"),
        ({"time_s": -1e-3}, "time_s=-0.001 is not a number from 0"),
        ({"time_s": float("nan")}, "time_s=nan is not a number"),
        ({"time_s": float("inf")}, "time_s=inf is not a number"),
        ({"time_s": 1e31}, "time_s=1e"),
        ({"time_s": True}, "time_s=True is not a number"),
        ({"time_s": "1"}, "time_s='1' is not a number"),
        ({"launches": 0}, "0 launches"),
        ({"launches": -3}, "launches=-3 is not a whole number from 0"),
        ({"between": 1.01}, "at 1.01"),
        ({"between": -0.01}, "between=-0.01 is not a number from 0"),
        ({"before": {"read": 0}}, "a ceiling of a turn is 0"),
        ({"after": {"read": 1e-13}}, "a ceiling of a turn is 1e-13"),
        ({"after": {"read": -1.0}}, "after=.* is not an object of numbers from 0"),
        ({"after": {"read": None}}, "after=.* is not an object of numbers from 0"),
        ({"before": [1.0]}, "before=.* is not an object of numbers from 0"),
        ({"device_s": 0}, "a turn of 0 s by the device's clock"),
        ({"device_s": 1e-13}, "a turn of 1e-13 s by the device's clock"),
        ({"device_s": -1.0}, "device_s=-1.0 is not a number from 0, nor null"),
        ({"disturbance": -0.1}, "disturbance=-0.1"),
        ({"disturbance": "much"}, "disturbance='much'"),
        ({"retaken_s": [0.1, "x"]}, "retaken_s=.* is not a list of numbers from 0"),
        ({"retaken_s": 0.1}, "retaken_s=0.1 is not a list"),
        ({"process": -1}, "process=-1"),
    ],
    ids=str,
)
def test_what_no_turn_can_have_been_is_refused(change: dict[str, Any], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        StoredTurn.from_fields(FULL.as_json() | change)


def test_a_row_keeps_its_turns_and_refuses_others() -> None:
    row = case(samples=(), turns=[any_turn() for _ in range(5)])
    assert Row.from_json(row.to_json()) == row
    data = json.loads(row.to_json())
    for turns in ([data["turns"][0] | {"time_s": 0}], [{}], [[]], [None], {"round": 1}, "x"):
        with pytest.raises(RowError, match="turns") as raised:
            Row.from_json(json.dumps(data | {"turns": turns}))
        assert "\n" not in str(raised.value)


def test_the_times_of_a_row_are_those_of_the_turns_that_count() -> None:
    turns = [turn(0.1 * (i + 1), 0.0 if i < 4 else 0.9) for i in range(6)]
    assert case(samples=(), turns=turns).times_s == [t.time_s for t in turns[:4]]
    assert case(samples=[0.5, 0.7]).times_s == [0.5, 0.7]


# Ceilings


def test_the_ceiling_of_a_moment_lies_between_its_neighbours() -> None:
    one = turn(before={"read": 40.0, "fma_f32": 7.0}, after={"read": 60.0, "tile_bf16": 9.0})
    for between, expected in ((0.0, 40.0), (0.25, 45.0), (0.5, 50.0), (1.0, 60.0)):
        assert replace(one, between=between).ceiling("read") == pytest.approx(expected)
    assert (one.ceiling("fma_f32"), one.ceiling("tile_bf16"), one.ceiling("copy")) == (7.0, 9.0, None)


def test_the_best_of_several_ceilings_counts_and_others_fill_in() -> None:
    one = turn(before={"fma_f32": 10.0, "tile_bf16": 30.0}, after={"fma_f32": 20.0, "tile_bf16": 10.0})
    assert one.best_ceiling(["fma_f32", "tile_bf16"], {}) == pytest.approx(20.0)
    assert replace(one, between=1.0).best_ceiling(["fma_f32", "tile_bf16"], {}) == pytest.approx(20.0)
    assert one.best_ceiling(["fma_f32", "gemm_bf16"], {"gemm_bf16": 90.0}) == 90.0
    assert one.best_ceiling(["fma_f32"], {"fma_f32": 90.0}) == pytest.approx(15.0), "its own moment's counts"
    assert one.best_ceiling(["gemm_f16"], {"gemm_bf16": 90.0}) is None
    assert one.best_ceiling([], {"gemm_bf16": 90.0}) is None


# Disturbance


def test_a_turn_is_clean_if_it_is_known_to_be() -> None:
    assert turn(disturbance=DISTURBED).clean
    assert not turn(disturbance=1.01 * DISTURBED).clean
    assert not turn(disturbance=None).clean


def test_clean_turns_alone_count_when_there_are_three() -> None:
    clean = [turn(float(i + 1), 0.02) for i in range(FEWEST_CLEAN)]
    dirty = turn(99.0, 0.5)
    assert usable([dirty, *clean, dirty]) == clean


def test_with_fewer_clean_ones_the_least_disturbed_third_counts() -> None:
    turns = [turn(float(i + 1), 0.1 * (i + 1)) for i in range(12)]
    shuffled = [turns[i] for i in RNG.permutation(12)]
    assert usable(shuffled) == turns[:4]
    two_clean = [turn(1.0, 0.0), turn(2.0, 0.01), turn(3.0, 0.5), turn(4.0, 0.4)]
    assert usable(two_clean) == [two_clean[0], two_clean[1], two_clean[3]]
    assert usable(turns[5:7]) == turns[5:7]
    assert usable([]) == []


def test_where_nobody_can_tell_all_count() -> None:
    turns = [turn(float(i + 1), None) for i in range(12)]
    assert usable(turns) == turns
    known = turn(99.0, 0.2)
    assert usable([*turns, known])[0] == known, "a disturbance that is known ranks before one that is not"


@pytest.mark.parametrize(
    ("disturbances", "grade", "reason"),
    [
        ([0.0] * 4, "clean", ""),
        ([0.0, 0.0, 0.5, 0.5], "clean", ""),
        ([0.0, 0.5, 0.5, 0.5], "contended", "disturbed turns: 3 of 4"),
        ([0.1] * 9, "contended", "disturbed turns: 9 of 9"),
        ([INVALID] * 9, "contended", "disturbed turns: 9 of 9"),
        ([INVALID + 0.01] * 9, "invalid", "disturbed turns: 9 of 9, the best ones by 16%"),
        ([0.1, 0.2, 0.3, 0.9, 0.9], "invalid", "disturbed turns: 5 of 5, the best ones by 20%"),
        ([0.0, 0.9, 0.9, 0.9, 0.9], "contended", "disturbed turns: 4 of 5"),
        ([0.9], "invalid", "disturbed turns: 1 of 1, the best ones by 90%"),
        ([0.0, None, 0.0], "unknown", "waiting threads cannot be counted"),
        ([None] * 3, "unknown", "waiting threads cannot be counted"),
        ([], "unknown", "waiting threads cannot be counted"),
    ],
)
def test_a_process_is_graded_by_its_turns(disturbances: list[float | None], grade: str, reason: str) -> None:
    turns = [turn(disturbance=share) for share in disturbances]
    assert grade_of(turns) == (grade, [reason] if reason else [])
    assert grade in GRADES
    assert CLEAN_SHARE == 0.5
