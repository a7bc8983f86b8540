"""Cached numbers as operands of tensor cores: pairs of 16 bits, made in registers from what was loaded.

    pairs = cuda.local.array(4, np.uint32)
    formats("int8").value_pairs(a, b, pairs, 0)     # four columns of two tokens as four pairs of float16

Floats of 16 bits are used as they are. int8 becomes float16 by its bits: 0x64 before a byte u is 1024 + u, so
with u = v + 128 a subtraction of 1152 leaves v, exactly. fp8 (e4m3) has its own instruction.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np

from membound.kernels.cuda import ptx
from membound.kernels.cuda.compile import device

BITS = {"bf16": 16, "f16": 16, "int8": 8, "fp8": 8}
"""The formats that tensor cores read here. float32 would be rounded to ten bits on its way."""

_SIGNS = np.uint32(0x80808080)
_HUNDREDS = np.uint32(0x64646464)
_BIAS = np.uint32(0x64806480)  # 1152 as two float16
_BYTES_01, _BYTES_23 = (
    np.uint32(0x4140),
    np.uint32(0x4342),
)  # two bytes of the first word, each below one of the second
_LOW_HALVES, _HIGH_HALVES = np.uint32(0x5410), np.uint32(0x7632)
_LOW_BYTES, _HIGH_BYTES = np.uint32(0x5140), np.uint32(0x7362)
_HALF = np.uint32(16)


_F16 = (ptx.pack_f16, ptx.low_f16, ptx.high_f16, ptx.mma_f16)
_BF16 = (ptx.pack_bf16, ptx.low_bf16, ptx.high_bf16, ptx.mma_bf16)


@dataclass(frozen=True, slots=True)
class CacheFormat:
    """Functions of one format for kernels.

    key_pairs(words, at, pairs) turns the next four columns of a key (8 bytes from words[at] on, 4 of an 8-bit
    format) into pairs[0] and pairs[1]. value_pairs(a, b, pairs, at) turns a word of one token and the same of
    the next into one pair a column, in pairs[at] and behind. `pack` rounds two float32 to such a pair, `low` and
    `high` widen its two numbers, and `mma` multiplies pairs.
    """

    key_pairs: Callable[[Any, Any, Any], None]
    value_pairs: Callable[[Any, Any, Any, Any], None]
    pack: Any
    low: Any
    high: Any
    mma: Any


@cache
def formats(kv: str) -> CacheFormat:
    """The functions of a cache format out of BITS."""
    if kv == "int8":
        return CacheFormat(_int8_key, _int8_values, *_F16)
    if kv == "fp8":
        return CacheFormat(_fp8_key, _fp8_values, *_F16)
    if kv == "bf16":
        return CacheFormat(_key_of_16_bits, _values_of_16_bits, *_BF16)
    return CacheFormat(_key_of_16_bits, _values_of_16_bits, *_F16)


@device
def _key_of_16_bits(words: Any, at: Any, pairs: Any) -> None:
    pairs[0], pairs[1] = words[at], words[at + 1]


@device
def _values_of_16_bits(a: Any, b: Any, pairs: Any, at: Any) -> None:
    pairs[at] = ptx.pick_bytes(a, b, _LOW_HALVES)
    pairs[at + 1] = ptx.pick_bytes(a, b, _HIGH_HALVES)


@device
def _int8_pair(flipped: Any, selector: Any) -> Any:
    """Two bytes, their signs flipped, as a pair of float16."""
    return ptx.subtract_f16(ptx.pick_bytes(flipped, _HUNDREDS, selector), _BIAS)


@device
def _int8_key(words: Any, at: Any, pairs: Any) -> None:
    flipped = np.uint32(words[at] ^ _SIGNS)
    pairs[0], pairs[1] = _int8_pair(flipped, _BYTES_01), _int8_pair(flipped, _BYTES_23)


@device
def _int8_values(a: Any, b: Any, pairs: Any, at: Any) -> None:
    low = np.uint32(ptx.pick_bytes(a, b, _LOW_BYTES) ^ _SIGNS)
    high = np.uint32(ptx.pick_bytes(a, b, _HIGH_BYTES) ^ _SIGNS)
    pairs[at], pairs[at + 1] = _int8_pair(low, _BYTES_01), _int8_pair(low, _BYTES_23)
    pairs[at + 2], pairs[at + 3] = _int8_pair(high, _BYTES_01), _int8_pair(high, _BYTES_23)


@device
def _fp8_key(words: Any, at: Any, pairs: Any) -> None:
    pairs[0], pairs[1] = ptx.unpack_e4m3(words[at]), ptx.unpack_e4m3(np.uint32(words[at] >> _HALF))


@device
def _fp8_values(a: Any, b: Any, pairs: Any, at: Any) -> None:
    low, high = ptx.pick_bytes(a, b, _LOW_BYTES), ptx.pick_bytes(a, b, _HIGH_BYTES)
    pairs[at], pairs[at + 1] = ptx.unpack_e4m3(low), ptx.unpack_e4m3(np.uint32(low >> _HALF))
    pairs[at + 2], pairs[at + 3] = ptx.unpack_e4m3(high), ptx.unpack_e4m3(np.uint32(high >> _HALF))
