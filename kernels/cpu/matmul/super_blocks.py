"""Super-blocks of ggml's: 256 columns whose groups have scales of six or eight bits, under one float16 scale for all of them.

>>> write_super("q4_k", weight.values, arena, first_row=0, panel_bytes=recipe.panel_bytes(weight.k))

Their records are `records.SuperBlock`. Q4_K: W = d · scale · q − e · least. Q6_K: W = d · scale · q, its numbers of six bits as bytes.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from numba import prange

from membound.kernels.cpu.compile import kernel
from membound.kernels.cpu.linked import linked
from membound.kernels.cpu.matmul.recipe import PANEL_PADDING, Recipe
from membound.kernels.cpu.matmul.records import COLUMNS_A_WORD, SUPER_BLOCKS, make_add_group
from membound.kernels.cpu.simd.arithmetic import add_scaled_tile, add_tiles, fma_broadcast, scale_tile
from membound.kernels.cpu.simd.conversions import nibble_values_each
from membound.kernels.cpu.simd.features import LANES
from membound.kernels.cpu.simd.loads import load_bytes_each, load_each
from membound.kernels.cpu.simd.stores import store_grid, store_tile
from membound.kernels.cpu.simd.streams import far_starts
from membound.kernels.cpu.simd.vectors import zeros
from membound.kernels.weights import ggml

Bytes = npt.NDArray[np.uint8]


def make_super(recipe: Recipe, panels_at_once: int) -> Any:
    """A loop over panels of super-blocks: see `panels.make_share`."""
    PANELS, TOKENS, ROWS = panels_at_once, recipe.tokens, recipe.rows
    SUMS = PANELS * TOKENS
    found = SUPER_BLOCKS[recipe.format]
    GROUP, RECORD, HEAD = found.group, found.size, found.head_bytes
    PARTS, COLUMNS, PART, LEASTS = found.parts, found.columns, found.part_bytes, found.leasts
    SCALES_AT = found.scales_at
    LEASTS_AT = SCALES_AT + PARTS * LANES
    add_group = make_add_group(found.numbers, TOKENS)

    @linked
    def run(
        w: Any, at: Any, panels: Any, first: Any, far: Any, k: Any, scratch: Any, y: Any, stride: Any
    ) -> None:
        x = scratch.view(np.float32)
        sums = ROWS * (k + 17)  # of the parts of x: see activations.py
        panel_bytes = k // GROUP * RECORD + PANEL_PADDING
        for i in range(first, first + far):
            starts = far_starts(at + i * panel_bytes, far * panel_bytes, PANELS)
            acc = zeros(SUMS)
            for g in range(k // GROUP):
                record = g * RECORD
                inner, low = zeros(SUMS), zeros(SUMS)
                for part in range(PARTS):
                    place, column = record + HEAD + part * PART, g * GROUP + part * COLUMNS
                    group = add_group(zeros(SUMS), w, starts, place, x, column)
                    scales = load_each(w, starts, record + SCALES_AT + part * LANES, "int8")
                    inner = add_scaled_tile(inner, group, scales)
                    if LEASTS:
                        points = load_each(w, starts, record + LEASTS_AT + part * LANES, "int8")
                        low = fma_broadcast(low, points, x, sums + (g * PARTS + part) * TOKENS)
                acc = add_scaled_tile(acc, inner, load_each(w, starts, record, "f16"))
                if LEASTS:
                    acc = add_scaled_tile(acc, low, load_each(w, starts, record + 2 * LANES, "f16"))
            store_grid(y, i * LANES, far * LANES, stride, acc, PANELS)

    return run


def widen_super(recipe: Recipe, panels_at_once: int) -> Any:
    """Columns of several panels as float32, panels side by side; whole parts of super-blocks: see block_panels.py."""
    SIDE = panels_at_once * LANES
    found = SUPER_BLOCKS[recipe.format]
    RECORD, HEAD, KIND = found.size, found.head_bytes, found.numbers.values
    PARTS, COLUMNS, PART, LEASTS = found.parts, found.columns, found.part_bytes, found.leasts
    SCALES_AT = found.scales_at
    LEASTS_AT = SCALES_AT + PARTS * LANES
    NIBBLES, MEANING = KIND == "nibbles", found.numbers.meaning

    @linked
    def widen(w: Any, starts: Any, k0: Any, columns: Any, block: Any) -> None:
        for k1 in range(0, columns, COLUMNS):
            part = (k0 + k1) // COLUMNS % PARTS
            record = (k0 + k1) // (PARTS * COLUMNS) * RECORD
            small = load_each(w, starts, record + SCALES_AT + part * LANES, "int8")
            scales = scale_tile(small, load_each(w, starts, record, "f16"))
            at = record + HEAD + part * PART
            if LEASTS:
                least = load_each(w, starts, record + LEASTS_AT + part * LANES, "int8")
                low = scale_tile(least, load_each(w, starts, record + 2 * LANES, "f16"))
            if NIBBLES:
                for word in range(COLUMNS // COLUMNS_A_WORD):
                    packed = load_bytes_each(w, starts, at + word * 4 * LANES)
                    for j in range(COLUMNS_A_WORD):
                        values = nibble_values_each(packed, np.int32((j & 3) * 2 + (j >> 2)), MEANING)
                        values = scale_tile(values, scales)
                        if LEASTS:
                            values = add_tiles(values, low)
                        store_tile(block, (k1 + word * COLUMNS_A_WORD + j) * SIDE, values)
            else:
                for j in range(COLUMNS):
                    values = scale_tile(load_each(w, starts, at + j * LANES, "int8"), scales)
                    store_tile(block, (k1 + j) * SIDE, values)

    return widen


def write_super(
    fmt: str, values: Bytes, arena: Bytes, first_row: int, panel_bytes: int, together: int = 1
) -> None:
    """Rows of blocks as a file holds them [n, bytes of a row] into panels, from a row on; numbers of a byte `together` beside each other."""
    found, parts = SUPER_BLOCKS[fmt], ggml.PARTED[fmt](values)
    heads, small, codes = (np.ascontiguousarray(one).view(np.uint8) for one in parts)
    _write(
        heads, small, codes, arena, np.int64(first_row), np.int64(panel_bytes), np.int64(found.size),
        np.int64(found.group), found.numbers.values == "nibbles", np.int64(together),
    )  # fmt: skip


@kernel(parallel=True)
def _write(
    heads: Any, small: Any, codes: Any, arena: Any, first_row: Any, panel_bytes: Any, record: Any, group: Any, nibbles: Any,
    together: Any,
) -> None:  # fmt: skip
    """heads [n, blocks, 2 or 4] float16 bytes, small [n, blocks, bytes], codes [n, columns] to records."""
    n, blocks = heads.shape[0], heads.shape[1]
    for i in prange(n):
        row = first_row + i
        lane = row % LANES
        base = row // LANES * panel_bytes
        for g in range(blocks):
            at = base + g * record
            for b in range(heads.shape[2]):
                arena[at + b // 2 * 2 * LANES + 2 * lane + b % 2] = heads[i, g, b]
            at += heads.shape[2] * LANES
            for p in range(small.shape[2]):
                arena[at + p * LANES + lane] = small[i, g, p]
            at += small.shape[2] * LANES
            first = g * group
            if nibbles:
                for word in range(group // COLUMNS_A_WORD):
                    for b in range(4):
                        k = first + COLUMNS_A_WORD * word + b
                        arena[at + 4 * (word * LANES + lane) + b] = codes[i, k] | (codes[i, k + 4] << 4)
            else:
                for j in range(group):
                    word = j // together * LANES + lane
                    arena[at + word * together + j % together] = codes[i, first + j]
