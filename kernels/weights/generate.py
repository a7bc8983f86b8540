"""Random weights and caches, straight in the stored format, the same for any number of threads.

>>> random_weight("int8", n=8, k=32, stream=stream_of(seed=1, index=0)).values.dtype
dtype('int8')
>>> out = np.empty(5, np.float32); fill_f32(out, 42, np.float32(1))   # uniform on ±1

Bits are splitmix64 of a counter, compiled: each `fill_` function fills a flat array from stream `seed`. Sign
and mantissa are uniform, the exponent geometric, which is close to a uniform distribution; a weight's
variance is near 1/k. splitmix64 is from Steele, Lea and Flood, "Fast splittable pseudorandom number
generators" (OOPSLA 2014).
"""

from __future__ import annotations

from math import log2, sqrt
from typing import Any, cast

import numba
import numpy as np
import numpy.typing as npt
from numba import prange

from membound.kernels.cpu.compile import kernel
from membound.kernels.weights.formats import (
    F32,
    FORMATS,
    Array,
    KVCache,
    Weight,
    cache_layout,
    weight_layout,
)
from membound.kernels.weights.grouped import E2M1, EXPONENT_BIAS
from membound.kernels.weights.layers import I64
from membound.kernels.weights.making import SHARED, Take, make_here

# A cache's last key is 2² times as long, so that in some heads nearly all attention is on it and a
# context that is one token short shows at any length.
LAST_KEY_DOUBLINGS = 2

ZERO_POINTS = (6, 11)
"""Zero points of int4 lie from the first to below the second: those of trained groups are near the middle of 0..15."""

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


def random_weight(fmt: str, n: int, k: int, stream: int, gain: int = 1, take: Take = make_here) -> Weight:
    """A random W[n, k] of variance near gain²/k; the gain is a power of two. `take`: whoever has drawn it."""
    name = f"weight {fmt} {stream} {gain}"
    layout = weight_layout(fmt, n, k)
    arrays = take(name, layout, lambda: _draw_weight(fmt, n, k, stream, gain), fmt in SHARED)
    return Weight(fmt, n, k, *arrays)


def _draw_weight(fmt: str, n: int, k: int, stream: int, gain: int) -> list[Array]:
    """The arrays of a `Weight`."""
    spread = gain * sqrt(3 / k)  # a uniform distribution on ±spread has variance gain²/k
    if fmt in ("f32", "bf16", "f16"):
        return [_random_floats(fmt, (n, k), stream, round(log2(spread)))]
    rng = np.random.default_rng(stream)
    group = FORMATS[fmt].group
    if fmt == "int8":
        return [random_int8((n, k), stream), _scales(rng, (n,), spread / 127)]
    if fmt.startswith("fp8"):
        codes = _random_floats("fp8", (n, k), stream, 0)
        return [codes, _scales(rng, (-(-n // FORMATS[fmt].rows), k // group), spread)]
    if fmt == "q8_0":
        return [random_int8((n, k), stream), _scales(rng, (n, k // group), spread / 127).astype(np.float16)]
    values = np.empty((n, k // 2), np.uint8)
    fill_bytes(values.reshape(-1), stream)
    if fmt == "mxfp4":
        middle = EXPONENT_BIAS + round(log2(spread / E2M1[-1]))
        return [values, rng.integers(middle - 1, middle + 2, (n, k // group), np.uint8)]
    scales16 = _scales(rng, (n, k // group), spread / 8).astype(np.float16)
    if FORMATS[fmt].zeros:
        return [values, scales16, rng.integers(*ZERO_POINTS, (n, k // group), np.uint8)]
    return [values, scales16]


def _scales(rng: np.random.Generator, shape: tuple[int, ...], middle: float) -> F32:
    """Within a quarter of `middle`."""
    return (rng.random(shape, np.float32) * np.float32(0.5) + np.float32(0.75)) * np.float32(middle)


def random_cache(fmt: str, shape: tuple[int, int, int, int], stream: int, take: Take = make_here) -> KVCache:
    """A random cache of values within ±1 (the last key ±4), shape [batch, kv_heads, tokens, head_dim].

    `take` as for `random_weight`.
    """
    layout = cache_layout(fmt, shape)
    arrays = take(f"cache {fmt} {stream}", layout, lambda: _draw_cache(fmt, shape, stream), fmt in SHARED)
    k, v, *scales = arrays
    return KVCache(fmt, k, v, *cast(list[F32], scales))


def _draw_cache(fmt: str, shape: tuple[int, int, int, int], stream: int) -> list[Array]:
    """Keys, values, and the scales of both where the format has them."""
    streams = (stream_of(stream, 1), stream_of(stream, 2))
    last = np.s_[:, :, -1]
    if fmt == "int8":
        rng = np.random.default_rng(stream)
        k_scales, v_scales = (
            (rng.random(shape[:3], np.float32) * np.float32(0.5) + np.float32(0.75)) / np.float32(127)
            for _ in streams
        )
        k_scales[last] *= np.float32(1 << LAST_KEY_DOUBLINGS)
        return [random_int8(shape, streams[0]), random_int8(shape, streams[1]), k_scales, v_scales]
    k, v = (_random_floats(fmt, shape, s, 0) for s in streams)
    if fmt == "f32":
        k.view(np.float32)[last] *= np.float32(1 << LAST_KEY_DOUBLINGS)
    else:
        # One more in the exponent doubles a number; codes of fp8 have eight bits, the others sixteen.
        bits = k.view(np.uint8 if fmt == "fp8" else np.uint16)
        bits[last] = bits[last] + (LAST_KEY_DOUBLINGS << {"bf16": 7, "f16": 10, "fp8": 3}[fmt])
    return [k, v]


def random_int8(shape: tuple[int, ...], stream: int) -> npt.NDArray[np.int8]:
    """Uniform on -127..127 (−128 is drawn as −127: symmetric formats never hold it)."""
    values = np.empty(shape, np.int8)
    fill_int8(values.reshape(-1), stream)
    return values


def _random_floats(fmt: str, shape: tuple[int, ...], stream: int, exponent: int) -> Array:
    """Values within ±2^exponent."""
    if fmt == "f32":
        out32 = np.empty(shape, np.float32)
        fill_f32(out32.reshape(-1), stream, np.float32(2.0**exponent))
        return out32
    if fmt == "fp8":
        codes = np.empty(shape, np.uint8)
        fill_fp8(codes.reshape(-1), stream, np.int32(exponent))
        return codes
    bits = np.empty(shape, np.uint16)
    fill = fill_bf16 if fmt == "bf16" else fill_f16
    fill(bits.reshape(-1), stream, np.int32(exponent))
    return bits if fmt == "bf16" else bits.view(np.float16)


def normal(rng: np.random.Generator, *shape: int) -> F32:
    """Unit-normal float32."""
    return rng.standard_normal(shape, np.float32)


def prompt_tokens(seed: int, batch: int, count: int, vocab: int) -> I64:
    """Random token ids [batch, count], the same for the same seed."""
    return np.random.default_rng((seed, 1 << 21)).integers(0, vocab, (batch, count))


def stream_of(seed: int, index: int) -> int:
    """A 63-bit stream number for (seed, index)."""
    return int(np.random.SeedSequence((seed, index)).generate_state(1, np.uint64)[0] >> np.uint64(1))
