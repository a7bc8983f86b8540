"""A panel of a format whose scales lie among its values: records, one after the other, of a group of columns each.

>>> record = record_of("int4g128z")
>>> record.values, record.zeros, record.head_bytes // LANES
('nibbles', True, 3)

A record begins with a scale of each row (float16, float32, or the exponent of a power of two) and, where the format has zero
points, minus one of each row as int8; then come the values of all rows, as pack.py places them.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any

import numba
import numpy as np

from membound.kernels.cpu.simd.arithmetic import fma_broadcast, scale_tile
from membound.kernels.cpu.simd.conversions import nibble_values_each
from membound.kernels.cpu.simd.dot_products import DOT_OFFSET, NIBBLE_WORDS, dot_nibbles, dot_s8_broadcast
from membound.kernels.cpu.simd.features import LANES
from membound.kernels.cpu.simd.loads import load_bytes_each, load_each
from membound.kernels.cpu.simd.streams import prefetch_each
from membound.kernels.weights.formats import FORMATS

SCALES = {1: "e8m0", 2: "f16", 4: "f32"}
"""How scales are stored, by their bytes."""
NIBBLE_ZERO = 8
"""What the nibble of 0 is where a format has no zero points."""
COLUMNS_A_WORD = 8
"""Columns of a row in the four bytes of nibbles that one lane loads."""


@dataclass(frozen=True, slots=True)
class Record:
    """A group of `group` columns. values: `nibbles` of eight columns a word, or bytes (`int8`, `fp8`).

    `meaning` is what a nibble stands for (`conversions.NIBBLES`); `scale` how scales are stored.
    """

    group: int
    scale: str
    zeros: bool
    values: str
    meaning: str = ""

    @property
    def zeros_at(self) -> int:
        """Where the zero points begin in a record: behind the scales."""
        return LANES * next(size for size, name in SCALES.items() if name == self.scale)

    @property
    def head_bytes(self) -> int:
        """Scales and zero points of a record: where its values begin."""
        return self.zeros_at + (LANES if self.zeros else 0)

    @property
    def size(self) -> int:
        """Bytes of a record."""
        return self.head_bytes + LANES * self.group // (2 if self.values == "nibbles" else 1)

    @property
    def offset(self) -> int:
        """What times the sum of a group's int8 activations is too much in its sum of products; zero points and least values come later."""
        if self.values != "nibbles":
            return DOT_OFFSET
        return 0 if self.meaning == "unsigned" else NIBBLE_ZERO


@cache
def record_of(fmt: str) -> Record | None:
    """The records of a format, or None where scales do not lie among the values."""
    found = FORMATS[fmt]
    if not found.group:
        return None
    scale = SCALES[found.scale_bytes - found.zeros]
    if found.bits == 4:
        meaning = "e2m1" if fmt == "mxfp4" else "unsigned" if found.zeros else "int4"
        return Record(found.group, scale, found.zeros, "nibbles", meaning)
    return Record(found.group, scale, found.zeros, "fp8" if fmt.startswith("fp8") else "int8")


@dataclass(frozen=True, slots=True)
class SuperBlock:
    """A record of `parts` of `columns` columns, with `leasts` or without; their numbers as those of a `Record`.

    It begins with the scale of each row and, with least values, minus the one of those, as float16; then come, a byte a row, the
    scales of the parts and their least values; then the numbers. Files have 144 and 210 bytes for 256 numbers, records 148 and 274.
    """

    parts: int
    columns: int
    leasts: bool
    numbers: Record

    @property
    def group(self) -> int:
        """Columns of a record."""
        return self.parts * self.columns

    @property
    def head_bytes(self) -> int:
        """Scales and least values of a record: where its numbers begin."""
        return LANES * (2 + self.parts) * (2 if self.leasts else 1)

    @property
    def scales_at(self) -> int:
        """Where the scales of the parts begin in a record, those of the first first; their least values lie behind them."""
        return (4 if self.leasts else 2) * LANES

    @property
    def part_bytes(self) -> int:
        """Numbers of a part."""
        return self.numbers.size - self.numbers.head_bytes

    @property
    def size(self) -> int:
        """Bytes of a record."""
        return self.head_bytes + self.parts * self.part_bytes


SUPER_BLOCKS = {
    "q4_k": SuperBlock(8, 32, True, Record(32, "f16", False, "nibbles", "unsigned")),
    "q6_k": SuperBlock(16, 16, False, Record(16, "f16", False, "int8")),
}
"""Formats of ggml's whose groups have scales under a scale for all of them."""


@dataclass(frozen=True, slots=True)
class Parts:
    """Where a format's numbers that share a scale lie in a panel: `columns` of them in each part, `count` parts in a record.

    `leasts`: whether numbers times a scale are too high or too low by something that a part's columns have in common.
    """

    columns: int
    count: int
    record: int
    leasts: bool
    numbers: Record


@cache
def parts_of(fmt: str) -> Parts:
    """The parts of a format with scales among its values: records are one each, super-blocks several."""
    if fmt in SUPER_BLOCKS:
        found = SUPER_BLOCKS[fmt]
        return Parts(found.columns, found.parts, found.size, found.leasts, found.numbers)
    record = record_of(fmt)
    if record is None:
        raise AssertionError(f"{fmt} has no scales among its values")
    return Parts(record.group, 1, record.size, record.zeros, record)


