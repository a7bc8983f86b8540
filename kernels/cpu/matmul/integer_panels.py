"""int8 activations: four products a lane and instruction, summed exactly in int32.

int8 weights: one sum over all of k, then times the row's two scales. Weights with a scale a group: a sum over each group,
which is scaled into a float32 sum. int4 is stored 0..15, so that a group's sum starts at −8 times its activations; zero points
and least values are multiplied by their sum.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from membound.kernels.cpu.linked import linked
from membound.kernels.cpu.matmul.panels import make_share
from membound.kernels.cpu.matmul.recipe import PANEL_PADDING, Recipe
from membound.kernels.cpu.matmul.records import make_dot_group, make_part_readers, parts_of
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


def make_integer(recipe: Recipe) -> Any:
    """A thread's share of a product with an integer recipe: see `make_share`."""
    return make_share(recipe, _int8 if recipe.format == "int8" else _parts)


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


def _parts(recipe: Recipe, panels_at_once: int) -> Any:
    PANELS, TOKENS, TILES, ROWS = panels_at_once, recipe.tokens, recipe.tiles, recipe.rows
    SUMS = PANELS * TOKENS
    STRIDE = SUMS * LANES
    parts = parts_of(recipe.format)
    COLUMNS, COUNT, RECORD, LEASTS = parts.columns, parts.count, parts.record, parts.leasts
    AT_ONCE = recipe.integer_block // COLUMNS if TILES > 1 else 1 << 40
    dot_part = make_dot_group(parts.numbers, TOKENS, recipe.ahead)
    place, scales_of, leasts_of = make_part_readers(recipe.format)

    @linked
    def run(
        w: Any, at: Any, panels: Any, first: Any, far: Any, k: Any, scratch: Any, y: Any, stride: Any
    ) -> None:
        count = k // COLUMNS
        panel_bytes = count // COUNT * RECORD + PANEL_PADDING
        row_scales = ROWS * (4 * k + 64)
        corrections = row_scales + 4 * ROWS
        floats = scratch[row_scales:].view(np.float32)
        sums = aligned_floats(TILES * STRIDE)
        for i in range(first, first + far):
            starts = far_starts(at + i * panel_bytes, far * panel_bytes, PANELS)
            for g0 in range(0, count, AT_ONCE):
                g1 = min(count, g0 + AT_ONCE)
                for t in range(TILES):
                    acc = zeros(SUMS)
                    if g0 > 0:
                        acc = load_tile(sums, t * STRIDE, acc)
                    for g in range(g0, g1):
                        of_part = (t * count + g) * TOKENS
                        inner = zeros_i32(SUMS)
                        if not LEASTS:
                            correction = broadcast_bytes_next(scratch, corrections + 4 * of_part, TOKENS)
                            inner = tile_of_columns(correction, PANELS)
                        inner = dot_part(inner, w, starts, place(g), scratch, t * k + g * COLUMNS)
                        scales = scales_of(w, starts, g)
                        acc = add_scaled_tile(acc, to_f32_tile(inner), scales)
                        if LEASTS:
                            leasts = leasts_of(w, starts, g, scales)
                            acc = fma_broadcast(acc, leasts, floats, ROWS + of_part)
                    if g1 < count:
                        store_tile(sums, t * STRIDE, acc)
                    else:
                        acc = scale_columns(acc, broadcast_next(floats, t * TOKENS, TOKENS))
                        row = t * TOKENS * stride
                        store_grid(y, row + i * LANES, far * LANES, stride, acc, PANELS)

    return run
