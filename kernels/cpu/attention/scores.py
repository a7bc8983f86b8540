"""q · Kᵀ for a block of tokens and all query heads of a KV head.

    prepare(q, at, group, dim, query, factors)       # once a KV head: scaled by log2(e)/sqrt(dim), for softmax by exp2
    score(query, factors, k, k_scales, at, scales_at, group, dim, begin, end, stride, last, scores)

Step t of a block holds the tokens t, t + stride, … (see grouping.py); scores[c·(end − begin) + t − begin]
is the vector of chunk c. Tokens behind `last` get a score that no softmax will notice.
"""

from __future__ import annotations

from functools import cache
from math import e, log2
from typing import Any

import numpy as np

from membound.kernels.cpu.attention.columns import make_column
from membound.kernels.cpu.linked import linked
from membound.kernels.cpu.matmul.grouping import Grouping
from membound.kernels.cpu.simd.arithmetic import absolute, fma_tile, maximum, multiply
from membound.kernels.cpu.simd.conversions import round_i32, to_f32
from membound.kernels.cpu.simd.dot_products import dot_tile
from membound.kernels.cpu.simd.features import LANES
from membound.kernels.cpu.simd.lanes import max_lanes, sums_vector
from membound.kernels.cpu.simd.loads import (
    gather_lanes,
    load,
    load_bytes_each,
    load_each,
    load_half_each,
    load_words_each,
    widen_at,
)
from membound.kernels.cpu.simd.stores import store, store_bf16, store_int16
from membound.kernels.cpu.simd.streams import far_starts, prefetch_each, row_starts
from membound.kernels.cpu.simd.vectors import splat, zeros, zeros_i32

HIDDEN = np.float32(-1e30)
_LOG2_E = log2(e)
_LEAST = np.float32(1e-30)
_LARGEST_INT16 = 32767
_LARGEST_SUM = 2**31 - 1


@linked
def padded_width(dim: Any) -> Any:
    """Elements from one head to the next in the query and the sums: whole vectors."""
    return (dim + LANES - 1) // LANES * LANES


@linked
def chunks_of(group: Any, heads: Any) -> Any:
    """Tiles of `heads` query heads that hold a group."""
    return (group + heads - 1) // heads


@cache
def make_prepare(g: Grouping) -> Any:
    """prepare(q, at, group, dim, query, factors): the query of one KV head, padded with zero heads."""
    HEADS, column = g.heads, make_column(g)

    @linked
    def prepare(q: Any, at: Any, group: Any, dim: Any, query: Any, factors: Any) -> None:
        width = padded_width(dim)
        scale = np.float32(_LOG2_E / np.sqrt(dim))
        for i in range(chunks_of(group, HEADS) * HEADS * width):
            query[i] = np.float32(0)
        for h in range(group):
            for d in range(dim):
                query[h * width + column(d)] = q[at + h * dim + d] * scale

    return {"integer": _prepare_words, "pairs": _prepare_pairs}.get(g.method, lambda _: prepare)(g)


def _prepare_pairs(g: Grouping) -> Any:
    """Queries as bfloat16."""
    HEADS = g.heads

    @linked
    def prepare(q: Any, at: Any, group: Any, dim: Any, query: Any, factors: Any) -> None:
        words, scale = query.view(np.uint16), splat(np.float32(_LOG2_E / np.sqrt(dim)))
        for i in range(group * dim, chunks_of(group, HEADS) * HEADS * dim):
            words[i] = 0
        for d in range(0, group * dim, LANES):
            store_bf16(words, d, multiply(load(q, at + d, "f32"), scale))

    return prepare


