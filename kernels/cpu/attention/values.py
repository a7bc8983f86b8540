"""weights · V: the rows of a block of tokens, added up with the weights of each query head.

    add_values(weights, v, v_scales, at, scales_at, chunks, dim, begin, end, stride, last, sums, worth)

Tokens and weights are ordered as in scores.py; sums is [heads, width] float32.

An int8 cache is summed in integers: weight times scale becomes fourteen bits of the block's largest, V is
widened to int16, and two rows are interleaved so that a lane holds two tokens. Columns: columns.py.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import numba
import numpy as np

from membound.kernels.cpu.attention.scores import padded_width
from membound.kernels.cpu.linked import linked
from membound.kernels.cpu.matmul.grouping import Grouping
from membound.kernels.cpu.simd.arithmetic import divide, fma_tile, maximum, multiply
from membound.kernels.cpu.simd.conversions import pair_bf16, round_i32, to_f32_tile
from membound.kernels.cpu.simd.dot_products import weigh_words
from membound.kernels.cpu.simd.features import LANES
from membound.kernels.cpu.simd.lanes import fold_lanes, interleave_words, pair_lanes
from membound.kernels.cpu.simd.loads import (
    broadcast_next,
    gather_lanes,
    load,
    load_bytes_each,
    load_grid,
    load_halves_next,
    load_next,
    load_words_each,
    widen_at,
)
from membound.kernels.cpu.simd.stores import add_scaled_each, store, store_grid
from membound.kernels.cpu.simd.streams import far_starts, prefetch, prefetch_each, row_starts
from membound.kernels.cpu.simd.vectors import splat, zeros_i32

_LARGEST = np.float32(2**14 - 1)
_LEAST = np.float32(1e-30)

STEPS = 4
"""Steps whose integer sums stay in registers: 2 to 16 are within 6 % of each other on a Zen 5; the rows of few stay in the
first-level cache while their columns are walked, and no sum can overflow."""


@cache
def make_values(g: Grouping) -> Any:
    """add_values(weights, v, v_scales, at, scales_at, chunks, dim, begin, end, stride, last, sums, worth)."""
    return {"float": _float, "halves": _float, "pairs": _pairs, "integer": _integer, "scalar": _scalar}[
        g.method
    ](g)


def _float(g: Grouping) -> Any:
    SCALED, WIDTH, LEAST = g.kv == "int8", g.vectors * LANES, g.together * LANES
    scale_weights, add_tile, add_vector = (
        _make_scale_weights(g),
        make_add_tile(g, g.vectors),
        make_add_tile(g, g.together),
    )

    @linked
    def add_values(
        weights: Any, v: Any, v_scales: Any, at: Any, scales_at: Any, chunks: Any, dim: Any,
        begin: Any, end: Any, stride: Any, last: Any, sums: Any, worth: Any,
    ) -> None:  # fmt: skip
        if SCALED:
            scale_weights(weights, v_scales, scales_at, chunks, begin, end, stride, last)
        whole = dim // WIDTH * WIDTH
        for t in range(begin, end):
            for c in range(chunks):
                place = (c * (end - begin) + t - begin) * LANES
                for d in range(0, whole, WIDTH):
                    add_tile(weights, place, v, at, t, stride, last, c, dim, d, sums)
                for d in range(whole, dim, LEAST):
                    add_vector(weights, place, v, at, t, stride, last, c, dim, d, sums)

    return add_values


def make_add_tile(g: Grouping, vectors: int) -> Any:
    """add_tile(weights, place, v, at, t, stride, last, c, dim, d, sums): element d on of the rows of a step, for chunk c.

    One row after the other, and one step at a time: rows of two steps together, line by line, came 10 to 19 %
    slower from memory (f32 on a Zen 5).
    """
    KV, ROWS, HEADS, LINE, AHEAD, VECTORS = g.kv, g.rows, g.heads, g.line, g.ahead, vectors
    load_values = load_halves_next if g.method == "halves" else load_next
    LINES = (vectors * LANES + g.line - 1) // g.line

    @numba.njit(inline="always")
    def add_tile(
        weights: Any,
        place: Any,
        v: Any,
        at: Any,
        t: Any,
        stride: Any,
        last: Any,
        c: Any,
        dim: Any,
        d: Any,
        sums: Any,
    ) -> None:
        tile = load_grid(sums, c * HEADS * dim + d, dim, HEADS, VECTORS)
        for r in range(ROWS):
            start = at + min(t + r * stride, last) * dim + d
            if AHEAD and c == 0 and d % LINE == 0:
                for line in range(LINES):
                    prefetch(v, start + AHEAD + line * LINE)
            factors = broadcast_next(weights, place + r * HEADS, HEADS)
            tile = fma_tile(tile, factors, load_values(v, start, VECTORS, KV))
        store_grid(sums, c * HEADS * dim + d, dim, LANES, tile, HEADS)

    return add_tile


def _make_scale_weights(g: Grouping) -> Any:
    """scale_weights(…): weights times the scale of their token's V."""
    ROWS, HEADS = g.rows, g.heads

    @linked
    def scale_weights(
        weights: Any, v_scales: Any, scales_at: Any, chunks: Any, begin: Any, end: Any, stride: Any, last: Any
    ) -> None:
        for t in range(begin, end):
            scales = gather_lanes(v_scales, row_starts(t, stride, last, ROWS, scales_at, 1), HEADS)
            for c in range(chunks):
                place = (c * (end - begin) + t - begin) * LANES
                store(weights, place, multiply(load(weights, place, "f32"), scales))

    return scale_weights


