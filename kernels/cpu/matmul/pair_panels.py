"""Weights of a byte and of half a byte as pairs of bfloat16, multiplied by x in bfloat16 two a lane (AVX512-BF16).

Numbers of eight bits and nibbles are exact in bfloat16, so only x is rounded. They become pairs in registers, and scales meet the sums of
their groups. bfloat16 itself, and bytes that several rounds of tokens meet: block_panels.py.
"""

from __future__ import annotations

from typing import Any

import numba
import numpy as np

from membound.kernels.cpu.linked import linked
from membound.kernels.cpu.matmul.block_panels import make_blocks
from membound.kernels.cpu.matmul.panels import make_share
from membound.kernels.cpu.matmul.recipe import PANEL_PADDING, Recipe
from membound.kernels.cpu.matmul.records import COLUMNS_A_WORD, Record, make_part_readers, parts_of
from membound.kernels.cpu.simd.arithmetic import add_scaled_tile, fma_broadcast, scale_tile
from membound.kernels.cpu.simd.conversions import nibble_pairs_each, pair_bf16_each
from membound.kernels.cpu.simd.dot_products import dot_bf16_broadcast
from membound.kernels.cpu.simd.features import LANES
from membound.kernels.cpu.simd.lines import aligned_floats
from membound.kernels.cpu.simd.loads import load_bytes_each, load_each, load_tile
from membound.kernels.cpu.simd.stores import store_grid, store_tile
from membound.kernels.cpu.simd.streams import far_starts, prefetch_each
from membound.kernels.cpu.simd.vectors import zeros

COLUMNS_A_LINE = 64 // LANES
"""Columns of bytes in a cache line of a panel."""


def make_pairs(recipe: Recipe) -> Any:
    """A thread's share of a product with a pairs recipe: see `make_share`."""
    if recipe.blocked:
        return make_blocks(recipe)
    return make_share(recipe, _bytes if recipe.format == "int8" else _parts)


