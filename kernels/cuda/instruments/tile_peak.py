"""The peak of a GPU's tensor cores: 16 × 16 × 8 products whose operands and sums stay in registers.

>>> launch = bind_tiles(gpu, "bf16", gpu.array(tile_operands("bf16")), sums, blocks=264, rounds=4000)

`mma.sync`, which membound's products use too. An H100 does more with instructions that read shared memory
(wgmma): the square products of other backends show that.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt

from membound.kernels.cuda.compile import WARP, Kernel, cuda
from membound.kernels.cuda.device.gpu import Gpu, Launch
from membound.kernels.cuda.ptx import load4, mma_bf16, mma_f16
from membound.kernels.weights.formats import to_bf16

CHAINS = 8
"""Sums that do not wait for each other, enough for any latency of a product with four warps a scheduler."""
THREADS = 256
BLOCKS_PER_MULTIPROCESSOR = 2
ROWS, DEPTH, COLUMNS = 16, 16, 8
_LANE = np.arange(WARP)[:, None]
_GROUP, _WITHIN = _LANE // 4, _LANE % 4


def tile_flops(blocks: int, rounds: int) -> int:
    """FLOPs of a launch."""
    return 2 * ROWS * DEPTH * COLUMNS * CHAINS * rounds * THREADS // WARP * blocks


def _matrices() -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    """A [16, 16] and B [16, 8] of -1, 0 and 1: sums of their products are exact below 2^24."""
    rng = np.random.default_rng(1)
    a, b = (rng.integers(-1, 2, shape).astype(np.float32) for shape in ((ROWS, DEPTH), (DEPTH, COLUMNS)))
    return a, b


def tile_operands(fmt: str) -> npt.NDArray[np.uint32]:
    """Words of A, four a lane, then of B, two a lane; placed as the docstring of ptx.py says."""
    a, b = _matrices()
    j, element = np.arange(4)[:, None], np.arange(2)
    group, within = _GROUP[:, :, None], _WITHIN[:, :, None]
    left = a[group + 8 * (j % 2), 2 * within + element + 8 * (j // 2)]
    right = b[2 * within + element + 8 * j[:2], group]
    values = np.concatenate([left.reshape(-1), right.reshape(-1)])
    bits = to_bf16(values).view(np.uint16) if fmt == "bf16" else values.astype(np.float16).view(np.uint16)
    return bits.view(np.uint32)


def tile_sums(blocks: int, rounds: int) -> npt.NDArray[np.float32]:
    """What `bind_tiles` writes: each thread's four sums, over all chains."""
    a, b = _matrices()
    j = np.arange(4)
    product = (a @ b)[_GROUP + 8 * (j // 2), 2 * _WITHIN + j % 2]
    sums = CHAINS * rounds * product + sum(range(CHAINS))
    return np.tile(sums.astype(np.float32).reshape(-1), THREADS // WARP * blocks)


@cache
def tile_kernel(fmt: str) -> Kernel:
    """`rounds` products on each of CHAINS sums, which begin at 0, 1, 2, … so that none equals another."""
    mma = {"bf16": mma_bf16, "f16": mma_f16}[fmt]
    SUMS, B_AT = 4 * CHAINS, 4 * WARP

    def multiply(operands: Any, sums: Any, rounds: Any) -> None:
        lane = cuda.threadIdx.x % WARP
        c = cuda.local.array(SUMS, np.float32)
        for i in range(SUMS):
            c[i] = np.float32(i // 4)
        a0, a1, a2, a3 = load4(operands, 4 * lane)
        b0, b1 = operands[B_AT + 2 * lane], operands[B_AT + 2 * lane + 1]
        left = rounds
        while left > 0:
            for i in range(CHAINS):
                c[4 * i], c[4 * i + 1], c[4 * i + 2], c[4 * i + 3] = mma(
                    *(a0, a1, a2, a3, b0, b1),
                    *(c[4 * i], c[4 * i + 1], c[4 * i + 2], c[4 * i + 3]),
                )
            left = np.int32(left - 1)
        for j in range(4):
            total = np.float32(0)
            for i in range(CHAINS):
                total += c[4 * i + j]
            sums[4 * cuda.grid(1) + j] = total

    return Kernel(f"tile_{fmt}", multiply, ("u32*", "f32*", "i32"), THREADS, BLOCKS_PER_MULTIPROCESSOR)


def bind_tiles(gpu: Gpu, fmt: str, operands: Any, sums: Any, blocks: int, rounds: int) -> Launch:
    """`sums` takes four numbers a thread."""
    return gpu.bind(tile_kernel(fmt), blocks, (operands, sums, rounds))
