"""`membound list`: backends, devices, models and ceilings, for people and as JSON."""

import json

import pytest
from cli_calls import HERE
from rows import case, run_rows, write

from membound.kernels.models import MODELS, PUBLISHED, get_model

pytestmark = pytest.mark.usefixtures("folder")


def test_list_shows_backends_models_and_ceilings(membound_, devices, folder):
    status, out, _ = membound_("list")
    assert status == 0
    assert f"{HERE}:cpu+x" in out
    assert "not installed; pip install it" in out
    assert "llama-3.2-1b" in out
    assert "none known yet" in out
    write(folder / "results/runs/a.jsonl", run_rows())
    write(folder / "results/runs/b.jsonl", [case()])
    assert "11.0 GB/s" in membound_("list")[1]


def test_list_json(membound_, devices, folder):
    write(folder / "results/runs/a.jsonl", run_rows())
    listed = json.loads(membound_("list", "--json")[1])
    assert [b["available"] for b in listed["backends"]] == [True, True, False]
    assert listed["backends"][2]["remedy"] == "pip install it"
    assert {"tiny", "llama-3-8b"} <= {m["name"] for m in listed["models"]}
    assert {"name": "read", "backend": "alpha:cpu", "value": 11e9, "unit": "bytes/s"}.items() <= listed[
        "ceilings"
    ][0].items()


def test_list_models_alone(membound_, devices):
    status, out, err = membound_("list", "--models")
    assert (status, err) == (0, "")
    heads, *lines, told = out.splitlines()
    assert heads.split()[:5] == ["model", "in", "all", "a", "token"]
    assert [line.split()[0] for line in lines] == [*MODELS, *PUBLISHED], "names are whole"
    assert next(line for line in lines if "gpt-oss-20b" in line).split()[1:3] == ["20.9", "3.61"]
    assert next(line for line in lines if "kimi-k2" in line).split()[1:3] == ["1026", "31.7"]
    assert max(map(len, (heads, *lines, told))) <= 80
    assert "--model NAME" in told


def test_list_models_as_json(membound_, devices):
    listed = json.loads(membound_("list", "--models", "--json")[1])
    assert list(listed) == ["models"]
    known = {one["name"]: (one["total_parameters"], one["parameters"]) for one in listed["models"]}
    shape = get_model("gpt-oss-20b")
    assert known["gpt-oss-20b"] == (shape.decoder.parameters, shape.parameters)


def test_all_models_and_some_are_two_questions(refused):
    assert "--models: goes without --model" in refused("list", "--models", "--model", "tiny")
