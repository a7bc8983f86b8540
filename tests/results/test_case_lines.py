"""Reading what a comparison needs of a line gives what reading it whole gives, or refuses, so that it is read whole."""

from __future__ import annotations

import json
from dataclasses import replace
from zlib import crc32

import pytest
from rows import MACHINE, case, ceiling

from membound.results.case_lines import CaseLines, played_in, rounds_of, times_of
from membound.results.checksum import sealed
from membound.results.process import Process, condensed, interned, of_fields
from membound.results.process_columns import Packer, Unpacker
from membound.results.row import Row
from membound.results.turns import StoredTurn

TURN = StoredTurn(round=3, at_s=1.5, time_s=2e-3, launches=4)
FULL = replace(
    TURN, between=0.25, before={"read": 4e10}, after={"read": 5e10, "fma_f32": 1e11}, device_s=1e-3,
    disturbance=0.01, retaken_s=[0.1, 0.2], process=1,
)  # fmt: skip


def content(row: Row) -> bytes:
    return row.to_json().encode()


def process_of(text: bytes, turns: bool = False, lines: CaseLines | None = None) -> Process | None:
    line = sealed(text) + b"\n"
    return (lines or CaseLines(turns, {})).process_of(line)


ROWS = {
    "samples": case(samples=[0.01, 0.03, 0.02]),
    "one sample": case(samples=[1e-05]),
    "none": case(samples=(), status="crashed", reason="SIGSEGV"),
    "turns": case(samples=[], turns=[TURN, replace(TURN, round=4, time_s=3e-3)]),
    "full turns": case(
        samples=[], turns=[FULL, replace(FULL, round=1, disturbance=0.5), replace(FULL, round=2)]
    ),
    "mixed turns": case(samples=[], turns=[replace(TURN, disturbance=None), replace(FULL, disturbance=0.0)]),
    "missed": case(error=0.5, tolerance=0.01),
    "unchecked": case(error=None, tolerance=None),
    "texts": case(
        reason='a "quoted", \\ {"x":[1]}', command=',"machine":{', device='],"turns":[', run_id="é"
    ),
    "nested": case(
        accelerator={"cache_bytes": 5, "more": {"samples_s": [1.0]}}, config={"format": "x", "a": {"b": 1}}
    ),
    "machines": case(machine=MACHINE | {"more": {"machine": {"grade": "clean"}}}, versions={"grade": "x"}),
    "telemetry": case(telemetry={"wall_s": 1.0, "more": {"error": 1.0}}, config={"error": 3}),
}


@pytest.mark.parametrize("name", ROWS)
@pytest.mark.parametrize("turns", [False, True])
def test_a_line_read_in_part_is_the_same(name, turns):
    row = ROWS[name]
    found = process_of(content(row), turns)
    whole = condensed(Row.from_json(row.to_json()), turns)
    assert found == whole
    assert found is not None
    assert found.content == crc32(content(row))


def test_what_rows_share_is_one_object():
    lines = CaseLines(turns=False, known={})
    a, b, c = (
        process_of(content(row), lines=lines)
        for row in (case(), case(replicate=1, samples=[0.5]), case(grade="contended"))
    )
    assert a.shared is b.shared
    assert a.shared.machine is c.shared.machine
    assert (a.replicate, a.time_s, b.replicate, b.time_s) == (0, 0.01, 1, 0.5)
    assert (a.shared.grade, c.shared.grade) == ("clean", "contended")


def test_a_turn_that_says_twice_how_it_was_disturbed_is_read_as_json_is():
    text = content(case(samples=[], turns=[replace(TURN, disturbance=0.25), TURN]))
    once = b',"disturbance":0.25'
    again = process_of(text.replace(once, b',"disturbance":0.0' + once), turns=True)
    assert again == process_of(text, turns=True)


def test_the_machine_of_one_run_is_not_that_of_another():
    lines = CaseLines(turns=False, known={})
    machines = [MACHINE | {"cpu": name} for name in ("one", "another", "one")]
    assert [
        process_of(content(case(machine=one)), lines=lines).shared.machine for one in machines
    ] == machines


