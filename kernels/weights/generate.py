"""Random bits at memory speed: splitmix64 of a counter, compiled, the same for any number of threads.

>>> out = np.empty(5, np.float32); fill_f32(out, 42, np.float32(1))   # uniform on ±1

Each function fills a flat array from stream `seed`. splitmix64 is from Steele, Lea and Flood, "Fast
splittable pseudorandom number generators" (OOPSLA 2014).
"""

from __future__ import annotations

from typing import Any

import numba
import numpy as np
from numba import prange

from membound.kernels.cpu.compile import kernel


@numba.njit(inline="always")
def _bits(seed: Any, index: Any) -> Any:
    """64 random bits of (seed, index)."""
    z = np.uint64(seed) + (np.uint64(index) + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


@kernel(parallel=True)
def _fill_words(out: Any, seed: Any) -> None:
    for i in prange(out.size):
        out[i] = _bits(seed, i)


def fill_bytes(out: np.ndarray[Any, np.dtype[np.uint8]], seed: int) -> None:
    """Uniform bytes."""
    whole = out.size // 8
    _fill_words(out[: 8 * whole].view(np.uint64), np.uint64(seed))
    rest = np.empty(1, np.uint64)
    _fill_words(rest, np.uint64(seed ^ 0x5DEECE66D))
    out[8 * whole :] = rest.view(np.uint8)[: out.size - 8 * whole]


@kernel(parallel=True)
def fill_f32(out: Any, seed: Any, limit: Any) -> None:
    """float32, uniform on ±limit, 24 random bits."""
    step = limit * np.float32(2.0**-23)
    for i in prange(out.size):
        r = np.int64(_bits(seed, i) >> np.uint64(40))
        out[i] = np.float32(r - np.int64(1 << 23)) * step + step * np.float32(0.5)


@kernel(parallel=True)
def fill_bf16(out: Any, seed: Any, exponent: Any) -> None:
    """bfloat16 bits, magnitudes below 2^exponent: 7 random mantissa bits, a geometric exponent."""
    for i in prange(out.size):
        r = np.uint32(_bits(seed, i))
        out[i] = _float_bits(r, np.uint32(7), np.uint32(126 + exponent))


@kernel(parallel=True)
def fill_f16(out: Any, seed: Any, exponent: Any) -> None:
    """float16 bits, magnitudes below 2^exponent: 10 random mantissa bits, a geometric exponent."""
    for i in prange(out.size):
        r = np.uint32(_bits(seed, i))
        out[i] = _float_bits(r, np.uint32(10), np.uint32(14 + exponent))


@kernel(parallel=True)
def fill_fp8(out: Any, seed: Any, exponent: Any) -> None:
    """Codes of e4m3, magnitudes below 2^exponent: 3 random mantissa bits, a geometric exponent."""
    for i in prange(out.size):
        r = np.uint32(_bits(seed, i))
        bits = _float_bits(r, np.uint32(3), np.uint32(6 + exponent))
        out[i] = np.uint8((bits >> np.uint16(8)) | (bits & np.uint16(0x7F)))


@numba.njit(inline="always")
def _float_bits(r: Any, mantissa_bits: Any, top: Any) -> Any:
    """Sign, exponent `top` less the number of trailing zeros of four random bits, mantissa."""
    sign = (r >> np.uint32(31)) << np.uint32(15)
    mantissa = r & ((np.uint32(1) << mantissa_bits) - np.uint32(1))
    coin = (r >> np.uint32(16)) & np.uint32(15)
    down = np.uint32(0)
    down += np.uint32((coin & np.uint32(1)) == 0)
    down += np.uint32((coin & np.uint32(3)) == 0)
    down += np.uint32((coin & np.uint32(7)) == 0)
    return np.uint16(sign | ((top - down) << mantissa_bits) | mantissa)
