"""Both products of many query rows with a block of the cache, on vectors: multiply-adds or pairs of bfloat16.

    score(k, k_scales, at, scales_at, rows, dim, used, padded, space)
    add_values(v, v_scales, at, scales_at, rows, dim, value_dim, used, padded, space, sums)

A block's keys become a panel of cells (simd/cells.py), widened once for all rows: cell d of token t is
keys[(d // LANES·BLOCK + t)·LANES + d % LANES], so that the tokens of a tile are a known distance apart. A lane is a query row
in the first product, scores[(c·padded + t)·LANES + lane], and a column of V in the second. Sums of eight tokens times two
chunks, or of eight rows times two vectors of V, stay in registers: sixteen chains hide the latency of multiply-adds, and ten loads
for sixteen of them leave the load ports idle.
"""

from __future__ import annotations

from functools import cache
from typing import Any, NamedTuple

import numpy as np

from membound.kernels.cpu.attention.row_queries import make_cells
from membound.kernels.cpu.attention.scores import chunks_of, padded_width
from membound.kernels.cpu.linked import linked
from membound.kernels.cpu.matmul.grouping import Grouping
from membound.kernels.cpu.simd.arithmetic import multiply
from membound.kernels.cpu.simd.cells import add_outer
from membound.kernels.cpu.simd.conversions import pair_bf16
from membound.kernels.cpu.simd.features import LANES, REGISTERS
from membound.kernels.cpu.simd.lines import aligned_floats
from membound.kernels.cpu.simd.loads import load, load_bytes, load_each, load_grid, load_part
from membound.kernels.cpu.simd.stores import store, store_bf16, store_grid
from membound.kernels.cpu.simd.streams import far_starts, prefetch
from membound.kernels.cpu.simd.vectors import splat, zeros
from membound.kernels.weights.formats import F32

BLOCK = 128
"""Tokens of a block: the float32 panel of 576 columns takes 295 KB, which the second-level cache holds with the scores."""

STEP = REGISTERS // 2
"""Tokens that a block is rounded up to: as many sums as stay in registers."""

PAIR_TOKENS = REGISTERS // 4
"""Tokens whose sums with two chunks of rows stay in registers."""

