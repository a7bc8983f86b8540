"""Scores of cached keys by an index, of one query token a sequence, or of several of one: the sum over its heads of a weight times relu(query · key).

    score_tokens(KV, METHOD, q, weights, keys, scales, at, scales_at, capacity, heads, dim, choice, threads)

Products are those of rows.py, heads being the rows. A score is kept as the whole number whose order is that of the scores, and
counted by its first bits as it is made: that is the first of the three passes in which choice.py finds the largest.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
from numba import prange
from numba.extending import overload

from membound.kernels.cpu.attention import row_tiles, row_vectors
from membound.kernels.cpu.attention.choice import count_first, order_of
from membound.kernels.cpu.attention.row_queries import make_prepare
from membound.kernels.cpu.attention.scores import chunks_of
from membound.kernels.cpu.linked import LINKED, linked
from membound.kernels.cpu.matmul.grouping import Grouping
from membound.kernels.cpu.simd.arithmetic import add, fma, maximum
from membound.kernels.cpu.simd.features import LANES
from membound.kernels.cpu.simd.ir import literal_value
from membound.kernels.cpu.simd.lanes import sums_vector
from membound.kernels.cpu.simd.loads import load, load_next
from membound.kernels.cpu.simd.stores import store
from membound.kernels.cpu.simd.vectors import splat


def score_tokens(
    KV: str, METHOD: str, q: Any, weights: Any, keys: Any, scales: Any, at: int, scales_at: int, capacity: int,
    heads: int, dim: int, choice: Any, threads: int,
) -> None:  # fmt: skip
    """Scores of the first choice.tokens of `capacity` keys of each sequence, in order, to choice.keys, and counts of their first bits.

    KV, METHOD: literals from `rows_grouping(kv, dim, dim)`. q [batch, heads, dim] and weights [batch, heads rounded up to
    whole vectors], zero behind the last, are flat float32; keys [batch, capacity, dim] from `at` on, scales from `scales_at` on. With a
    capacity of 0 all of the batch meet the same keys.
    """
    raise TypeError("score_tokens is for compiled code")


@overload(score_tokens, prefer_literal=True, jit_options=LINKED)
def _score_tokens_in_kernels(
    KV: Any, METHOD: Any, q: Any, weights: Any, keys: Any, scales: Any, at: Any, scales_at: Any, capacity: Any,
    heads: Any, dim: Any, choice: Any, threads: Any,
) -> Any:  # fmt: skip
    kv, method = literal_value(KV), literal_value(METHOD)
    if None in (kv, method):
        return None
    inner = _score_all(Grouping(kv, LANES, method))

    def implementation(
        KV: Any, METHOD: Any, q: Any, weights: Any, keys: Any, scales: Any, at: Any, scales_at: Any, capacity: Any,
        heads: Any, dim: Any, choice: Any, threads: Any,
    ) -> None:  # fmt: skip
        inner(q, weights, keys, scales, at, scales_at, capacity, heads, dim, choice, threads)

    return implementation


@cache
def _score_all(g: Grouping) -> Any:
    """Every thread its pieces."""
    products = row_tiles if g.method == "tile" else row_vectors
    prepare, workspace, score = make_prepare(g), products.make_workspace(g), _make_piece(g)
    begin_products, end_products = products.make_begin(), products.make_end()

    @linked
    def walk(
        q: Any, weights: Any, keys: Any, scales: Any, at: Any, scales_at: Any, capacity: Any, heads: Any, dim: Any,
        choice: Any, thread: Any,
    ) -> None:  # fmt: skip
        space, width = workspace(heads, dim, dim), chunks_of(heads, LANES) * LANES
        begin_products()
        for piece in range(choice.first_of_thread[thread], choice.first_of_thread[thread + 1]):
            b, begin = choice.sequence[piece], choice.begin[piece]
            prepare(q, b * heads * dim, 0, heads, heads, dim, np.float32(1), space.query)
            row = b * capacity + begin
            score(
                keys, scales, at + row * dim, scales_at + row, heads, dim, choice.end[piece] - begin, space,
                weights, b * width, choice.seen[b] - begin, choice.keys, b * choice.tokens + begin, choice.counts[piece],
            )  # fmt: skip
        end_products()

    @linked(parallel=True)
    def run(
        q: Any, weights: Any, keys: Any, scales: Any, at: Any, scales_at: Any, capacity: Any, heads: Any, dim: Any,
        choice: Any, threads: Any,
    ) -> None:  # fmt: skip
        for thread in prange(threads):
            walk(q, weights, keys, scales, at, scales_at, capacity, heads, dim, choice, np.intp(thread))

    return run


def _make_piece(g: Grouping) -> Any:
    """Blocks of scores of `count` tokens, summed over heads, to `out` as they are ordered; only the first `seen` tokens have one."""
    products = row_tiles if g.method == "tile" else row_vectors
    score, BLOCK, STEP = products.make_scores(g), products.BLOCK, products.STEP

    @linked
    def piece(
        keys: Any, scales: Any, at: Any, scales_at: Any, heads: Any, dim: Any, count: Any, space: Any,
        weights: Any, weights_at: Any, seen: Any, out: Any, out_at: Any, counts: Any,
    ) -> None:  # fmt: skip
        for i in range(counts.size):
            counts[i] = 0
        for start in range(0, count, BLOCK):
            used = min(BLOCK, count - start)
            padded = (used + STEP - 1) // STEP * STEP
            score(keys, scales, at + start * dim, scales_at + start, heads, dim, used, padded, space)
            _sum_heads(space.scores, chunks_of(heads, LANES), padded, weights, weights_at)
            bits = space.scores.view(np.uint32)
            for t in range(used):
                key = order_of(bits[t]) if start + t < seen else np.uint32(0)
                out[out_at + start + t] = key
                count_first(counts, key)

    return piece


@linked
def _sum_heads(scores: Any, chunks: Any, padded: Any, weights: Any, weights_at: Any) -> None:
    """scores[t] = the sum over the lanes of all chunks of token t of a weight times what is positive; `padded` is whole vectors."""
    nothing = splat(np.float32(0))
    for t in range(padded):
        total = nothing  # sums begin with +0, so that none is -0
        for c in range(chunks):
            positive = maximum(load(scores, (c * padded + t) * LANES, "f32"), nothing)
            total = fma(positive, load(weights, weights_at + c * LANES, "f32"), total)
        store(scores, t * LANES, total)
    for t in range(0, padded, LANES):
        sums = sums_vector(load_next(scores, t * LANES, LANES, "f32"))
        store(scores, t, add(sums, nothing))
