"""A few columns of a head's matrix while the tokens of a chunk go over it, in compiled code: small enough for the first-level cache.

    block = read_block(matrices, at, rows, columns, fresh)
    recalled = recall(block, rows, lines, key)                                      # delta rule alone
    answer = advance(block, rows, lines, key, query, kept, added)
    write_block(block, matrices, at, rows, columns)

A token keeps part of the matrix [rows, columns], adds its key times what it adds to each column, and asks its query. No column of it
meets another, so that blocks of them go their own ways. Pairs are `COLUMNS` numbers: two vectors, the lanes of which are columns.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from membound.kernels.cpu.linked import linked
from membound.kernels.cpu.simd.arithmetic import add_tiles, fma_broadcast, scale_tile
from membound.kernels.cpu.simd.features import LANES
from membound.kernels.cpu.simd.lines import aligned_floats
from membound.kernels.cpu.simd.loads import load_next, load_part, load_tile
from membound.kernels.cpu.simd.stores import store_tile
from membound.kernels.cpu.simd.vectors import splat, zeros

COLUMNS = 2 * LANES
"""Of a block: with 128 rows of AVX-512 16 KiB, and each key and query that is broadcast meets two vectors."""


@linked
def read_block(matrices: Any, at: Any, rows: Any, width: Any, first: Any, fresh: Any) -> Any:
    """Columns from `first` on of the matrix [rows, width] at matrices[at], or nothing yet if `fresh`; zeros beside them."""
    block = aligned_floats(rows * COLUMNS)
    columns = min(COLUMNS, width - first)
    for row in range(rows):
        into, from_ = block[row * COLUMNS :][:COLUMNS], at + row * width + first
        for i in range(COLUMNS):
            into[i] = matrices[from_ + i] if i < columns and not fresh else np.float32(0)
    return block


@linked
def write_block(block: Any, matrices: Any, at: Any, rows: Any, width: Any, first: Any) -> None:
    """A block back to where it came from."""
    columns = min(COLUMNS, width - first)
    for row in range(rows):
        into, from_ = matrices[at + row * width + first :][:columns], block[row * COLUMNS :]
        for i in range(columns):
            into[i] = from_[i]


@linked
def load_pair(array: Any, at: Any, columns: Any) -> Any:
    """The first `columns` of a pair from array[at] on; zeros behind them."""
    if columns >= COLUMNS:
        return load_next(array, at, 2, "f32")
    left = load_part(array, at, min(columns, LANES), "f32")
    return left, load_part(array, at + LANES, columns - LANES, "f32")


@linked
def store_pair(array: Any, at: Any, columns: Any, pair: Any) -> None:
    """The first `columns` of a pair to array[at] on."""
    if columns >= COLUMNS:
        store_tile(array, at, pair)
    else:
        whole = np.empty(COLUMNS, np.float32)
        store_tile(whole, 0, pair)
        for i in range(columns):
            array[at + i] = whole[i]


@linked
def recall(block: Any, rows: Any, lines: Any, key: Any) -> Any:
    """The sum over rows of lines[key + row] times the block's; four at a time, each in sums that wait for no other's."""
    one, two, three, four = zeros(2), zeros(2), zeros(2), zeros(2)
    whole = rows // 4 * 4
    for row in range(0, whole, 4):
        at = row * COLUMNS
        one = fma_broadcast(one, load_tile(block, at, one), lines, key + row)
        two = fma_broadcast(two, load_tile(block, at + COLUMNS, one), lines, key + row + 1)
        three = fma_broadcast(three, load_tile(block, at + 2 * COLUMNS, one), lines, key + row + 2)
        four = fma_broadcast(four, load_tile(block, at + 3 * COLUMNS, one), lines, key + row + 3)
    for row in range(whole, rows):
        one = fma_broadcast(one, load_tile(block, row * COLUMNS, one), lines, key + row)
    return add_tiles(add_tiles(one, two), add_tiles(three, four))


@linked
def advance(block: Any, rows: Any, lines: Any, key: Any, query: Any, kept: Any, added: Any) -> Any:
    """The block times `kept`, and `added` to each of its rows times lines[key + row]; of that the sum of lines[query + row] times a row."""
    one, two = zeros(2), zeros(2)
    share = (splat(kept), splat(kept))
    whole = rows // 2 * 2
    for row in range(0, whole, 2):
        at = row * COLUMNS
        left = fma_broadcast(scale_tile(load_tile(block, at, one), share), added, lines, key + row)
        right = fma_broadcast(
            scale_tile(load_tile(block, at + COLUMNS, one), share), added, lines, key + row + 1
        )
        store_tile(block, at, left)
        store_tile(block, at + COLUMNS, right)
        one = fma_broadcast(one, left, lines, query + row)
        two = fma_broadcast(two, right, lines, query + row + 1)
    for row in range(whole, rows):
        left = fma_broadcast(scale_tile(load_tile(block, row * COLUMNS, one), share), added, lines, key + row)
        store_tile(block, row * COLUMNS, left)
        one = fma_broadcast(one, left, lines, query + row)
    return add_tiles(one, two)