def _prepare_words(g: Grouping) -> Any:
    """int16 queries; `factors` holds what a unit of each lane's head is worth."""
    HEADS, ROWS = g.heads, g.rows

    @linked
    def prepare(q: Any, at: Any, group: Any, dim: Any, query: Any, factors: Any) -> None:
        words = query.view(np.int16)
        largest = np.float32(min(_LARGEST_INT16, _LARGEST_SUM // (127 * dim)))
        scale = np.float32(_LOG2_E / np.sqrt(dim)) / largest
        for i in range(group * dim, chunks_of(group, HEADS) * HEADS * dim):
            words[i] = 0
        for i in range(factors.size):
            factors[i] = np.float32(0)
        for h in range(group):
            start, widest = at + h * dim, splat(_LEAST)
            for d in range(0, dim, LANES):
                widest = maximum(widest, absolute(load(q, start + d, "f32")))
            peak = max_lanes(widest)
            units = splat(largest / peak)
            for d in range(0, dim, LANES):
                store_int16(words, h * dim + d, round_i32(multiply(load(q, start + d, "f32"), units)))
            for r in range(ROWS):
                factors[h // HEADS * LANES + r * HEADS + h % HEADS] = peak * scale

    return prepare


@cache
def make_scores(g: Grouping) -> Any:
    """score(query, factors, k, k_scales, at, scales_at, group, dim, begin, end, stride, last, scores)."""
    return hide_padding(
        g,
        {"float": _float, "halves": _halves, "pairs": _pairs, "integer": _integer, "scalar": _scalar}[
            g.method
        ](g),
    )


def hide_padding(g: Grouping, fill: Any) -> Any:
    """`fill` with the arguments of a score, then scores that no softmax notices for tokens behind the last."""
    ROWS, HEADS = g.rows, g.heads

    @linked
    def score(
        query: Any, factors: Any, k: Any, k_scales: Any, at: Any, scales_at: Any, group: Any, dim: Any,
        begin: Any, end: Any, stride: Any, last: Any, scores: Any,
    ) -> None:  # fmt: skip
        chunks = chunks_of(group, HEADS)
        fill(query, factors, k, k_scales, at, scales_at, group, dim, begin, end, stride, last, scores)
        for r in range(ROWS):
            for t in range(max(begin, last + 1 - r * stride), end):
                for c in range(chunks):
                    for h in range(HEADS):
                        scores[(c * (end - begin) + t - begin) * LANES + r * HEADS + h] = HIDDEN

    return score


def _float(g: Grouping) -> Any:
    KV, ROWS, HEADS, LINE = g.kv, g.rows, g.heads, g.line
    AHEAD, SCALED = g.ahead, g.kv == "int8"

    @linked
    def fill(
        query: Any, factors: Any, k: Any, k_scales: Any, at: Any, scales_at: Any, group: Any, dim: Any,
        begin: Any, end: Any, stride: Any, last: Any, scores: Any,
    ) -> None:  # fmt: skip
        chunks = chunks_of(group, HEADS)
        for t in range(begin, end):
            rows = row_starts(t, stride, last, ROWS, at, dim)
            for c in range(chunks):
                heads = far_starts(c * HEADS * dim, dim, HEADS)
                sums = zeros(LANES)
                for d in range(0, dim, LANES):
                    if AHEAD and c == 0 and d % LINE == 0:
                        prefetch_each(k, rows, d + AHEAD)
                    sums = fma_tile(sums, load_each(k, rows, d, KV), load_each(query, heads, d, "f32"))
                score = sums_vector(sums)
                if SCALED:
                    places = row_starts(t, stride, last, ROWS, scales_at, 1)
                    score = multiply(score, gather_lanes(k_scales, places, HEADS))
                store(scores, (c * (end - begin) + t - begin) * LANES, score)

    return fill


def _halves(g: Grouping) -> Any:
    """Twice as many numbers of a row at a time, in the order of columns.py."""
    ROWS, HEADS, LINE, AHEAD = g.rows, g.heads, g.line, g.ahead
    NUMBERS = 2 * LANES

    @linked
    def fill(
        query: Any, factors: Any, k: Any, k_scales: Any, at: Any, scales_at: Any, group: Any, dim: Any,
        begin: Any, end: Any, stride: Any, last: Any, scores: Any,
    ) -> None:  # fmt: skip
        chunks = chunks_of(group, HEADS)
        for t in range(begin, end):
            rows = row_starts(t, stride, last, ROWS, at, dim)
            for c in range(chunks):
                heads = far_starts(c * HEADS * dim, dim, HEADS)
                sums = zeros(LANES)
                for d in range(0, dim, NUMBERS):
                    if AHEAD and c == 0 and d % LINE == 0:
                        prefetch_each(k, rows, d + AHEAD)
                    even, odd = load_half_each(k, rows, d, 0), load_half_each(k, rows, d, 1)
                    sums = fma_tile(sums, even, load_each(query, heads, d, "f32"))
                    sums = fma_tile(sums, odd, load_each(query, heads, d + LANES, "f32"))
                store(scores, (c * (end - begin) + t - begin) * LANES, sums_vector(sums))

    return fill


def _pairs(g: Grouping) -> Any:
    """Two products a lane, of the cache as it lies and a query in bfloat16."""
    ROWS, HEADS, LINE, AHEAD = g.rows, g.heads, g.line, g.ahead
    NUMBERS = 2 * LANES

    @linked
    def fill(
        query: Any, factors: Any, k: Any, k_scales: Any, at: Any, scales_at: Any, group: Any, dim: Any,
        begin: Any, end: Any, stride: Any, last: Any, scores: Any,
    ) -> None:  # fmt: skip
        chunks = chunks_of(group, HEADS)
        words = query.view(np.uint16)
        for t in range(begin, end):
            rows = row_starts(t, stride, last, ROWS, at, dim)
            for c in range(chunks):
                heads = far_starts(c * HEADS * dim, dim, HEADS)
                sums = zeros(LANES)
                for d in range(0, dim, NUMBERS):
                    if AHEAD and c == 0 and d % LINE == 0:
                        prefetch_each(k, rows, d + AHEAD)
                    sums = dot_tile(sums, load_bytes_each(k, rows, d), load_bytes_each(words, heads, d))
                store(scores, (c * (end - begin) + t - begin) * LANES, sums_vector(sums))

    return fill


def _integer(g: Grouping) -> Any:
    ROWS, HEADS, LINE, AHEAD = g.rows, g.heads, g.line, g.ahead
    WORDS = 2 * LANES

    @linked
    def fill(
        query: Any, factors: Any, k: Any, k_scales: Any, at: Any, scales_at: Any, group: Any, dim: Any,
        begin: Any, end: Any, stride: Any, last: Any, scores: Any,
    ) -> None:  # fmt: skip
        chunks = chunks_of(group, HEADS)
        words = query.view(np.int16)
        for t in range(begin, end):
            rows = row_starts(t, stride, last, ROWS, at, dim)
            scales = gather_lanes(k_scales, row_starts(t, stride, last, ROWS, scales_at, 1), HEADS)
            for c in range(chunks):
                heads = far_starts(c * HEADS * dim, dim, HEADS)
                sums = zeros_i32(LANES)
                for d in range(0, dim, WORDS):
                    if AHEAD and c == 0 and d % LINE == 0:
                        prefetch_each(k, rows, d + AHEAD)
                    sums = dot_tile(sums, load_words_each(k, rows, d), load_bytes_each(words, heads, d))
                score = multiply(to_f32(sums_vector(sums)), load(factors, c * LANES, "f32"))
                store(scores, (c * (end - begin) + t - begin) * LANES, multiply(score, scales))

    return fill


def _scalar(g: Grouping) -> Any:
    KV, ROWS, HEADS = g.kv, g.rows, g.heads
    SCALED = g.kv == "int8"

    @linked
    def fill(
        query: Any, factors: Any, k: Any, k_scales: Any, at: Any, scales_at: Any, group: Any, dim: Any,
        begin: Any, end: Any, stride: Any, last: Any, scores: Any,
    ) -> None:  # fmt: skip
        chunks = chunks_of(group, HEADS)
        width = padded_width(dim)
        for t in range(begin, end):
            for r in range(ROWS):
                token = min(t + r * stride, last)
                for h in range(chunks * HEADS):
                    total = np.float32(0)
                    for d in range(dim):
                        total += query[h * width + d] * widen_at(k, at + token * dim + d, KV)
                    if SCALED:
                        total *= k_scales[scales_at + token]
                    place = (h // HEADS * (end - begin) + t - begin) * LANES + r * HEADS + h % HEADS
                    scores[place] = total

    return fill
