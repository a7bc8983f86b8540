"""Random weights and caches, straight in the stored format, the same for any number of threads.

>>> random_weight("int8", n=8, k=32, stream=stream_of(seed=1, index=0)).values.dtype
dtype('int8')

A weight's variance is near 1/k. What draws the numbers is compiled (draws.py), and imported once there are many of them:
workers that probe, ask or run small works need no Numba, whose import takes as long as all the rest of theirs.
"""

from __future__ import annotations

import sys
from math import log2, prod, sqrt
from types import ModuleType
from typing import cast

import numpy as np
import numpy.typing as npt

from membound.kernels.weights.formats import (
    F32,
    FORMATS,
    Array,
    KVCache,
    Weight,
    cache_layout,
    weight_layout,
)
from membound.kernels.weights.ggml import SUPER_BYTES
from membound.kernels.weights.grouped import E2M1, EXPONENT_BIAS
from membound.kernels.weights.layers import I64
from membound.kernels.weights.making import SHARED, Take, make_here

# A cache's last key is 2² times as long, so that in some heads nearly all attention is on it and a
# context that is one token short shows at any length.
LAST_KEY_DOUBLINGS = 2

FEW = 1 << 22
"""Numbers that a process draws without Numba at most: NumPy takes 0.05 to 0.2 s for them, Numba's import 0.4 s."""

SUPER_SPREAD = 422
"""What `_draw_weight`'s spread is divided by for q4_k's scale: √3 times the deviation of scale · q − 7.5 · least, of six-bit scales and
least values that are drawn from 32 to 63 and q from 0 to 15."""
MIDDLE_NIBBLE = 7.5
TOP_BITS = 0xA0
"""The highest bits of the six-bit numbers in eight bytes of a super-block, whose others are elsewhere (ggml.parts_of_q4_k)."""
ZERO_POINTS = (6, 11)
"""Zero points of int4 lie from the first to below the second: those of trained groups are near the middle of 0..15."""


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
    if fmt == "q4_k":
        return [_random_super_blocks(n, k, stream, _scales(rng, (n * k // group, 1), spread / SUPER_SPREAD))]
    values = np.empty((n, k // 2), np.uint8)
    _draws(values.size).fill_bytes(values.reshape(-1), stream)
    if fmt == "mxfp4":
        middle = EXPONENT_BIAS + round(log2(spread / E2M1[-1]))
        return [values, rng.integers(middle - 1, middle + 2, (n, k // group), np.uint8)]
    scales16 = _scales(rng, (n, k // group), spread / 8).astype(np.float16)
    if FORMATS[fmt].zeros:
        return [values, scales16, rng.integers(*ZERO_POINTS, (n, k // group), np.uint8)]
    return [values, scales16]


def _random_super_blocks(n: int, k: int, stream: int, scales: F32) -> Array:
    """Rows of Q4_K with these scales [blocks, 1]: any numbers, six-bit scales and least values from 32 to 63, least values that centre them."""
    blocks = np.empty((len(scales), SUPER_BYTES), np.uint8)
    _draws(blocks.size).fill_bytes(blocks.reshape(-1), stream)
    blocks[:, :4] = np.concatenate([scales, MIDDLE_NIBBLE * scales], axis=1).astype(np.float16).view(np.uint8)
    blocks[:, 4:12] |= TOP_BITS
    return blocks.reshape(n, -1)


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


_drawn = 0


def _draws(count: int) -> ModuleType:
    """What draws the next `count` numbers, with the same bits either way."""
    global _drawn
    _drawn += count
    if _drawn <= FEW and "membound.kernels.weights.draws" not in sys.modules:
        from membound.kernels.weights import few_draws

        return few_draws
    from membound.kernels.weights import draws

    return draws


def random_int8(shape: tuple[int, ...], stream: int) -> npt.NDArray[np.int8]:
    """Uniform on -127..127 (−128 is drawn as −127: symmetric formats never hold it)."""
    values = np.empty(shape, np.int8)
    _draws(values.size).fill_int8(values.reshape(-1), stream)
    return values


def _random_floats(fmt: str, shape: tuple[int, ...], stream: int, exponent: int) -> Array:
    """Values within ±2^exponent."""
    draws = _draws(prod(shape))
    if fmt == "f32":
        out32 = np.empty(shape, np.float32)
        draws.fill_f32(out32.reshape(-1), stream, np.float32(2.0**exponent))
        return out32
    if fmt == "fp8":
        codes = np.empty(shape, np.uint8)
        draws.fill_fp8(codes.reshape(-1), stream, np.int32(exponent))
        return codes
    bits = np.empty(shape, np.uint16)
    fill = draws.fill_bf16 if fmt == "bf16" else draws.fill_f16
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
