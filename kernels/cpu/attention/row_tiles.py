"""Both products of many query rows with a block of the cache, on matrix tiles (AMX): see row_vectors.py.

A tile of keys is 16 tokens as they lie in a bfloat16 cache; four of them meet the 16 rows of a chunk. Values become pairs of tokens,
weights tiles of 16 rows times 32 tokens. int8 is widened to bfloat16, which is exact. What a block of tokens ends with is copied, so
that no tile reads behind the last row.
"""

from __future__ import annotations

from functools import cache
from typing import Any, NamedTuple

import numpy as np

from membound.kernels.cpu.attention.row_vectors import make_pair_values, pair_weights, scale_tokens
from membound.kernels.cpu.attention.scores import chunks_of, padded_width
from membound.kernels.cpu.linked import linked
from membound.kernels.cpu.matmul.grouping import Grouping
from membound.kernels.cpu.simd.amx import (
    clear_sums,
    configure_tiles,
    load_sums,
    multiply_panels,
    multiply_tiles,
    release_tiles,
    store_sums,
    tile_configuration,
)
from membound.kernels.cpu.simd.features import LANES
from membound.kernels.cpu.simd.lanes import transpose
from membound.kernels.cpu.simd.lines import aligned_floats
from membound.kernels.cpu.simd.loads import load, load_next
from membound.kernels.cpu.simd.stores import store_bf16, store_tile
from membound.kernels.cpu.simd.streams import far_starts, prefetch
from membound.kernels.weights.formats import F32

BLOCK = 256
"""Tokens of a block: keys, values and scores of 576 columns and 128 rows take 0.7 MB of the second-level cache."""

STEP = 64
"""Tokens that a block is rounded up to: four tiles."""

COLUMNS = 32
"""Numbers of a row in a tile: keys have a multiple of them."""

TILE = 256
"""Numbers in a tile of sums."""

_CONFIGURATION = tile_configuration()


class Space(NamedTuple):
    """A thread's arrays: queries, STEP keys that were copied, the panel of values, scores."""

    query: F32
    keys: F32
    values: F32
    scores: F32


@cache
def make_workspace(g: Grouping) -> Any:
    """workspace(rows, dim, value_dim): a thread's `Space`."""

    @linked
    def workspace(rows: Any, dim: Any, value_dim: Any) -> Any:
        chunks = chunks_of(rows, LANES)
        return Space(
            aligned_floats(chunks * dim // 2 * LANES),
            aligned_floats(STEP * dim // 2),
            aligned_floats(BLOCK // 2 * padded_width(value_dim)),
            aligned_floats(chunks * BLOCK * LANES),
        )

    return workspace


def make_begin() -> Any:
    """begin(): what a thread does before its first product."""

    @linked
    def begin() -> None:
        configure_tiles(_CONFIGURATION)

    return begin


def make_end() -> Any:
    """end(): what a thread does after its last product."""

    @linked
    def end() -> None:
        release_tiles()

    return end


@cache
def make_scores(g: Grouping) -> Any:
    """score(k, k_scales, at, scales_at, rows, dim, used, padded, space): see row_vectors.py."""
    widen = _make_widen(g)
    STORED, SCALED = g.kv == "bf16", g.kv == "int8"

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
        chunks = chunks_of(rows, LANES)
        query, copied = space.query.view(np.uint8), space.keys.view(np.uint8)
        for t in range(0, padded, STEP):
            if STORED and t + STEP <= used:
                _score_tokens(
                    query, k.view(np.uint8), 2 * (at + t * dim), dim, chunks, t, padded, space.scores
                )
            else:
                widen(k, at + t * dim, dim, min(STEP, used - t), space.keys)
                _score_tokens(query, copied, 0, dim, chunks, t, padded, space.scores)
        if SCALED:
            scale_tokens(space.scores, k_scales, scales_at, chunks, used, padded)

    return score


@linked
def _score_tokens(
    query: Any, keys: Any, at: Any, dim: Any, chunks: Any, t: Any, padded: Any, scores: Any
) -> None:
    """Scores of STEP tokens, whose keys are 2·dim bytes each from keys[at] on, with all rows."""
    steps = dim // COLUMNS
    for c in range(chunks):
        clear_sums()
        for s in range(steps):
            if c == 0:  # ask for the same columns of the tokens behind these: memory can work meanwhile
                for token in range(STEP, 2 * STEP):
                    prefetch(keys, at + token * 2 * dim + s * 64)
            multiply_tiles(query, (c * steps + s) * 1024, keys, at + s * 64, 2 * dim, 4, "bf16")
        store_sums(scores, (c * padded + t) * LANES, TILE, 64, 4)


def _make_widen(g: Grouping) -> Any:
    """widen(k, at, dim, count, out): `count` keys as bfloat16, the last of them again up to STEP."""
    KV = g.kv

    @linked
    def widen(k: Any, at: Any, dim: Any, count: Any, out: Any) -> None:
        words = out.view(np.uint16)
        for t in range(STEP):
            start = at + min(t, count - 1) * dim
            for d in range(0, dim, LANES):
                store_bf16(words, t * dim + d, load(k, start + d, KV))

    return widen


@cache
def make_values(g: Grouping) -> Any:
    """add_values(v, v_scales, at, scales_at, rows, dim, value_dim, used, padded, space, sums): see row_vectors.py."""
    pair_values, four, one = make_pair_values(g, BLOCK), _value_tiles(4), _value_tiles(1)
    SCALED = g.kv == "int8"

    @linked
    def add_values(
        v: Any, v_scales: Any, at: Any, scales_at: Any, rows: Any, dim: Any, value_dim: Any,
        used: Any, padded: Any, space: Any, sums: Any,
    ) -> None:  # fmt: skip
        chunks = chunks_of(rows, LANES)
        if SCALED:
            scale_tokens(space.scores, v_scales, scales_at, chunks, used, padded)
        pair_values(v, at, dim, value_dim, used, padded, space.values)
        _tile_weights(space.scores, chunks, padded)
        weights, panel = space.scores.view(np.uint8), space.values.view(np.uint8)
        whole = value_dim // (4 * LANES) * (4 * LANES)
        for d in range(0, whole, 4 * LANES):
            for c in range(chunks):
                four(weights, c, padded, panel, d, value_dim, sums)
        for d in range(whole, value_dim, LANES):
            for c in range(chunks):
                one(weights, c, padded, panel, d, value_dim, sums)

    return add_values


def _value_tiles(tiles: int) -> Any:
    """Sums of the rows of chunk `c` times `tiles` tiles of columns from `d` on."""
    TILES = tiles

    @linked
    def run(weights: Any, c: Any, padded: Any, panel: Any, d: Any, width: Any, sums: Any) -> None:
        starts = far_starts(d * BLOCK * 2, LANES * BLOCK * 2, TILES)
        load_sums(sums, c * LANES * width + d, LANES, 4 * width, TILES)
        for s in range(padded // 32):
            at = (c * padded * LANES + s * TILE) * 4
            multiply_panels(panel, starts, s * 1024, weights, at, 64, "bf16")
        store_sums(sums, c * LANES * width + d, LANES, 4 * width, TILES)

    return run


@linked
def _tile_weights(weights: Any, chunks: Any, padded: Any) -> None:
    """Weights of 32 tokens as a tile of bfloat16, 16 rows of 32 numbers, in the same array."""
    pair_weights(weights, chunks, padded)
    for c in range(chunks):
        start = c * padded * LANES
        for place in range(start, start + padded // 2 * LANES, TILE):
            store_tile(weights, place, transpose(load_next(weights, place, LANES, "f32")))
