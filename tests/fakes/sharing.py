"""How a whole session of tests is shared out among processes, each of which takes the next file when it is done with one.

>>> processes()          # on two cores
2
"""

from __future__ import annotations

import os

from xdist.scheduler import LoadScopeScheduling

MOST_PROCESSES = 4
"""Each loads torch and Numba, and runs its kernels on two threads."""
FEW_LONG_TESTS = (
    "tests/kernels/cpu/test_instruction_sets.py",
    "tests/backends/numba/test_numba_gpu.py",
)
"""Files whose tests are shared out one by one: each takes long, mostly by compiling or by its reference, and they have nothing
in common."""


def processes() -> int:
    """One for each core that this process may use."""
    return min(MOST_PROCESSES, len(os.sched_getaffinity(0)))


class ByFile(LoadScopeScheduling):  # type: ignore[misc]
    """Files in their order: the fixtures of a file are made once, and what its tests compile is compiled by one process."""

    def _split_scope(self, nodeid: str) -> str:
        file = nodeid.partition("::")[0]
        return nodeid if file in FEW_LONG_TESTS else file
