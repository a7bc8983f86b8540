"""The numbers of draws.py without a compiler, to the bit: for processes that draw few, which need no Numba then.

>>> out = np.empty(5, np.float32); fill_f32(out, 42, np.float32(1))   # uniform on ±1
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

U64 = npt.NDArray[np.uint64]
GAMMA, FIRST, SECOND = (np.uint64(c) for c in (0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB))
"""Of splitmix64."""
LAST_STREAM = 0x5DEECE66D
TRAILING_ZEROS = np.uint32(sum(((i & -i).bit_length() - 1 if i & 7 else 3) << (2 * i) for i in range(16)))
"""Of each number of four bits how many zeros it ends in, at most 3: two bits a number."""


def _words(count: int, seed: int) -> U64:
    z: U64 = np.arange(1, count + 1, dtype=np.uint64) * GAMMA + np.uint64(seed)
    z = (z ^ (z >> np.uint64(30))) * FIRST
    z = (z ^ (z >> np.uint64(27))) * SECOND
    return z ^ (z >> np.uint64(31))


def fill_bytes(out: npt.NDArray[np.uint8], seed: int) -> None:
    """Uniform bytes."""
    whole = out.size // 8
    out[: 8 * whole] = _words(whole, seed).view(np.uint8)
    out[8 * whole :] = _words(1, seed ^ LAST_STREAM).view(np.uint8)[: out.size - 8 * whole]


def fill_int8(out: npt.NDArray[np.int8], seed: int) -> None:
    """Uniform on -127..127: the bytes of `fill_bytes`, with -127 in place of -128."""
    fill_bytes(out.view(np.uint8), seed)
    np.maximum(out, np.int8(-127), out=out)


def fill_f32(out: npt.NDArray[np.float32], seed: int, limit: np.float32) -> None:
    """float32, uniform on ±limit, 24 random bits."""
    step = limit * np.float32(2.0**-23)
    whole = (_words(out.size, seed) >> np.uint64(40)).astype(np.int64) - (1 << 23)
    out[:] = whole.astype(np.float32) * step + step * np.float32(0.5)


def fill_bf16(out: npt.NDArray[np.uint16], seed: int, exponent: np.int32) -> None:
    """bfloat16 bits, magnitudes below 2^exponent: 7 random mantissa bits, a geometric exponent."""
    out[:] = _float_bits(out.size, seed, 7, 126 + exponent)


def fill_f16(out: npt.NDArray[np.uint16], seed: int, exponent: np.int32) -> None:
    """float16 bits, magnitudes below 2^exponent: 10 random mantissa bits, a geometric exponent."""
    out[:] = _float_bits(out.size, seed, 10, 14 + exponent)


def fill_fp8(out: npt.NDArray[np.uint8], seed: int, exponent: np.int32) -> None:
    """Codes of e4m3, magnitudes below 2^exponent: 3 random mantissa bits, a geometric exponent."""
    bits = _float_bits(out.size, seed, 3, 6 + exponent)
    out[:] = (bits >> np.uint16(8)) | (bits & np.uint16(0x7F))


def _float_bits(count: int, seed: int, mantissa_bits: int, top: Any) -> npt.NDArray[np.uint16]:
    """Sign, exponent `top` less the number of trailing zeros of four random bits (at most 3), mantissa."""
    r = _words(count, seed).astype(np.uint32)
    sign = (r >> np.uint32(31)) << np.uint32(15)
    mantissa = r & np.uint32((1 << mantissa_bits) - 1)
    down = (TRAILING_ZEROS >> ((r >> np.uint32(15)) & np.uint32(30))) & np.uint32(3)
    exponent = (np.uint32(top) - down) << np.uint32(mantissa_bits)
    bits: npt.NDArray[np.uint16] = (sign | exponent | mantissa).astype(np.uint16)
    return bits
