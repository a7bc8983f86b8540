"""Stored lines with one field damaged: refused in one line that names the field, whatever the damage."""

from __future__ import annotations

import json
import re
from dataclasses import fields

import pytest
from observations import meta, seen
from rows import case, ceiling, failed, write

from membound.bench import cli
from membound.bench.planning import inventory
from membound.results.claim.file import load_claim, new_claim_path
from membound.results.claim.observation import ClaimMeta, Observation, ObservationError
from membound.results.fields import read_json, wrong_field, wrong_version
from membound.results.row import Row, RowError
from membound.results.store import RunWriter

NULLABLE = {
    Row: {"stored_bytes", "error", "tolerance", "value"},
    Observation: {"time_s", "read_bytes_per_s", "compute_flops_per_s", "launch_s"},
    ClaimMeta: set(),
}
LINES = {Row: case(), Observation: seen(), ClaimMeta: meta()}
ERRORS = {Row: RowError, Observation: ObservationError, ClaimMeta: ObservationError}
DAMAGE = (True, -1, 1.5, 10**400, "abc", ["abc"], [None], [[1.0]], {"a": None}, {"a": []})


def fitting(annotation):
    """The values of DAMAGE that a field of this annotation may hold."""
    if annotation == "str":
        return ("abc",)
    if annotation.startswith("float"):
        return (1.5,)
    if annotation == "list[str]":
        return (["abc"],)
    return ({"a": None}, {"a": []}) if annotation == "dict[str, Any]" else ()


def damaged():
    """(class, field, values) for every field: all that it may not hold."""
    for cls, nullable in NULLABLE.items():
        for one in fields(cls):
            allowed = fitting(str(one.type))
            values = DAMAGE if one.name in nullable else (None, *DAMAGE)
            wrong = [value for value in values if not any(value is a or value == a for a in allowed)]
            yield pytest.param(cls, one.name, wrong, id=f"{cls.__name__}-{one.name}")


def refusal(cls, data):
    """What is said of a line, or nothing."""
    try:
        cls.from_json(json.dumps(data))
    except ERRORS[cls] as error:
        return str(error)
    return ""


@pytest.mark.parametrize(("cls", "name", "values"), list(damaged()))
def test_a_field_of_another_type_is_refused_by_name(cls, name, values):
    whole = json.loads(LINES[cls].to_json())
    assert len(values) > 5
    for value in values:
        said = refusal(cls, whole | {name: value})
        assert re.search(rf"{name}|newer membound", said), value
        assert "\n" not in said
        assert len(said) < 200


@pytest.mark.parametrize("cls", LINES)
def test_a_whole_line_is_read(cls):
    assert cls.from_json(LINES[cls].to_json()) == LINES[cls]
    assert wrong_field(cls, {}).startswith("no field ")