ROWS = min(LANES, REGISTERS // 4)
"""Query rows whose sums with two vectors of V stay in registers."""


class Space(NamedTuple):
    """A thread's arrays, float32: queries, the panels of keys and of values, scores."""

    query: F32
    keys: F32
    values: F32
    scores: F32


@cache
def make_workspace(g: Grouping) -> Any:
    """workspace(rows, dim, value_dim): a thread's `Space`."""
    cells_of, SHARED = make_cells(g), g.method == "float"

    @linked
    def workspace(rows: Any, dim: Any, value_dim: Any) -> Any:
        chunks, cells = chunks_of(rows, LANES), cells_of(dim)
        values = 0 if SHARED and value_dim < dim else BLOCK * padded_width(value_dim)
        return Space(
            aligned_floats(chunks * cells * LANES),
            aligned_floats(BLOCK * cells),
            aligned_floats(values),
            aligned_floats(chunks * BLOCK * LANES),
        )

    return workspace


@linked
def _nothing() -> None:
    """Vectors need no preparation."""


def make_begin() -> Any:
    """begin(): what a thread does before its first product."""
    return _nothing


def make_end() -> Any:
    """end(): what a thread does after its last product."""
    return _nothing


@cache
def make_scores(g: Grouping) -> Any:
    """score(k, k_scales, at, scales_at, rows, dim, used, padded, space): space.scores of tokens at row `at` of the cache on."""
    copy_keys, cells_of = _copy_pairs(g) if g.method == "pairs" else _copy_floats(g), make_cells(g)
    two, one, SCALED = _score_tile(g, 2, PAIR_TOKENS), _score_tile(g, 1, STEP), g.kv == "int8"

    @linked
    def score(
        k: Any,
        k_scales: Any,
        at: Any,
        scales_at: Any,
        rows: Any,
        dim: Any,
        used: Any,
        padded: Any,
        space: Any,
    ) -> None:
        chunks, cells = chunks_of(rows, LANES), cells_of(dim)
        for t in range(0, padded, STEP):
            copy_keys(k, at, dim, t, used, space.keys)
            ahead = at + (t + STEP) * dim
            for c in range(0, chunks - 1, 2):
                for t2 in range(t, t + STEP, PAIR_TOKENS):
                    two(space.query, c, cells, space.keys, t2, padded, k, ahead, dim, space.scores)
            if chunks % 2:
                one(space.query, chunks - 1, cells, space.keys, t, padded, k, ahead, dim, space.scores)
        if SCALED:
            scale_tokens(space.scores, k_scales, scales_at, chunks, used, padded)

    return score


def _score_tile(g: Grouping, chunks: int, tokens: int) -> Any:
    """Scores of `tokens` tokens from `t` on with the rows of `chunks` chunks from `c` on.

    One chunk alone asks meanwhile for the next tokens of the cache, from element `ahead` on, so that memory can work while
    products are made and not only while keys are copied. Two chunks do not ask: they take longer over each token.
    """
    KIND, CHUNKS, TOKENS, SUMS = g.method, chunks, tokens, chunks * tokens
    NUMBERS = 1 if g.method == "float" else 2

    @linked
    def tile(
        query: Any,
        c: Any,
        cells: Any,
        keys: Any,
        t: Any,
        padded: Any,
        k: Any,
        ahead: Any,
        dim: Any,
        scores: Any,
    ) -> None:
        starts = far_starts(c * cells * LANES, cells * LANES, CHUNKS)
        acc = zeros(SUMS)
        for d in range(0, cells, LANES):
            for lane in range(LANES):
                if CHUNKS == 1 and lane < TOKENS:
                    prefetch(k, ahead + lane * dim + NUMBERS * d)
                rows = load_each(query, starts, (d + lane) * LANES, "f32")
                acc = add_outer(acc, rows, keys, d * BLOCK + t * LANES + lane, LANES, KIND)
        store_grid(scores, (c * padded + t) * LANES, LANES, padded * LANES, acc, TOKENS)

    return tile


@linked
def scale_tokens(scores: Any, scales: Any, scales_at: Any, chunks: Any, used: Any, padded: Any) -> None:
    """Scores or weights times the scale of their token."""
    for t in range(used):
        by = splat(scales[scales_at + t])
        for c in range(chunks):
            place = (c * padded + t) * LANES
            store(scores, place, multiply(load(scores, place, "f32"), by))


def _copy_floats(g: Grouping) -> Any:
    """copy(k, at, dim, t, used, panel): STEP tokens as float32; the last of the `used` stands for those behind it."""
    KV = g.kv

    @linked
    def copy(k: Any, at: Any, dim: Any, t: Any, used: Any, panel: Any) -> None:
        whole = dim // LANES * LANES
        for token in range(t, t + STEP):
            start = at + min(token, used - 1) * dim
            for d in range(0, whole, LANES):
                store(panel, d * BLOCK + token * LANES, load(k, start + d, KV))
            if whole < dim:
                store(panel, whole * BLOCK + token * LANES, load_part(k, start + whole, dim - whole, KV))

    return copy


def _copy_pairs(g: Grouping) -> Any:
    """Like `_copy_floats`, as pairs of bfloat16: neighbours of a row, which in such a cache lie so already."""
    KV, STORED = g.kv, g.kv == "bf16"

    @linked
    def copy(k: Any, at: Any, dim: Any, t: Any, used: Any, panel: Any) -> None:
        words, whole = panel.view(np.uint16), dim // (2 * LANES) * 2 * LANES if STORED else 0
        for token in range(t, t + STEP):
            start = at + min(token, used - 1) * dim
            for d in range(0, whole, 2 * LANES):
                store(panel, d // 2 * BLOCK + token * LANES, load_bytes(k, start + d))
            for d in range(whole, dim, 2 * LANES):
                for half in range(d, d + 2 * LANES, LANES):
                    place = d * BLOCK + 2 * token * LANES + half - d
                    rest = min(LANES, max(0, dim - half))
                    store_bf16(words, place, load_part(k, start + half, rest, KV))

    return copy


@cache
def make_values(g: Grouping) -> Any:
    """add_values(v, v_scales, at, scales_at, rows, dim, value_dim, used, padded, space, sums): sums [rows, width] += weights · V."""
    PAIRS, SCALED = g.method == "pairs", g.kv == "int8"
    copy_floats, pair_values = _copy_floats(g), make_pair_values(g, BLOCK)
    two, one = _value_tile(g, 2), _value_tile(g, 1)

    @linked
    def add_values(
        v: Any, v_scales: Any, at: Any, scales_at: Any, rows: Any, dim: Any, value_dim: Any,
        used: Any, padded: Any, space: Any, sums: Any,
    ) -> None:  # fmt: skip
        chunks, width = chunks_of(rows, LANES), padded_width(value_dim)
        panel, cells, ahead = space.values, padded, at + padded * dim
        if SCALED:
            scale_tokens(space.scores, v_scales, scales_at, chunks, used, padded)
        if PAIRS:
            cells = padded // 2
            pair_values(v, at, dim, value_dim, used, padded, panel)
            pair_weights(space.scores, chunks, padded)
        elif value_dim < dim:
            panel = space.keys
        else:
            for t in range(0, padded, STEP):
                copy_floats(v, at, dim, t, used, panel)
        for d in range(0, width - LANES, 2 * LANES):
            for r in range(0, rows, ROWS):
                two(space.scores, r, padded, cells, panel, d, width, v, ahead, dim, sums)
        if width // LANES % 2:
            for r in range(0, rows, ROWS):
                one(space.scores, r, padded, cells, panel, width - LANES, width, v, ahead, dim, sums)

    return add_values


def _value_tile(g: Grouping, vectors: int) -> Any:
    """Sums of ROWS rows from `r` on times `vectors` vectors of columns from `d` on.

    The first rows ask meanwhile for these columns of the next block's values, from element `ahead` on: rows of few queries
    take as long as memory takes for them.
    """
    KIND, VECTORS, ASKS = g.method, vectors, g.method == "pairs" and vectors == 2
    TILE = BLOCK // 2 if g.method == "pairs" else BLOCK

    @linked
    def tile(
        weights: Any, r: Any, padded: Any, cells: Any, panel: Any, d: Any, width: Any,
        v: Any, ahead: Any, dim: Any, sums: Any,
    ) -> None:  # fmt: skip
        place = r // LANES * padded * LANES + r % LANES
        starts = far_starts(d * TILE, LANES * TILE, VECTORS)
        acc = load_grid(sums, r * width + d, width, ROWS, VECTORS)
        for t in range(cells):
            if ASKS and r == 0:
                prefetch(v, ahead + 2 * t * dim + d)
                prefetch(v, ahead + (2 * t + 1) * dim + d)
            columns = load_each(panel, starts, t * LANES, "f32")
            acc = add_outer(acc, columns, weights, place + t * LANES, 1, KIND)
        store_grid(sums, r * width + d, width, LANES, acc, ROWS)

    return tile


@cache
def make_pair_values(g: Grouping, block: int) -> Any:
    """pair_values(v, at, dim, value_dim, used, padded, panel): two tokens a cell, LANES columns a vector.

    Column d of tokens 2t and 2t + 1 is cell panel[(d // LANES·block / 2 + t)·LANES + d % LANES].
    """
    KV, HALF = g.kv, block // 2

    @linked
    def pair_values(v: Any, at: Any, dim: Any, value_dim: Any, used: Any, padded: Any, panel: Any) -> None:
        whole, rest = value_dim // LANES * LANES, value_dim % LANES
        for t in range(padded // 2):
            first, second = at + min(2 * t, used - 1) * dim, at + min(2 * t + 1, used - 1) * dim
            for d in range(0, whole, LANES):
                both = pair_bf16(load(v, first + d, KV), load(v, second + d, KV), 1)
                store(panel, d * HALF + t * LANES, both)
            if rest:
                low, high = load_part(v, first + whole, rest, KV), load_part(v, second + whole, rest, KV)
                store(panel, whole * HALF + t * LANES, pair_bf16(low, high, 1))

    return pair_values


@linked
def pair_weights(weights: Any, chunks: Any, padded: Any) -> None:
    """Weights of tokens 2t and 2t + 1 as the pair of place t, in the same array."""
    for c in range(chunks):
        start = c * padded * LANES
        for t in range(padded // 2):
            place = start + 2 * t * LANES
            both = pair_bf16(load(weights, place, "f32"), load(weights, place + LANES, "f32"), 0)
            store(weights, start + t * LANES, both)
