"""Rounds of turns, on a clock of their own: who plays when, which ceilings stand beside a turn, and when it ends."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from itertools import pairwise
from math import inf
from random import Random
from typing import Any

import pytest

from membound.bench.measure import rounds
from membound.bench.measure.ceiling_process import Moment
from membound.bench.measure.failures import Failure
from membound.bench.measure.rounds import Pace, play, stored
from membound.bench.protocol.messages import Turned
from membound.results.turns import StoredTurn

TURN = Turned(1e-3, 4, None, 0.01, [2e-3], 100, 1e-5, {}, {})
BEGAN = 1000.0
ENDLESS = Pace(10**9, inf)


class Clock:
    """Runs only while somebody plays."""

    def __init__(self) -> None:
        self.now_s = BEGAN
        self.log: list[str] = []


class Player:
    """A contestant whose turns last `cost_s`, the burst at their end; it fails in the turns of `fails`."""

    def __init__(self, clock: Clock, backend: str, cost_s: float = 0.01, fails: tuple[int, ...] = ()) -> None:
        self.clock, self.backend, self.cost_s, self.fails = clock, backend, cost_s, fails
        self.failure: Failure | None = None
        self.turns: list[StoredTurn] = []
        self.stolen: list[dict[str, float]] = []
        self.asked = 0

    def take_turn(self) -> Turned | None:
        self.asked += 1
        self.clock.log.append(self.backend)
        self.clock.now_s += self.cost_s
        if self.asked in self.fails:
            self.failure = Failure("crashed", "SIGSEGV")
            return None
        return replace(TURN, stolen={"stolen_bytes_per_s": float(self.asked)})


class Ceiling:
    """Ceilings that rise by one with every turn, which lasts 5 ms; after `lasts` of them there are none any more."""

    def __init__(self, clock: Clock, name: str, lasts: int = 10**9) -> None:
        self.clock, self.name, self.lasts, self.taken = clock, name, lasts, 0

    def take_turn(self) -> Moment:
        self.taken += 1
        self.clock.log.append(self.name)
        self.clock.now_s += 0.005
        return Moment(self.clock.now_s, {"read": float(self.taken)} if self.taken <= self.lasts else {})


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(rounds.time, "perf_counter", lambda: made.now_s)
    return made


def played(
    clock: Clock,
    players: list[Player],
    ceilings: dict[str, Ceiling] | None = None,
    pace: Pace = ENDLESS,
    **values: Any,
) -> tuple[int, list[tuple[Player, StoredTurn]]]:
    told: list[tuple[Player, StoredTurn]] = []
    args: Any = (players, ceilings or {}, pace, values.pop("rng", Random(1)), BEGAN)
    count = play(*args, lambda one, turn: told.append((one, turn)), **values)  # type: ignore[arg-type]
    return count, told


NAMES = ("a:cpu", "b:cpu", "c:cpu#2")


def test_everybody_plays_once_a_round_in_an_order_that_chance_decides(clock: Clock) -> None:
    players = [Player(clock, name) for name in NAMES]
    count, told = played(clock, players, pace=Pace(60, inf))
    assert count == 60
    orders = [tuple(clock.log[i : i + 3]) for i in range(0, 180, 3)]
    assert all(sorted(order) == sorted(NAMES) for order in orders)
    assert len(set(orders)) == 6, "all orders, so that nobody always follows the same"
    assert max(Counter(order[0] for order in orders).values()) < 40
    assert [(one.backend, turn.round) for one, turn in told] == [
        (name, number) for number, order in enumerate(orders) for name in order
    ]


def test_the_same_seed_gives_the_same_order(clock: Clock) -> None:
    for seed in (3, 3, 4):
        played(clock, [Player(clock, name) for name in NAMES], pace=Pace(9, inf), rng=Random(seed))
    first, again, other = (clock.log[i : i + 27] for i in (0, 27, 54))
    assert first == again != other


def test_the_ceiling_plays_between_any_two_turns_and_at_both_ends(clock: Clock) -> None:
    players = [Player(clock, name) for name in NAMES]
    _, told = played(clock, players, {"cpu": Ceiling(clock, "read")}, Pace(5, inf))
    assert clock.log[::2] == ["read"] * 16
    assert set(clock.log[1::2]) == set(NAMES)
    assert len(told) == 15
    for number, (one, turn) in enumerate(told, start=1):
        assert (turn.before, turn.after) == ({"read": float(number)}, {"read": number + 1.0})
        assert one.turns[turn.round] is turn
    for (_, before), (_, after) in pairwise(told):
        assert before.after == after.before


def test_a_turn_stands_where_the_middle_of_its_burst_was(clock: Clock) -> None:
    """The ceiling ends at 5 ms, a burst of 4 ms at 15 ms, the next ceiling at 20 ms: the middle is 8 of 15 ms later."""
    _, told = played(clock, [Player(clock, "a:cpu")], {"cpu": Ceiling(clock, "read")}, Pace(2, inf))
    (_, first), (_, second) = told
    assert first.at_s == pytest.approx(0.013)
    assert first.between == second.between == pytest.approx(8 / 15)
    assert second.at_s == pytest.approx(0.013 + 0.015)


@pytest.mark.parametrize(
    ("before_s", "at_s", "after_s", "between"),
    [
        (10.0, 12.5, 20.0, 0.25),
        (10.0, 10.0, 20.0, 0.0),
        (10.0, 20.0, 20.0, 1.0),
        (10.0, 9.0, 20.0, 0.0),
        (10.0, 21.0, 20.0, 1.0),
        (10.0, 10.0, 10.0, 0.5),
    ],
)
def test_where_it_stood_between_its_neighbours(
    before_s: float, at_s: float, after_s: float, between: float
) -> None:
    turn = stored(TURN, 7, at_s, 4.0, Moment(before_s, {"read": 1.0}), Moment(after_s, {"read": 3.0}), 2)
    assert turn.between == between
    assert turn.ceiling("read") == pytest.approx(1.0 + 2 * between)
    assert turn == StoredTurn(
        7, at_s - 4.0, 1e-3, 4, between, {"read": 1.0}, {"read": 3.0}, None, 0.01, [2e-3], 2
    )
    assert StoredTurn.from_fields(turn.as_json()) == turn


def test_what_was_told_of_a_turn_is_kept(clock: Clock) -> None:
    one = Player(clock, "a:cpu")
    played(clock, [one], pace=Pace(2, inf), first_round=10, process=3)
    assert [(t.round, t.process, t.time_s, t.launches) for t in one.turns] == [
        (10, 3, 1e-3, 4),
        (11, 3, 1e-3, 4),
    ]
    assert one.stolen == [{"stolen_bytes_per_s": 1.0}, {"stolen_bytes_per_s": 2.0}]


def test_without_ceilings_turns_have_no_neighbours(clock: Clock) -> None:
    one = Player(clock, "a:cuda:0")
    played(clock, [one], {"cpu": Ceiling(clock, "read")}, Pace(3, inf))
    assert [(t.before, t.after, t.between) for t in one.turns] == [({}, {}, 0.5)] * 3
    assert clock.log == ["a:cuda:0"] * 3


def test_ceilings_that_end_leave_the_turns_without_and_the_game_goes_on(clock: Clock) -> None:
    one = Player(clock, "a:cpu")
    played(clock, [one], {"cpu": Ceiling(clock, "read", lasts=3)}, Pace(5, inf))
    assert [(t.before, t.after) for t in one.turns] == [
        ({"read": 1.0}, {"read": 2.0}),
        ({"read": 2.0}, {"read": 3.0}),
        ({"read": 3.0}, {}),
        ({}, {}),
        ({}, {}),
    ]


# Several devices


def test_a_ceiling_right_before_a_turn_is_never_one_from_before_others_played(clock: Clock) -> None:
    """A device's ceiling of the turn before last is minutes old by then: it takes another one."""
    players = [
        Player(clock, "a:cpu"),
        Player(clock, "b:gpu:0"),
        Player(clock, "c:gpu:0+graph"),
        Player(clock, "d:gpu:1"),
    ]
    kinds = {"cpu": Ceiling(clock, "read cpu"), "gpu:0": Ceiling(clock, "read gpu:0")}
    _, told = played(clock, players, kinds, Pace(20, inf))
    assert len(told) == 80
    own = {"a:cpu": "read cpu", "b:gpu:0": "read gpu:0", "c:gpu:0+graph": "read gpu:0"}
    for i, who in enumerate(clock.log):
        if who in own:
            assert (clock.log[i - 1], clock.log[i + 1]) == (own[who], own[who])
    for before, who, after in zip(clock.log, clock.log[1:], clock.log[2:], strict=False):
        if who.startswith("read"):
            assert before != who or after != who, "nor one more than needed"
    for one, turn in told:
        if one.backend in own:
            assert turn.after["read"] == turn.before["read"] + 1
        else:
            assert (turn.before, turn.after) == ({}, {})


