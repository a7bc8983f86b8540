"""More rows of x than stream past once: blocks of columns, for every format with float activations.

x no longer fits the first-level cache, so a block of its columns that does meets several panels before the
next block. What the panels have of the block is widened into a buffer first, or rounded to pairs of bfloat16 (bfloat16 itself,
and float32 where `STREAMED`, are used as they are stored), and meets every round of tokens from there. Meanwhile the same
panels' next block is asked for, a part in each round, so that memory is never idle: asked for in the first round alone, in
blocks of 32 columns, 16 rows of float32 (4096 × 4096) took 1.91 ms instead of 1.66 on a Zen 5 that read 48 GB/s.
"""

from __future__ import annotations

from typing import Any

import numba
import numpy as np

from membound.kernels.cpu.linked import linked
from membound.kernels.cpu.matmul.panels import make_share
from membound.kernels.cpu.matmul.recipe import COLUMNS_A_LOAD, PANEL_PADDING, STREAMED, Recipe
from membound.kernels.cpu.matmul.records import COLUMNS_A_WORD, SUPER_BLOCKS, record_of
from membound.kernels.cpu.matmul.super_blocks import widen_super
from membound.kernels.cpu.simd.arithmetic import add_tiles, fma_broadcast, scale_tile
from membound.kernels.cpu.simd.conversions import bf16_each, nibble_values_each, pair_bf16_each
from membound.kernels.cpu.simd.dot_products import dot_bf16_broadcast
from membound.kernels.cpu.simd.features import LANES
from membound.kernels.cpu.simd.lines import aligned_floats
from membound.kernels.cpu.simd.loads import load_bytes_each, load_each, load_next, load_tile
from membound.kernels.cpu.simd.stores import store_grid, store_tile
from membound.kernels.cpu.simd.streams import far_starts, prefetch_each
from membound.kernels.cpu.simd.vectors import zeros
from membound.kernels.weights.formats import EVERY_FORMAT, FORMATS

X_BLOCK_BYTES = 16 << 10
"""A block of x of up to this size stays in the first-level cache while several panels meet it."""

PANEL_GROUP = 1 if STREAMED else 8
"""Panels that meet such a block before the next. A larger one comes from the second-level cache anyway:
then one panel after the other, so that the sums stay in the first."""


def make_blocks(recipe: Recipe) -> Any:
    """A thread's share of a product with a float or a pairs recipe: see `make_share`."""
    return make_share(recipe, _blocked)


