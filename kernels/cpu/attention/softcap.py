"""cap · tanh(s / cap) of a block of scores or logits, as Gemma 2 bounds them.

cap_scores(scores, vectors, cap)
"""

from __future__ import annotations

from typing import Any

import numpy as np

from membound.kernels.cpu.attention.softmax import exp2
from membound.kernels.cpu.linked import linked
from membound.kernels.cpu.simd.arithmetic import add, divide, maximum, multiply, subtract
from membound.kernels.cpu.simd.features import LANES
from membound.kernels.cpu.simd.loads import load
from membound.kernels.cpu.simd.stores import store
from membound.kernels.cpu.simd.vectors import splat

LOG2_E = np.float32(1.4426950408889634)
_ONE, _TWO, _MINUS = np.float32(1), np.float32(2), np.float32(-1)
_FAR = np.float32(1e29)
"""What is further below zero is no score: it hides a token that is not there, and must stay where it is."""


@linked
def sigmoid(x: Any) -> Any:
    """1 / (1 + e^−x) as e^min(x,0) / (1 + e^−|x|), so that no exponent overflows."""
    zero = splat(np.float32(0))
    minus = multiply(x, splat(_MINUS))
    log2_e = splat(-LOG2_E)
    top = exp2(multiply(maximum(minus, zero), log2_e))
    bottom = add(splat(_ONE), exp2(multiply(maximum(x, minus), log2_e)))
    return divide(top, bottom)


@linked
def cap_scores(scores: Any, vectors: Any, cap: Any) -> None:
    """Bound the first `vectors` of `scores` in place; cap is in their unit."""
    twice, whole, zero = splat(_TWO / cap), splat(cap), splat(np.float32(0))
    for i in range(0, vectors * LANES, LANES):
        score = load(scores, i, "f32")
        tanh = subtract(multiply(splat(_TWO), sigmoid(multiply(score, twice))), splat(_ONE))
        above = maximum(multiply(add(score, splat(_FAR)), splat(_MINUS)), zero)
        store(scores, i, subtract(multiply(whole, tanh), above))
