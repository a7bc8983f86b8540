"""A whole decode step in one compiled call: no Python between its operations.

    run = step_kernel("int8", "int8", 1, "bf16", HEADS, METHOD)
    run(x, arena, starts, gains, caches, buffers, sizes)       # logits in buffers.logits

packed_model.py makes the arguments. The layer loop reads as a decoder is drawn.
"""

from __future__ import annotations

from functools import cache
from typing import Any, NamedTuple

import numba
import numpy as np
import numpy.typing as npt
from numba import prange

from membound.kernels.cpu.attention.decode import attend
from membound.kernels.cpu.compile import kernel
from membound.kernels.cpu.matmul.activations import FEW_ROWS
from membound.kernels.cpu.matmul.linear import multiply, prepare
from membound.kernels.cpu.matmul.pack import Bytes
from membound.kernels.cpu.matmul.recipe import choose
from membound.kernels.cpu.step.elementwise import activate, rms_norm, rope, store_row
from membound.kernels.weights.formats import F32


class Gains(NamedTuple):
    """Small float32 weights, a row a layer; a width of 0 where the model has none."""

    attention_norm: F32
    mlp_norm: F32
    bias: F32
    q_norm: F32
    k_norm: F32
    final_norm: F32
    cosines: F32
    sines: F32


class Caches(NamedTuple):
    """Keys and values, flat [layers, batch, kv_heads, capacity, head_dim], as `flat_cache` makes them; scales without the last axis."""

    k: npt.NDArray[np.generic]
    v: npt.NDArray[np.generic]
    k_scales: F32
    v_scales: F32


class Buffers(NamedTuple):
    """What flows between the operations, flat float32; `scratch` holds prepared activations."""

    x: F32
    normed: F32
    heads: F32
    attention: F32
    wide: F32
    hidden: F32
    narrow: F32
    logits: F32
    scratch: Bytes


class Sizes(NamedTuple):
    """The model's shape as numbers."""

    hidden: int
    layers: int
    kv_heads: int
    group: int
    dim: int
    intermediate: int
    vocab: int
    gated: bool
    context: int
    capacity: int
    eps: float
    threads: int


@cache
def step_kernel(FMT: str, ACT: str, M: int, KV: str, HEADS: int, METHOD: str) -> Any:
    """The compiled step for M sequences, cached on disk; HEADS and METHOD as `attend` takes them.

    run(x [M·hidden], arena, starts, gains, caches, buffers, sizes): matrix i of the arena begins at byte
    starts[i]; four a layer (QKV, output, gate and up, down), then the LM head.
    """
    ROWS = choose(FMT, ACT, M).panel_rows

    @kernel()
    def run(x: Any, arena: Any, starts: Any, gains: Any, caches: Any, b: Any, s: Any) -> None:
        b.x[:] = x
        q_width = s.kv_heads * s.group * s.dim
        qkv = q_width + 2 * s.kv_heads * s.dim
        wide = (2 if s.gated else 1) * s.intermediate
        head_stride = (qkv + ROWS - 1) // ROWS * ROWS
        wide_stride = (wide + ROWS - 1) // ROWS * ROWS
        stride = (s.hidden + ROWS - 1) // ROWS * ROWS
        cache_rows = M * s.kv_heads * s.capacity
        for layer in range(s.layers):
            at = starts[4 * layer :]
            _norm(M, b.x, gains.attention_norm[layer], s.eps, b.normed)
            prepare(FMT, ACT, M, b.normed, 0, s.hidden, s.hidden, b.scratch)
            multiply(FMT, ACT, M, arena, at[0], qkv, s.hidden, b.scratch, b.heads, s.threads)
            _new_heads(KV, M, b.heads, head_stride, layer, gains, caches, s)
            attend(
                KV, HEADS, METHOD, b.heads, 0, head_stride,
                caches.k, caches.v, caches.k_scales, caches.v_scales,
                layer * cache_rows * s.dim, layer * cache_rows, s.capacity,
                s.context + 1, M, s.kv_heads, s.group, s.dim, b.attention, 0, q_width, s.threads,
            )  # fmt: skip
            prepare(FMT, ACT, M, b.attention, 0, q_width, q_width, b.scratch)
            multiply(FMT, ACT, M, arena, at[1], s.hidden, q_width, b.scratch, b.narrow, s.threads)
            _add(M, b.x, s.hidden, b.narrow, stride)
            _norm(M, b.x, gains.mlp_norm[layer], s.eps, b.normed)
            prepare(FMT, ACT, M, b.normed, 0, s.hidden, s.hidden, b.scratch)
            multiply(FMT, ACT, M, arena, at[2], wide, s.hidden, b.scratch, b.wide, s.threads)
            _activate(M, s.gated, b.wide, wide_stride, s.intermediate, b.hidden)
            prepare(FMT, ACT, M, b.hidden, 0, s.intermediate, s.intermediate, b.scratch)
            multiply(FMT, ACT, M, arena, at[3], s.hidden, s.intermediate, b.scratch, b.narrow, s.threads)
            _add(M, b.x, s.hidden, b.narrow, stride)
        _norm(M, b.x, gains.final_norm, s.eps, b.normed)
        prepare(FMT, ACT, M, b.normed, 0, s.hidden, s.hidden, b.scratch)
        head = starts[4 * s.layers]
        multiply(FMT, ACT, M, arena, head, s.vocab, s.hidden, b.scratch, b.logits, s.threads)

    return run


