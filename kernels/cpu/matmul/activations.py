"""x[m, k] in the form in which a kernel reads it: interleaved, quantised to int8, or in matrix tiles.

The scratch is a byte array: values first, then from `rows · (4·k + 64)` on a float32 scale a row, then
int32 corrections, or of formats with zero points the float32 sums of the groups. Interleaved means [round][column][token], so that the tokens of a round are neighbours.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import prange

from membound.kernels.cpu.linked import linked
from membound.kernels.cpu.matmul.mixed_panels import in_sections
from membound.kernels.cpu.matmul.recipe import COLUMNS_A_LOAD, Recipe, kind_of
from membound.kernels.cpu.matmul.records import parts_of, summed_columns
from membound.kernels.cpu.simd.arithmetic import absolute, add, add_i32, maximum, multiply
from membound.kernels.cpu.simd.conversions import round_i32
from membound.kernels.cpu.simd.dot_products import DOT_OFFSET
from membound.kernels.cpu.simd.features import LANES
from membound.kernels.cpu.simd.lanes import add_lanes, max_lanes
from membound.kernels.cpu.simd.loads import load, load_part
from membound.kernels.cpu.simd.stores import store_bf16, store_int8
from membound.kernels.cpu.simd.vectors import splat, splat_i32

FEW_ROWS = 4
"""Up to this many rows one thread is done before others have woken."""

COLUMNS = 256
"""Columns that all rows interleave before the next, so that the lines they share stay in the first-level cache."""


def make_prepare(recipe: Recipe, shared: bool = True) -> Any:
    """The compiled function prepare(x, at, stride, k, scratch): x[row] begins at x[at + row·stride].

    `shared`: by all threads; one that runs within a thread's share of something larger is not.
    """
    if recipe.mixed:
        each = [make_prepare(one, shared) for one in recipe.preparers]
        return in_sections(each, recipe.rows) if len(each) > 1 else each[0]
    if recipe.method == "float":
        return _interleave(recipe, shared)
    if recipe.method == "pairs":
        return _interleave_pairs(recipe, shared)
    if recipe.method == "tile" and recipe.format == "bf16":
        return _bf16_tiles(recipe, shared)
    return _quantise(recipe, shared)


def _over_rows(recipe: Recipe, one_row: Any, shared: bool) -> Any:
    """Call one_row(row, …) for every row, in parallel where there are many."""
    M = recipe.m

    if M <= FEW_ROWS or not shared:

        @linked
        def prepare(x: Any, at: Any, stride: Any, k: Any, scratch: Any) -> None:
            for row in range(M):
                one_row(row, x, at + row * stride, k, scratch)

    else:

        @linked(parallel=True)
        def prepare(x: Any, at: Any, stride: Any, k: Any, scratch: Any) -> None:
            for row in prange(M):
                one_row(np.intp(row), x, at + row * stride, k, scratch)

    return prepare


def _interleave(recipe: Recipe, shared: bool) -> Any:
    M, TOKENS, ROWS = recipe.m, recipe.tokens, recipe.rows
    STEP = COLUMNS_A_LOAD.get(recipe.format, 1)
    GROUP = summed_columns(recipe.format)

    @linked
    def some_columns(x: Any, at: Any, stride: Any, k: Any, first: Any, last: Any, scratch: Any) -> None:
        for row in range(M):
            out = scratch.view(np.float32)[(row // TOKENS * k + first) * TOKENS + row % TOKENS :]
            source = x[at + row * stride + first : at + row * stride + last]
            for i in range(last - first):
                out[i * TOKENS] = source[i]

    if M <= FEW_ROWS:

        @linked
        def prepare(x: Any, at: Any, stride: Any, k: Any, scratch: Any) -> None:
            some_columns(x, at, stride, k, 0, k, scratch)
            padded = (k + STEP - 1) // STEP * STEP  # there is one round of tokens, and nothing behind it
            scratch.view(np.float32)[k * TOKENS : padded * TOKENS] = 0
            if GROUP:
                sums = scratch.view(np.float32)[ROWS * (k + 17) :]
                for row in range(M):
                    for g in range(k // GROUP):
                        sums[g * TOKENS + row] = _sum(x, at + row * stride + g * GROUP, GROUP, "f32")

    elif not shared:

        @linked
        def prepare(x: Any, at: Any, stride: Any, k: Any, scratch: Any) -> None:
            for first in range(0, k, COLUMNS):
                some_columns(x, at, stride, k, first, min(k, first + COLUMNS), scratch)

    else:

        @linked(parallel=True)
        def prepare(x: Any, at: Any, stride: Any, k: Any, scratch: Any) -> None:
            for part in prange((k + COLUMNS - 1) // COLUMNS):
                last = min(k, (part + 1) * COLUMNS)
                some_columns(x, at, stride, k, part * COLUMNS, last, scratch)

    return prepare


def _interleave_pairs(recipe: Recipe, shared: bool) -> Any:
    """Pairs of columns, rounded to bfloat16: neighbours, or as words of nibbles have them; the column behind the last one is zero."""
    M, TOKENS, ROWS = recipe.m, recipe.tokens, recipe.rows
    NIBBLES = kind_of(recipe.format) == "nibbles"
    GROUP = summed_columns(recipe.format)

    @linked(parallel=shared and M > FEW_ROWS)
    def prepare(x: Any, at: Any, stride: Any, k: Any, scratch: Any) -> None:
        padded = (k + 1) // 2 * 2
        for part in prange((k + COLUMNS - 1) // COLUMNS):
            first, last = part * COLUMNS, min(padded, (part + 1) * COLUMNS)
            line = np.zeros(COLUMNS + LANES, np.uint16)
            for row in range(M):
                _round_bf16(x, at + row * stride + first, min(k, last) - first, line)
                if NIBBLES:
                    _pair_as_nibbles(line.view(np.uint64), (last - first) // 8)
                words = line.view(np.uint32)
                out = scratch.view(np.uint32)[(row // TOKENS * padded + first) // 2 * TOKENS + row % TOKENS :]
                for i in range((last - first) // 2):
                    out[i * TOKENS] = words[i]
                if GROUP:
                    sums = scratch.view(np.float32)[ROWS * (k + 17) :]
                    for g in range(first // GROUP, last // GROUP):
                        of_group = (row // TOKENS * (k // GROUP) + g) * TOKENS + row % TOKENS
                        sums[of_group] = _sum(line, g * GROUP - first, GROUP, "bf16")

    return prepare


@linked
def _pair_as_nibbles(columns: Any, words: Any) -> None:
    """Eight bfloat16 at a time become the pairs (0, 2), (4, 6), (1, 3), (5, 7), which a word of nibbles holds (pack.py)."""
    low, high = np.uint64(0x0000FFFF0000FFFF), np.uint64(16)
    for i in range(words):
        first, second = columns[2 * i], columns[2 * i + 1]
        even, odd = _halves(first & low), _halves(second & low)
        columns[2 * i] = even | (odd << np.uint64(32))
        columns[2 * i + 1] = _halves((first >> high) & low) | (
            _halves((second >> high) & low) << np.uint64(32)
        )


@linked
def _halves(columns: Any) -> Any:
    """The 16 bits of each half beside each other."""
    return (columns | (columns >> np.uint64(16))) & np.uint64(0xFFFFFFFF)


@linked
def _round_bf16(x: Any, at: Any, k: Any, out: Any) -> None:
    """out[:k] = x[at : at + k] as bfloat16, followed by zeros up to a whole vector."""
    whole = k // LANES * LANES
    for i in range(0, whole, LANES):
        store_bf16(out, i, load(x, at + i, "f32"))
    if whole < k:
        store_bf16(out, whole, load_part(x, at + whole, k - whole, "f32"))


def _bf16_tiles(recipe: Recipe, shared: bool) -> Any:
    TILES = recipe.tiles

    @linked
    def one_row(row: Any, x: Any, at: Any, k: Any, scratch: Any) -> None:
        steps = (k + 31) // 32
        line = np.zeros(32 * steps + LANES, np.uint16)
        _round_bf16(x, at, k, line)
        _to_tiles(line.view(np.uint64), row, TILES, steps, scratch)

    return _over_rows(recipe, one_row, shared)


def _quantise(recipe: Recipe, shared: bool) -> Any:
    TOKENS, ROWS = recipe.tokens, recipe.rows
    TILE, TILES = recipe.method == "tile", recipe.tiles
    parts = parts_of(recipe.format) if recipe.format != "int8" else None
    GROUP = parts.columns if parts is not None else 0
    STEP = GROUP or (64 if TILE else 4)
    ZEROS, OFFSET = (parts.leasts, parts.numbers.offset) if parts is not None else (False, DOT_OFFSET)

    @linked
    def one_row(row: Any, x: Any, at: Any, k: Any, scratch: Any) -> None:
        padded = (k + STEP - 1) // STEP * STEP
        groups = padded // GROUP if GROUP else 1
        width = GROUP if GROUP else padded
        values = scratch[ROWS * (4 * padded + 64) :]
        scales = values[: 4 * ROWS].view(np.float32)
        sums = values[4 * ROWS : 4 * ROWS * (1 + groups)].view(np.int32)
        largest = _largest(x, at, k)
        factor = np.float32(127) / largest if largest > 0 else np.float32(0)
        scales[row] = largest / np.float32(127)
        line = np.empty(width + LANES, np.int8)
        for g in range(groups):
            total = _round_part(x, at + g * width, min(width, k - g * width), factor, line)
            of_group = (row // TOKENS * groups + g) * TOKENS + row % TOKENS
            if ZEROS:
                sums.view(np.float32)[of_group] = total
            elif GROUP:
                sums[of_group] = -OFFSET * total
            else:
                sums[row] = -OFFSET * total
            for i in range(k - g * width, width):
                line[i] = 0
            if TILE:
                _to_tiles(line.view(np.uint64), row, TILES, padded // 64, scratch)
            else:
                first = (row // TOKENS * padded + g * width) // 4 * TOKENS + row % TOKENS
                words, source = scratch.view(np.int32)[first:], line[:width].view(np.int32)
                for i in range(width // 4):
                    words[i * TOKENS] = source[i]

    return _over_rows(recipe, one_row, shared)


@linked
def _to_tiles(line: Any, row: Any, tiles: Any, steps: Any, scratch: Any) -> None:
    """Every 64 bytes of a row of x to its tile: [step][tile][row of 16][64 bytes]."""
    out = scratch.view(np.uint64)
    for j in range(steps):
        place = (j * tiles + row // 16) * 128 + row % 16 * 8
        for i in range(8):
            out[place + i] = line[8 * j + i]


@linked
def _sum(x: Any, at: Any, k: Any, fmt: Any) -> Any:
    """Σ x, over whole vectors."""
    total = splat(np.float32(0))
    for i in range(0, k, LANES):
        total = add(total, load(x, at + i, fmt))
    return add_lanes((total,))[0]


@linked
def _largest(x: Any, at: Any, k: Any) -> Any:
    """max |x|."""
    top = splat(np.float32(0))
    whole = k // LANES * LANES
    for i in range(0, whole, LANES):
        top = maximum(top, absolute(load(x, at + i, "f32")))
    if whole < k:
        top = maximum(top, absolute(load_part(x, at + whole, k - whole, "f32")))
    return max_lanes(top)


@linked
def _round_part(x: Any, at: Any, k: Any, factor: Any, line: Any) -> Any:
    """line[:k] = round(x · factor); returns the sum."""
    by = splat(factor)
    total = splat_i32(np.int32(0))
    whole = k // LANES * LANES
    for i in range(0, whole, LANES):
        q = round_i32(multiply(load(x, at + i, "f32"), by))
        store_int8(line, i, q)
        total = add_i32(total, q)
    if whole < k:
        q = round_i32(multiply(load_part(x, at + whole, k - whole, "f32"), by))
        store_int8(line, whole, q)
        total = add_i32(total, q)
    return add_lanes((total,))[0]