def _blocked(recipe: Recipe, panels_at_once: int) -> Any:
    FMT, PANELS, TOKENS, TILES = recipe.format, panels_at_once, recipe.tokens, recipe.tiles
    SUMS = PANELS * TOKENS
    STRIDE = SUMS * LANES
    BLOCK = recipe.block
    GROUP = EVERY_FORMAT[FMT].group
    COLUMN, GROUP_SCALES = _panel_bytes(FMT)
    SCALED = FMT == "int8"
    STEP = COLUMNS_A_LOAD.get(FMT, 1)
    BLOCK_BYTES = BLOCK * COLUMN + (BLOCK * GROUP_SCALES // GROUP if GROUP else 0)
    LINE = max(1, 64 // COLUMN)
    ROUND = TILES * LINE
    PAIRS = recipe.method == "pairs"
    AS_STORED = (PAIRS and FMT == "bf16") or (STREAMED and FMT == "f32")
    X_BYTES = 2 if PAIRS else 4
    TOGETHER = PANEL_GROUP if X_BYTES * recipe.rows * BLOCK <= X_BLOCK_BYTES else 1
    ADD = 2 if PAIRS else 1
    if AS_STORED:
        widen, add = _nothing, _add_pairs(recipe) if PAIRS else _add_stored(recipe)
    elif PAIRS:
        widen, add = _widen_pairs(recipe, PANELS), _add_words(recipe, PANELS)
    else:
        widen, add = _widening(recipe, PANELS), _add_widened(recipe, PANELS)

    @linked
    def run(
        w: Any, at: Any, panels: Any, first: Any, far: Any, k: Any, scratch: Any, y: Any, stride: Any
    ) -> None:
        x = scratch.view(np.float32)
        padded = (k + STEP - 1) // STEP * STEP
        panel_bytes = padded * COLUMN + PANEL_PADDING
        if GROUP:
            panel_bytes += k // GROUP * GROUP_SCALES
        used = (k + 1) // 2 * 2 if PAIRS else k
        scales = at + panels * panel_bytes
        block = aligned_floats(BLOCK * PANELS * LANES)
        sums = aligned_floats(TOGETHER * TILES * STRIDE)
        for i0 in range(first, first + far, TOGETHER):
            i1 = min(i0 + TOGETHER, first + far)
            for k0 in range(0, used, BLOCK):
                columns = min(BLOCK, used - k0)
                for i in range(i0, i1):
                    starts = far_starts(at + i * panel_bytes, far * panel_bytes, PANELS)
                    widen(w, starts, k0, columns, block)
                    ahead = (k0 // BLOCK + 1) * BLOCK_BYTES
                    for t in range(TILES):
                        place = ((i - i0) * TILES + t) * STRIDE
                        acc = zeros(SUMS)
                        if k0 > 0:
                            acc = load_tile(sums, place, acc)
                        x0 = t * used + k0
                        for j0 in range(0, columns, ROUND):
                            prefetch_each(w, starts, ahead + (j0 + t * LINE) * COLUMN)
                            for j in range(j0, min(j0 + ROUND, columns), ADD):
                                acc = add(acc, w, starts, k0 + j, block, j, x, x0 + j)
                        store_tile(sums, place, acc)
            for i in range(i0, i1):
                for t in range(TILES):
                    acc = load_tile(sums, ((i - i0) * TILES + t) * STRIDE, zeros(SUMS))
                    if SCALED:
                        by_row = far_starts(scales + i * LANES * 4, far * LANES * 4, PANELS)
                        acc = scale_tile(acc, load_each(w, by_row, 0, "f32"))
                    row = t * TOKENS * stride
                    store_grid(y, row + i * LANES, far * LANES, stride, acc, PANELS)

    return run


def _panel_bytes(fmt: str) -> tuple[int, int]:
    """Bytes of a column of a panel, and of the scales of a group of them."""
    if fmt in SUPER_BLOCKS:
        blocks = SUPER_BLOCKS[fmt]
        return blocks.parts * blocks.part_bytes // blocks.group, blocks.head_bytes
    found = FORMATS[fmt]
    return LANES * found.bits // 8, LANES * found.scale_bytes if found.group else 0


def _add_widened(recipe: Recipe, panels_at_once: int) -> Any:
    """The inlined function add(acc, w, starts, column, block, j, x, x_column): acc + column j of the block · x."""
    PANELS, TOKENS = panels_at_once, recipe.tokens

    @numba.njit(inline="always")
    def add(acc: Any, w: Any, starts: Any, column: Any, block: Any, j: Any, x: Any, x_column: Any) -> Any:
        weights = load_next(block, j * PANELS * LANES, PANELS, "f32")
        return fma_broadcast(acc, weights, x, x_column * TOKENS)

    return add


def _add_stored(recipe: Recipe) -> Any:
    """Like `_add_widened`, for float32 as it is stored in W."""
    TOKENS = recipe.tokens

    @numba.njit(inline="always")
    def add(acc: Any, w: Any, starts: Any, column: Any, block: Any, j: Any, x: Any, x_column: Any) -> Any:
        return fma_broadcast(acc, load_each(w, starts, column * 4 * LANES, "f32"), x, x_column * TOKENS)

    return add


def _add_pairs(recipe: Recipe) -> Any:
    """Like `_add_widened`, for columns `column` and `column + 1` as they are stored in W."""
    TOKENS = recipe.tokens
    COLUMN = 2 * LANES

    @numba.njit(inline="always")
    def add(acc: Any, w: Any, starts: Any, column: Any, block: Any, j: Any, x: Any, x_column: Any) -> Any:
        weights = load_bytes_each(w, starts, column * COLUMN)
        return dot_bf16_broadcast(acc, weights, x, x_column // 2 * TOKENS)

    return add


def _add_words(recipe: Recipe, panels_at_once: int) -> Any:
    """Like `_add_pairs`, for pairs that `_widen_pairs` left in the block."""
    PANELS, TOKENS = panels_at_once, recipe.tokens

    @numba.njit(inline="always")
    def add(acc: Any, w: Any, starts: Any, column: Any, block: Any, j: Any, x: Any, x_column: Any) -> Any:
        beside = far_starts(j // 2 * PANELS * 4 * LANES, 4 * LANES, PANELS)
        words = load_bytes_each(block.view(np.uint8), beside, 0)
        return dot_bf16_broadcast(acc, words, x, x_column // 2 * TOKENS)

    return add


def _widen_pairs(recipe: Recipe, panels_at_once: int) -> Any:
    """Pairs of columns of several panels as bfloat16, panels side by side, times the scales of groups; whole groups of them."""
    SIDE = panels_at_once * LANES
    record = record_of(recipe.format)
    if record is None:
        return _widen_unscaled_pairs(recipe.format, SIDE)
    GROUP, RECORD, HEAD = record.group, record.size, record.head_bytes
    SCALE, KIND = record.scale, record.values

    @linked
    def widen(w: Any, starts: Any, k0: Any, columns: Any, block: Any) -> None:
        words = block.view(np.int32)
        for k1 in range(0, columns, GROUP):
            at = (k0 + k1) // GROUP * RECORD
            scales = load_each(w, starts, at, SCALE)
            for j in range(0, GROUP, 2):
                first = load_each(w, starts, at + HEAD + j * LANES, KIND)
                second = load_each(w, starts, at + HEAD + (j + 1) * LANES, KIND)
                pairs = pair_bf16_each(scale_tile(first, scales), scale_tile(second, scales), False)
                store_tile(words, (k1 + j) // 2 * SIDE, pairs)

    return widen


def _widen_unscaled_pairs(fmt: str, side: int) -> Any:
    FMT, SIDE = fmt, side

    @linked
    def widen(w: Any, starts: Any, k0: Any, columns: Any, block: Any) -> None:
        words = block.view(np.int32)
        for j in range(0, columns, 2):
            first = load_each(w, starts, (k0 + j) * LANES, FMT)
            second = load_each(w, starts, (k0 + j + 1) * LANES, FMT)
            store_tile(words, j // 2 * SIDE, pair_bf16_each(first, second, True))

    return widen


@linked
def _nothing(w: Any, starts: Any, k0: Any, columns: Any, block: Any) -> None:
    """These are used as they are stored."""


def _widening(recipe: Recipe, panels_at_once: int) -> Any:
    if recipe.format in SUPER_BLOCKS:
        return widen_super(recipe, panels_at_once)
    return (_widen_records if FORMATS[recipe.format].group else _widen)(recipe, panels_at_once)


def _widen(recipe: Recipe, panels_at_once: int) -> Any:
    """Columns of several panels as float32, panels side by side; with bf16 an even number of them."""
    FMT, PANELS = recipe.format, panels_at_once
    COLUMN = LANES * FORMATS[FMT].bits // 8
    SIDE = PANELS * LANES

    if COLUMNS_A_LOAD.get(FMT, 1) == 2:

        @linked
        def widen(w: Any, starts: Any, k0: Any, columns: Any, block: Any) -> None:
            for j in range(0, columns, 2):
                words = load_bytes_each(w, starts, (k0 + j) * COLUMN)
                store_tile(block, j * SIDE, bf16_each(words, 0))
                store_tile(block, (j + 1) * SIDE, bf16_each(words, 1))

    else:

        @linked
        def widen(w: Any, starts: Any, k0: Any, columns: Any, block: Any) -> None:
            for j in range(columns):
                store_tile(block, j * SIDE, load_each(w, starts, (k0 + j) * COLUMN, FMT))

    return widen


def _widen_records(recipe: Recipe, panels_at_once: int) -> Any:
    """Columns of several panels as float32, times their scales, panels side by side; whole groups of them."""
    SIDE = panels_at_once * LANES
    record = record_of(recipe.format)
    if record is None:
        raise AssertionError(f"{recipe.format} has no records")
    GROUP, RECORD, HEAD = record.group, record.size, record.head_bytes
    SCALE, ZEROS, ZEROS_AT, KIND, MEANING = (
        record.scale, record.zeros, record.zeros_at, record.values, record.meaning,
    )  # fmt: skip

    if KIND == "nibbles":

        @linked
        def widen(w: Any, starts: Any, k0: Any, columns: Any, block: Any) -> None:
            for k1 in range(0, columns, GROUP):
                at = (k0 + k1) // GROUP * RECORD
                scales = load_each(w, starts, at, SCALE)
                points = load_each(w, starts, at + ZEROS_AT, "int8")
                for word in range(GROUP // COLUMNS_A_WORD):
                    packed = load_bytes_each(w, starts, at + HEAD + word * 4 * LANES)
                    for j in range(COLUMNS_A_WORD):
                        values = nibble_values_each(packed, np.int32((j & 3) * 2 + (j >> 2)), MEANING)
                        if ZEROS:
                            values = add_tiles(values, points)
                        place = (k1 + word * COLUMNS_A_WORD + j) * SIDE
                        store_tile(block, place, scale_tile(values, scales))

    else:

        @linked
        def widen(w: Any, starts: Any, k0: Any, columns: Any, block: Any) -> None:
            for k1 in range(0, columns, GROUP):
                at = (k0 + k1) // GROUP * RECORD
                scales = load_each(w, starts, at, SCALE)
                for j in range(GROUP):
                    values = load_each(w, starts, at + HEAD + j * LANES, KIND)
                    store_tile(block, (k1 + j) * SIDE, scale_tile(values, scales))

    return widen
