"""Weights widened to float32 in registers, fused multiply-add: every format with float activations, few rows of x.

Weights stream from memory through registers once. More rows: see block_panels.py.
"""

from __future__ import annotations

from typing import Any

import numba
import numpy as np

from membound.kernels.cpu.linked import linked
from membound.kernels.cpu.matmul.block_panels import make_blocks
from membound.kernels.cpu.matmul.panels import make_share
from membound.kernels.cpu.matmul.recipe import COLUMNS_A_LOAD, PANEL_PADDING, Recipe
from membound.kernels.cpu.matmul.records import SUPER_BLOCKS, make_add_group, record_of
from membound.kernels.cpu.matmul.super_blocks import make_super
from membound.kernels.cpu.simd.arithmetic import add_scaled_tile, fma_broadcast, scale_tile
from membound.kernels.cpu.simd.conversions import bf16_each
from membound.kernels.cpu.simd.features import LANES
from membound.kernels.cpu.simd.loads import load_bytes_each, load_each
from membound.kernels.cpu.simd.stores import store_grid
from membound.kernels.cpu.simd.streams import far_starts, prefetch_each
from membound.kernels.cpu.simd.vectors import zeros
from membound.kernels.weights.formats import FORMATS

COLUMNS_A_ROUND = 4
"""Columns between two tests for the end. Where a load holds several, one load: 2-4 % faster than two (bfloat16, one row
of x, one thread of a Zen 5; compiled for AVX2 no difference)."""


def make_float(recipe: Recipe) -> Any:
    """A thread's share of a product with a float recipe: see `make_share`."""
    if recipe.blocked:
        return make_blocks(recipe)
    if recipe.format in SUPER_BLOCKS:
        return make_share(recipe, make_super)
    return make_share(recipe, _record_stream if FORMATS[recipe.format].group else _stream)


def _stream(recipe: Recipe, panels_at_once: int) -> Any:
    FMT, PANELS, TOKENS = recipe.format, panels_at_once, recipe.tokens
    SUMS = PANELS * TOKENS
    COLUMN = LANES * FORMATS[FMT].bits // 8
    SCALED = FMT == "int8"
    STEP = COLUMNS_A_LOAD.get(FMT, 1)
    UNROLL = STEP if STEP > 1 else COLUMNS_A_ROUND
    add_columns = make_add_columns(FMT, TOKENS)
    LINES = max(1, UNROLL * COLUMN // 64)
    AHEAD = recipe.ahead

    @linked
    def run(
        w: Any, at: Any, panels: Any, first: Any, far: Any, k: Any, scratch: Any, y: Any, stride: Any
    ) -> None:
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
            store_grid(y, i * LANES, far * LANES, stride, acc, PANELS)

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


def _record_stream(recipe: Recipe, panels_at_once: int) -> Any:
    PANELS, TOKENS, ROWS = panels_at_once, recipe.tokens, recipe.rows
    SUMS = PANELS * TOKENS
    record = record_of(recipe.format)
    if record is None:
        raise AssertionError(f"{recipe.format} has no records")
    GROUP, RECORD, HEAD = record.group, record.size, record.head_bytes
    SCALE, ZEROS, ZEROS_AT = record.scale, record.zeros, record.zeros_at
    add_group = make_add_group(record, TOKENS)

    @linked
    def run(
        w: Any, at: Any, panels: Any, first: Any, far: Any, k: Any, scratch: Any, y: Any, stride: Any
    ) -> None:
        x = scratch.view(np.float32)
        sums = ROWS * (k + 17)  # of the groups of x: see activations.py
        panel_bytes = k // GROUP * RECORD + PANEL_PADDING
        for i in range(first, first + far):
            starts = far_starts(at + i * panel_bytes, far * panel_bytes, PANELS)
            acc = zeros(SUMS)
            for g in range(k // GROUP):
                group = add_group(zeros(SUMS), w, starts, g * RECORD + HEAD, x, g * GROUP)
                if ZEROS:
                    points = load_each(w, starts, g * RECORD + ZEROS_AT, "int8")
                    group = fma_broadcast(group, points, x, sums + g * TOKENS)
                acc = add_scaled_tile(acc, group, load_each(w, starts, g * RECORD, SCALE))
            store_grid(y, i * LANES, far * LANES, stride, acc, PANELS)

    return run
