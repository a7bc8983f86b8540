"""The kernels compiled for AVX2 and for plain vectors agree with the references too."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
from instruction_sets import CHILD, FILES, OTHERS, runs_here

from membound.kernels.cpu.simd.features import INSTRUCTION_SET, LANES

PROCESS_LIMIT_S = 900


@pytest.mark.instruction_set
def test_the_instruction_set_is_the_one_asked_for() -> None:
    assert os.environ.get(CHILD, INSTRUCTION_SET) == INSTRUCTION_SET
    assert {"avx512": 16, "avx2": 8, "plain": 4}[INSTRUCTION_SET] == LANES


@pytest.mark.slow
@pytest.mark.parametrize("name", OTHERS)
def test_kernels_agree_on(name: str) -> None:
    if not runs_here(name):
        pytest.skip(f"{name} is what this process runs on, or this processor lacks it")
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-m", "instruction_set", *FILES],
        env=os.environ | OTHERS[name] | {CHILD: name},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=PROCESS_LIMIT_S,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-6000:]
    assert " passed" in done.stdout
