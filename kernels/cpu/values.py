"""weights · V: the rows of a block of tokens, added up with the weights of each query head.

    add_values(weights, v, v_scales, at, scales_at, chunks, dim, begin, end, stride, last, sums, packed, bytes)

Tokens and weights are ordered as in scores.py; sums is [heads, width] float32.

An int8 cache is summed in integers: weight times scale becomes fourteen bits of the block's largest, in
two bytes of seven (exact on every instruction set), and four rows of V are interleaved so that a lane
holds four tokens. The sums are then in the order of `column`.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import numba
import numpy as np

from membound.kernels.cpu.grouping import PREFETCH_BYTES, Grouping
from membound.kernels.cpu.scores import padded_width
from membound.kernels.cpu.simd import (
    LANES,
    REGISTERS,
    add_scaled_each,
    broadcast_next,
    divide,
    far_starts,
    fold_lanes,
    gather_lanes,
    interleave_rows,
    load,
    load_each,
    load_tile,
    maximum,
    multiply,
    pack_rows,
    prefetch_each,
    round_i32,
    row_starts,
    scale_tile,
    splat,
    store,
    store_each,
    store_tile,
    to_f32_tile,
    weigh_bytes,
    weigh_tile,
    widen_at,
    zeros_i32,
)

_LARGEST = np.float32(2**14 - 1)
_LEAST = np.float32(1e-30)


@cache
def make_values(g: Grouping) -> Any:
    """add_values(weights, v, v_scales, at, scales_at, chunks, dim, begin, end, stride, last, sums, packed, bytes)."""
    return {"float": _float, "integer": _integer, "scalar": _scalar}[g.method](g)


@cache
def make_column(g: Grouping) -> Any:
    """column(d): where element d of a head stands in its sums."""
    PERIOD = 4 * LANES if g.method == "integer" else 1

    @numba.njit
    def column(d: Any) -> Any:
        i = d % PERIOD
        return d - i + i // 4 % 4 * LANES + i // 16 * 4 + i % 4

    return column


def _float(g: Grouping) -> Any:
    ROWS, SCALED = g.rows, g.kv == "int8"
    WIDE = REGISTERS == 32  # room for two steps at once: half the loads and stores of the sums
    scale_weights, add_rows, add_two = _make_scale_weights(g), _make_add_rows(g, 1), _make_add_rows(g, 2)

    @numba.njit
    def add_values(
        weights: Any, v: Any, v_scales: Any, at: Any, scales_at: Any, chunks: Any, dim: Any,
        begin: Any, end: Any, stride: Any, last: Any, sums: Any, packed: Any, rows_bytes: Any,
    ) -> None:  # fmt: skip
        if SCALED:
            scale_weights(weights, v_scales, scales_at, chunks, begin, end, stride, last)
        count = end - begin
        for t in range(begin, end - 1, 2):
            rows = row_starts(t, stride, last, ROWS, at, dim)
            later = row_starts(t + 1, stride, last, ROWS, at, dim)
            if WIDE:
                add_two(weights, t - begin, count, v, rows + later, chunks, dim, sums)
            else:
                add_rows(weights, t - begin, count, v, rows, chunks, dim, sums)
                add_rows(weights, t + 1 - begin, count, v, later, chunks, dim, sums)
        if count % 2:
            rows = row_starts(end - 1, stride, last, ROWS, at, dim)
            add_rows(weights, count - 1, count, v, rows, chunks, dim, sums)

    return add_values


def _make_add_rows(g: Grouping, steps: int) -> Any:
    """add_rows(weights, step, count, v, rows, chunks, dim, sums): the rows of that many steps."""
    FACTORS = steps * LANES
    KV, HEADS, LINE = g.kv, g.heads, g.line
    AHEAD = PREFETCH_BYTES * g.line // 64

    @numba.njit
    def add_rows(
        weights: Any, step: Any, count: Any, v: Any, rows: Any, chunks: Any, dim: Any, sums: Any
    ) -> None:
        for c in range(chunks):
            heads = far_starts(c * HEADS * dim, dim, HEADS)
            factors = broadcast_next(weights, (c * count + step) * LANES, FACTORS)
            for d in range(0, dim, LANES):
                if AHEAD and c == 0 and d % LINE == 0:
                    prefetch_each(v, rows, d + AHEAD)
                added = weigh_tile(load_each(sums, heads, d, "f32"), factors, load_each(v, rows, d, KV))
                store_each(sums, heads, d, added, "cached")

    return add_rows


def _make_scale_weights(g: Grouping) -> Any:
    """scale_weights(…): weights times the scale of their token's V."""
    ROWS, HEADS = g.rows, g.heads

    @numba.njit
    def scale_weights(
        weights: Any, v_scales: Any, scales_at: Any, chunks: Any, begin: Any, end: Any, stride: Any, last: Any
    ) -> None:
        for t in range(begin, end):
            scales = gather_lanes(v_scales, row_starts(t, stride, last, ROWS, scales_at, 1), HEADS)
            for c in range(chunks):
                place = (c * (end - begin) + t - begin) * LANES
                store(weights, place, multiply(load(weights, place, "f32"), scales))

    return scale_weights


