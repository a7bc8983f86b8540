"""int8 activations: four products a lane and instruction, summed exactly in int32.

int8 weights: one sum over all of k, then times the row's two scales. Weights with a scale a group: a sum over each group,
which is scaled into a float32 sum. int4 is stored 0..15, so that a group's sum starts at −8 times its activations; zero points
are subtracted from it times their sum.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from membound.kernels.cpu.linked import linked
from membound.kernels.cpu.matmul.panels import make_share
from membound.kernels.cpu.matmul.recipe import PANEL_PADDING, Recipe
from membound.kernels.cpu.matmul.records import make_dot_group, record_of
from membound.kernels.cpu.simd.arithmetic import add_scaled_tile, fma_broadcast, scale_columns, scale_tile
from membound.kernels.cpu.simd.conversions import to_f32_tile
from membound.kernels.cpu.simd.dot_products import dot_s8_broadcast
from membound.kernels.cpu.simd.features import LANES
from membound.kernels.cpu.simd.lines import aligned_floats
from membound.kernels.cpu.simd.loads import (
    broadcast_bytes_next,
    broadcast_next,
    load_bytes_each,
    load_each,
    load_tile,
)
from membound.kernels.cpu.simd.stores import store_grid, store_tile
from membound.kernels.cpu.simd.streams import far_starts, prefetch_each
from membound.kernels.cpu.simd.vectors import tile_of_columns, zeros, zeros_i32
from membound.kernels.weights.formats import FORMATS


def make_integer(recipe: Recipe) -> Any:
    """A thread's share of a product with an integer recipe: see `make_share`."""
    return make_share(recipe, _records if FORMATS[recipe.format].group else _int8)


def _int8(recipe: Recipe, panels_at_once: int) -> Any:
    PANELS, TOKENS, TILES, ROWS = panels_at_once, recipe.tokens, recipe.tiles, recipe.rows
    SUMS = PANELS * TOKENS
    STRIDE = SUMS * LANES
    WORD = 4 * LANES
    AHEAD = recipe.ahead
    COLUMNS = recipe.integer_block if TILES > 1 else 1 << 40

    @linked
    def run(
        w: Any, at: Any, panels: Any, first: Any, far: Any, k: Any, scratch: Any, y: Any, stride: Any
    ) -> None:
        padded = (k + 3) // 4 * 4
        panel_bytes = padded * LANES + PANEL_PADDING
        scales = at + panels * panel_bytes
        row_scales = ROWS * (4 * padded + 64)
        corrections = row_scales + 4 * ROWS
        floats = scratch[row_scales:corrections].view(np.float32)
        sums = aligned_floats(TILES * STRIDE).view(np.int32)
        for i in range(first, first + far):
            starts = far_starts(at + i * panel_bytes, far * panel_bytes, PANELS)
            by_row = far_starts(scales + i * LANES * 4, far * LANES * 4, PANELS)
            for k0 in range(0, padded, COLUMNS):
                k1 = min(padded, k0 + COLUMNS)
                for t in range(TILES):
                    if k0 > 0:
                        acc = load_tile(sums, t * STRIDE, zeros_i32(SUMS))
                    else:
                        correction = broadcast_bytes_next(scratch, corrections + 4 * t * TOKENS, TOKENS)
                        acc = tile_of_columns(correction, PANELS)
                    token = t * padded * TOKENS
                    for j in range(k0 // 4, k1 // 4):
                        if AHEAD:
                            prefetch_each(w, starts, j * WORD + AHEAD)
                        weights = load_bytes_each(w, starts, j * WORD)
                        acc = dot_s8_broadcast(acc, weights, scratch, token + j * 4 * TOKENS)
                    if k1 < padded:
                        store_tile(sums, t * STRIDE, acc)
                    else:
                        result = scale_tile(to_f32_tile(acc), load_each(w, by_row, 0, "f32"))
                        result = scale_columns(result, broadcast_next(floats, t * TOKENS, TOKENS))
                        row = t * TOKENS * stride
                        store_grid(y, row + i * LANES, far * LANES, stride, result, PANELS)

    return run


def _records(recipe: Recipe, panels_at_once: int) -> Any:
    PANELS, TOKENS, TILES, ROWS = panels_at_once, recipe.tokens, recipe.tiles, recipe.rows
    SUMS = PANELS * TOKENS
    STRIDE = SUMS * LANES
    record = record_of(recipe.format)
    if record is None:
        raise AssertionError(f"{recipe.format} has no records")
    GROUP, RECORD, HEAD = record.group, record.size, record.head_bytes
    SCALE, ZEROS, ZEROS_AT = record.scale, record.zeros, record.zeros_at
    GROUPS = recipe.integer_block // GROUP if TILES > 1 else 1 << 40
    dot_group = make_dot_group(record, TOKENS, recipe.ahead)

    @linked
    def run(
        w: Any, at: Any, panels: Any, first: Any, far: Any, k: Any, scratch: Any, y: Any, stride: Any
    ) -> None:
        groups = k // GROUP
        panel_bytes = groups * RECORD + PANEL_PADDING
        row_scales = ROWS * (4 * k + 64)
        corrections = row_scales + 4 * ROWS
        floats = scratch[row_scales:].view(np.float32)
        sums = aligned_floats(TILES * STRIDE)
        for i in range(first, first + far):
            starts = far_starts(at + i * panel_bytes, far * panel_bytes, PANELS)
            for g0 in range(0, groups, GROUPS):
                g1 = min(groups, g0 + GROUPS)
                for t in range(TILES):
                    acc = zeros(SUMS)
                    if g0 > 0:
                        acc = load_tile(sums, t * STRIDE, acc)
                    for g in range(g0, g1):
                        of_group = (t * groups + g) * TOKENS
                        inner = zeros_i32(SUMS)
                        if not ZEROS:
                            correction = broadcast_bytes_next(scratch, corrections + 4 * of_group, TOKENS)
                            inner = tile_of_columns(correction, PANELS)
                        column = t * k + g * GROUP
                        inner = dot_group(inner, w, starts, g * RECORD + HEAD, scratch, column)
                        total = to_f32_tile(inner)
                        if ZEROS:
                            points = load_each(w, starts, g * RECORD + ZEROS_AT, "int8")
                            total = fma_broadcast(total, points, floats, ROWS + of_group)
                        acc = add_scaled_tile(acc, total, load_each(w, starts, g * RECORD, SCALE))
                    if g1 < groups:
                        store_tile(sums, t * STRIDE, acc)
                    else:
                        acc = scale_columns(acc, broadcast_next(floats, t * TOKENS, TOKENS))
                        row = t * TOKENS * stride
                        store_grid(y, row + i * LANES, far * LANES, stride, acc, PANELS)

    return run
