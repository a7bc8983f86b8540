"""The kernels compiled for AVX2 and for plain vectors agree with the references too."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from instruction_sets import CHILD, OTHERS, Children

from membound.kernels.cpu.simd.features import INSTRUCTION_SET, LANES

PROCESS_LIMIT_S = 900


@pytest.mark.instruction_set
def test_the_instruction_set_is_the_one_asked_for() -> None:
    assert os.environ.get(CHILD, INSTRUCTION_SET) == INSTRUCTION_SET
    assert {"avx512": 16, "avx2": 8, "plain": 4}[INSTRUCTION_SET] == LANES


@pytest.mark.slow
@pytest.mark.parametrize("name", OTHERS)
def test_kernels_agree_on(name: str, other_instruction_sets: tuple[Children, Path]) -> None:
    children, log = other_instruction_sets
    if name not in children:
        pytest.skip(f"{name} is what this process runs on, or this processor lacks it")
    status = children[name].wait(PROCESS_LIMIT_S)
    output = (log / name).read_text()
    assert status == 0, output[-6000:]
    assert " passed" in output
