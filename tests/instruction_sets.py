"""Processes that run tests again, compiled for other instruction sets than this machine's best.

Tests marked `instruction_set` run there. The processes start with the session and give way to it, so that they
are done, or nearly, when test_instruction_sets.py asks for them.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

OTHERS = {
    "avx2": {
        "NUMBA_CPU_NAME": "haswell",
        "NUMBA_CPU_FEATURES": "+avx2,+fma,+f16c,+bmi,+bmi2,+lzcnt,+avx,+sse4.2,+ssse3,+popcnt,+movbe",
    },
    "plain": {"NUMBA_CPU_NAME": "generic"},
}
CHILD = "MEMBOUND_TEST_INSTRUCTION_SET"
"""Set in such a process to the name of its instruction set."""

MARK = "mark.instruction_set"
FILES = [str(p) for p in sorted(Path(__file__).parent.glob("test_*.py")) if MARK in p.read_text()]
NICENESS = 10
Children = dict[str, "subprocess.Popen[str]"]
CHILDREN = pytest.StashKey[Children]()


def runs_here(name: str) -> bool:
    """Whether that is not what this process runs on anyway, and this processor has it."""
    import llvmlite.binding as llvm

    from membound.kernels.cpu.simd import INSTRUCTION_SET

    return name != INSTRUCTION_SET and (name == "plain" or bool(llvm.get_host_cpu_features().get(name)))


def start(log: Path) -> Children:
    """A process for each other instruction set; its output goes to a file of its name in the folder `log`."""
    started = {}
    for name, settings in OTHERS.items():
        if runs_here(name):
            with (log / name).open("w") as output:
                started[name] = subprocess.Popen(
                    [
                        *(sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"),
                        *("-m", "instruction_set", *FILES),
                    ],
                    env=os.environ | settings | {CHILD: name},
                    stdout=output,
                    stderr=subprocess.STDOUT,
                    text=True,
                    preexec_fn=_give_way,
                )
    return started


def _give_way() -> None:
    os.nice(NICENESS)
