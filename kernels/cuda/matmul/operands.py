"""Operands of the tensor cores out of memory: W in each of its formats, and rows of x.

For 32 columns a lane gives two mma the same eight columns of W's rows g and g + 8 and of x's row g: four words
of A and two of B each. A dot product does not care about the order of k, so these are the eight columns that
stand next to each other in memory, not those of mma's own numbering.

int8 and int4 become float16 exactly: put behind the exponent of 1024, whose last mantissa bit is worth one, from which
that number and the offset of packing are then subtracted. Of a byte of int4 the upper number stands four bits higher,
worth sixteen times as much: it is divided by sixteen in the same instruction instead of shifted down.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np

from membound.kernels.cuda.compile import device
from membound.kernels.cuda.matmul.pack import COLUMNS
from membound.kernels.cuda.ptx import (
    as_f32,
    copy4_async,
    fma_f16,
    load4,
    load4_shared,
    mma_bf16,
    mma_f16,
    pack_bf16,
    pack_f16,
    pick_bytes,
    set_bits,
    subtract_f16,
)
from membound.kernels.weights.formats import FORMATS

WIDE_COLUMNS = 128
"""Of integers: what a turn of the loop does besides then serves twice the bytes, for twice the registers of A."""

_F16_1024 = np.uint32(0x64646464)
_F16_1024_PAIR = np.uint32(0x64006400)
_F16_1152 = np.uint32(0x64806480)  # 1024 + 128
_F16_1032 = np.uint32(0x64086408)  # 1024 + 8
_F16_SIXTEENTH = np.uint32(0x2C002C00)
_F16_MINUS_72 = np.uint32(0xD480D480)  # -1024 / 16 - 8
_LOW_NIBBLES, _HIGH_NIBBLES = np.uint32(0x000F000F), np.uint32(0x00F000F0)
_FIRST_PAIR, _SECOND_PAIR = np.uint32(0x4140), np.uint32(0x4342)


@dataclass(frozen=True, slots=True)
class Operands:
    """How one format of W reaches the tensor cores, a unit of `columns` columns at a time.

    `start(weights, tile, unit, k, lane, ring, at)` begins to copy the unit's `words` of each lane into shared
    memory, where only that lane reads them; `take(ring, at, lane, a, to)` turns them into 8 words of A for every 32
    columns, from a[to] on. `x_packed(x, index)` and `x_float(x, index)` give the four words of B that belong to them, from x
    of 16 or 32 bits (`index` counts elements).
    """

    columns: int
    words: int
    start: Callable[..., None]
    take: Callable[..., None]
    mma: Any
    x_packed: Callable[..., Any]
    x_float: Callable[..., Any]


def is_half(fmt: str) -> bool:
    """Whether the products of a format of W are those of float16; of bfloat16 otherwise."""
    return fmt != "bf16"


@cache
def operands(fmt: str, wide: bool = False) -> Operands:
    """bf16, f16, int8, int4g32, int4g128 as pack.py leaves them. `wide`: of integers twice as many columns at a time."""
    half = is_half(fmt)
    mma, x_float = (mma_f16, _x_as_f16) if half else (mma_bf16, _x_as_bf16)
    if FORMATS[fmt].bits == 16:
        return Operands(COLUMNS, 16, _start_rows, _take_rows, mma, _x_packed, x_float)
    columns = WIDE_COLUMNS if wide else COLUMNS
    records = columns * FORMATS[fmt].bits // 256  # a record is 512 bytes of 16 rows
    take = _int8_taker(records) if fmt == "int8" else _int4_taker(records)
    return Operands(columns, 4 * records, _record_starter(columns, records), take, mma, _x_packed, x_float)


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
def _start_rows(weights: Any, tile: Any, unit: Any, k: Any, lane: Any, ring: Any, at: Any) -> None:
    row_words = k >> 1
    start = (tile * 16 + (lane >> 2)) * row_words + unit * 32 + (lane & 3) * 4
    for h in range(2):
        for below in range(2):
            to = at + (2 * h + below) * 128 + lane * 4
            copy4_async(ring, to, weights, start + below * 8 * row_words + h * 16)


@device
def _take_rows(ring: Any, at: Any, lane: Any, a: Any, to: Any) -> None:
    for h in range(2):
        for below in range(2):
            p, q, r, s = load4_shared(ring, at + (2 * h + below) * 128 + lane * 4)
            a[to + 8 * h + below] = p
            a[to + 8 * h + below + 2] = q
            a[to + 8 * h + below + 4] = r
            a[to + 8 * h + below + 6] = s


# Integers: records of 512 bytes, sixteen a lane


def _record_starter(columns: int, records: int) -> Any:
    unit_words = records * 128

    def start(weights: Any, tile: Any, unit: Any, k: Any, lane: Any, ring: Any, at: Any) -> None:
        first = (tile * (k // columns) + unit) * unit_words + lane * 4
        for r in range(records):
            copy4_async(ring, at + r * 128 + lane * 4, weights, first + r * 128)

    return device(start)


@device
def _int8_pairs(word: Any) -> Any:
    """Rows g and g + 8 of two columns."""
    return (
        subtract_f16(pick_bytes(word, _F16_1024, _FIRST_PAIR), _F16_1152),
        subtract_f16(pick_bytes(word, _F16_1024, _SECOND_PAIR), _F16_1152),
    )


def _int8_taker(records: int) -> Any:
    def take(ring: Any, at: Any, lane: Any, a: Any, to: Any) -> None:
        for i in range(records):
            p, q, r, s = load4_shared(ring, at + i * 128 + lane * 4)
            a[to + 8 * i], a[to + 8 * i + 1] = _int8_pairs(p)
            a[to + 8 * i + 2], a[to + 8 * i + 3] = _int8_pairs(q)
            a[to + 8 * i + 4], a[to + 8 * i + 5] = _int8_pairs(r)
            a[to + 8 * i + 6], a[to + 8 * i + 7] = _int8_pairs(s)

    return device(take)


@device
def _int4_pairs(word: Any) -> Any:
    """Rows g and g + 8 of two columns, in the lower nibbles of its bytes and in the upper ones."""
    low = subtract_f16(set_bits(word, _LOW_NIBBLES, _F16_1024_PAIR), _F16_1032)
    high = fma_f16(set_bits(word, _HIGH_NIBBLES, _F16_1024_PAIR), _F16_SIXTEENTH, _F16_MINUS_72)
    return low, high


def _int4_taker(records: int) -> Any:
    def take(ring: Any, at: Any, lane: Any, a: Any, to: Any) -> None:
        for i in range(records):
            p, q, r, s = load4_shared(ring, at + i * 128 + lane * 4)
            for j in range(0, 4, 2):
                shift = np.uint32(4 * j)
                a[to + 16 * i + j], a[to + 16 * i + j + 1] = _int4_pairs(p >> shift)
                a[to + 16 * i + 4 + j], a[to + 16 * i + 5 + j] = _int4_pairs(q >> shift)
                a[to + 16 * i + 8 + j], a[to + 16 * i + 9 + j] = _int4_pairs(r >> shift)
                a[to + 16 * i + 12 + j], a[to + 16 * i + 13 + j] = _int4_pairs(s >> shift)

    return device(take)