def test_a_row_of_an_older_schema_is_read_too():
    stored = json.loads(case(samples=[], turns=[FULL]).to_json())
    del stored["requests"]
    text = json.dumps(stored | {"schema_version": 3}, separators=(",", ":"))
    assert process_of(text.encode(), turns=True) == condensed(Row.from_json(text))


def test_ceilings_are_no_processes():
    assert process_of(content(ceiling("read", 1e10, "bytes/s"))) is None


def stored_as(**change: object) -> dict[str, object]:
    return json.loads(case().to_json()) | change


FORGED = {"round": 1, "at_s": 1.0, "time_s": 1.0, "launches": 1, "before": {"round": 1.0, "time_s": 2.0}}


@pytest.mark.parametrize(
    "stored",
    [
        stored_as(value=3.0),
        stored_as(requests=[{"due_s": 1.0}]),
        stored_as(samples_s=[1]),
        stored_as(turns=[FORGED]),
        dict(sorted(stored_as().items())),
    ],
    ids=["value", "requests", "integer", "forged", "sorted"],
)
def test_a_line_that_no_row_has_is_read_as_reading_it_whole_does(stored):
    text = json.dumps(stored, indent=1 if "value" in stored else None).replace("\n", " ").encode()
    assert process_of(text, turns=True) == of_fields(json.loads(text), True, crc32(text))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"schema_version": 99}, "another schema"),
        ({"grade": "superb"}, "another schema"),
        ({"samples_s": [0.0]}, "times of 0.0 to 0.0 s"),
        ({"samples_s": [float("inf")]}, "JSON is malformed"),
        ({"samples_s": ["x"]}, "Expected `float`, got `str`"),
        ({"replicate": True}, "Expected `int`, got `bool`"),
        ({"replicate": 2**70}, "Expected `int` <= "),
        ({"machine": None}, "no object"),
        ({"accelerator": None}, "no object"),
        ({"turns": [{"round": 1}]}, "missing required field `time_s`"),
    ],
    ids=str,
)
def test_a_line_that_is_not_as_rows_are_written_is_left_to_those_who_read_it_whole(change, said):
    with pytest.raises(ValueError, match=said):
        process_of(json.dumps(stored_as(**change), separators=(",", ":")).encode())


def test_times_are_of_turns_where_there_are_any():
    turns = b'[{"round":1,"at_s":1.0,"time_s":0.5,"launches":1,"disturbance":0.0}]'
    assert times_of(*played_in(turns, b"[9.0]")) == [0.5]
    assert list(rounds_of(played_in(turns, b"[]")[0])) == [(1, 0.5, True)]
    assert times_of(*played_in(b"[]", b"[9.0,7.0]")) == [7.0, 9.0]
    assert times_of(*played_in(b"[]", b"[]")) == []


def test_columns_hold_processes_and_what_they_share_once():
    known: dict[object, object] = {}
    made = [condensed(row, turns=bool(number % 2)) for number, row in enumerate(ROWS.values())]
    for one in made:
        one.shared = interned(one.shared, known)
    made += [replace(made[0], replicate=9), replace(made[3], replicate=8)]
    packer, unpacker = Packer(), Unpacker(known := {})
    columns = packer.columns(made)
    assert len(columns.shared) < len(made)
    found = list(unpacker.processes(columns))
    assert found == made
    assert [one.content for one in found] == [one.content for one in made]
    other = replace(made[0], shared=made[0].shared._replace(backend="other"))
    more = packer.columns([made[1], other, made[1]])
    assert [one[1] for one in more.shared] == ["other"]  # the rest has crossed before
    found_then = list(unpacker.processes(more))
    assert found_then == [made[1], other, made[1]]
    assert found_then[0].shared is found[1].shared
    again = list(Unpacker(known).processes(Packer().columns(made[:1])))
    assert again[0].shared is found[0].shared