def _pairs(g: Grouping) -> Any:
    """Two tokens a lane: weights are rounded to bfloat16, sums are float32 as ever."""
    ROWS, HEADS, LINE, AHEAD = g.rows, g.heads, g.line, g.ahead
    NUMBERS, PAIR = 2 * LANES, 2 * g.heads

    @linked
    def add_values(
        weights: Any, v: Any, v_scales: Any, at: Any, scales_at: Any, chunks: Any, dim: Any,
        begin: Any, end: Any, stride: Any, last: Any, sums: Any, worth: Any,
    ) -> None:  # fmt: skip
        none = splat(np.float32(0))
        for place in range(0, chunks * (end - begin) * LANES, LANES):
            store(weights, place, pair_lanes(pair_bf16(load(weights, place, "f32"), none, 0), HEADS))
        for first in range(begin, end, STEPS):
            final = min(first + STEPS, end)
            for c in range(chunks):
                for d in range(0, dim, NUMBERS):
                    tile = load_grid(sums, c * HEADS * dim + d, dim, HEADS, 2)
                    for t in range(first, final):
                        rows = row_starts(t, stride, last, ROWS, at, dim)
                        if AHEAD and c == 0 and d % LINE == 0:
                            prefetch_each(v, rows, d + AHEAD)
                        pairs = interleave_words(load_bytes_each(v, rows, d))
                        place = (c * (end - begin) + t - begin) * LANES
                        tile = weigh_words(tile, weights, place, PAIR, pairs, 2)
                    store_grid(sums, c * HEADS * dim + d, dim, LANES, tile, HEADS)

    return add_values


def _integer(g: Grouping) -> Any:
    scale_weights, pack_weights = _make_scale_weights(g), _make_pack_weights(g)
    add_products = _make_add_products(g)

    @linked
    def add_values(
        weights: Any, v: Any, v_scales: Any, at: Any, scales_at: Any, chunks: Any, dim: Any,
        begin: Any, end: Any, stride: Any, last: Any, sums: Any, worth: Any,
    ) -> None:  # fmt: skip
        scale_weights(weights, v_scales, scales_at, chunks, begin, end, stride, last)
        pack_weights(weights, chunks, end - begin, worth)
        add_products(weights, worth, v, at, chunks, dim, begin, end, stride, last, sums)

    return add_values


def _make_pack_weights(g: Grouping) -> Any:
    """pack_weights(weights, chunks, count, worth): whole numbers, of two rows in a lane, in the place of the weights.

    worth[c·LANES + h] is then what a unit of head h of chunk c is worth.
    """
    HEADS = g.heads

    @linked
    def pack_weights(weights: Any, chunks: Any, count: Any, worth: Any) -> None:
        for c in range(chunks):
            peak = splat(_LEAST)
            for t in range(count):
                peak = maximum(peak, load(weights, (c * count + t) * LANES, "f32"))
            peak = fold_lanes(peak, HEADS, "max")
            store(worth, c * LANES, divide(peak, splat(_LARGEST)))
            units = divide(splat(_LARGEST), peak)
            for t in range(count):
                place = (c * count + t) * LANES
                whole = round_i32(multiply(load(weights, place, "f32"), units))
                store(weights, place, pair_lanes(whole, HEADS))

    return pack_weights


def _make_add_products(g: Grouping) -> Any:
    """add_products(weights, worth, v, …): integer sums of STEPS steps, then added to the float ones."""
    ROWS, HEADS, LINE, AHEAD = g.rows, g.heads, g.line, g.ahead
    BYTES, PAIR = 2 * LANES, 2 * g.heads

    @linked
    def add_products(
        weights: Any, worth: Any, v: Any, at: Any, chunks: Any, dim: Any,
        begin: Any, end: Any, stride: Any, last: Any, sums: Any,
    ) -> None:  # fmt: skip
        for first in range(begin, end, STEPS):
            final = min(first + STEPS, end)
            for c in range(chunks):
                units = broadcast_next(worth, c * LANES, HEADS)
                for d in range(0, dim, BYTES):
                    products = zeros_i32(PAIR)
                    for t in range(first, final):
                        rows = row_starts(t, stride, last, ROWS, at, dim)
                        if AHEAD and c == 0 and d % LINE == 0:
                            prefetch_each(v, rows, d + AHEAD)
                        pairs = interleave_words(load_words_each(v, rows, d))
                        place = (c * (end - begin) + t - begin) * LANES
                        products = weigh_words(products, weights, place, PAIR, pairs, 2)
                    heads = far_starts(c * HEADS * dim + d, dim, HEADS)
                    add_scaled_each(sums, heads, to_f32_tile(products), units)

    return add_products


def _scalar(g: Grouping) -> Any:
    KV, ROWS, HEADS = g.kv, g.rows, g.heads
    SCALED = g.kv == "int8"
    scale_weights = _make_scale_weights(g)

    @linked
    def add_values(
        weights: Any, v: Any, v_scales: Any, at: Any, scales_at: Any, chunks: Any, dim: Any,
        begin: Any, end: Any, stride: Any, last: Any, sums: Any, worth: Any,
    ) -> None:  # fmt: skip
        if SCALED:
            scale_weights(weights, v_scales, scales_at, chunks, begin, end, stride, last)
        width = padded_width(dim)
        for t in range(begin, end):
            for r in range(ROWS):
                token = min(t + r * stride, last)
                for h in range(chunks * HEADS):
                    place = (h // HEADS * (end - begin) + t - begin) * LANES + r * HEADS + h % HEADS
                    for d in range(dim):
                        sums[h * width + d] += weights[place] * widen_at(v, at + token * dim + d, KV)

    return add_values
