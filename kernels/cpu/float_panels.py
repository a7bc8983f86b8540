"""Weights widened to float32 in registers, fused multiply-add: every format with float activations.

Few tokens: weights stream from memory through registers once. More: x no longer fits the first-level
cache, so a block of its columns that does meets several panels before the next block. The panels' part
of the block is widened into a buffer, meets every round of tokens from there, and the same panels' next
block is asked for meanwhile.
"""

from __future__ import annotations

from typing import Any

import numba
import numpy as np

from membound.kernels.cpu.panels import make_share
from membound.kernels.cpu.recipe import BLOCK, COLUMNS_A_LOAD, PANEL_PADDING, PREFETCH_BYTES, Recipe
from membound.kernels.cpu.simd import (
    LANES,
    add_scaled_tile,
    bf16_each,
    far_starts,
    fma_broadcast,
    load_bytes_each,
    load_each,
    load_next,
    load_tile,
    nibble_values_each,
    prefetch_each,
    scale_tile,
    store_grid,
    store_tile,
    zeros,
)
from membound.kernels.work import FORMATS

MOST_STREAMED = 4
"""Rows of x that may come from the second-level cache without slowing the weights down."""

X_BLOCK_BYTES = 16 << 10
"""A block of x of up to this size stays in the first-level cache while several panels meet it."""

PANEL_GROUP = 8
"""Panels that meet such a block before the next. A larger one comes from the second-level cache anyway:
then one panel after the other, so that the sums stay in the first."""


def make_float(recipe: Recipe) -> Any:
    """A thread's share of a product with a float recipe: see `make_share`."""
    if recipe.m > MOST_STREAMED:
        make = _blocked
    elif FORMATS[recipe.format].group:
        make = _int4_stream
    else:
        make = _stream
    return make_share(recipe, make)


