"""Mixtures of experts as one operator, of float or of quantised matrices: only the chosen experts are read.

>>> EXPERTS["com.microsoft.QMoE"].compute(call)

Which experts are chosen is only known from the router's numbers, so a walk through shapes stops here (`NumbersNeeded`), and a
walk with numbers counts the distinct ones. Source: onnxruntime/docs/ContribOperators.md (MoE, QMoE).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from membound.kernels.onnx_file.elementwise import gelu, silu
from membound.kernels.onnx_file.numbers import Array
from membound.kernels.onnx_file.operators import F64, Call, Operator, nothing, widened
from membound.kernels.onnx_file.products import ACTIVATION_BYTES, unpacked

ACTIVATIONS: dict[str, Callable[[F64], F64]] = {
    "gelu": gelu,
    "identity": lambda x: x,
    "relu": lambda x: np.maximum(x, 0),
    "silu": silu,
}


@dataclass(frozen=True, slots=True)
class _Places:
    """Which inputs hold what; -1: there is no such input. `weights` and what belongs to each are of FC1, FC2, FC3."""

    weights: tuple[int, int, int]
    biases: tuple[int, int, int]
    scales: tuple[int, int, int] = (-1, -1, -1)
    zeros: tuple[int, int, int] = (-1, -1, -1)
    mixing: int = -1


_FLOAT = _Places((2, 4, 6), (3, 5, 7))
_INTEGER = _Places((2, 5, 8), (4, 7, 10), (3, 6, 9), (11, 12, 13), 14)


def _chosen(call: Call, places: _Places) -> tuple[Array, F64]:
    """Of each token [tokens, k]: its experts, and how they are mixed."""
    scores, count = widened(call.need(1)), call.whole("k", 1)
    if call.whole("use_sparse_mixer", 0):
        raise call.refuse("with a sparse mixer is not supported")
    chosen = np.argsort(-scores, -1, kind="stable")[:, :count]
    if call.has(places.mixing) and places.mixing > 0:
        weights = np.take_along_axis(call.wide(places.mixing), chosen, -1)
    else:
        powers = np.exp(scores - scores.max(-1, keepdims=True))
        weights = np.take_along_axis(powers / powers.sum(-1, keepdims=True), chosen, -1)
    if call.whole("normalize_routing_weights", 0):
        weights = weights / weights.sum(-1, keepdims=True)
    return chosen, weights


def _experts(call: Call, places: _Places, matrix: Callable[[int, int], F64]) -> list[Array]:
    """The mixture; `matrix(layer, expert)` is a matrix [n, k] of FC1, FC2 or FC3, widened."""
    x = call.wide(0)
    rows = x.reshape(-1, x.shape[-1])
    chosen, weights = _chosen(call, places)
    distinct = np.unique(chosen)
    _count(call, places, distinct, chosen.size)
    y = np.zeros_like(rows)
    for expert in distinct.tolist():
        tokens, slots = np.nonzero(chosen == expert)
        hidden = _activated(call, places, matrix, expert, rows[tokens])
        made = hidden @ matrix(1, expert).T + _bias(call, places, 1, expert)
        y[tokens] += weights[tokens, slots][:, None] * made
    return [y.reshape(x.shape)]


def _activated(call: Call, places: _Places, matrix: Callable[[int, int], F64], expert: int, x: F64) -> F64:
    """The hidden units of one expert for its tokens."""
    first = x @ matrix(0, expert).T + _bias(call, places, 0, expert)
    name, fusion = call.attribute("activation_type", "relu"), call.whole("swiglu_fusion", 0)
    third = x @ matrix(2, expert).T + _bias(call, places, 2, expert) if call.has(places.weights[2]) else None
    if name != "swiglu":
        if name not in ACTIVATIONS:
            raise call.refuse(f"with the activation {name:.20} is not supported")
        return ACTIVATIONS[name](first) * (1 if third is None else third)
    if third is not None:
        gate, up = first, third
    elif fusion == 1:
        gate, up = first[:, 0::2], first[:, 1::2]
    else:
        gate, up = np.split(first, 2, -1)
    limit = call.attribute("swiglu_limit", np.inf)
    gate, up = np.minimum(gate, limit), np.clip(up, -limit, limit)
    bent = silu(gate, call.attribute("activation_alpha", 1.0))
    return np.asarray(bent * (up + call.attribute("activation_beta", 0.0)), np.float64)


def _bias(call: Call, places: _Places, layer: int, expert: int) -> F64 | float:
    index = places.biases[layer]
    return widened(call.get(index)[expert]) if call.has(index) else 0.0


def _count(call: Call, places: _Places, distinct: Array, pairs: int) -> None:
    """Of every tensor of experts the share of those that are read; products of each pair of a token and an expert."""
    count = call.get(places.weights[0]).shape[0]
    for index in (*places.weights, *places.biases):
        if call.has(index):
            call.tally.read(call.origins[index], len(distinct) / count)
    for index in (*places.scales, *places.zeros):
        if index > 0 and call.has(index):
            call.tally.read([one.as_scale() for one in call.origins[index]], len(distinct) / count)
    packed = 8 // call.whole("expert_weight_bits", 4) if places.mixing > 0 else 1
    for index in places.weights:
        if call.has(index):
            _, n, k = call.get(index).shape
            k *= packed
            taken, made = pairs * k * ACTIVATION_BYTES, pairs * n * ACTIVATION_BYTES
            call.tally.product(call.origins[index], 2 * pairs * n * k, taken, made)


def _moe(call: Call) -> list[Array]:
    return _experts(call, _FLOAT, lambda layer, expert: widened(call.get(_FLOAT.weights[layer])[expert]))


def _qmoe(call: Call) -> list[Array]:
    if call.attribute("quant_type", "int") != "int" or call.whole("weights_prepacked", -1) == 1:
        raise call.refuse("of other than integers as they are packed on CPUs is not supported")
    bits = call.whole("expert_weight_bits", 4)

    def matrix(layer: int, expert: int) -> F64:
        q = widened(unpacked(call.get(_INTEGER.weights[layer])[expert], bits))
        scales = widened(call.get(_INTEGER.scales[layer])[expert]).reshape(len(q), -1)
        zero: F64 | float = 2.0 ** (bits - 1)
        if call.has(_INTEGER.zeros[layer]):
            points = call.get(_INTEGER.zeros[layer])[expert]
            by_block = unpacked(points, bits) if points.ndim > 1 else unpacked(points, bits)[: len(q), None]
            zero = widened(by_block)[:, : scales.shape[1], None]
        blocks = q.reshape(len(q), scales.shape[1], -1)
        return np.asarray(((blocks - zero) * scales[:, :, None]).reshape(len(q), -1))

    return _experts(call, _INTEGER, matrix)


EXPERTS: dict[str, Operator] = {
    "com.microsoft.MoE": Operator(_moe, nothing),
    "com.microsoft.QMoE": Operator(_qmoe, nothing),
}
