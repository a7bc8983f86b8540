"""Multiply-adds that a thread does in registers and that nothing else waits for: a dose of arithmetic for a kernel.

    chains = cuda.local.array(CHAINS, np.float32)
    half, nothing, dose = begin(numbers, chains)          # `numbers` are constants(fmas) on the GPU
    spin(chains, half, dose)                              # of spinner(8): dose · 8 multiply-adds
    y += nothing_of(chains, nothing)                      # adds zero

Each chain is v = v/2 + 1/2, from numbers that differ from chain to chain and from lane to lane, and ends, times a zero that is
not known when compiled, in a result: none can be merged, left out or worked out beforehand. The dose is data as
well, so that every dose runs the same machine code. `fma_kernel` does nothing else: the peak of float32.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt

from membound.kernels.cuda.compile import WARP, Kernel, cuda, device
from membound.kernels.cuda.device.gpu import Gpu, Launch
from membound.kernels.cuda.ptx import as_f32, fma_f32, load4

CHAINS = 8
"""One warp hides the latency of four cycles with four of them; twice that costs few registers."""
THREADS = 256
BLOCKS_PER_MULTIPROCESSOR = 8
"""All 2048 threads of a multiprocessor (CUDA C++ Programming Guide, compute capabilities 8.0 and 9.0)."""
ROUND = 64
"""Multiply-adds of a thread between two jumps of `fma_kernel`."""
_STARTS = CHAINS * WARP


def constants(fmas: int) -> npt.NDArray[np.float32]:
    """The chains' first values, all different and near 1, then a half, zero and the dose (below 2^24)."""
    starts = 1 + np.arange(_STARTS, dtype=np.float32) / np.float32(_STARTS)
    return np.concatenate([starts, np.array([0.5, 0.0, fmas, 0.0], np.float32)])


@device
def begin(numbers: Any, chains: Any) -> Any:
    """Fill the chains from `constants`; returns a half, zero and the dose."""
    for i in range(CHAINS // 4):
        a, b, c, d = load4(numbers, 4 * (i * WARP + cuda.threadIdx.x % WARP))
        chains[4 * i] = as_f32(a)
        chains[4 * i + 1] = as_f32(b)
        chains[4 * i + 2] = as_f32(c)
        chains[4 * i + 3] = as_f32(d)
    half, nothing, dose, _ = load4(numbers, _STARTS)
    return as_f32(half), as_f32(nothing), np.int32(as_f32(dose))


def spinner(fmas: int) -> Any:
    """spin(chains, half, rounds): `fmas` multiply-adds a round, the chains in turn."""
    FMAS = fmas

    @device
    def spin(chains: Any, half: Any, rounds: Any) -> None:
        left = rounds
        while left > 0:
            for i in range(FMAS):
                chains[i % CHAINS] = fma_f32(chains[i % CHAINS], half, half)
            left = np.int32(left - 1)

    return spin


@device
def nothing_of(chains: Any, nothing: Any) -> Any:
    """The sum of the chains times zero."""
    total = np.float32(0)
    for i in range(CHAINS):
        total += chains[i]
    return total * nothing


@cache
def fma_kernel() -> Kernel:
    """Chains alone, `dose` rounds of ROUND multiply-adds a thread; a thread's sum of its chains goes to sums."""
    spin = spinner(ROUND)

    def fma(numbers: Any, sums: Any) -> None:
        chains = cuda.local.array(CHAINS, np.float32)
        half, _, dose = begin(numbers, chains)
        spin(chains, half, dose)
        sums[cuda.grid(1)] = nothing_of(chains, np.float32(1))

    return Kernel("fma_f32", fma, ("f32*", "f32*"), THREADS, BLOCKS_PER_MULTIPROCESSOR)


def bind_fma(gpu: Gpu, numbers: Any, sums: Any, blocks: int) -> Launch:
    """`blocks` of THREADS threads, a number of `sums` each; 2 · ROUND · dose FLOPs a thread."""
    return gpu.bind(fma_kernel(), blocks, (numbers, sums))


def fma_flops(blocks: int, dose: int) -> int:
    """FLOPs of `bind_fma`'s launch: a multiplication and an addition each."""
    return 2 * ROUND * dose * THREADS * blocks


def fma_sums(blocks: int, dose: int) -> npt.NDArray[np.float32]:
    """What `bind_fma` writes, exactly: each product is exact in float64, which is rounded once to float32."""
    v = constants(0)[:_STARTS].reshape(CHAINS // 4, WARP, 4).transpose(0, 2, 1).reshape(CHAINS, WARP)
    for _ in range(dose * ROUND // CHAINS):
        v = (v.astype(np.float64) * 0.5 + 0.5).astype(np.float32)
    total = np.zeros(WARP, np.float32)
    for chain in v:
        total += chain
    return np.tile(total, THREADS // WARP * blocks)
