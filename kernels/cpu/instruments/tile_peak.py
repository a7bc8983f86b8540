"""The peak of the matrix tiles (AMX): products of tiles that stay in the first-level cache.

>>> sums = tile_product("int8", 2, 1000, x, w)     # [threads, 4, 16, 16], int32 or float32 by format
"""

from __future__ import annotations

from functools import cache
from typing import Any

import numba
import numpy as np
import numpy.typing as npt
from numba import prange

from membound.kernels.cpu.compile import kernel
from membound.kernels.cpu.matmul.pack import aligned_bytes
from membound.kernels.cpu.simd.amx import (
    clear_sums,
    configure_tiles,
    multiply_tiles,
    release_tiles,
    store_sums,
    tile_configuration,
)

TILES = 2
"""Sums at once: each hides the loads of the other, and more of them need registers that two hyperthreads lack."""
TILE_BYTES = 1024
_SUM = 256
_CONFIGURATION = tile_configuration()


def tile_flops(fmt: str, threads: int, repeats: int) -> int:
    """Operations of `tile_product`: two for each of 32 bfloat16 or 64 int8 products of 16 × 16 sums."""
    return 2 * threads * repeats * TILES * _SUM * (32 if fmt == "bf16" else 64)


def tile_operands(fmt: str) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint8]]:
    """x: TILES tiles of 16 rows of 64 bytes; w: one; small whole numbers, so that sums are exact.

    They begin at cache lines: where every load of a row takes two lines, the peak was half as high.
    """
    rng = np.random.default_rng(5)
    values = rng.integers(-3, 4, (TILES + 1, 16, 32 if fmt == "bf16" else 64))
    if fmt == "int8":
        raw = values.astype(np.int8).view(np.uint8)
    else:
        raw = (values.astype(np.float32).view(np.uint32) >> 16).astype(np.uint16).view(np.uint8)
    x, w = aligned_bytes(TILES * TILE_BYTES), aligned_bytes(TILE_BYTES)
    x[:], w[:] = raw[:TILES].reshape(-1), raw[TILES].reshape(-1)
    return x, w


def tile_product(
    fmt: str, threads: int, repeats: int, x: npt.NDArray[np.uint8], w: npt.NDArray[np.uint8]
) -> npt.NDArray[np.generic]:
    """Σ x[tile] · w, `repeats` times: [threads, TILES, 16, 16], int32 for int8, float32 for bf16."""
    sums = np.zeros((threads, TILES * _SUM), np.int32)
    numba.set_num_threads(threads)
    _tile_kernel(fmt)(x, w, repeats, sums)
    shaped = sums.reshape(threads, TILES, 16, 16)
    return shaped if fmt == "int8" else shaped.view(np.float32)


@cache
def _tile_kernel(FMT: str) -> Any:
    @kernel(parallel=True)
    def peak_tile(x: Any, w: Any, repeats: Any, sums: Any) -> None:
        for t in prange(sums.shape[0]):
            configure_tiles(_CONFIGURATION)
            clear_sums()
            for _ in range(repeats):
                multiply_tiles(w, 0, x, 0, 64, TILES, FMT)
            store_sums(sums[t], 0, _SUM, 64, TILES)
            release_tiles()

    return peak_tile