def _integer(g: Grouping) -> Any:
    scale_weights, pack_weights = _make_scale_weights(g), _make_pack_weights(g)
    interleave, add_products = _make_interleave(g), _make_add_products(g)

    @numba.njit
    def add_values(
        weights: Any, v: Any, v_scales: Any, at: Any, scales_at: Any, chunks: Any, dim: Any,
        begin: Any, end: Any, stride: Any, last: Any, sums: Any, packed: Any, rows_bytes: Any,
    ) -> None:  # fmt: skip
        scale_weights(weights, v_scales, scales_at, chunks, begin, end, stride, last)
        pack_weights(weights, chunks, end - begin, packed)
        interleave(v, at, dim, begin, end, stride, last, rows_bytes)
        add_products(weights, packed, rows_bytes, chunks, dim, end - begin, sums)

    return add_values


def _make_pack_weights(g: Grouping) -> Any:
    """pack_weights(weights, chunks, count, packed): then weights[c·count·LANES…] is what one unit of each head is worth.

    packed holds two vectors a step and chunk, high and low seven bits: four rows to a lane.
    """
    HEADS = g.heads

    @numba.njit
    def pack_weights(weights: Any, chunks: Any, count: Any, packed: Any) -> None:
        for c in range(chunks):
            peak = splat(_LEAST)
            for t in range(count):
                peak = maximum(peak, load(weights, (c * count + t) * LANES, "f32"))
            peak = fold_lanes(peak, HEADS, "max")
            units = divide(splat(_LARGEST), peak)
            for t in range(count):
                place = (c * count + t) * LANES
                whole = round_i32(multiply(load(weights, place, "f32"), units))
                store(packed, 2 * place, pack_rows(whole, HEADS, 7))
                store(packed, 2 * place + LANES, pack_rows(whole, HEADS, 0))
            store(weights, c * count * LANES, divide(peak, splat(_LARGEST)))

    return pack_weights


def _make_interleave(g: Grouping) -> Any:
    """interleave(v, at, dim, begin, end, stride, last, bytes): four rows a vector, columns outermost."""
    ROWS, AHEAD = g.rows, PREFETCH_BYTES
    QUADS, BYTES = g.rows // 4, 4 * LANES
    if QUADS not in (1, 2, 4):
        raise ValueError(f"rows={g.rows} must be 4, 8 or 16 for an integer cache")

    @numba.njit
    def interleave(
        v: Any, at: Any, dim: Any, begin: Any, end: Any, stride: Any, last: Any, rows_bytes: Any
    ) -> None:
        steps = (end - begin) * QUADS
        for t in range(begin, end):
            rows = row_starts(t, stride, last, ROWS, at, dim)
            for d in range(0, dim, BYTES):
                if AHEAD:
                    prefetch_each(v, rows, d + AHEAD)
                place = 4 * d * steps + (t - begin) * QUADS * 4 * BYTES
                store_tile(rows_bytes, place, interleave_rows(v, rows, 0, d))
                if QUADS > 1:
                    store_tile(rows_bytes, place + 4 * BYTES, interleave_rows(v, rows, 4, d))
                if QUADS > 2:
                    store_tile(rows_bytes, place + 8 * BYTES, interleave_rows(v, rows, 8, d))
                    store_tile(rows_bytes, place + 12 * BYTES, interleave_rows(v, rows, 12, d))

    return interleave


def _make_add_products(g: Grouping) -> Any:
    """add_products(units, packed, bytes, chunks, dim, count, sums): integer sums of a block, added to the float ones."""
    HEADS, QUADS, BYTES = g.heads, g.rows // 4, 4 * LANES
    TILE = 4 * g.heads

    @numba.njit
    def add_products(
        units: Any, packed: Any, rows_bytes: Any, chunks: Any, dim: Any, count: Any, sums: Any
    ) -> None:
        for c in range(chunks):
            unit = broadcast_next(units, c * count * LANES, HEADS)
            for half in range(2):
                worth = scale_tile(unit, (splat(np.float32(1 if half else 128)),))
                for d in range(0, dim, BYTES):
                    products = zeros_i32(TILE)
                    for t in range(count):
                        at = ((c * count + t) * 2 + half) * LANES
                        for quad in range(QUADS):
                            place = 4 * (d * count * QUADS + (t * QUADS + quad) * BYTES)
                            columns = load_tile(rows_bytes, place, zeros_i32(4))
                            products = weigh_bytes(products, packed, at + quad * 4 * HEADS, columns)
                    heads = far_starts(c * HEADS * dim + d, dim, HEADS)
                    add_scaled_each(sums, heads, to_f32_tile(products), worth)

    return add_products


def _scalar(g: Grouping) -> Any:
    KV, ROWS, HEADS = g.kv, g.rows, g.heads
    SCALED = g.kv == "int8"
    scale_weights = _make_scale_weights(g)

    @numba.njit
    def add_values(
        weights: Any, v: Any, v_scales: Any, at: Any, scales_at: Any, chunks: Any, dim: Any,
        begin: Any, end: Any, stride: Any, last: Any, sums: Any, packed: Any, rows_bytes: Any,
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
