"""The instruction sets that kernels are compiled for besides this machine's best, and how a process is made to use one."""

from __future__ import annotations

from pathlib import Path

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
"""The files with tests that are run again for each of them."""


def runs_here(name: str) -> bool:
    """Whether that is not what this process runs on anyway, and this processor has it."""
    import llvmlite.binding as llvm

    from membound.kernels.cpu.simd.features import INSTRUCTION_SET

    return name != INSTRUCTION_SET and (name == "plain" or bool(llvm.get_host_cpu_features().get(name)))
