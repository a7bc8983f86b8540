"""What a decode step does between its matrices, on CUDA: norms, RoPE with the cache append, gated activations.

    launch(norm_kernel(), rows, (x, gain, y, columns, eps))
    launch(activation_kernel(gated=True), (blocks, rows), (gate_and_up, y, columns))

Arrays are float32, row-major and flat. These kernels move less than a hundredth of a step's bytes; what
counts is that they are few. The reference is membound.kernels.reference.
"""

from __future__ import annotations

from functools import cache
from math import log, pi, sqrt
from typing import Any

import numpy as np

from membound.kernels.cuda import ptx
from membound.kernels.cuda.compile import WARP, Kernel, cuda, device

NORM_THREADS = 256
ACTIVATION_THREADS = 128
ALL_LANES = 0xFFFFFFFF
_LOG2_E = np.float32(1 / log(2))
_GELU = np.float32(2 * sqrt(2 / pi))
_GELU_CUBIC = np.float32(0.044715)


@device
def warp_sum(value: Any) -> Any:
    """The sum over a warp, the same in every lane."""
    distance = WARP // 2
    while distance > 0:
        value += cuda.shfl_xor_sync(ALL_LANES, value, distance)
        distance //= 2
    return value


@device
def warp_max(value: Any) -> Any:
    """The largest of a warp, the same in every lane."""
    distance = WARP // 2
    while distance > 0:
        value = max(value, cuda.shfl_xor_sync(ALL_LANES, value, distance))
        distance //= 2
    return value


@cache
def copy_kernel() -> Kernel:
    """target = source, `count` numbers: a step starts from its input each time. Grid: one block a NORM_THREADS."""

    def copy(source: Any, target: Any, count: Any) -> None:
        i = cuda.blockIdx.x * NORM_THREADS + cuda.threadIdx.x
        if i < count:
            target[i] = source[i]

    return Kernel("copy_floats", copy, ("f32*", "f32*", "i32"), NORM_THREADS)


@cache
def norm_kernel() -> Kernel:
    """y = x / sqrt(mean(x²) + eps) · gain, a row a block (RMSNorm, arXiv 1910.07467).

    Arguments: x and y [rows, columns], gain [columns], columns (a multiple of 4), eps.
    """
    WARPS, STEP = NORM_THREADS // WARP, 4 * NORM_THREADS

    def norm(x: Any, gain: Any, y: Any, columns: Any, eps: Any) -> None:
        parts = cuda.shared.array(WARPS, np.float32)
        row = np.int64(cuda.blockIdx.x) * columns
        squares = np.float32(0)
        i = 4 * cuda.threadIdx.x
        while i < columns:
            a, b, c, d = _four(x, row + i)
            squares += (a * a + b * b) + (c * c + d * d)
            i += STEP
        squares = warp_sum(squares)
        if cuda.threadIdx.x % WARP == 0:
            parts[cuda.threadIdx.x // WARP] = squares
        cuda.syncthreads()
        total = np.float32(0)
        for warp in range(WARPS):
            total += parts[warp]
        scale = ptx.rsqrt_fast(total / np.float32(columns) + eps)
        i = 4 * cuda.threadIdx.x
        while i < columns:
            a, b, c, d = _four(x, row + i)
            e, f, g, h = _four(gain, np.int64(i))
            _store(y, row + i, a * scale * e, b * scale * f, c * scale * g, d * scale * h)
            i += STEP

    return Kernel("rms_norm", norm, ("f32*", "f32*", "f32*", "i32", "f32"), NORM_THREADS)


@cache
def activation_kernel(gated: bool) -> Kernel:
    """y = silu(gate) · up from rows of [gate, up]; or gelu(up), its tanh form, from rows of up.

    Arguments: x [rows, 2·columns or columns], y [rows, columns], columns (a multiple of 4). Grid:
    `activation_grid`.
    """

    def gate(x: Any, y: Any, columns: Any) -> None:
        row = np.int64(cuda.blockIdx.y) * columns
        i = 4 * (cuda.blockIdx.x * ACTIVATION_THREADS + cuda.threadIdx.x)
        if i < columns:
            a, b, c, d = _four(x, 2 * row + i)
            e, f, g, h = _four(x, 2 * row + columns + i)
            _store(y, row + i, silu(a) * e, silu(b) * f, silu(c) * g, silu(d) * h)

    def plain(x: Any, y: Any, columns: Any) -> None:
        row = np.int64(cuda.blockIdx.y) * columns
        i = 4 * (cuda.blockIdx.x * ACTIVATION_THREADS + cuda.threadIdx.x)
        if i < columns:
            a, b, c, d = _four(x, row + i)
            _store(y, row + i, gelu(a), gelu(b), gelu(c), gelu(d))

    name, function = ("silu_times", gate) if gated else ("gelu", plain)
    return Kernel(name, function, ("f32*", "f32*", "i32"), ACTIVATION_THREADS)


def activation_grid(rows: int, columns: int) -> tuple[int, int]:
    """Blocks of `activation_kernel`."""
    return -(-columns // (4 * ACTIVATION_THREADS)), rows


@device
def _four(memory: Any, index: Any) -> Any:
    """Four float32 that another kernel wrote."""
    a, b, c, d = ptx.load4_coherent(memory, index)
    return ptx.as_f32(a), ptx.as_f32(b), ptx.as_f32(c), ptx.as_f32(d)


@device
def _store(memory: Any, index: Any, a: Any, b: Any, c: Any, d: Any) -> None:
    ptx.store4(memory, index, ptx.as_u32(a), ptx.as_u32(b), ptx.as_u32(c), ptx.as_u32(d))


@device
def _gate(x: Any, z: Any) -> Any:
    """x · sigmoid(z); 2^(-z) beyond float32 is infinite, and the quotient 0."""
    return x / (np.float32(1) + ptx.exp2_fast(-z * _LOG2_E))


@device
def silu(x: Any) -> Any:
    """x · sigmoid(x)."""
    return _gate(x, x)


@device
def gelu(x: Any) -> Any:
    """x · sigmoid of √(8/π) · (x + 0.0447 x³): (1 + tanh z) / 2 is sigmoid(2z) (arXiv 1606.08415)."""
    return _gate(x, _GELU * (x + _GELU_CUBIC * x * x * x))
