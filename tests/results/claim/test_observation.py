"""Observations: there and back, and everything malformed refused."""

from __future__ import annotations

import json

import pytest
from observations import meta, seen

from membound.results.claim.observation import (
    SCHEMA_VERSION,
    ClaimMeta,
    Observation,
    ObservationError,
    median_s,
)
from membound.results.turns import StoredTurn


def test_an_observation_survives_its_line():
    one = seen(0.25, factors={"k": 8.0, "format": "int8"}, telemetry={"frequency_hz": None})
    line = one.to_json()
    assert "\n" not in line
    assert json.loads(line)["kind"] == "observation"
    assert Observation.from_json(line) == one


def test_turns_survive_with_the_ceilings_of_their_moments():
    turns = [
        StoredTurn(
            0, 1.5, 1e-3, 2, 0.25, {"read": 4e10}, {"read": 5e10, "fma_f32": 1e11}, 2e-3, 0.01, [3e-3]
        ),
        StoredTurn(1, 2.5, 2e-3, 2),
    ]
    one = seen(turns=turns)
    line = one.to_json()
    assert Observation.from_json(line) == one
    assert Observation.from_json(line).turns[0].ceiling("read") == 4.25e10
    assert json.loads(line)["turns"][1] == {"round": 1, "at_s": 2.5, "time_s": 2e-3, "launches": 2}


@pytest.mark.parametrize("version", [1, 2])
def test_older_lines_have_no_turns(version):
    fields = json.loads(seen(0.25).to_json())
    del fields["turns"]
    one = Observation.from_json(json.dumps(fields | {"schema_version": version}))
    assert (one.turns, one.seconds, one.schema_version) == ([], 0.25, version)


@pytest.mark.parametrize(
    ("turns", "message"),
    [
        ("x", "turns='x' is not a list of objects"),
        ([1], "is not a list of objects"),
        ([{"round": 0}], "turns: no field 'at_s'"),
        ([{"round": 0, "at_s": 1, "time_s": 0, "launches": 1}], "turns: a turn of 0 s with 1 launches"),
        ([{"round": 0, "at_s": 1, "time_s": 1, "launches": 1, "pause": 1}], "turns: unknown field 'pause'"),
        (
            [{"round": 0, "at_s": 1, "time_s": 1, "launches": 1, "after": {"read": 0}}],
            "turns: a ceiling of a turn is 0",
        ),
    ],
)
def test_turns_that_are_none_are_refused(turns, message):
    fields = json.loads(seen().to_json()) | {"turns": turns}
    with pytest.raises(ObservationError, match=message):
        Observation.from_json(json.dumps(fields))


def test_meta_survives_its_line():
    assert ClaimMeta.from_json(meta(only=[1, 4]).to_json()) == meta(only=[1, 4])


def test_what_could_not_be_measured_has_a_status_and_no_time():
    one = seen(None, status="unsupported", reason="no int4")
    assert Observation.from_json(one.to_json()).reason == "no int4"
    with pytest.raises(ObservationError, match="no time: unsupported no int4"):
        _ = one.seconds


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"status": "fine"}, "status 'fine' is none of ok"),
        ({"validity": "good"}, "validity 'good' is none of clean"),
        ({"time_s": -1.0}, "time_s -1.0 is no time"),
        ({"time_s": float("nan")}, "is no time"),
        ({"status": "crashed"}, "status crashed with time_s 0.01"),
        ({"time_s": None}, "status ok with time_s None"),
    ],
)
def test_contradictions_are_refused(values, message):
    with pytest.raises(ObservationError, match=message):
        seen(**values)


def test_a_factor_is_a_number_or_an_error_that_names_it():
    one = seen(factors={"k": 8.0, "format": "int8"})
    assert one.number("k") == 8.0
    for factor in ("format", "m"):
        with pytest.raises(ObservationError, match=f"experiment 1, arm linear_f32: factor {factor}"):
            one.number(factor)


def test_a_factor_that_is_divided_by_is_above_0():
    assert seen(factors={"cache_bytes": 8}).positive("cache_bytes") == 8.0
    with pytest.raises(ObservationError, match="experiment 1, arm linear_f32: factor cache_bytes is 0"):
        seen(factors={"cache_bytes": 0}).positive("cache_bytes")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", "not JSON"),
        ("[]", "not a line of kind observation"),
        (meta().to_json(), "not a line of kind observation"),
        ('{"kind":"observation"}', "no schema_version"),
        (
            seen().to_json().replace(f'"schema_version":{SCHEMA_VERSION}', '"schema_version":99'),
            "newer membound",
        ),
        (seen().to_json().replace('"arm"', '"leg"'), "unknown field 'leg'"),
        ('{"kind":"observation","schema_version":1,"arm":"a"}', "no field 'backend'"),
    ],
)
def test_a_line_that_is_none_is_refused(line, message):
    with pytest.raises(ObservationError, match=message):
        Observation.from_json(line)


def test_the_time_is_the_median_of_the_samples():
    assert median_s([3.0, 1.0, 2.0]) == 2.0
