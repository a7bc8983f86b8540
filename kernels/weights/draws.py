"""Random bits and numbers that fill flat arrays, compiled, the same for any number of threads.

>>> out = np.empty(5, np.float32); fill_f32(out, 42, np.float32(1))   # uniform on ±1

Bits are splitmix64 of a counter: each `fill_` function fills a flat array from stream `seed`. Sign and mantissa are
uniform, the exponent geometric, which is close to a uniform distribution. splitmix64 is from Steele, Lea and Flood,
"Fast splittable pseudorandom number generators" (OOPSLA 2014). A process that draws nothing need not import this, which
imports Numba.
"""

from __future__ import annotations

from typing import Any

import numba
import numpy as np
from numba import prange

from membound.kernels.cpu.compile import kernel

BLOCK = 1024
"""Words that a thread draws at a time, 8 KiB: they stay in its first-level cache.

A second loop turns them into numbers. In a loop that does both, the compiler works on one vector at a time, and
Intel's 64-bit multiply (vpmullq) then waits for the one before it, whose register it writes to.
"""
TRAILING_ZEROS = np.uint32(sum(((i & -i).bit_length() - 1 if i & 7 else 3) << (2 * i) for i in range(16)))
"""Of each number of four bits how many zeros it ends in, at most 3: two bits a number."""


@numba.njit(inline="always")
def _bits(seed: Any, index: Any) -> Any:
    """64 random bits of (seed, index)."""
    z = np.uint64(seed) + (np.uint64(index) + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


@numba.njit
def _draw(words: Any, seed: Any, first: Any) -> None:
    """Bits number `first` and on of the stream."""
    for i in range(words.size):
        words[i] = _bits(seed, first + i)


@kernel(parallel=True)
def _fill_words(out: Any, seed: Any) -> None:
    for block in prange(-(-out.size // BLOCK)):
        first = np.intp(block) * BLOCK
        _draw(out[first : first + BLOCK], seed, first)


@kernel(parallel=True)
def _fill_symmetric(words: Any, values: Any, seed: Any) -> None:
    """`words` and `values` are the same memory; no value stays at -128."""
    for block in prange(-(-words.size // BLOCK)):
        first = np.intp(block) * BLOCK
        _draw(words[first : first + BLOCK], seed, first)
        part = values[8 * first : 8 * (first + BLOCK)]
        for i in range(part.size):
            part[i] = max(part[i], np.int8(-127))


def fill_bytes(out: np.ndarray[Any, np.dtype[np.uint8]], seed: int) -> None:
    """Uniform bytes."""
    whole = out.size // 8
    _fill_words(out[: 8 * whole].view(np.uint64), np.uint64(seed))
    out[8 * whole :] = _last_bytes(out.size - 8 * whole, seed)


def fill_int8(out: np.ndarray[Any, np.dtype[np.int8]], seed: int) -> None:
    """Uniform on -127..127: the bytes of `fill_bytes`, with -127 in place of -128."""
    whole = out.size // 8
    values = out[: 8 * whole]
    _fill_symmetric(values.view(np.uint64), values, np.uint64(seed))
    out[8 * whole :] = np.maximum(_last_bytes(out.size - 8 * whole, seed).view(np.int8), np.int8(-127))


def _last_bytes(count: int, seed: int) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """Bytes beyond the last whole word, from a stream of their own."""
    word = np.empty(1, np.uint64)
    _fill_words(word, np.uint64(seed ^ 0x5DEECE66D))
    return word.view(np.uint8)[:count]


@kernel(parallel=True)
def fill_f32(out: Any, seed: Any, limit: Any) -> None:
    """float32, uniform on ±limit, 24 random bits."""
    step = limit * np.float32(2.0**-23)
    for block in prange(-(-out.size // BLOCK)):
        first = np.intp(block) * BLOCK
        part, words = out[first : first + BLOCK], np.empty(BLOCK, np.uint64)
        _draw(words, seed, first)
        for i in range(part.size):
            r = np.int64(words[i] >> np.uint64(40))
            part[i] = np.float32(r - np.int64(1 << 23)) * step + step * np.float32(0.5)


@kernel(parallel=True)
def fill_bf16(out: Any, seed: Any, exponent: Any) -> None:
    """bfloat16 bits, magnitudes below 2^exponent: 7 random mantissa bits, a geometric exponent."""
    for block in prange(-(-out.size // BLOCK)):
        first = np.intp(block) * BLOCK
        part, words = out[first : first + BLOCK], np.empty(BLOCK, np.uint64)
        _draw(words, seed, first)
        for i in range(part.size):
            part[i] = _float_bits(np.uint32(words[i]), np.uint32(7), np.uint32(126 + exponent))


@kernel(parallel=True)
def fill_f16(out: Any, seed: Any, exponent: Any) -> None:
    """float16 bits, magnitudes below 2^exponent: 10 random mantissa bits, a geometric exponent."""
    for block in prange(-(-out.size // BLOCK)):
        first = np.intp(block) * BLOCK
        part, words = out[first : first + BLOCK], np.empty(BLOCK, np.uint64)
        _draw(words, seed, first)
        for i in range(part.size):
            part[i] = _float_bits(np.uint32(words[i]), np.uint32(10), np.uint32(14 + exponent))


@kernel(parallel=True)
def fill_fp8(out: Any, seed: Any, exponent: Any) -> None:
    """Codes of e4m3, magnitudes below 2^exponent: 3 random mantissa bits, a geometric exponent."""
    for block in prange(-(-out.size // BLOCK)):
        first = np.intp(block) * BLOCK
        part, words = out[first : first + BLOCK], np.empty(BLOCK, np.uint64)
        _draw(words, seed, first)
        for i in range(part.size):
            bits = _float_bits(np.uint32(words[i]), np.uint32(3), np.uint32(6 + exponent))
            part[i] = np.uint8((bits >> np.uint16(8)) | (bits & np.uint16(0x7F)))


@numba.njit(inline="always")
def _float_bits(r: Any, mantissa_bits: Any, top: Any) -> Any:
    """Sign, exponent `top` less the number of trailing zeros of four random bits (at most 3), mantissa."""
    sign = (r >> np.uint32(31)) << np.uint32(15)
    mantissa = r & ((np.uint32(1) << mantissa_bits) - np.uint32(1))
    down = (TRAILING_ZEROS >> ((r >> np.uint32(15)) & np.uint32(30))) & np.uint32(3)
    return np.uint16(sign | ((top - down) << mantissa_bits) | mantissa)
