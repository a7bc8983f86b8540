"""Vector operations on every instruction set: this machine's, AVX2 and plain; and none left untested.

The operations themselves are in test_simd_*.py; for the other instruction sets those files run again in
processes of their own.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import llvmlite.binding as llvm
import pytest

from membound.kernels.cpu import simd
from membound.kernels.cpu.simd import INSTRUCTION_SET, LANES

HERE = Path(__file__).parent
TESTS = [str(path) for path in sorted(HERE.glob("test_simd*.py"))]
OTHERS = {
    "avx2": {
        "NUMBA_CPU_NAME": "haswell",
        "NUMBA_CPU_FEATURES": "+avx2,+fma,+f16c,+bmi,+bmi2,+lzcnt,+avx,+sse4.2,+ssse3,+popcnt,+movbe",
    },
    "plain": {"NUMBA_CPU_NAME": "generic"},
}
CHILD = "MEMBOUND_TEST_SIMD_CHILD"


def test_the_instruction_set_is_the_one_asked_for() -> None:
    assert os.environ.get(CHILD, INSTRUCTION_SET) == INSTRUCTION_SET
    assert {"avx512": 16, "avx2": 8, "plain": 4}[INSTRUCTION_SET] == LANES


@pytest.mark.skipif(CHILD in os.environ, reason="this is the process for one instruction set")
def test_every_operation_is_tested_here() -> None:
    sources = (path.read_text() for path in sorted(HERE.glob("test_simd_*.py")))
    body = "".join(re.sub(r"^from membound.*?^\)", "", source, flags=re.M | re.S) for source in sources)
    names = {name for name, value in vars(simd).items() if type(value).__name__ == "_Intrinsic"}
    assert names
    assert sorted(name for name in names if not re.search(rf"\b{name}\b", body)) == []


@pytest.mark.skipif(CHILD in os.environ, reason="this is the process for one instruction set")
@pytest.mark.parametrize("name", OTHERS)
def test_the_same_on_another_instruction_set(name: str) -> None:
    if name == INSTRUCTION_SET:
        pytest.skip(f"{name} is what this process runs on")
    if name == "avx2" and not llvm.get_host_cpu_features().get("avx2"):
        pytest.skip("this processor has no AVX2")
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *TESTS],
        env=os.environ | OTHERS[name] | {CHILD: name},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout[-4000:]
