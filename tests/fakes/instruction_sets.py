"""Processes beside a whole session of tests, on the core that it leaves idle.

Some run the tests marked `instruction_set` again, compiled for other instruction sets than this machine's best. They
are done, or nearly, when test_instruction_sets.py asks for them. One compiles ahead: it runs the late files that compile
most, and the session finds their kernels in the cache when their turn comes. All give way to the session.
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
TESTS = Path(__file__).parents[1]
FILES = [str(p) for p in sorted(TESTS.rglob("test_*.py")) if MARK in p.read_text()]
NICENESS = 10
AHEAD = "ahead"
AHEAD_FILES = [
    str(TESTS / "kernels" / f"{name}.py") for name in ("test_step", "cpu/test_linear", "cpu/test_attention")
]
"""The last first, as the session begins with the first."""
Children = dict[str, "subprocess.Popen[str]"]
CHILDREN = pytest.StashKey[Children]()


def runs_here(name: str) -> bool:
    """Whether that is not what this process runs on anyway, and this processor has it."""
    import llvmlite.binding as llvm

    from membound.kernels.cpu.simd.features import INSTRUCTION_SET

    return name != INSTRUCTION_SET and (name == "plain" or bool(llvm.get_host_cpu_features().get(name)))


def start(log: Path, others: bool, ahead: bool) -> Children:
    """A process for each other instruction set, and AHEAD; the output goes to a file of its name in the folder `log`."""
    wanted = {name: ["-m", "instruction_set", *FILES] for name in OTHERS if others and runs_here(name)}
    if ahead:  # the session runs these tests itself: what they say here is for nobody
        wanted[AHEAD] = ["-m", "not slow", *AHEAD_FILES]
    started = {}
    for name, arguments in wanted.items():
        with (log / name).open("w") as output:
            started[name] = subprocess.Popen(
                [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *arguments],
                env=os.environ | OTHERS.get(name, {}) | {CHILD: name},
                stdout=output,
                stderr=subprocess.STDOUT,
                text=True,
                preexec_fn=_give_way,
            )
    return started


def _give_way() -> None:
    os.nice(NICENESS)
