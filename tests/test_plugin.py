"""The example plugin: installed as a user would install it, found, checked and measured by real workers."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

PLUGIN = Path(__file__).parent.parent / "examples/plugin"
WORK = "linear:n=48,k=96,m=3,weight=f32,act=float"
REFUSED = "linear:n=48,k=96,m=3,weight=bf16,act=float"


@pytest.fixture(scope="module")
def environment(tmp_path_factory):
    return installed(PLUGIN, tmp_path_factory.mktemp("plugin"))


def installed(plugin, folder):
    """Environment variables with a plugin, built from a copy and installed without network, on the path."""
    source = shutil.copytree(plugin, folder / "source", ignore=shutil.ignore_patterns("build", "*.egg-info"))
    target = folder / "installed"
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-index", "--no-deps"]
    command = [*pip, "--no-build-isolation", "--target", str(target), str(source)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, cwd=folder)
    assert done.returncode == 0, done.stderr
    assert list(target.glob("membound_*.py"))
    path = os.pathsep.join(filter(None, (str(target), os.environ.get("PYTHONPATH"))))
    return os.environ | {"PYTHONPATH": path}


def membound(environment, folder, *arguments):
    command = [sys.executable, "-m", "membound", *arguments]
    return subprocess.run(command, env=environment, cwd=folder, capture_output=True, text=True, timeout=120)


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
