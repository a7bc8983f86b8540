"""Operands of the tensor cores out of memory: W in each of its formats, and rows of x.

For 32 columns a lane gives two mma the same eight columns of W's rows g and g + 8 and of x's row g: four words
of A and two of B each. A dot product does not care about the order of k, so these are the eight columns that
stand next to each other in memory, not those of mma's own numbering.

int8 and int4 become float16 and bfloat16 exactly: put behind the exponent of a number whose last mantissa bit
is worth one (1024 and 128), from which that number and the offset of packing are then subtracted.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np

from membound.kernels.cuda.compile import device
from membound.kernels.cuda.ptx import (
    as_f32,
    load4,
    mma_bf16,
    mma_f16,
    pack_bf16,
    pack_f16,
    pick_bytes,
    stream4_ordered,
    subtract_bf16,
    subtract_f16,
)
from membound.kernels.work import FORMATS

_F16_1024 = np.uint32(0x64646464)
_F16_1152 = np.uint32(0x64806480)  # 1024 + 128
_BF16_128 = np.uint32(0x43004300)
_BF16_136 = np.uint32(0x43084308)  # 128 + 8
_NIBBLES = np.uint32(0x000F000F)
_FIRST_PAIR, _SECOND_PAIR = np.uint32(0x4140), np.uint32(0x4342)


@dataclass(frozen=True, slots=True)
class Operands:
    """How one format of W reaches the tensor cores, a unit of `columns` columns at a time.

    `load(weights, tile, unit, k, lane, words, at)` leaves `words` raw words of a lane in a local array,
    `decode(words, at, a)` turns them into 8 words of A for every 32 columns. `x_words(x, index)` gives the
    four words of B that belong to them, from packed 16-bit x or from float32 (`index` counts elements).
    """

    columns: int
    words: int
    load: Callable[..., None]
    decode: Callable[..., None]
    mma: Any
    x_packed: Callable[..., Any]
    x_float: Callable[..., Any]


@cache
def operands(fmt: str) -> Operands:
    """bf16, f16, int8, int4g32, int4g128 as pack.py leaves them."""
    columns = max(64, FORMATS[fmt].group)
    half = fmt in ("f16", "int8")
    mma, x_float = (mma_f16, _x_as_f16) if half else (mma_bf16, _x_as_bf16)
    if FORMATS[fmt].bits == 16:
        return Operands(columns, 16, _load_rows, _take_rows, mma, _x_packed, x_float)
    records = columns * FORMATS[fmt].bits // 256  # a record is 512 bytes of 16 rows
    decode = _decode_int8 if fmt == "int8" else _int4_decoder(records)
    return Operands(columns, 4 * records, _record_loader(columns, records), decode, mma, _x_packed, x_float)


# x


@device
def _x_packed(x: Any, index: Any) -> Any:
    return load4(x, index >> 1)


@device
def _x_as_bf16(x: Any, index: Any) -> Any:
    a, b, c, d = load4(x, index)
    e, f, g, h = load4(x, index + 4)
    return (
        pack_bf16(as_f32(a), as_f32(b)),
        pack_bf16(as_f32(c), as_f32(d)),
        pack_bf16(as_f32(e), as_f32(f)),
        pack_bf16(as_f32(g), as_f32(h)),
    )


@device
def _x_as_f16(x: Any, index: Any) -> Any:
    a, b, c, d = load4(x, index)
    e, f, g, h = load4(x, index + 4)
    return (
        pack_f16(as_f32(a), as_f32(b)),
        pack_f16(as_f32(c), as_f32(d)),
        pack_f16(as_f32(e), as_f32(f)),
        pack_f16(as_f32(g), as_f32(h)),
    )


# 16-bit formats: row-major, already operands


@device
def _load_rows(weights: Any, tile: Any, unit: Any, k: Any, lane: Any, words: Any, at: Any) -> None:
    row_words = k >> 1
    start = (tile * 16 + (lane >> 2)) * row_words + unit * 32 + (lane & 3) * 4
    for h in range(2):
        for below in range(2):
            a, b, c, d = stream4_ordered(weights, start + below * 8 * row_words + h * 16)
            to = at + 8 * h + below
            words[to] = a
            words[to + 2] = b
            words[to + 4] = c
            words[to + 6] = d


@device
def _take_rows(words: Any, at: Any, a: Any) -> None:
    for i in range(16):
        a[i] = words[at + i]


# Integers: records of 512 bytes, sixteen a lane


def _record_loader(columns: int, records: int) -> Any:
    tile_words = records * 128

    def load(weights: Any, tile: Any, unit: Any, k: Any, lane: Any, words: Any, at: Any) -> None:
        start = (tile * (k // columns) + unit) * tile_words + lane * 4
        for r in range(records):
            a, b, c, d = stream4_ordered(weights, start + r * 128)
            words[at + 4 * r] = a
            words[at + 4 * r + 1] = b
            words[at + 4 * r + 2] = c
            words[at + 4 * r + 3] = d

    return device(load)


@device
def _decode_int8(words: Any, at: Any, a: Any) -> None:
    for i in range(8):
        word = words[at + i]
        a[2 * i] = subtract_f16(pick_bytes(word, _F16_1024, _FIRST_PAIR), _F16_1152)
        a[2 * i + 1] = subtract_f16(pick_bytes(word, _F16_1024, _SECOND_PAIR), _F16_1152)


def _int4_decoder(records: int) -> Any:
    count = 4 * records

    def decode(words: Any, at: Any, a: Any) -> None:
        for i in range(count):
            word = words[at + i]
            for j in range(4):
                number = (word >> np.uint32(4 * j)) & _NIBBLES | _BF16_128
                a[4 * i + j] = subtract_bf16(number, _BF16_136)

    return device(decode)
