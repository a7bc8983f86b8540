"""A line read by msgspec is right: what `Row.from_json` refuses is refused, and what it takes gives the same figures."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from rows import case, ceiling

from membound.results import processes
from membound.results.process import condensed
from membound.results.processes import processes_of
from membound.results.row import Row, RowError
from membound.results.strict_line import read_strictly
from membound.results.turns import StoredTurn

TURN = StoredTurn(round=0, at_s=1.0, time_s=2e-3, launches=3, before={"read": 4e10}, disturbance=0.0)
GOOD = {
    "samples": case(),
    "turns": case(samples=[], turns=[TURN, replace(TURN, round=1, device_s=1e-3, between=1.0)]),
    "failed": case(samples=(), status="crashed", reason="SIGSEGV", error=None),
    "step": case(work="step:model=llama-3.2-1b,batch=4,context=64,weight=bf16,kv=bf16,act=float"),
    "free fields": case(accelerator={"cache_bytes": 5.5, "modes": ["x"]}, config={"a": {"b": None}}),
    "ceiling": ceiling("read", 1e10, "bytes/s", config={"array_bytes": 1 << 30, "threads": 2}),
}
BAD = {
    "a field that nobody knows": {"more": 1},
    "a count that is none": {"threads": -1},
    "a count with a point": {"launches": 1.0},
    "a truth for a count": {"slots": True},
    "text for a number": {"prepare_s": "1"},
    "a status": {"status": "fine"},
    "a grade": {"grade": "good"},
    "a kind": {"kind": "cases"},
    "a list of texts": {"grade_reasons": [1]},
    "an object that is none": {"config": []},
    "a version": {"versions": {"numpy": 2}},
    "traffic": {"traffic": {"weights": 1.5}},
    "no time": {"samples_s": []},
    "a time of nothing": {"samples_s": [1e-13]},
    "a time by the device": {"device_samples_s": [0.0]},
    "a negative error": {"error": -0.1},
    "a batch in words": {"work": "step:model=m,batch=many"},
    "energy": {"telemetry": {"device_energy_j": "5"}},
    "a cache": {"machine": {"last_level_cache_bytes": -1}},
    "a cache of the device": {"accelerator": {"cache_bytes": "5"}},
    "a turn without its round": {"turns": [{"at_s": 1.0, "time_s": 1.0, "launches": 1}]},
    "a turn of no launch": {"turns": [TURN.as_json() | {"launches": 0}]},
    "a turn of no time": {"turns": [TURN.as_json() | {"time_s": 0}]},
    "a ceiling of nothing": {"turns": [TURN.as_json() | {"after": {"read": 0}}]},
    "a turn between nothing": {"turns": [TURN.as_json() | {"between": 1.01}]},
    "a turn's field": {"turns": [TURN.as_json() | {"more": 1}]},
    "an older schema": {"schema_version": 0},
    "a newer schema": {"schema_version": 99},
}


def text(row: Row, **change: object) -> bytes:
    return json.dumps(json.loads(row.to_json()) | change).encode()


@pytest.mark.parametrize("name", GOOD)
def test_a_right_line_gives_the_same_process_and_no_other_reader_is_asked(tmp_path, monkeypatch, name):
    path = tmp_path / "a.jsonl"
    path.write_bytes(text(GOOD[name]) + b"\n")
    expected = [condensed(GOOD[name])] if GOOD[name].kind == "case" else []
    monkeypatch.setattr(processes, "_of_unusual", lambda line, lines: pytest.fail("it was read twice"))
    assert list(processes_of(path, turns=True)) == expected


@pytest.mark.parametrize("wrong", BAD)
def test_a_wrong_field_is_refused_as_the_strict_reader_refuses_it(wrong):
    line = text(case(), **BAD[wrong])
    with pytest.raises(RowError):
        Row.from_json(line.decode())
    with pytest.raises(ValueError, match=r"."):
        read_strictly(line)


@pytest.mark.parametrize(
    "change", [{"value": 1e-13}, {"value": None}, {"config": {"array_bytes": "x"}}, {"config": {"turns": 5}}]
)
def test_a_wrong_ceiling_is_refused(change):
    line = text(GOOD["ceiling"], **change)
    with pytest.raises(RowError):
        Row.from_json(line.decode())
    with pytest.raises(ValueError, match="that has to be looked at"):
        read_strictly(line)


@pytest.mark.parametrize("number", ["NaN", "1e999", "-1e-9", "Infinity"])
def test_a_number_that_is_none_is_refused_wherever_it_stands(number):
    for field, value in (
        ("samples_s", f"[{number}]"),
        ("telemetry", f'{{"device_energy_j":{number}}}'),
        ("machine", f'{{"memory_bytes":{number}}}'),
    ):
        whole = case().to_json()
        line = whole.replace(
            f'"{field}":{json.dumps(json.loads(whole)[field], separators=(",", ":"))}', f'"{field}":{value}'
        )
        assert line != whole
        with pytest.raises(RowError):
            Row.from_json(line)
        with pytest.raises(ValueError, match=r"."):
            read_strictly(line.encode())


@pytest.mark.parametrize(
    "line", [text(case(reason="\ud800")), text(case(error=1e25, tolerance=1e26)), text(case(threads=2**70))]
)
def test_what_it_leaves_to_the_strict_reader_is_read_by_that(tmp_path, line):
    with pytest.raises(ValueError, match=r"."):
        read_strictly(line)
    path = tmp_path / "a.jsonl"
    path.write_bytes(line + b"\n")
    assert list(processes_of(path)) == [condensed(Row.from_json(line.decode()))]


def test_an_older_row_needs_no_newer_fields():
    stored = json.loads(case().to_json())
    for name in ("requests", "turns", "device_samples_s", "timed_launches", "accelerator", "memory_ceiling"):
        del stored[name]
    assert read_strictly(json.dumps(stored | {"schema_version": 1}).encode()).turns == []
    del stored["schema_version"]
    with pytest.raises(ValueError, match="schema_version"):
        read_strictly(json.dumps(stored).encode())