# Who fails


def test_who_fails_leaves_and_the_others_play_on(clock: Clock) -> None:
    players = [Player(clock, "a:cpu"), Player(clock, "b:cpu", fails=(3,)), Player(clock, "c:cpu", fails=(1,))]
    count, told = played(clock, players, {"cpu": Ceiling(clock, "read")}, Pace(6, inf))
    assert count == 6
    assert [len(one.turns) for one in players] == [6, 2, 0]
    assert [one.asked for one in players] == [6, 3, 1]
    assert [len(one.stolen) for one in players] == [6, 2, 0]
    assert len(told) == 8
    assert clock.log[::2] == ["read"] * 11, "who comes after a death has a ceiling of its own moment too"


def test_a_hang_lies_between_no_turn_and_its_ceilings(clock: Clock) -> None:
    """Whoever comes after a minute of silence is compared with the ceiling after it."""
    players = [Player(clock, "a:cpu"), Player(clock, "b:cpu", cost_s=60.0, fails=(2,))]
    played(clock, players, {"cpu": Ceiling(clock, "read")}, Pace(4, inf))
    first = players[0].turns
    assert len(first) == 4
    assert [turn.between for turn in first] == [pytest.approx(8 / 15)] * 4


def test_the_game_ends_when_nobody_is_left(clock: Clock) -> None:
    players = [Player(clock, "a:cpu", fails=(2,)), Player(clock, "b:cpu", fails=(4,))]
    assert played(clock, players, pace=Pace(100, inf))[0] == 4
    assert played(clock, [], pace=Pace(100, inf))[0] == 0
    gone = Player(clock, "c:cpu")
    gone.failure = Failure("oom", "too much")
    assert played(clock, [gone], pace=Pace(100, inf))[0] == 0
    assert gone.asked == 0


# How long


@pytest.mark.parametrize(
    ("pace", "count"),
    [
        (Pace(7, inf), 7),
        (Pace(0, inf), 0),
        (Pace(100, 4.5), 5),
        (Pace(100, 0.0), 3),
        (Pace(100, 0.0, least=1), 1),
        (Pace(2, 0.0), 2),
        (Pace(100, 2.5, least=6), 6),
        (Pace(100, inf, limit_s=4.5), 5),
        (Pace(100, 0.0, least=50, limit_s=1.5), 2),
        (Pace(100, inf, limit_s=0.0), 1),
    ],
    ids=str,
)
def test_it_lasts_as_long_as_the_pace_says(clock: Clock, pace: Pace, count: int) -> None:
    """A round takes a second here."""
    one = Player(clock, "a:cpu", cost_s=1.0)
    assert played(clock, [one], pace=pace)[0] == count
    assert len(one.turns) == count
