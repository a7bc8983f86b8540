"""llama.cpp's real server: started by `membound load` where its wheel is installed, loaded, compared, stopped."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
from killed_loads import killed_loads

from membound.backends.serving import KEY, Settings
from membound.results.serving.roofline import roofline_of
from membound.results.store import load_rows

MISSING = [name for name in ("xllamacpp", "gguf", "uvloop") if find_spec(name) is None]

pytestmark = pytest.mark.skipif(
    bool(MISSING), reason=f"no {' and '.join(MISSING)}: pip install -c constraints.txt ./examples/llamacpp"
)


@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="one CPU has no second thread")
def test_a_server_with_fewer_threads_than_asked_for_does_not_start(tmp_path: Path) -> None:
    settings = Settings("step:model=tiny,weight=f32,kv=f32", 1, "tiny", str(tmp_path), 2, 64, 1)
    done = subprocess.run(
        [sys.executable, "-m", "membound.backends.llamacpp.serve", str(settings.write())],
        env=os.environ | {"OMP_THREAD_LIMIT": "1", KEY: "secret"},
        capture_output=True,
        text=True,
        check=False,
        timeout=200,
    )
    assert done.returncode == 1
    last = done.stderr.splitlines()[-1]
    assert last.startswith("llama.cpp works with 1 of 2 threads here: unset OMP_THREAD_LIMIT"), done.stderr
    assert not settings.told.exists()


def test_it_is_started_says_the_right_tokens_under_load_and_leaves_nothing(tmp_path: Path) -> None:
    load = ("--users", "2", "--seconds", "1", "--warm", "0.5", "--prompt", "20", "--output", "12")
    engine = ("--engine", "llamacpp", "--model", "step:model=tiny,weight=f32", "--python", sys.executable)
    done = subprocess.run(
        [sys.executable, "-m", "membound", "load", *engine, *load, "--threads", "1", "--out", str(tmp_path)],
        capture_output=True,
        text=True,
        check=False,
        timeout=200,
    )
    assert done.returncode in (0, 1), (
        done.stdout + done.stderr
    )  # 1: the client was the limit, on a shared machine
    assert "left nothing behind" in done.stdout
    (row,) = load_rows(tmp_path)
    assert (row.status, row.backend) == ("ok", "llamacpp"), row.reason
    assert row.error is not None
    assert row.tolerance is not None
    assert row.error <= row.tolerance
    assert row.config["truth"]["tokens"] >= 12
    assert row.config["server"]["mean_itl_s"] > 0
    assert row.config["engine"]["max_num_seqs"] == 2
    found = roofline_of(row)
    assert found is not None
    assert found.mbu is not None
    assert found.mbu > 0


@pytest.mark.slow
def test_nothing_is_left_when_the_client_is_killed_at_random_moments() -> None:
    engine = ("--engine", "llamacpp", "--model", "step:model=tiny,weight=f32", "--python", sys.executable)
    load = ("--users", "2", "--seconds", "20", "--warm", "1", "--output", "16", "--threads", "1")
    killed = killed_loads([*engine, *load], count=4, within_s=25.0)
    assert [one.left for one in killed] == [()] * 4
    assert any(one.processes > 2 and one.ports for one in killed), "none was killed while its server was up"
