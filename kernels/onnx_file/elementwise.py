"""Operators that take numbers one by one: arithmetic, comparisons, activations, sums over axes.

>>> ELEMENTWISE["Sigmoid"].compute(call)
[array([0.5])]

Source of each formula: onnx/docs/Operators.md, for contrib operators onnxruntime/docs/ContribOperators.md.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import reduce
from math import erf, pi, sqrt
from typing import Any

import numpy as np

from membound.kernels.onnx_file.numbers import Array
from membound.kernels.onnx_file.operators import F64, Call, Compute, Operator, widened

_ERF = np.vectorize(erf, otypes=[np.float64])


def _pair(function: Callable[[Array, Array], Any]) -> Compute:
    """Of two inputs: float64 if one of them is real, their own type if both are whole numbers."""
    return lambda call: [np.asarray(function(*_alike(call.get(0), call.get(1))))]


def _alike(a: Array, b: Array) -> tuple[Array, Array]:
    if "f" in (a.dtype.kind, b.dtype.kind):
        return widened(a), widened(b)
    return a, b


def _one(function: Callable[[F64], Any]) -> Compute:
    return lambda call: [np.asarray(function(call.wide(0)), np.float64)]


def _kept(function: Callable[[Array], Any]) -> Compute:
    """Of one input that keeps its type where that is of whole numbers."""
    return lambda call: [np.asarray(function(_wide_if_real(call.get(0))))]


def _wide_if_real(value: Array) -> Array:
    return widened(value) if value.dtype.kind == "f" else value


def _many(function: Callable[[Array, Array], Any]) -> Compute:
    def compute(call: Call) -> list[Array]:
        values = [_wide_if_real(call.get(i)) for i in range(len(call.inputs))]
        return [np.asarray(reduce(function, values))]

    return compute


def _divided(a: Array, b: Array) -> Any:
    if a.dtype.kind == "f":
        return a / b
    quotient = np.abs(a) // np.maximum(np.abs(b), 1)  # whole numbers are cut towards zero
    return (np.sign(a) * np.sign(b) * quotient).astype(a.dtype)


def _modulo(call: Call) -> list[Array]:
    a, b = _alike(call.get(0), call.get(1))
    return [np.asarray((np.fmod if call.whole("fmod", 0) else np.mod)(a, b))]


def _clip(call: Call) -> list[Array]:
    value = _wide_if_real(call.get(0))
    low = call.get(1) if call.has(1) else call.node.attributes.get("min", -np.inf)
    high = call.get(2) if call.has(2) else call.node.attributes.get("max", np.inf)
    return [np.asarray(np.minimum(np.maximum(value, low), high)).astype(value.dtype)]


def silu(x: F64, alpha: float = 1.0) -> F64:
    """x · sigmoid(alpha · x)."""
    y: F64 = x * _sigmoid(alpha * x)
    return y


def _sigmoid(x: F64) -> F64:
    y: F64 = (1 + np.tanh(x / 2)) / 2  # no exponent overflows
    return y


def gelu(x: F64, approximate: str = "none") -> F64:
    """GELU (arXiv 1606.08415): with the error function, or its tanh approximation."""
    if approximate == "tanh":
        y: F64 = x * (1 + np.tanh(sqrt(2 / pi) * (x + 0.044715 * x**3))) / 2
        return y
    exact: F64 = x * (1 + _ERF(x / sqrt(2))) / 2
    return exact


def _fast_gelu(call: Call) -> list[Array]:
    x = call.wide(0) + (call.wide(1) if call.has(1) else 0)
    return [gelu(x, "tanh")]


def _swish(call: Call) -> list[Array]:
    return [silu(call.wide(0), call.attribute("alpha", 1.0))]


def _quick_gelu(call: Call) -> list[Array]:
    return [silu(call.wide(0), call.attribute("alpha", 1.702))]


def softmax(x: F64, axis: int = -1) -> F64:
    """exp(x) over its sum; rows of minus infinity give zeros."""
    top = x.max(axis, keepdims=True)
    powers = np.exp(x - np.where(np.isfinite(top), top, 0))
    total = powers.sum(axis, keepdims=True)
    y: F64 = powers / np.where(total > 0, total, 1)
    return y


def _softmax(call: Call) -> list[Array]:
    return [softmax(call.wide(0), call.whole("axis", -1))]


def _log_softmax(call: Call) -> list[Array]:
    x, axis = call.wide(0), call.whole("axis", -1)
    low = x - x.max(axis, keepdims=True)
    return [low - np.log(np.exp(low).sum(axis, keepdims=True))]


def _where(call: Call) -> list[Array]:
    a, b = _alike(call.get(1), call.get(2))
    return [np.where(call.get(0), a, b)]


def _summed(call: Call) -> list[Array]:
    x, axis = _wide_if_real(call.get(0)), int(call.need(1))
    if call.whole("reverse", 0):
        x = np.flip(x, axis)
    total = np.cumsum(x, axis, dtype=x.dtype)
    if call.whole("exclusive", 0):
        total = total - x
    return [np.flip(total, axis) if call.whole("reverse", 0) else total]


def _reduction(function: Callable[..., Any]) -> Compute:
    """Over the axes of an attribute or of the second input; over all where there are none, unless that does nothing."""

    def compute(call: Call) -> list[Array]:
        x = _wide_if_real(call.get(0))
        axes = call.need(1).reshape(-1).tolist() if call.has(1) else call.node.attributes.get("axes")
        if not axes and call.whole("noop_with_empty_axes", 0):
            return [x]
        keep = bool(call.whole("keepdims", 1))
        found = np.asarray(function(x, axis=tuple(axes) if axes else None, keepdims=keep))
        return [found.astype(x.dtype) if x.dtype.kind in "iu" else found]

    return compute


def _length(x: Array, **how: Any) -> Any:
    return np.sqrt(np.sum(x * x, **how))


def _squares(x: Array, **how: Any) -> Any:
    return np.sum(x * x, **how)


def _gelu(call: Call) -> list[Array]:
    return [gelu(call.wide(0), call.attribute("approximate", "none"))]


def _bias_gelu(call: Call) -> list[Array]:
    return [gelu(call.wide(0) + call.wide(1))]


def _leaky(call: Call) -> list[Array]:
    x = call.wide(0)
    return [np.where(x < 0, call.attribute("alpha", 0.01) * x, x)]


_OPERATORS: dict[str, Operator] = {
    "Abs": Operator(_kept(np.abs)),
    "Add": Operator(_pair(np.add)),
    "And": Operator(_pair(np.logical_and)),
    "BiasGelu": Operator(_bias_gelu),
    "Ceil": Operator(_one(np.ceil)),
    "Clip": Operator(_clip),
    "Cos": Operator(_one(np.cos)),
    "CumSum": Operator(_summed),
    "Div": Operator(_pair(_divided)),
    "Equal": Operator(_pair(np.equal)),
    "Erf": Operator(_one(_ERF)),
    "Exp": Operator(_one(np.exp)),
    "FastGelu": Operator(_fast_gelu),
    "Floor": Operator(_one(np.floor)),
    "Gelu": Operator(_gelu),
    "Greater": Operator(_pair(np.greater)),
    "GreaterOrEqual": Operator(_pair(np.greater_equal)),
    "IsInf": Operator(lambda call: [np.isinf(call.wide(0))]),
    "IsNaN": Operator(lambda call: [np.isnan(call.wide(0))]),
    "LeakyRelu": Operator(_leaky),
    "Less": Operator(_pair(np.less)),
    "LessOrEqual": Operator(_pair(np.less_equal)),
    "Log": Operator(_one(np.log)),
    "LogSoftmax": Operator(_log_softmax),
    "Max": Operator(_many(np.maximum)),
    "Mean": Operator(
        lambda call: [np.asarray(sum(call.wide(i) for i in range(len(call.inputs))) / len(call.inputs))]
    ),
    "Min": Operator(_many(np.minimum)),
    "Mod": Operator(_modulo),
    "Mul": Operator(_pair(np.multiply)),
    "Neg": Operator(_kept(np.negative)),
    "Not": Operator(_kept(np.logical_not)),
    "Or": Operator(_pair(np.logical_or)),
    "Pow": Operator(
        lambda call: [np.power(call.wide(0), call.wide(1)).astype(_wide_if_real(call.get(0)).dtype)]
    ),
    "QuickGelu": Operator(_quick_gelu),
    "Reciprocal": Operator(_one(np.reciprocal)),
    "ReduceL2": Operator(_reduction(_length)),
    "ReduceMax": Operator(_reduction(np.max)),
    "ReduceMean": Operator(_reduction(np.mean)),
    "ReduceMin": Operator(_reduction(np.min)),
    "ReduceProd": Operator(_reduction(np.prod)),
    "ReduceSum": Operator(_reduction(np.sum)),
    "ReduceSumSquare": Operator(_reduction(_squares)),
    "Relu": Operator(_kept(lambda x: np.maximum(x, 0))),
    "Round": Operator(_one(np.rint)),
    "Sigmoid": Operator(_one(_sigmoid)),
    "Sign": Operator(_kept(np.sign)),
    "Sin": Operator(_one(np.sin)),
    "Softmax": Operator(_softmax),
    "Softplus": Operator(_one(lambda x: np.logaddexp(x, 0))),
    "Sqrt": Operator(_one(np.sqrt)),
    "Sub": Operator(_pair(np.subtract)),
    "Sum": Operator(_many(np.add)),
    "Swish": Operator(_swish),
    "Tan": Operator(_one(np.tan)),
    "Tanh": Operator(_one(np.tanh)),
    "Where": Operator(_where),
    "Xor": Operator(_pair(np.logical_xor)),
}
ELEMENTWISE = {
    name: replace(one, pointwise=not name.startswith(("Reduce", "CumSum")))
    for name, one in _OPERATORS.items()
}
