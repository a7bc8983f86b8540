"""Messages: every one comes through a line as it was; whatever else a line holds is a ProtocolError and nothing worse."""

from __future__ import annotations

import json
from dataclasses import MISSING, fields
from typing import Any, get_type_hints

import numpy as np
import pytest

from membound.bench.measure.station import Station
from membound.bench.protocol import messages
from membound.bench.protocol.messages import (
    ANSWERS,
    COMMANDS,
    MOST_LINE,
    Checked,
    Close,
    Done,
    Failed,
    Found,
    Hello,
    Phase,
    ProtocolError,
    TakeTurn,
    Turned,
    decode,
    encode,
)

ALL = {**COMMANDS, **ANSWERS}
RNG = np.random.default_rng()


def number() -> float:
    return float(10 ** RNG.uniform(-9, 20))


def count() -> int:
    return int(RNG.integers(0, 1 << 62))


def text() -> str:
    return "".join(map(chr, RNG.integers(32, 0xD7FF, 5))) + '"\\\n\t\x00é\U0001f600'


def anything() -> dict[str, Any]:
    return {text(): [count(), {"deep": [number(), None, True, text()]}], "": {}}


VALUES = {
    str: text,
    int: count,
    float: number,
    bool: lambda: bool(RNG.integers(2)),
    int | None: lambda: RNG.choice([None, count()]),
    float | None: lambda: RNG.choice([None, number()]),
    list[int]: lambda: [count() for _ in range(RNG.integers(4))],
    list[float]: lambda: [number() for _ in range(RNG.integers(4))],
    list[str]: lambda: [text(), ""],
    list[dict[str, Any]]: lambda: [anything(), {}],
    dict[str, Any]: anything,
    dict[str, str]: lambda: {text(): text()},
    dict[str, float]: lambda: {text(): number()},
    dict[str, bool]: lambda: {text(): False, "x": True},
}


def some(cls: type[Any]) -> Any:
    """A message with every field set to something of its type."""
    hints = get_type_hints(cls)
    return cls(**{one.name: VALUES[hints[one.name]]() for one in fields(cls)})


@pytest.mark.parametrize("name", ALL)
def test_every_message_comes_back_as_it_was(name: str) -> None:
    known = COMMANDS if name in COMMANDS else ANSWERS
    for _ in range(20):
        message, sent = some(ALL[name]), count()
        line = encode(message, sent)
        assert "\n" not in line
        assert line.isascii()
        assert decode(line, known) == (message, sent)


@pytest.mark.parametrize("name", ALL)
def test_fields_with_a_default_may_be_missing_and_no_other(name: str) -> None:
    cls = ALL[name]
    whole = json.loads(encode(some(cls), 3))
    known = COMMANDS if name in COMMANDS else ANSWERS
    for one in fields(cls):
        rest = {key: value for key, value in whole.items() if key != one.name}
        if one.default is MISSING and one.default_factory is MISSING:
            with pytest.raises(ProtocolError, match=f"{name}: no field '{one.name}'"):
                decode(json.dumps(rest), known)
        else:
            default = one.default_factory() if one.default_factory is not MISSING else one.default
            assert getattr(decode(json.dumps(rest), known)[0], one.name) == default


def test_commands_and_answers_are_told_apart() -> None:
    assert not COMMANDS.keys() & ANSWERS.keys()
    for name, cls in ALL.items():
        other = ANSWERS if name in COMMANDS else COMMANDS
        with pytest.raises(ProtocolError, match="is no message"):
            decode(encode(some(cls), 1), other)


def test_a_worker_knows_what_to_do_with_every_command_but_the_last() -> None:
    assert set(Station.METHODS) == set(COMMANDS.values()) - {Close}
    for method in Station.METHODS.values():
        assert callable(getattr(Station, method))


WRONG: dict[Any, list[Any]] = {
    str: [None, 5, True, ["x"], {"a": 1}],
    int: [None, True, -1, 1.0, "5", [5], 10**31],
    float: [None, True, -1e-9, "0.5", [], 1e31],
    bool: [None, 0, 1, "true", []],
    int | None: [True, -1, 1.5, "5"],
    float | None: [False, -0.1, "x", {}],
    list[int]: [None, [1.5], [None], [True], "12", {"0": 1}, [-1]],
    list[float]: [None, ["x"], [None], [[1.0]], 1.0, [-1.0]],
    list[str]: [None, [1], "abc", [None]],
    list[dict[str, Any]]: [None, [1], {}, ["x"], [[]]],
    dict[str, Any]: [None, [], "x", 1],
    dict[str, str]: [None, {"a": 1}, {"a": None}, []],
    dict[str, float]: [None, {"a": "x"}, {"a": -1.0}, {"a": True}, []],
    dict[str, bool]: [None, {"a": 1}, {"a": None}, []],
}


