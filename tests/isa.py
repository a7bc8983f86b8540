"""Run test files again in a process that compiles for another instruction set."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import llvmlite.binding as llvm
import pytest

from membound.kernels.cpu.simd import INSTRUCTION_SET

OTHERS = {
    "avx2": {
        "NUMBA_CPU_NAME": "haswell",
        "NUMBA_CPU_FEATURES": "+avx2,+fma,+f16c,+bmi,+bmi2,+lzcnt,+avx,+sse4.2,+ssse3,+popcnt,+movbe",
    },
    "plain": {"NUMBA_CPU_NAME": "generic"},
}
CHILD = "MEMBOUND_TEST_CHILD"
"""Set in such a process to the name of its instruction set."""


def run_again(name: str, *arguments: str | Path) -> None:
    """Pytest with `arguments` on instruction set `name`; fails with its output, skips where it cannot run."""
    if name == INSTRUCTION_SET:
        pytest.skip(f"{name} is what this process runs on")
    if name == "avx2" and not llvm.get_host_cpu_features().get("avx2"):
        pytest.skip("this processor has no AVX2")
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *map(str, arguments)],
        env=os.environ | OTHERS[name] | {CHILD: name},
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]
