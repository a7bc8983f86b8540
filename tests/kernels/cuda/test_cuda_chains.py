"""Multiply-adds in registers: as many as were asked for, exact, and none that a compiler could leave out."""

from __future__ import annotations

import numpy as np
import pytest
from counted_chains import Counter, in_chains, is_chain
from sass import sass

from membound.kernels.cuda.compile import WARP
from membound.kernels.cuda.device.simulated import SimulatedGpu
from membound.kernels.cuda.instruments import chains
from membound.kernels.cuda.instruments.chains import (
    CHAINS,
    ROUND,
    THREADS,
    bind_fma,
    constants,
    fma_flops,
    fma_sums,
)


def test_every_chain_of_every_lane_begins_elsewhere() -> None:
    numbers = constants(7)
    assert len(set(numbers[: CHAINS * WARP])) == CHAINS * WARP
    assert numbers[CHAINS * WARP :].tolist() == [0.5, 0.0, 7.0, 0.0]
    assert ((numbers[: CHAINS * WARP] >= 1) & (numbers[: CHAINS * WARP] < 2)).all()


@pytest.mark.parametrize("dose", [0, 1, 3])
def test_sums_are_exact_and_flops_are_counted(dose: int, monkeypatch: pytest.MonkeyPatch) -> None:
    done = Counter(monkeypatch, "fma_f32")
    gpu = SimulatedGpu()
    sums = gpu.zeros(THREADS, np.float32)
    bind_fma(gpu, gpu.array(constants(dose)), sums, 1).start()
    np.testing.assert_array_equal(sums.read(), fma_sums(1, dose))
    assert 2 * done.count == fma_flops(1, dose) == 2 * ROUND * dose * THREADS
    assert len({*fma_sums(1, 0).tolist()}) == WARP


@pytest.mark.cuda_compile
def test_the_peak_is_multiply_adds_and_hardly_anything_else() -> None:
    code = sass(chains.fma_kernel())
    assert (code.local, code.stack_bytes, code.doubles) == (0, 0, 0)
    assert code.registers <= 32  # eight blocks of 256 threads share 65536
    loop = max(in_chains(chains.fma_kernel()), key=len)
    fmas = [one for one in loop if is_chain(*one)]
    assert len(fmas) % ROUND == 0
    assert len(loop) - len(fmas) <= 0.1 * len(loop)
    assert len({operands.partition(",")[0] for _, operands in fmas[:CHAINS]}) == CHAINS
