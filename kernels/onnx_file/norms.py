"""Norms, alone and fused with the residual: every tensor that they take is read whole.

>>> NORMS["SimplifiedLayerNormalization"].compute(call)

Sources: onnx/docs/Operators.md; onnxruntime/docs/ContribOperators.md for the fused ones, whose fourth output is the sum.
"""

from __future__ import annotations

import numpy as np

from membound.kernels.onnx_file.numbers import Array
from membound.kernels.onnx_file.operators import F64, Call, Operator


def _rms(x: F64, gain: F64, eps: float, axes: tuple[int, ...] = (-1,)) -> F64:
    """x / sqrt(mean(x²) + eps) · gain."""
    y: F64 = x / np.sqrt(np.mean(x * x, axes, keepdims=True) + eps) * gain
    return y


def _centred(x: F64, axes: tuple[int, ...] = (-1,)) -> F64:
    y: F64 = x - x.mean(axes, keepdims=True)
    return y


def _axes(call: Call, x: F64) -> tuple[int, ...]:
    return tuple(range(call.whole("axis", -1) % x.ndim, x.ndim))


def _rms_norm(call: Call) -> list[Array]:
    x = call.wide(0)
    return [_rms(x, call.wide(1), call.attribute("epsilon", 1e-5), _axes(call, x))]


def _layer_norm(call: Call) -> list[Array]:
    x = call.wide(0)
    axes = _axes(call, x)
    y = _rms(_centred(x, axes), call.wide(1), call.attribute("epsilon", 1e-5), axes)
    return [y + call.wide(2) if call.has(2) else y]


def _skip_rms(call: Call) -> list[Array | None]:
    total = call.wide(0) + call.wide(1) + (call.wide(3) if call.has(3) else 0)
    return [_rms(total, call.wide(2), call.attribute("epsilon", 1e-12)), None, None, total]


def _skip_layer(call: Call) -> list[Array | None]:
    total = call.wide(0) + call.wide(1) + (call.wide(4) if call.has(4) else 0)
    y = _rms(_centred(total), call.wide(2), call.attribute("epsilon", 1e-12))
    return [y + call.wide(3) if call.has(3) else y, None, None, total]


def _lengths(call: Call) -> list[Array]:
    """LpNormalization: the vectors along an axis over their lengths."""
    x, axis, power = call.wide(0), call.whole("axis", -1), call.whole("p", 2)
    size = np.abs(x).sum(axis, keepdims=True) if power == 1 else np.sqrt((x * x).sum(axis, keepdims=True))
    return [x / np.where(size > 0, size, 1)]


NORMS: dict[str, Operator] = {
    "LayerNormalization": Operator(_layer_norm),
    "LpNormalization": Operator(_lengths),
    "RMSNormalization": Operator(_rms_norm),
    "SimplifiedLayerNormalization": Operator(_rms_norm),
    "SkipLayerNormalization": Operator(_skip_layer),
    "SkipSimplifiedLayerNormalization": Operator(_skip_rms),
}