@pytest.mark.parametrize(
    ("row", "change", "says"),
    [
        (case(), {"kind": "foo"}, "kind 'foo' is none of case, ceiling"),
        (case(), {"samples_s": []}, "a case that is ok has neither turns nor samples"),
        (case(), {"turns": [{}]}, "not a row: turns: no field 'at_s'"),
        (case(), {"samples_s": [0.01, 0.0]}, "samples_s holds a time of 0 s"),
        (case(), {"samples_s": [0.01, -0.01]}, "samples_s=.* is not a list of numbers from 0"),
        (case(), {"samples_s": [1e-300]}, "samples_s holds a time of 1e-300 s"),
        (case(), {"samples_s": [1e308]}, "samples_s=.* is not a list of numbers from 0"),
        (ceiling("read", 1e9, "bytes/s"), {"config": {"work": 5}}, "work=5 of config is not text"),
        (
            ceiling("read", 1e9, "bytes/s"),
            {"config": {"arrays": None}},
            "arrays=None of config is not a number",
        ),
        (
            ceiling("read", 1e9, "bytes/s"),
            {"config": {"threads": True}},
            "threads=True of config is not a number",
        ),
        (
            ceiling("read", 1e9, "bytes/s"),
            {"config": {"turns": 3, "lowest": "x", "highest": 1}},
            "lowest='x'",
        ),
        (
            ceiling("read", 1e9, "bytes/s"),
            {"config": {"turns": 3}},
            "config has turns but not all of turns, lowest",
        ),
        (case(), {"device_samples_s": [0]}, "device_samples_s holds a time of 0 s"),
        (case(), {"machine": {"last_level_cache_bytes": "x"}}, "last_level_cache_bytes='x' of machine"),
        (case(), {"telemetry": {"device_energy_j": []}}, "device_energy_j=.* of telemetry is not a number"),
        (ceiling("read", 1e9, "bytes/s"), {"value": "x"}, "value='x' is not a number from 0, nor null"),
        (case(), {"machine": {"memory_bytes": -1}}, "memory_bytes=-1 of machine is not a number from 0"),
        (case(), {"prepare_s": 2**63}, "prepare_s=9223372036854775808 is not a number from 0"),
        (case(), {"work": f"step:model=tiny,batch={'1' * 5000}"}, "batch='1+.* is not a number"),
        (case(), {"work": "step:batch=\u0663"}, "batch='\u0663' is not a number"),
        (ceiling("read", 1e9, "bytes/s"), {"value": 5e-324}, "a ceiling that is ok has the value 5e-324"),
        (ceiling("read", 1e9, "bytes/s"), {"value": None}, "a ceiling that is ok has the value None"),
        (ceiling("read", 1e9, "bytes/s"), {"value": 0}, "a ceiling that is ok has the value 0"),
        (ceiling("read", 1e9, "bytes/s"), {"config": {"array_bytes": "x"}}, "array_bytes='x' of config"),
    ],
)
def test_what_no_measurement_can_have_given_is_refused(row, change, says):
    with pytest.raises(RowError, match=says):
        Row.from_json(json.dumps(json.loads(row.to_json()) | change))


@pytest.mark.parametrize(
    "settings", [{"threads": "auto"}, {"work": 5}, {"arrays": None}, {"turns": [1]}], ids=str
)
def test_what_a_runtime_says_of_its_settings_is_its_own_affair(settings):
    row = case(config=settings)
    assert Row.from_json(row.to_json()) == row


def test_a_case_that_failed_needs_no_samples():
    row = failed("crashed", "SIGSEGV")
    assert Row.from_json(row.to_json()) == row


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"samples_s": []}, "an observation that is ok has no samples"),
        ({"samples_s": [0.0]}, "samples_s holds a time of 0 s"),
        ({"time_s": 10**20}, "time_s=1.* is not a number from 0, nor null"),
        ({"samples_s": [1e-300]}, "a time of 1e-300 s"),
        ({"launch_s": 5e-324}, "a time of 4.94.*e-324 s"),
        ({"read_bytes_per_s": 1e-300}, "a ceiling of 1e-300"),
        ({"factors": {"k": 5e-324}}, "factor k is 4.94.*e-324"),
        ({"factors": {"k": -1}}, "factors=.* is not an object of numbers"),
        ({"bytes": 0}, "an observation that is ok has moved no bytes"),
        ({"launch_s": 0}, "launch_s is 0, which no ceiling is"),
        ({"factors": {"k": True}}, "factors=.* is not an object of numbers and texts"),
    ],
)
def test_an_observation_that_cannot_be_is_refused(change, says):
    with pytest.raises(ObservationError, match=says):
        Observation.from_json(json.dumps(json.loads(seen().to_json()) | change))


@pytest.mark.parametrize("version", [0, -1, True, 1.0, "1", []])
def test_a_version_is_a_whole_number_from_one(version):
    assert wrong_version({"schema_version": version}, 2).endswith("is not a whole number from 1")
    with pytest.raises(RowError, match="schema_version"):
        Row.from_json(json.dumps(json.loads(case().to_json()) | {"schema_version": version}))


