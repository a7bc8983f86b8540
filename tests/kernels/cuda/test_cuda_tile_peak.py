"""The peak of tensor cores: its sums are exact, and it is products and nothing else."""

from __future__ import annotations

import numpy as np
import pytest
from sass import sass

from membound.kernels.cuda.device.simulated import SimulatedGpu
from membound.kernels.cuda.instruments.tile_peak import (
    CHAINS,
    THREADS,
    bind_tiles,
    tile_flops,
    tile_kernel,
    tile_operands,
    tile_sums,
)


@pytest.mark.parametrize("fmt", ["bf16", "f16"])
def test_sums_are_exact(fmt: str) -> None:
    gpu = SimulatedGpu()
    for rounds in (0, 3):
        sums = gpu.zeros(4 * THREADS, np.float32)
        bind_tiles(gpu, fmt, gpu.array(tile_operands(fmt)), sums, 1, rounds).start()
        np.testing.assert_array_equal(sums.read(), tile_sums(1, rounds))
    assert len({*tile_sums(1, 3).tolist()}) > 4


def test_flops_are_two_for_each_product() -> None:
    assert tile_flops(3, 5) == 3 * (THREADS // 32) * 5 * CHAINS * 2 * 16 * 16 * 8


@pytest.mark.cuda_compile
@pytest.mark.parametrize("fmt", ["bf16", "f16"])
def test_the_machine_code_is_products(fmt: str) -> None:
    code = sass(tile_kernel(fmt))
    loop = max(code.blocks, key=lambda block: sum(name.startswith("HMMA") for name, _ in block))
    products = sum(name.startswith("HMMA.16816.F32") for name, _ in loop)
    assert products % CHAINS == 0
    assert products >= 0.8 * len(loop) - CHAINS
    assert (code.local, code.stack_bytes) == (0, 0)
    assert code.registers <= 128
