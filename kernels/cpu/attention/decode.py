"""softmax(q · Kᵀ / sqrt(dim)) · V for one query token a sequence, compiled: MHA, GQA and MQA, every cache.

    g = grouping(kv, group, dim)                          # which kernel
    attend(g.kv, g.heads, g.method, q, …, threads)        # from compiled code, the first three literal
    attention_kernel(g.kv, g.heads, g.method)             # one DecodeAttention, cached on disk

The cache is read as it lies: row-major [batch, kv_heads, capacity, dim], float32, the bits of bfloat16 or
float16, or int8 with a float32 scale a row, so that a new token is one row to write. A thread gets an equal
share of all (sequence, KV head, token) rows, in order. It walks a KV head's part of it in blocks: scores
(scores.py), online softmax (softmax.py), weighted values (values.py). Where a share ends within a KV head,
the parts are merged afterwards, as in Flash-Decoding (https://crfm.stanford.edu/2023/10/12/flashdecoding.html).
"""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt
from numba import prange
from numba.extending import overload

from membound.kernels.cpu.attention.scores import HIDDEN, chunks_of, make_prepare, make_scores, padded_width
from membound.kernels.cpu.attention.softcap import LOG2_E, cap_scores
from membound.kernels.cpu.attention.softmax import make_softmax
from membound.kernels.cpu.attention.values import make_values
from membound.kernels.cpu.compile import kernel
from membound.kernels.cpu.linked import LINKED, linked
from membound.kernels.cpu.matmul.grouping import Grouping
from membound.kernels.cpu.matmul.parts import make_finish, make_merge, part_size
from membound.kernels.cpu.simd.features import LANES
from membound.kernels.cpu.simd.ir import literal_value
from membound.kernels.cpu.simd.lines import aligned_floats
from membound.kernels.weights.formats import F32, KVCache


def flat_cache(cache: KVCache) -> tuple[npt.NDArray[Any], npt.NDArray[Any], F32, F32]:
    """k, v, k_scales and v_scales as `attend` takes them; where there are no scales, one that nobody reads.

    float16 goes as its bits: Numba has no such arrays on CPUs.
    """
    none = np.ones(1, np.float32)
    k, v = cache.k.reshape(-1), cache.v.reshape(-1)
    if cache.format == "f16":
        k, v = k.view(np.uint16), v.view(np.uint16)
    k_scales, v_scales = (none if a is None else a.reshape(-1) for a in (cache.k_scales, cache.v_scales))
    return k, v, k_scales, v_scales


def attend(
    KV: str, HEADS: int, METHOD: str, q: Any, q_at: int, q_stride: int,
    k: Any, v: Any, k_scales: Any, v_scales: Any, at: int, scales_at: int, capacity: int,
    context: int, batch: int, kv_heads: int, group: int, dim: int, softcap: float, sinks: Any, sinks_at: int,
    out: Any, out_at: int, out_stride: int, threads: int,
) -> None:  # fmt: skip
    """Decode attention over the first `context` of `capacity` tokens; all arrays flat. A window begins at its `at`.

    HEADS, METHOD: literals from `grouping(KV, group, dim)`; group: query heads a KV head. softcap: what bounds scores, or 0.
    sinks: a logit a query head, float32 from `sinks_at` on, that takes its share of the weights and has no value; or empty.
    q, out: float32; sequence b's heads [kv_heads·group, dim] from q_at + b·q_stride (out_at + b·out_stride)
    on. k, v: [batch, kv_heads, capacity, dim] from element `at` on, float32, uint16 (bf16, f16) or int8;
    k_scales, v_scales: float32 [batch, kv_heads, capacity] from `scales_at` on for int8, else anything flat.
    """
    raise TypeError("attend is for compiled code")