def test_versions_that_can_be_read():
    assert [wrong_version({"schema_version": n}, 2) for n in (1, 2)] == ["", ""]
    assert wrong_version({}, 2) == "no schema_version"
    assert "newer membound (schema 3 of claim files" in wrong_version(
        {"schema_version": 3}, 2, " of claim files"
    )


@pytest.mark.parametrize(
    "text",
    [
        *('{"a": NaN}', '{"a": -Infinity}', '{"a": {"b": [1e999]}}', "-1e400"),
        *("[" * 200_000, "{", '{"a": ' * 200_000),
    ],
    ids=lambda text: text[:12],
)
def test_what_is_no_json_is_a_value_error(text):
    with pytest.raises(ValueError, match=r"not a number of JSON|deeply|line 1"):
        read_json(text)


def test_what_is_read_can_be_written_again():
    text = '{"telemetry": {"energy": 1e999}}'
    with pytest.raises(ValueError, match="1e999 is not a number of JSON"):
        read_json(text)
    for line in (1.7976931348623157e308, 5e-324, -0.0, 10**400):
        assert json.loads(json.dumps(read_json(json.dumps([line])), allow_nan=False)) == [line]


# The commands


def refused(capsys, *arguments):
    with pytest.raises(SystemExit) as ended:
        cli.main([str(a) for a in arguments])
    out, err = capsys.readouterr()
    assert (ended.value.code, out, err.count("\n")) == (2, "", 1)
    return err


DAMAGES = (
    {"samples_s": "abc"},
    {"bytes": None},
    {"backend": None},
    {"work": 5},
    {"machine": None},
    {"telemetry": 5},
    {"schema_version": 0},
)


@pytest.mark.parametrize("change", DAMAGES, ids=str)
def test_every_reader_of_rows_refuses_in_one_line(tmp_path, capsys, monkeypatch, change):
    path = write(tmp_path / "a.jsonl", [case()])
    path.write_text(case().to_json() + "\n" + json.dumps(json.loads(case().to_json()) | change) + "\n")
    name = next(iter(change))
    assert re.search(rf"a\.jsonl, line 2: (not a row: )?{name}=", refused(capsys, "show", path))
    monkeypatch.setattr(inventory, "probe", lambda *_: [])
    assert f"{name}=" in refused(capsys, "list", "--out", tmp_path)
    assert f"{name}=" in refused(capsys, "compare", path, path)


@pytest.mark.parametrize("name", ["backend", "experiment", "samples_s", "factors"])
def test_the_report_on_a_claim_refuses_in_one_line(tmp_path, capsys, name):
    with RunWriter(new_claim_path(tmp_path, "x")) as writer:
        writer.append(meta())
        writer.append(seen())
    content = writer.path.read_text()
    line = json.loads(content.splitlines()[1]) | {name: None}
    writer.path.write_text(content + json.dumps(line) + "\n")
    assert f"line 3: {name}=None is not " in refused(capsys, "claim-report", writer.path)
    with pytest.raises(ObservationError, match=name):
        load_claim(writer.path)


@pytest.mark.parametrize(
    ("machine", "says"),
    [
        ({"last_level_cache_bytes": [1]}, r"last_level_cache_bytes=\[1\] of machine is not a number from 0"),
        ({"last_level_cache_bytes": "32 MB"}, "last_level_cache_bytes='32 MB' of machine is not a number"),
        ({"isa": 5}, "isa=5 of machine is not a list"),
    ],
)
def test_a_fingerprint_that_no_reader_could_use_is_refused(machine, says):
    with pytest.raises(ObservationError, match=says):
        ClaimMeta.from_json(meta(machine=machine).to_json())


def test_a_batch_that_is_no_number_is_refused_in_one_line(tmp_path, capsys):
    path = write(tmp_path / "a.jsonl", [case(work="step:model=tiny,batch=x")])
    assert "batch='x' is not a number" in refused(capsys, "show", path)
