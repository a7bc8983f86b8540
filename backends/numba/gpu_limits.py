"""The ceilings of a GPU through membound's kernels: read, copy and triad with several loads in flight, and arithmetic.

>>> for limit in limits(gpu, quick=False):
...     limit.launch(0)                      # the harness times it

Arrays hold random numbers, never zeros. The number of loads that a thread has in flight decides what a kernel
reaches, so each kernel is tried with several; the best counts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from membound.backends.api import Limit
from membound.kernels.cuda.instruments import tile_peak
from membound.kernels.cuda.instruments.chains import CHAINS, THREADS, bind_fma, constants, fma_flops, fma_sums
from membound.kernels.cuda.instruments.stream import bind_copy, bind_read, bind_triad, read_sums

if TYPE_CHECKING:
    from membound.kernels.cuda.device.gpu import Array, Gpu, Launch

F32 = npt.NDArray[np.float32]

ARRAY_BYTES = 1 << 30
QUICK_ARRAY_BYTES = 256 << 20
CACHES = 8
"""An array is at least this many second-level caches: what is left there of the launch before serves less than an eighth."""
MEMORY_SHARE = 0.05
"""The part of the GPU's memory that one array may take."""
CACHE_SHARE = 0.5
"""The part of the cache that a working set takes, so that nothing else evicts it."""
CACHE_PASSES = 33
"""How often a launch reads the working set: one pass of 25 MB takes as long as starting it. Odd, so that the exclusive or of
all passes is that of one."""
UNROLLS = (2, 4, 8)
FACTOR = 0.5
BLOCKS_PER_MULTIPROCESSOR = 8
TILE_ROUNDS = 4000
"""Products of a warp on each of its sums: 16 warps on a multiprocessor take 0.6 ms or more (1024 multiply-adds per cycle)."""
FMA_DOSE = 1000
"""Rounds of multiply-adds: 2048 threads do 1.3e8 of them on a multiprocessor, which takes an H100 0.6 ms (128 per cycle)."""


def limits(gpu: Gpu, quick: bool) -> Iterator[Limit]:
    """Read, copy and triad of large arrays, reads of one that stays in the cache, float32 multiply-adds and products on tensor cores."""
    wanted = max(QUICK_ARRAY_BYTES if quick else ARRAY_BYTES, CACHES * gpu.cache_bytes)
    size = min(wanted, int(MEMORY_SHARE * gpu.memory_bytes) or wanted) // 256 * 256
    host = _values(size // 4)
    b, c = gpu.array(host), gpu.array(host[::-1].copy())
    a = gpu.zeros(size // 4, np.float32)
    config = {"array_bytes": size}
    for unroll in UNROLLS:
        yield _read(gpu, "read", b, host, size, unroll)
        copy = bind_copy(gpu, b, a, size, unroll)
        yield _limit("copy", 2 * size, config | {"arrays": 2}, unroll, copy, partial(_holds, a, host))
        triad = bind_triad(gpu, b, c, a, FACTOR, size, unroll)
        right = partial(_holds, a, host + np.float32(FACTOR) * host[::-1])
        yield _limit("triad", 3 * size, config | {"arrays": 3}, unroll, triad, right)
    cached = int(CACHE_SHARE * gpu.cache_bytes) // 256 * 256
    if cached:
        for unroll in UNROLLS:
            yield _read(gpu, "read_l2", b, host, min(cached, size), unroll, CACHE_PASSES)
    yield _fma(gpu)
    for fmt in ("bf16", "f16"):
        yield _tiles(gpu, fmt)


def _fma(gpu: Gpu) -> Limit:
    """Chains in the registers of all threads that fit the GPU."""
    blocks = BLOCKS_PER_MULTIPROCESSOR * gpu.multiprocessors
    sums = gpu.zeros(blocks * THREADS, np.float32)
    launch = bind_fma(gpu, gpu.array(constants(FMA_DOSE)), sums, blocks)
    config = {"variant": f"{CHAINS} chains a thread"}
    flops = fma_flops(blocks, FMA_DOSE)
    right = partial(_holds, sums, fma_sums(blocks, FMA_DOSE))
    return Limit("fma_f32", flops, "FLOP/s", config, lambda _: launch.start(), right)


def _tiles(gpu: Gpu, fmt: str) -> Limit:
    """Products whose operands and sums stay in registers."""
    blocks = tile_peak.BLOCKS_PER_MULTIPROCESSOR * gpu.multiprocessors
    sums = gpu.zeros(4 * blocks * tile_peak.THREADS, np.float32)
    operands = gpu.array(tile_peak.tile_operands(fmt))
    launch = tile_peak.bind_tiles(gpu, fmt, operands, sums, blocks, TILE_ROUNDS)
    flops = tile_peak.tile_flops(blocks, TILE_ROUNDS)
    config = {"variant": f"{tile_peak.CHAINS} sums a warp"}
    right = partial(_holds, sums, tile_peak.tile_sums(blocks, TILE_ROUNDS))
    return Limit(f"tile_{fmt}", flops, "FLOP/s", config, lambda _: launch.start(), right)


def _read(gpu: Gpu, name: str, source: Array, host: F32, size: int, unroll: int, passes: int = 1) -> Limit:
    """Reads of the first `size` bytes; the exclusive or of the warps' results must be that of all words."""
    blocks = BLOCKS_PER_MULTIPROCESSOR * gpu.multiprocessors
    sums = gpu.zeros(read_sums(blocks), np.uint32)
    launch = bind_read(gpu, source, sums, size, unroll, blocks, passes)
    expected = np.bitwise_xor.reduce(host[: size // 4].view(np.uint32))

    def right() -> bool:
        return bool(np.bitwise_xor.reduce(sums.read().view(np.uint32)) == expected)

    config = {"array_bytes": size, "arrays": 1} | ({"repeats": passes} if passes > 1 else {})
    return _limit(name, passes * size, config, unroll, launch, right)


def _limit(
    name: str, amount: int, config: dict[str, int], unroll: int, launch: Launch, right: Callable[[], bool]
) -> Limit:
    variant = {"variant": f"{unroll} × 16 B a thread"}
    return Limit(name, amount, "bytes/s", config | variant, lambda _: launch.start(), right)


def _holds(array: Array, expected: F32) -> bool:
    return bool(np.array_equal(array.read().view(np.float32), expected))


def _values(count: int) -> F32:
    """Random numbers from 1 to 2: half of one is exact, so a triad is too, and the random bits distinguish words."""
    return np.random.default_rng(1).random(count, np.float32) + np.float32(1)