@overload(attend, prefer_literal=True, jit_options=LINKED)
def _attend_in_kernels(
    KV: Any, HEADS: Any, METHOD: Any, q: Any, q_at: Any, q_stride: Any,
    k: Any, v: Any, k_scales: Any, v_scales: Any, at: Any, scales_at: Any, capacity: Any,
    context: Any, batch: Any, kv_heads: Any, group: Any, dim: Any, softcap: Any, sinks: Any, sinks_at: Any,
    out: Any, out_at: Any, out_stride: Any, threads: Any,
) -> Any:  # fmt: skip
    values = [literal_value(x) for x in (KV, HEADS, METHOD)]
    if None in values:
        return None
    inner = _attend(Grouping(*values))

    def implementation(
        KV: Any, HEADS: Any, METHOD: Any, q: Any, q_at: Any, q_stride: Any,
        k: Any, v: Any, k_scales: Any, v_scales: Any, at: Any, scales_at: Any, capacity: Any,
        context: Any, batch: Any, kv_heads: Any, group: Any, dim: Any, softcap: Any, sinks: Any, sinks_at: Any,
        out: Any, out_at: Any, out_stride: Any, threads: Any,
    ) -> None:  # fmt: skip
        inner(
            q, q_at, q_stride, k, v, k_scales, v_scales, at, scales_at, capacity,
            context, batch, kv_heads, group, dim, softcap, sinks, sinks_at, out, out_at, out_stride, threads,
        )  # fmt: skip

    return implementation


@cache
def attention_kernel(KV: str, HEADS: int, METHOD: str) -> Any:
    """One DecodeAttention for a `Grouping`, cached on disk.

    run(q, k, v, k_scales, v_scales, out, batch, kv_heads, group, dim, context, capacity, threads), arrays
    flat as for `attend`, q and out dense.
    """

    @kernel()
    def run(
        q: Any, k: Any, v: Any, k_scales: Any, v_scales: Any, out: Any,
        batch: Any, kv_heads: Any, group: Any, dim: Any, context: Any, capacity: Any, threads: Any,
    ) -> None:  # fmt: skip
        width, none = kv_heads * group * dim, np.empty(0, np.float32)
        attend(
            KV, HEADS, METHOD, q, 0, width, k, v, k_scales, v_scales, 0, 0, capacity,
            context, batch, kv_heads, group, dim, 0.0, none, 0, out, 0, width, threads,
        )  # fmt: skip

    return run


@cache
def _attend(g: Grouping) -> Any:
    return make_attend(g, make_scores(g), make_values(g))


