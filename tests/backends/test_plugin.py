"""The example plugin: installed as a user would install it, found, checked and measured by real workers."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from plugins import installed, membound

PLUGIN = Path(__file__).parents[2] / "examples/plugin"
WORK = "linear:n=48,k=96,m=3,weight=f32,act=float"
REFUSED = "linear:n=48,k=96,m=3,weight=bf16,act=float"


@pytest.fixture(scope="module")
def environment(tmp_path_factory):
    return installed(PLUGIN, tmp_path_factory.mktemp("plugin"))


@pytest.mark.slow
def test_the_plugin_is_measured_like_any_other_backend(environment, tmp_path):
    options = ("--backends", "scipy:cpu,scipy:npu", "--quick", "--no-ceilings", "--threads", "1", "--json")
    done = membound(environment, tmp_path, "run", WORK, REFUSED, *options)
    assert done.returncode == 0, done.stderr
    rows = {(row["backend"], row["work"]): row for row in json.loads(done.stdout)}
    measured = rows["scipy:cpu", WORK]
    assert measured["status"] == "ok", measured["reason"]
    assert measured["bytes"] == 4 * (48 * 96 + 3 * 96 + 3 * 48)
    assert measured["flops"] == 2 * 3 * 48 * 96
    assert 0 <= measured["error"] < measured["tolerance"]
    assert measured["time_s"] > 0
    outcomes = {key: (row["status"], row["reason"]) for key, row in rows.items()}
    assert outcomes["scipy:cpu", REFUSED] == ("unsupported", "only linear with weight=f32")
    assert outcomes["scipy:npu", WORK] == ("unavailable", "scipy has no device 'npu'; it has: cpu")
