"""What a thread knows of a KV head when its share of the tokens ends, and how such parts become the output.

A part is flat float32: peaks [chunks·LANES] (the largest score), totals [chunks·LANES] (sums of weights,
lane by lane), sums [heads, width] (weighted values). Thread t leaves at most two in `parts`: slot 2t for
a KV head that began before its share, slot 2t + 1 for one that ends behind it.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np

from membound.kernels.cpu.attention.columns import make_column
from membound.kernels.cpu.attention.scores import HIDDEN, chunks_of, padded_width
from membound.kernels.cpu.attention.softmax import exp2
from membound.kernels.cpu.linked import linked
from membound.kernels.cpu.matmul.grouping import Grouping
from membound.kernels.cpu.simd.arithmetic import fma, maximum, multiply, subtract
from membound.kernels.cpu.simd.features import LANES
from membound.kernels.cpu.simd.lanes import fold_lanes
from membound.kernels.cpu.simd.loads import load
from membound.kernels.cpu.simd.stores import store


@linked
def part_size(group: Any, heads: Any, dim: Any) -> Any:
    """float32 numbers of a part."""
    chunks = chunks_of(group, heads)
    return chunks * (2 * LANES + heads * padded_width(dim))


@cache
def make_finish(g: Grouping) -> Any:
    """finish(part, group, dim, out, at): sums over totals, in the order of the output; uses up the totals."""
    column = make_column(g)
    HEADS = g.heads

    @linked
    def finish(part: Any, group: Any, dim: Any, out: Any, at: Any) -> None:
        width, chunks = padded_width(dim), chunks_of(group, HEADS)
        flat = chunks * LANES
        for c in range(chunks):
            place = flat + c * LANES
            store(part, place, fold_lanes(load(part, place, "f32"), HEADS, "sum"))
        for h in range(group):
            share = np.float32(1) / part[flat + h // HEADS * LANES + h % HEADS]
            for d in range(dim):
                out[at + h * dim + d] = part[2 * flat + h * width + column(d)] * share

    return finish


@cache
def make_merge(g: Grouping) -> Any:
    """merge(parts, unit, …): the parts of one KV head, if it was split, brought to one peak and added."""
    finish, add_part = make_finish(g), make_add_part(g)
    HEADS = g.heads

    @linked
    def merge(
        parts: Any, unit: Any, units: Any, kv_heads: Any, group: Any, dim: Any, context: Any,
        out: Any, out_at: Any, out_stride: Any, threads: Any,
    ) -> None:  # fmt: skip
        size = part_size(group, HEADS, dim)
        chunks = chunks_of(group, HEADS)
        whole = np.zeros(size, np.float32)
        whole[: chunks * LANES] = HIDDEN
        begin, end, rows = unit * context, (unit + 1) * context, units * context
        for thread in range(threads):
            first, final = max(begin, thread * rows // threads), min(end, (thread + 1) * rows // threads)
            if final - first == context:
                return
            if first < final:
                add_part(whole, parts, (2 * thread + (first == begin)) * size, chunks, padded_width(dim))
        b, h = unit // kv_heads, unit % kv_heads
        finish(whole, group, dim, out, out_at + b * out_stride + h * group * dim)

    return merge


@cache
def make_add_part(g: Grouping) -> Any:
    """add_part(whole, parts, at, chunks, width): a part plus another, both weighted for the larger peak."""
    HEADS = g.heads

    @linked
    def add_part(whole: Any, parts: Any, at: Any, chunks: Any, width: Any) -> None:
        flat = chunks * LANES
        factors = np.empty(2 * LANES, np.float32)
        for c in range(chunks):
            place = c * LANES
            ours, theirs = load(whole, place, "f32"), load(parts, at + place, "f32")
            peak = maximum(ours, theirs)
            store(whole, place, peak)
            ours, theirs = exp2(subtract(ours, peak)), exp2(subtract(theirs, peak))
            total = multiply(load(whole, flat + place, "f32"), ours)
            store(whole, flat + place, fma(load(parts, at + flat + place, "f32"), theirs, total))
            store(factors, 0, ours)
            store(factors, LANES, theirs)
            for h in range(HEADS):
                start = 2 * flat + (c * HEADS + h) * width
                for d in range(start, start + width):
                    whole[d] = whole[d] * factors[h] + parts[at + d] * factors[LANES + h]

    return add_part
