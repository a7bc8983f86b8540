"""tests/benchmarks: left out of a run of the tests, alone in a run of the benchmarks, and right where it runs."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

ROOT = Path(__file__).parents[2]
BENCHMARKS = ROOT / "tests/benchmarks"
A_TEST, A_BENCHMARK = ROOT / "tests/kernels/test_work.py", BENCHMARKS / "test_kernels.py"


def configuration(only, *arguments):
    return SimpleNamespace(args=list(map(str, arguments)), getoption=lambda name, default: only)


@pytest.mark.parametrize(
    ("only", "arguments", "tests", "folder", "benchmarks"),
    [
        (False, ["tests"], None, True, None),
        (False, [BENCHMARKS], None, None, None),
        (False, [f"{A_BENCHMARK}::test_kernel"], None, None, None),
        (False, [A_TEST], None, True, None),
        (True, ["tests"], True, None, None),
        (True, [BENCHMARKS], True, None, None),
    ],
)
def test_what_is_collected(only, arguments, tests, folder, benchmarks, monkeypatch, pytestconfig):
    monkeypatch.chdir(ROOT)
    config = configuration(only, *arguments)
    conftest = pytestconfig.pluginmanager.get_plugin(str(ROOT / "tests/conftest.py"))
    assert conftest.pytest_ignore_collect(A_TEST, config) is tests
    assert conftest.pytest_ignore_collect(BENCHMARKS, config) is folder
    assert conftest.pytest_ignore_collect(ROOT / "tests", config) is None
    if not folder:
        assert conftest.pytest_ignore_collect(A_BENCHMARK, config) is benchmarks


def run(*options):
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "--membound-ceilings=none", *options]
    done = subprocess.run(command, cwd=ROOT, env=os.environ, capture_output=True, text=True, timeout=300)
    return done.returncode, done.stdout + done.stderr


@pytest.mark.slow
def test_the_command_of_a_gpu_runner_says_what_it_left_out():
    """Without a GPU its cases are skipped, each with the reason; with one they would be timed here, so not then."""
    status, text = run("--benchmark-only", "-m", "gpu", "--collect-only", "-q")
    assert status == 0, text
    cases = re.findall(r"^tests/(\S+)::test_kernel\[(\w+:\w+)-", text, re.M)
    assert {file for file, _ in cases} == {"benchmarks/test_kernels.py"}
    assert {"numba:cuda", "torch:cuda"} <= {device for _, device in cases}
    assert not [device for _, device in cases if device.endswith(":cpu")]


@pytest.mark.slow
def test_a_kernel_is_checked_and_what_is_not_here_is_skipped_with_the_reason():
    """Nothing is timed: each callable runs once and is held against the reference."""
    chosen = "numpy and m16 or numba and cuda and m16-f32"
    status, text = run("tests/benchmarks", "--benchmark-disable", "-q", "-k", chosen)
    assert status == 0, text
    assert re.search(r"^1 passed, \d+ skipped", text, re.M), text
    assert "numpy:cpu: NumPy's BLAS has f32 only" in text
    assert re.search(r"SKIPPED \[\d\] .*(needs an NVIDIA GPU: |numba.cuda: )", text)