# Rows one after the other while they are few, else in parallel


@numba.njit
def _norm(M: Any, x: Any, gain: Any, eps: Any, out: Any) -> None:
    for row in range(M):
        part = slice(row * gain.size, (row + 1) * gain.size)
        rms_norm(x[part], gain, np.float32(eps), out[part])


@numba.njit
def _add(M: Any, x: Any, width: Any, y: Any, stride: Any) -> None:
    for row in range(M):
        into, from_ = x[row * width :][:width], y[row * stride :][:width]
        for i in range(width):
            into[i] += from_[i]


@numba.njit
def _activate(M: Any, gated: Any, y: Any, stride: Any, width: Any, out: Any) -> None:
    if M <= FEW_ROWS:
        for row in range(M):
            activate(gated, y, row * stride, width, out[row * width :][:width])
    else:
        _activate_parallel(M, gated, y, stride, width, out)


@numba.njit(parallel=True)
def _activate_parallel(M: Any, gated: Any, y: Any, stride: Any, width: Any, out: Any) -> None:
    for row in prange(M):
        activate(gated, y, row * stride, width, out[row * width :][:width])


@numba.njit
def _new_heads(KV: Any, M: Any, heads: Any, stride: Any, layer: Any, gains: Any, caches: Any, s: Any) -> None:
    """Every sequence's new heads: bias, head norm, RoPE, then key and value into the cache."""
    dim = s.dim
    q_heads = s.kv_heads * s.group
    biased, normed = gains.bias.shape[1] > 0, gains.q_norm.shape[1] > 0
    for row in range(M):
        line = heads[row * stride :][: (q_heads + 2 * s.kv_heads) * dim]
        if biased:
            bias = gains.bias[layer]
            for i in range(line.size):
                line[i] += bias[i]
        for h in range(q_heads + s.kv_heads):
            head = line[h * dim : (h + 1) * dim]
            if normed:
                gain = gains.q_norm[layer] if h < q_heads else gains.k_norm[layer]
                rms_norm(head, gain, np.float32(s.eps), head)
            rope(head, gains.cosines, gains.sines)
        for h in range(s.kv_heads):
            token = ((layer * M + row) * s.kv_heads + h) * s.capacity + s.context
            key, value = line[(q_heads + h) * dim :][:dim], line[(q_heads + s.kv_heads + h) * dim :][:dim]
            store_row(KV, key, caches.k, token * dim, caches.k_scales, token)
            store_row(KV, value, caches.v, token * dim, caches.v_scales, token)