def make_part_readers(fmt: str) -> tuple[Any, Any, Any]:
    """Three inlined functions of part g of a panel: place(g), where its numbers begin; scales(w, starts, g), of each row; and
    leasts(w, starts, g, scales), what the sum of its columns of x is multiplied by besides."""
    if fmt in SUPER_BLOCKS:
        return _super_part_readers(SUPER_BLOCKS[fmt])
    parts = parts_of(fmt)
    RECORD, HEAD, SCALE, LEASTS_AT = (
        parts.record,
        parts.numbers.head_bytes,
        parts.numbers.scale,
        parts.numbers.zeros_at,
    )

    @numba.njit(inline="always")
    def place(g: Any) -> Any:
        return g * RECORD + HEAD

    @numba.njit(inline="always")
    def scales(w: Any, starts: Any, g: Any) -> Any:
        return load_each(w, starts, g * RECORD, SCALE)

    @numba.njit(inline="always")
    def leasts(w: Any, starts: Any, g: Any, by: Any) -> Any:
        return scale_tile(load_each(w, starts, g * RECORD + LEASTS_AT, "int8"), by)

    return place, scales, leasts


def _super_part_readers(found: SuperBlock) -> tuple[Any, Any, Any]:
    RECORD, HEAD, PARTS, PART = found.size, found.head_bytes, found.parts, found.part_bytes
    SCALES_AT = found.scales_at
    LEASTS_AT = SCALES_AT + PARTS * LANES

    @numba.njit(inline="always")
    def place(g: Any) -> Any:
        return g // PARTS * RECORD + HEAD + g % PARTS * PART

    @numba.njit(inline="always")
    def scales(w: Any, starts: Any, g: Any) -> Any:
        record = g // PARTS * RECORD
        own = load_each(w, starts, record + SCALES_AT + g % PARTS * LANES, "int8")
        return scale_tile(own, load_each(w, starts, record, "f16"))

    @numba.njit(inline="always")
    def leasts(w: Any, starts: Any, g: Any, by: Any) -> Any:
        record = g // PARTS * RECORD
        own = load_each(w, starts, record + LEASTS_AT + g % PARTS * LANES, "int8")
        return scale_tile(own, load_each(w, starts, record + 2 * LANES, "f16"))

    return place, scales, leasts


def summed_columns(fmt: str) -> int:
    """Columns of x that a format's float kernels want the sums of, for zero points or least values; 0: none."""
    if fmt in SUPER_BLOCKS:
        return SUPER_BLOCKS[fmt].columns if SUPER_BLOCKS[fmt].leasts else 0
    return FORMATS[fmt].group if FORMATS[fmt].zeros else 0


def make_add_group(record: Record, tokens: int) -> Any:
    """The inlined function add_group(acc, w, starts, place, x, column): acc + the record whose values begin at `place` times x."""
    GROUP, KIND, MEANING = record.group, record.values, record.meaning

    if KIND == "nibbles":

        @numba.njit(inline="always")
        def add_group(acc: Any, w: Any, starts: Any, place: Any, x: Any, column: Any) -> Any:
            for word in range(GROUP // COLUMNS_A_WORD):
                packed = load_bytes_each(w, starts, place + word * 4 * LANES)
                for j in range(COLUMNS_A_WORD):  # byte i holds columns i and 4 + i: see pack.py
                    values = nibble_values_each(packed, np.int32((j & 3) * 2 + (j >> 2)), MEANING)
                    acc = fma_broadcast(acc, values, x, (column + word * COLUMNS_A_WORD + j) * tokens)
            return acc

    else:

        @numba.njit(inline="always")
        def add_group(acc: Any, w: Any, starts: Any, place: Any, x: Any, column: Any) -> Any:
            for j in range(GROUP):
                values = load_each(w, starts, place + j * LANES, KIND)
                acc = fma_broadcast(acc, values, x, (column + j) * tokens)
            return acc

    return add_group


def make_dot_group(record: Record, tokens: int, ahead: int) -> Any:
    """Like `make_add_group` for int8 activations, acc in int32: dot_group(acc, w, starts, place, scratch, column).

    Lines of the streams are asked for `ahead` bytes before they are used; 0: they are not.
    """
    GROUP, AHEAD = record.group, ahead

    if record.values == "nibbles":

        @numba.njit(inline="always")
        def dot_group(acc: Any, w: Any, starts: Any, place: Any, scratch: Any, column: Any) -> Any:
            for j in range(0, GROUP // COLUMNS_A_WORD, NIBBLE_WORDS):
                words = place + j * 4 * LANES
                if AHEAD:
                    for word in range(NIBBLE_WORDS):
                        prefetch_each(w, starts, words + word * 4 * LANES + AHEAD)
                acc = dot_nibbles(acc, w, starts, words, scratch, (column + j * COLUMNS_A_WORD) * tokens)
            return acc

    else:

        @numba.njit(inline="always")
        def dot_group(acc: Any, w: Any, starts: Any, place: Any, scratch: Any, column: Any) -> Any:
            for j in range(GROUP // 4):
                if AHEAD:
                    prefetch_each(w, starts, place + j * 4 * LANES + AHEAD)
                values = load_bytes_each(w, starts, place + j * 4 * LANES)
                acc = dot_s8_broadcast(acc, values, scratch, (column + 4 * j) * tokens)
            return acc

    return dot_group