@pytest.mark.parametrize("name", ALL)
def test_a_field_of_another_type_is_refused_by_name(name: str) -> None:
    cls = ALL[name]
    known = COMMANDS if name in COMMANDS else ANSWERS
    whole, hints = json.loads(encode(some(cls), 3)), get_type_hints(cls)
    for one in fields(cls):
        for value in WRONG[hints[one.name]]:
            with pytest.raises(ProtocolError, match=f"^{name}: {one.name}=") as raised:
                decode(json.dumps(whole | {one.name: value}), known)
            assert len(str(raised.value)) < 200


@pytest.mark.parametrize("extra", ["extra", "", "Message", "self"])
def test_an_unknown_field_is_refused(extra: str) -> None:
    with pytest.raises(ProtocolError, match=f"Done: unknown field '{extra}'"):
        decode(json.dumps({"message": "Done", "number": 1, extra: 1}), ANSWERS)


@pytest.mark.parametrize(
    "body",
    [
        5,
        None,
        "Done",
        [],
        {},
        {"message": "Done"},
        {"number": 1},
        {"message": "Nothing", "number": 1},
        {"message": None, "number": 1},
        {"message": ["Done"], "number": 1},
        {"message": {"Done": 1}, "number": 1},
        {"message": "Done", "number": None},
        {"message": "Done", "number": 1.0},
        {"message": "Done", "number": True},
        {"message": "Done", "number": "1"},
        {"event": "end"},
    ],
    ids=str,
)
def test_other_json_is_no_message(body: Any) -> None:
    with pytest.raises(ProtocolError, match="is no message"):
        decode(json.dumps(body), ANSWERS)


@pytest.mark.parametrize(
    "line",
    [
        "",
        "\n",
        "oops",
        "{",
        '{"message":"Done","number":NaN}',
        '{"message":"Checked","number":1,"error":Infinity,"settings":{},"telemetry":{}}',
        '{"message":"Checked","number":1,"error":0.0,"settings":{"x":NaN},"telemetry":{}}',
        '{"message":"Checked","number":1,"error":0.0,"settings":{"x":[-1e999]},"telemetry":{}}',
        '{"message":"Checked","number":1,"error":0.0,"settings":{},"telemetry":{"x":1e999}}',
        '{"message":"Done","number":' + "9" * 5000 + "}",
        "[" * 200_000,
        '{"message":"Done","number":1}{"message":"Done","number":1}',
        "\ufffd\ufffd",
    ],
    ids=lambda line: line[:40],
)
def test_what_is_no_json_is_no_message(line: str) -> None:
    with pytest.raises(ProtocolError, match="is no message") as raised:
        decode(line, ANSWERS)
    assert len(str(raised.value)) < 500


TURNED = Turned(0.1, 1, None, None, [], 0, 0.0, {}, {})


@pytest.mark.parametrize(
    "message",
    [
        Checked(float("nan"), {}, {}),
        Checked(0.0, {"x": float("nan")}, {}),
        Checked(0.0, {"x": [float("inf")]}, {}),
        Checked(0.0, {"x": np.int64(5)}, {}),
        Checked(0.0, {"x": ...}, {}),
        Checked(-0.1, {}, {}),
        Found([{"name": {1, 2}}]),
        Failed("error", None),  # type: ignore[arg-type]
        Failed("wrong", "far off", 1e31),
        Phase(b"preparing"),  # type: ignore[arg-type]
        Hello("3.11", 1.0),  # type: ignore[arg-type]
        TakeTurn(0, seconds=float("inf")),
        TakeTurn(np.int64(0)),  # type: ignore[arg-type]
    ],
    ids=str,
)
def test_what_is_no_json_cannot_be_sent(message: Any) -> None:
    with pytest.raises(ValueError, match=type(message).__name__):
        encode(message, 1)


def test_figures_survive_to_the_last_bit() -> None:
    times = [float(x) for x in 10 ** RNG.uniform(-300, 29, 200)]
    sent = Turned(times[0], 1, times[1], times[2], times, 0, 5e-324, {"a": times[4]}, {})
    got, _ = decode(encode(sent, 1), ANSWERS)
    assert got == sent
    assert got.retaken_s == times


def test_a_message_longer_than_any_reader_takes_is_not_sent() -> None:
    assert len(encode(Failed("error", "x" * (MOST_LINE - 100)), 1)) < MOST_LINE
    with pytest.raises(ValueError, match=f"Failed takes [0-9]+ bytes, more than {MOST_LINE}"):
        encode(Failed("error", "x" * MOST_LINE), 1)


def test_doors_are_those_of_the_union_types() -> None:
    assert list(COMMANDS.values()) == list(messages.Command.__args__)
    assert list(ANSWERS.values()) == list(messages.Answer.__args__)
    assert Done in ANSWERS.values()
