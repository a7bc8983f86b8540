"""What a decode step does between its matmuls: norms, RoPE, cache append, activation functions.

Each function works on one row of flat float32 arrays and is called from compiled code. These touch a few
kilobytes where the matmuls touch megabytes: short loops that LLVM vectorises, except for the exponential.
"""

from __future__ import annotations

from typing import Any

import numba
import numpy as np
from numba.extending import overload

from membound.kernels.cpu.attention.softcap import sigmoid
from membound.kernels.cpu.simd.arithmetic import add, maximum, multiply
from membound.kernels.cpu.simd.features import LANES
from membound.kernels.cpu.simd.ir import literal_value
from membound.kernels.cpu.simd.loads import load, load_part
from membound.kernels.cpu.simd.stores import store, store_bf16, store_f16
from membound.kernels.cpu.simd.vectors import splat

_GELU = np.float32(2 * 0.7978845608028654)  # twice sqrt(2/pi): tanh(u) = 2·sigmoid(2u) − 1
_GELU_CUBE = np.float32(0.044715)


@numba.njit(fastmath=True)
def rms_norm(x: Any, gain: Any, eps: Any, out: Any) -> None:
    """Out = x / sqrt(mean(x²) + eps) · gain; all [width], out may be x."""
    total = np.float32(0)
    for value in x:
        total += value * value
    factor = np.float32(1 / np.sqrt(total / np.float32(x.size) + eps))
    for i in range(x.size):
        out[i] = x[i] * factor * gain[i]


@numba.njit(fastmath=True)
def layer_norm(x: Any, gain: Any, bias: Any, eps: Any, out: Any) -> None:
    """Out = (x − mean) / sqrt(variance + eps) · gain + bias; all [width], out may be x, bias may be empty."""
    total, squares = np.float32(0), np.float32(0)
    for value in x:
        total += value
    mean = total / np.float32(x.size)
    for value in x:
        squares += (value - mean) * (value - mean)
    factor = np.float32(1 / np.sqrt(squares / np.float32(x.size) + eps))
    for i in range(x.size):
        out[i] = (x[i] - mean) * factor * gain[i] + (bias[i] if bias.size else np.float32(0))


@numba.njit
def normalise(x: Any, gain: Any, bias: Any, centred: Any, eps: Any, out: Any) -> None:
    """RMSNorm, or LayerNorm if `centred`; where there is no gain, there is no norm, and out = x."""
    if gain.size == 0:
        for i in range(x.size):
            out[i] = x[i]
    elif centred:
        layer_norm(x, gain, bias, eps, out)
    else:
        rms_norm(x, gain, eps, out)


@numba.njit(fastmath=True)
def rope(x: Any, cosines: Any, sines: Any) -> None:
    """Rotate pairs (i, i + half) of the first columns of one head in place; tables [half]."""
    half = cosines.size
    low, high = x[:half], x[half : 2 * half]
    for i in range(half):
        a, b = low[i], high[i]
        low[i] = a * cosines[i] - b * sines[i]
        high[i] = b * cosines[i] + a * sines[i]


@numba.njit(fastmath=True)
def rope_neighbours(x: Any, cosines: Any, sines: Any) -> None:
    """Rotate pairs (2i, 2i + 1) of the first columns of one head in place; tables [half]."""
    for i in range(cosines.size):
        a, b = x[2 * i], x[2 * i + 1]
        x[2 * i] = a * cosines[i] - b * sines[i]
        x[2 * i + 1] = b * cosines[i] + a * sines[i]


def store_row(KV: str, x: Any, out: Any, at: int, scales: Any, scale_at: int) -> None:
    """One head's key or value [dim] to out[at:] in the cache's format; int8 with scales[scale_at].

    Called from compiled code only, with a literal KV; `out` is float32, uint16 (the bits of bf16 or f16) or int8.
    """
    raise TypeError("store_row is for compiled code")


@overload(store_row, prefer_literal=True)
def _store_row_in_kernels(KV: Any, x: Any, out: Any, at: Any, scales: Any, scale_at: Any) -> Any:
    kv = literal_value(KV)
    if kv is None:
        return None
    if kv in ("bf16", "f16"):
        return _store_words(store_bf16 if kv == "bf16" else store_f16)
    return _store_f32 if kv == "f32" else _store_int8


def _store_f32(KV: Any, x: Any, out: Any, at: Any, scales: Any, scale_at: Any) -> None:
    row = out[at : at + x.size]
    for i in range(x.size):
        row[i] = x[i]


def _store_words(narrow: Any) -> Any:
    """`store_row` in a format of 16 bits, to which `narrow` rounds a vector."""

    def store_words(KV: Any, x: Any, out: Any, at: Any, scales: Any, scale_at: Any) -> None:
        rounded = np.empty(x.size + LANES, np.uint16)
        whole = x.size // LANES * LANES
        for i in range(0, whole, LANES):
            narrow(rounded, i, load(x, i, "f32"))
        if whole < x.size:
            narrow(rounded, whole, load_part(x, whole, x.size - whole, "f32"))
        row = out[at : at + x.size]
        for i in range(x.size):
            row[i] = rounded[i]

    return store_words


def _store_int8(KV: Any, x: Any, out: Any, at: Any, scales: Any, scale_at: Any) -> None:
    largest = np.float32(0)
    for value in x:
        largest = max(largest, abs(value))
    scale = largest / np.float32(127)
    scales[scale_at] = scale
    row = out[at : at + x.size]
    for i in range(x.size):
        row[i] = np.int8(np.rint(x[i] / scale)) if scale > 0 else np.int8(0)


@numba.njit
def _silu_times(gate: Any, up: Any) -> Any:
    return multiply(multiply(gate, sigmoid(gate)), up)


@numba.njit
def _gelu(x: Any) -> Any:
    cube = multiply(multiply(x, x), multiply(x, splat(_GELU_CUBE)))
    return multiply(x, sigmoid(multiply(add(x, cube), splat(_GELU))))


@numba.njit
def _gated(SMOOTH: Any, gate: Any, up: Any) -> Any:
    return multiply(_gelu(gate), up) if SMOOTH else _silu_times(gate, up)


@numba.njit
def _alone(SMOOTH: Any, up: Any) -> Any:
    positive = maximum(up, splat(np.float32(0)))
    return _gelu(up) if SMOOTH else multiply(positive, positive)


@numba.njit
def activate(GATED: Any, SMOOTH: Any, y: Any, at: Any, width: Any, out: Any) -> None:
    """Out [width] = silu(gate) · up of y[at:] = (gate, up), or the square of relu(up) of y[at:] = up; with gelu for both if SMOOTH."""
    whole = width // LANES * LANES
    for i in range(0, whole, LANES):
        if GATED:
            value = _gated(SMOOTH, load(y, at + i, "f32"), load(y, at + width + i, "f32"))
        else:
            value = _alone(SMOOTH, load(y, at + i, "f32"))
        store(out, i, value)
    if whole < width:
        rest = np.empty(LANES, np.float32)
        count = width - whole
        if GATED:
            gate = load_part(y, at + whole, count, "f32")
            store(rest, 0, _gated(SMOOTH, gate, load_part(y, at + width + whole, count, "f32")))
        else:
            store(rest, 0, _alone(SMOOTH, load_part(y, at + whole, count, "f32")))
        for i in range(count):
            out[whole + i] = rest[i]
