"""`python -O` and `-OO` leave out asserts and docstrings, and change nothing: neither checks nor help."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

KERNELS = """
import pytest

@pytest.mark.parametrize("product", [lambda x, w: x @ w.T, lambda x, w: 2 * x @ w.T, lambda x, w: x @ w.T + 1j])
def test_it(bandwidth_benchmark, product):
    inputs = bandwidth_benchmark.inputs("linear:n=32,k=64,m=2,weight=f32,act=float")
    sets = [(inputs.x, inputs.weight(slot).values) for slot in range(inputs.slots)]
    bandwidth_benchmark(product, sets, inputs=inputs)
"""


def python(*arguments: str, cwd: Path | None = None, **variables: str) -> subprocess.CompletedProcess[str]:
    environ = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)} | variables
    return subprocess.run(
        [sys.executable, *arguments], capture_output=True, text=True, check=False, env=environ, cwd=cwd
    )


@pytest.mark.slow
def test_wrong_kernels_fail_their_tests_without_asserts(tmp_path: Path) -> None:
    (tmp_path / "test_kernels.py").write_text(KERNELS)
    plain = ("-O", "-m", "pytest", "--assert=plain", "-p", "no:cacheprovider", "--benchmark-disable")
    done = python(*plain, "-q", "test_kernels.py", cwd=tmp_path)
    assert "2 failed, 1 passed" in done.stdout, done.stdout + done.stderr
    assert "error 1 on input set 0 exceeds" in done.stdout
    assert "output is an array of complex64" in done.stdout


@pytest.mark.parametrize("command", [[], ["run"], ["env"], ["env", "create"]])
def test_help_is_the_same_without_docstrings(command: list[str]) -> None:
    whole, stripped = (
        python("-m", "membound", *command, "--help", PYTHONOPTIMIZE=level).stdout for level in ("0", "2")
    )
    assert whole == stripped
    assert "Usage: membound" in whole


def test_a_wrong_output_is_refused_without_asserts(tmp_path: Path) -> None:
    script = """
import sys
from pathlib import Path
from membound.bench.measure.check import check_output
from membound.bench.measure.failures import WrongAnswerError
from membound.kernels import reference
from membound.kernels.seeded import make_inputs
from membound.kernels.work import parse
assert not __debug__, "this test is of python -O"
inputs = make_inputs(parse("linear:n=64,k=32"), 1, 1)
y = reference.compute(inputs, 0).astype("float32")
print(check_output(y, inputs, 0, Path(sys.argv[1]))[0] < 1e-6)
try:
    check_output(2 * y, inputs, 0, Path(sys.argv[1]))
except WrongAnswerError as error:
    print(error)
"""
    done = python("-OO", "-c", script, str(tmp_path))
    assert done.stdout.startswith("True\nerror 1 on input set 0 exceeds"), done.stderr