def _stream(recipe: Recipe, panels_at_once: int) -> Any:
    FMT, PANELS, TOKENS = recipe.format, panels_at_once, recipe.tokens
    SUMS = PANELS * TOKENS
    COLUMN = LANES * FORMATS[FMT].bits // 8
    SCALED = FMT == "int8"
    STEP = COLUMNS_A_LOAD.get(FMT, 1)
    UNROLL = 4
    add_columns = make_add_columns(FMT, TOKENS)
    LINES = max(1, UNROLL * COLUMN // 64)
    AHEAD = PREFETCH_BYTES

    @numba.njit
    def run(w: Any, at: Any, panels: Any, first: Any, far: Any, k: Any, scratch: Any, y: Any) -> None:
        x = scratch.view(np.float32)
        padded = (k + STEP - 1) // STEP * STEP
        panel_bytes = padded * COLUMN + PANEL_PADDING
        whole = padded // UNROLL * UNROLL
        scales = at + panels * panel_bytes
        for i in range(first, first + far):
            starts = far_starts(at + i * panel_bytes, far * panel_bytes, PANELS)
            acc = zeros(SUMS)
            for j0 in range(0, whole, UNROLL):
                if AHEAD:
                    for line in range(LINES):
                        prefetch_each(w, starts, j0 * COLUMN + AHEAD + 64 * line)
                for j in range(j0, j0 + UNROLL, STEP):
                    acc = add_columns(acc, w, starts, j, x)
            for j in range(whole, padded, STEP):
                acc = add_columns(acc, w, starts, j, x)
            if SCALED:
                by_row = far_starts(scales + i * LANES * 4, far * LANES * 4, PANELS)
                acc = scale_tile(acc, load_each(w, by_row, 0, "f32"))
            store_grid(y, i * LANES, far * LANES, panels * LANES, acc, PANELS)

    return run


def make_add_columns(fmt: str, tokens: int) -> Any:
    """The inlined function add_columns(acc, w, starts, j, x): acc + column j of W times that of x.

    As many columns as a load holds (COLUMNS_A_LOAD).
    """
    COLUMN = LANES * FORMATS[fmt].bits // 8

    if COLUMNS_A_LOAD.get(fmt, 1) == 2:

        @numba.njit(inline="always")
        def add_columns(acc: Any, w: Any, starts: Any, j: Any, x: Any) -> Any:
            words = load_bytes_each(w, starts, j * COLUMN)
            acc = fma_broadcast(acc, bf16_each(words, 0), x, j * tokens)
            return fma_broadcast(acc, bf16_each(words, 1), x, (j + 1) * tokens)

    else:

        @numba.njit(inline="always")
        def add_columns(acc: Any, w: Any, starts: Any, j: Any, x: Any) -> Any:
            return fma_broadcast(acc, load_each(w, starts, j * COLUMN, fmt), x, j * tokens)

    return add_columns


def _int4_stream(recipe: Recipe, panels_at_once: int) -> Any:
    PANELS, TOKENS = panels_at_once, recipe.tokens
    SUMS = PANELS * TOKENS
    GROUP = FORMATS[recipe.format].group
    SCALES = 2 * LANES
    RECORD = SCALES + LANES * GROUP // 2

    @numba.njit
    def run(w: Any, at: Any, panels: Any, first: Any, far: Any, k: Any, scratch: Any, y: Any) -> None:
        x = scratch.view(np.float32)
        panel_bytes = k // GROUP * RECORD + PANEL_PADDING
        for i in range(first, first + far):
            starts = far_starts(at + i * panel_bytes, far * panel_bytes, PANELS)
            acc = zeros(SUMS)
            for g in range(k // GROUP):
                group = zeros(SUMS)
                for word in range(GROUP // 8):
                    place = g * RECORD + SCALES + word * 4 * LANES
                    packed = load_bytes_each(w, starts, place)
                    for j in range(8):  # byte i holds columns i and 4 + i: see pack.py
                        values = nibble_values_each(packed, np.int32((j & 3) * 2 + (j >> 2)))
                        column = (g * GROUP + word * 8 + j) * TOKENS
                        group = fma_broadcast(group, values, x, column)
                acc = add_scaled_tile(acc, group, load_each(w, starts, g * RECORD, "f16"))
            store_grid(y, i * LANES, far * LANES, panels * LANES, acc, PANELS)

    return run


def _blocked(recipe: Recipe, panels_at_once: int) -> Any:
    FMT, PANELS, TOKENS, TILES = recipe.format, panels_at_once, recipe.tokens, recipe.tiles
    SUMS = PANELS * TOKENS
    STRIDE = SUMS * LANES
    GROUP = FORMATS[FMT].group
    COLUMN = LANES * FORMATS[FMT].bits // 8
    GROUP_SCALES = LANES * FORMATS[FMT].scale_bytes if GROUP else 0
    SCALED = FMT == "int8"
    STEP = COLUMNS_A_LOAD.get(FMT, 1)
    AHEAD = BLOCK * COLUMN + (BLOCK // GROUP * GROUP_SCALES if GROUP else 0)
    LINE = max(1, 64 // COLUMN)
    TOGETHER = PANEL_GROUP if 4 * recipe.rows * BLOCK <= X_BLOCK_BYTES else 1
    widen = _widen_int4(recipe, PANELS) if GROUP else _widen(recipe, PANELS)

    @numba.njit
    def run(w: Any, at: Any, panels: Any, first: Any, far: Any, k: Any, scratch: Any, y: Any) -> None:
        x = scratch.view(np.float32)
        panel_bytes = (k + STEP - 1) // STEP * STEP * COLUMN + PANEL_PADDING
        if GROUP:
            panel_bytes += k // GROUP * GROUP_SCALES
        scales = at + panels * panel_bytes
        block = np.empty(BLOCK * PANELS * LANES, np.float32)
        sums = np.empty(TOGETHER * TILES * STRIDE, np.float32)
        for i0 in range(first, first + far, TOGETHER):
            i1 = min(i0 + TOGETHER, first + far)
            for k0 in range(0, k, BLOCK):
                columns = min(BLOCK, k - k0)
                for i in range(i0, i1):
                    starts = far_starts(at + i * panel_bytes, far * panel_bytes, PANELS)
                    widen(w, starts, k0, columns, block)
                    ahead = k0 // BLOCK * AHEAD + AHEAD
                    for t in range(TILES):
                        place = ((i - i0) * TILES + t) * STRIDE
                        acc = zeros(SUMS)
                        if k0 > 0:
                            acc = load_tile(sums, place, acc)
                        column = (t * k + k0) * TOKENS
                        if t == 0:
                            for j in range(columns):
                                if j % LINE == 0:
                                    prefetch_each(w, starts, ahead + j * COLUMN)
                                weights = load_next(block, j * PANELS * LANES, PANELS, "f32")
                                acc = fma_broadcast(acc, weights, x, column + j * TOKENS)
                        else:
                            for j in range(columns):
                                weights = load_next(block, j * PANELS * LANES, PANELS, "f32")
                                acc = fma_broadcast(acc, weights, x, column + j * TOKENS)
                        store_tile(sums, place, acc)
            for i in range(i0, i1):
                for t in range(TILES):
                    acc = load_tile(sums, ((i - i0) * TILES + t) * STRIDE, zeros(SUMS))
                    if SCALED:
                        by_row = far_starts(scales + i * LANES * 4, far * LANES * 4, PANELS)
                        acc = scale_tile(acc, load_each(w, by_row, 0, "f32"))
                    row = t * TOKENS * panels * LANES
                    store_grid(y, row + i * LANES, far * LANES, panels * LANES, acc, PANELS)

    return run


def _widen(recipe: Recipe, panels_at_once: int) -> Any:
    """Columns of several panels as float32, panels side by side; with bf16 an even number of them."""
    FMT, PANELS = recipe.format, panels_at_once
    COLUMN = LANES * FORMATS[FMT].bits // 8
    SIDE = PANELS * LANES

    if COLUMNS_A_LOAD.get(FMT, 1) == 2:

        @numba.njit
        def widen(w: Any, starts: Any, k0: Any, columns: Any, block: Any) -> None:
            for j in range(0, columns, 2):
                words = load_bytes_each(w, starts, (k0 + j) * COLUMN)
                store_tile(block, j * SIDE, bf16_each(words, 0))
                store_tile(block, (j + 1) * SIDE, bf16_each(words, 1))

    else:

        @numba.njit
        def widen(w: Any, starts: Any, k0: Any, columns: Any, block: Any) -> None:
            for j in range(columns):
                store_tile(block, j * SIDE, load_each(w, starts, (k0 + j) * COLUMN, FMT))

    return widen


def _widen_int4(recipe: Recipe, panels_at_once: int) -> Any:
    PANELS = panels_at_once
    GROUP = FORMATS[recipe.format].group
    SCALES = 2 * LANES
    RECORD = SCALES + LANES * GROUP // 2

    @numba.njit
    def widen(w: Any, starts: Any, k0: Any, columns: Any, block: Any) -> None:
        for k1 in range(0, columns, GROUP):
            record = (k0 + k1) // GROUP * RECORD
            scales = load_each(w, starts, record, "f16")
            for word in range(GROUP // 8):
                packed = load_bytes_each(w, starts, record + SCALES + word * 4 * LANES)
                for j in range(8):
                    values = nibble_values_each(packed, np.int32((j & 3) * 2 + (j >> 2)))
                    place = (k1 + word * 8 + j) * PANELS * LANES
                    store_tile(block, place, scale_tile(values, scales))

    return widen