def _bytes(recipe: Recipe, panels_at_once: int) -> Any:
    PANELS, TOKENS = panels_at_once, recipe.tokens
    SUMS = PANELS * TOKENS
    add_columns = _make_add_bytes("int8", TOKENS)
    AHEAD = recipe.ahead

    @linked
    def run(
        w: Any, at: Any, panels: Any, first: Any, far: Any, k: Any, scratch: Any, y: Any, stride: Any
    ) -> None:
        x = scratch.view(np.float32)
        panel_bytes = k * LANES + PANEL_PADDING
        scales = at + panels * panel_bytes
        whole = k // COLUMNS_A_LINE * COLUMNS_A_LINE
        for i in range(first, first + far):
            starts = far_starts(at + i * panel_bytes, far * panel_bytes, PANELS)
            acc = zeros(SUMS)
            for j0 in range(0, whole, COLUMNS_A_LINE):
                if AHEAD:
                    prefetch_each(w, starts, j0 * LANES + AHEAD)
                for j in range(j0, j0 + COLUMNS_A_LINE, 2):
                    acc = add_columns(acc, w, starts, j * LANES, x, j // 2 * TOKENS)
            for j in range(whole, k, 2):  # behind the last column lie zeros
                acc = add_columns(acc, w, starts, j * LANES, x, j // 2 * TOKENS)
            by_row = far_starts(scales + i * LANES * 4, far * LANES * 4, PANELS)
            acc = scale_tile(acc, load_each(w, by_row, 0, "f32"))
            store_grid(y, i * LANES, far * LANES, stride, acc, PANELS)

    return run


def _parts(recipe: Recipe, panels_at_once: int) -> Any:
    PANELS, TOKENS, TILES, ROWS = panels_at_once, recipe.tokens, recipe.tiles, recipe.rows
    SUMS = PANELS * TOKENS
    STRIDE = SUMS * LANES
    parts = parts_of(recipe.format)
    COLUMNS, COUNT, RECORD, LEASTS = parts.columns, parts.count, parts.record, parts.leasts
    AT_ONCE = recipe.integer_block // COLUMNS if TILES > 1 else 1 << 40
    make_add = _make_add_nibbles if parts.numbers.values == "nibbles" else _make_add_part
    add_part = make_add(parts.numbers, TOKENS, recipe.ahead)
    place, scales_of, leasts_of = make_part_readers(recipe.format)

    @linked
    def run(
        w: Any, at: Any, panels: Any, first: Any, far: Any, k: Any, scratch: Any, y: Any, stride: Any
    ) -> None:
        x = scratch.view(np.float32)
        x_sums = ROWS * (k + 17)  # of the parts of x: see activations.py
        count = k // COLUMNS
        panel_bytes = count // COUNT * RECORD + PANEL_PADDING
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
                        of_part = t * count + g
                        pair = of_part * (COLUMNS // 2 * TOKENS)
                        part = add_part(zeros(SUMS), w, starts, place(g), x, pair)
                        scales = scales_of(w, starts, g)
                        acc = add_scaled_tile(acc, part, scales)
                        if LEASTS:
                            leasts = leasts_of(w, starts, g, scales)
                            acc = fma_broadcast(acc, leasts, x, x_sums + of_part * TOKENS)
                    if g1 < count:
                        store_tile(sums, t * STRIDE, acc)
                    else:
                        row = t * TOKENS * stride
                        store_grid(y, row + i * LANES, far * LANES, stride, acc, PANELS)

    return run


def _make_add_bytes(kind: str, tokens: int) -> Any:
    """The inlined function add_columns(acc, w, starts, place, x, at): acc + the two columns from byte `place` on times pairs of x."""

    @numba.njit(inline="always")
    def add_columns(acc: Any, w: Any, starts: Any, place: Any, x: Any, at: Any) -> Any:
        first, second = load_each(w, starts, place, kind), load_each(w, starts, place + LANES, kind)
        return dot_bf16_broadcast(acc, pair_bf16_each(first, second, True), x, at)

    return add_columns


def _make_add_part(record: Record, tokens: int, ahead: int) -> Any:
    """The inlined function add_part(acc, w, starts, place, x, at): acc + the part whose numbers begin at `place` times pairs of x."""
    GROUP, AHEAD = record.group, ahead
    add_columns = _make_add_bytes(record.values, tokens)

    @numba.njit(inline="always")
    def add_part(acc: Any, w: Any, starts: Any, place: Any, x: Any, at: Any) -> Any:
        for j0 in range(0, GROUP, COLUMNS_A_LINE):
            if AHEAD:
                prefetch_each(w, starts, place + j0 * LANES + AHEAD)
            for j in range(j0, j0 + COLUMNS_A_LINE, 2):
                acc = add_columns(acc, w, starts, place + j * LANES, x, at + j // 2 * tokens)
        return acc

    return add_part


def _make_add_nibbles(record: Record, tokens: int, ahead: int) -> Any:
    """Like `_make_add_part` for words of nibbles, whose pairs are those of x: see `activations`."""
    GROUP, MEANING, AHEAD = record.group, record.meaning, ahead

    @numba.njit(inline="always")
    def add_part(acc: Any, w: Any, starts: Any, place: Any, x: Any, at: Any) -> Any:
        for word in range(GROUP // COLUMNS_A_WORD):
            if AHEAD:
                prefetch_each(w, starts, place + word * 4 * LANES + AHEAD)
            packed = load_bytes_each(w, starts, place + word * 4 * LANES)
            j = at + word * 4 * tokens
            acc = dot_bf16_broadcast(acc, nibble_pairs_each(packed, 0, MEANING), x, j)
            acc = dot_bf16_broadcast(acc, nibble_pairs_each(packed, 1, MEANING), x, j + tokens)
            acc = dot_bf16_broadcast(acc, nibble_pairs_each(packed, 2, MEANING), x, j + 2 * tokens)
            acc = dot_bf16_broadcast(acc, nibble_pairs_each(packed, 3, MEANING), x, j + 3 * tokens)
        return acc

    return add_part