def make_attend(g: Grouping, score: Any, add_values: Any) -> Any:
    """Every thread its share of the rows, then what was split is merged; takes what `attend` does from q on."""
    walk, merge = _make_walk(g, score, add_values), make_merge(g)
    HEADS = g.heads

    @linked(parallel=True)
    def run(
        q: Any, q_at: Any, q_stride: Any, k: Any, v: Any, k_scales: Any, v_scales: Any,
        at: Any, scales_at: Any, capacity: Any, context: Any, batch: Any, kv_heads: Any, group: Any, dim: Any,
        softcap: Any, sinks: Any, sinks_at: Any, out: Any, out_at: Any, out_stride: Any, threads: Any,
    ) -> None:  # fmt: skip
        units = batch * kv_heads
        parts = np.empty(2 * threads * part_size(group, HEADS, dim), np.float32)
        for thread in prange(threads):  # unsigned in the loop's body: `walk` would be compiled for both
            walk(
                q, q_at, q_stride, k, v, k_scales, v_scales, at, scales_at, capacity, context, units, kv_heads, group,
                dim, softcap, sinks, sinks_at, out, out_at, out_stride, parts, np.intp(thread), threads,
            )  # fmt: skip
        if units % threads:
            for thread in prange(threads):
                for unit in range(thread * units // threads, (thread + 1) * units // threads):
                    merge(parts, unit, units, kv_heads, group, dim, context, out, out_at, out_stride, threads)

    return run


def _make_walk(g: Grouping, score: Any, add_values: Any) -> Any:
    """One thread's share: a run of rows over all KV heads, cut where a KV head ends."""
    prepare, attend_part, finish = make_prepare(g), _make_part(g, score, add_values), make_finish(g)
    workspace, empty = _make_workspace(g), _make_empty(g)

    @linked
    def walk(
        q: Any, q_at: Any, q_stride: Any, k: Any, v: Any, k_scales: Any, v_scales: Any,
        at: Any, scales_at: Any, capacity: Any, context: Any, units: Any, kv_heads: Any, group: Any, dim: Any,
        softcap: Any, sinks: Any, sinks_at: Any,
        out: Any, out_at: Any, out_stride: Any, parts: Any, thread: Any, threads: Any,
    ) -> None:  # fmt: skip
        query, factors, scores, worth, part = workspace(group, dim)
        first, final = thread * units * context // threads, (thread + 1) * units * context // threads
        while first < final:
            unit = first // context
            begin = first - unit * context
            tokens = min(context - begin, final - first)
            b, h = unit // kv_heads, unit % kv_heads
            prepare(q, q_at + b * q_stride + h * group * dim, group, dim, query, factors)
            row = unit * capacity + begin
            empty(part, group, sinks, sinks_at + h * group, begin == 0)
            attend_part(
                query, factors, k, v, k_scales, v_scales, at + row * dim, scales_at + row, group, dim, tokens,
                softcap, scores, worth, part,
            )  # fmt: skip
            if tokens == context:
                finish(part, group, dim, out, out_at + b * out_stride + h * group * dim)
            else:
                slot = 2 * thread + (begin == 0)
                for i in range(part.size):
                    parts[slot * part.size + i] = part[i]
            first += tokens

    return walk


def _make_workspace(g: Grouping) -> Any:
    """workspace(group, dim): a thread's arrays: query, factors, scores, worth, part."""
    HEADS, BLOCK = g.heads, g.block

    @linked
    def workspace(group: Any, dim: Any) -> Any:
        flat = chunks_of(group, HEADS) * LANES
        part = aligned_floats(part_size(group, HEADS, dim))
        return (
            aligned_floats(part.size),
            aligned_floats(flat),
            aligned_floats(BLOCK * flat),
            aligned_floats(flat),
            part,
        )

    return workspace


def _make_empty(g: Grouping) -> Any:
    """empty(part, group, sinks, sinks_at, first): a part before its tokens; the first of a KV head holds the sinks, if any."""
    HEADS, ROWS = g.heads, g.rows

    @linked
    def empty(part: Any, group: Any, sinks: Any, sinks_at: Any, first: Any) -> None:
        flat = chunks_of(group, HEADS) * LANES
        for i in range(part.size):
            part[i] = HIDDEN if i < flat else np.float32(0)
        if sinks.size == 0 or not first:
            return
        for h in range(group):
            place = h // HEADS * LANES + h % HEADS
            for r in range(ROWS):
                part[place + r * HEADS] = sinks[sinks_at + h] * LOG2_E
            part[flat + place] = np.float32(1)

    return empty


def _make_part(g: Grouping, score: Any, add_values: Any) -> Any:
    """Blocks of scores, softmax and values over `tokens` rows: adds them to a part (see parts.py)."""
    update = make_softmax(g)
    HEADS, ROWS, BLOCK = g.heads, g.rows, g.block

    @linked
    def attend_part(
        query: Any, factors: Any, k: Any, v: Any, k_scales: Any, v_scales: Any,
        at: Any, scales_at: Any, group: Any, dim: Any, tokens: Any,
        softcap: Any, scores: Any, worth: Any, part: Any,
    ) -> None:  # fmt: skip
        chunks = chunks_of(group, HEADS)
        flat = chunks * LANES
        peaks, totals, sums = part[:flat], part[flat : 2 * flat], part[2 * flat :]
        stride, last, width = (tokens + ROWS - 1) // ROWS, tokens - 1, padded_width(dim)
        for begin in range(0, stride, BLOCK):
            end = min(stride, begin + BLOCK)
            score(query, factors, k, k_scales, at, scales_at, group, dim, begin, end, stride, last, scores)
            if softcap > 0:
                cap_scores(scores, (end - begin) * chunks, np.float32(softcap) * LOG2_E)
            update(scores, end - begin, chunks, width, peaks, totals, sums)
            add_values(
                scores,
                v,
                v_scales,
                at,
                scales_at,
                chunks,
                dim,
                begin,
                end,
                stride,
                last,
                sums,
                worth,
            )

    return attend_part
