"""Online softmax: scores of a block become weights, and what was summed before is scaled down to match.

    update(scores, count, chunks, width, peaks, totals, sums)

After it, weights = 2^(score − peak) stand in the place of the scores, `peaks` holds the largest score so
far and `totals` the sum of all weights, lane by lane. Milakov and Gimelshein, "Online normalizer
calculation for softmax" (arXiv 1805.02867).
"""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np

from membound.kernels.cpu.linked import linked
from membound.kernels.cpu.matmul.grouping import Grouping
from membound.kernels.cpu.simd.arithmetic import add, fma, maximum, multiply, subtract
from membound.kernels.cpu.simd.conversions import round_i32, scale_by_power_of_two, to_f32
from membound.kernels.cpu.simd.features import LANES
from membound.kernels.cpu.simd.lanes import any_above, fold_lanes
from membound.kernels.cpu.simd.loads import load
from membound.kernels.cpu.simd.stores import store
from membound.kernels.cpu.simd.vectors import splat

_LEAST_EXPONENT = np.float32(-126)
# 2^f on [−1/2, 1/2], relative error below 1e-7: Chebyshev nodes, reweighted least squares, constant fixed at 1.
_C1, _C2, _C3, _C4, _C5 = (
    np.float32(c)
    for c in (
        0.6931469775830685,
        0.24022242074485978,
        0.05550733766437082,
        0.009671513139093231,
        0.0013264720214918636,
    )
)
_ONE = np.float32(1)


@linked
def exp2(x: Any) -> Any:
    """2^x of each lane for x ≤ 0; below 2^−126 it stays there."""
    x = maximum(x, splat(_LEAST_EXPONENT))
    whole = round_i32(x)
    f = subtract(x, to_f32(whole))
    y = fma(splat(_C5), f, splat(_C4))
    y = fma(y, f, splat(_C3))
    y = fma(y, f, splat(_C2))
    y = fma(y, f, splat(_C1))
    y = fma(y, f, splat(_ONE))
    return scale_by_power_of_two(y, whole)


@cache
def make_softmax(g: Grouping) -> Any:
    """update(scores, count, chunks, width, peaks, totals, sums) for `count` steps of scores; sums is [heads, width]."""
    HEADS = g.heads

    @linked
    def raise_peak(c: Any, width: Any, peak: Any, peaks: Any, totals: Any, sums: Any) -> None:
        shrink = exp2(subtract(load(peaks, c * LANES, "f32"), peak))
        store(peaks, c * LANES, shrink)
        for h in range(HEADS):
            factor = splat(peaks[c * LANES + h])
            start = (c * HEADS + h) * width
            for d in range(start, start + width, LANES):
                store(sums, d, multiply(load(sums, d, "f32"), factor))
        store(totals, c * LANES, multiply(load(totals, c * LANES, "f32"), shrink))
        store(peaks, c * LANES, peak)

    @linked
    def update(scores: Any, count: Any, chunks: Any, width: Any, peaks: Any, totals: Any, sums: Any) -> None:
        for c in range(chunks):
            before = load(peaks, c * LANES, "f32")
            peak = before
            for t in range(count):
                peak = maximum(peak, load(scores, (c * count + t) * LANES, "f32"))
            peak = fold_lanes(peak, HEADS, "max")
            if any_above(peak, before):
                raise_peak(c, width, peak, peaks, totals, sums)
            total = load(totals, c * LANES, "f32")
            for t in range(count):
                weight = exp2(subtract(load(scores, (c * count + t) * LANES, "f32"), peak))
                total = add(total, weight)
                store(scores, (c * count + t) * LANES, weight)
            store(totals, c * LANES, total)

    return update
