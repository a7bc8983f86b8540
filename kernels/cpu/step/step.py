"""A whole decode step in one compiled call: no Python between its operations.

    run = step_kernel("int8", "int8", 1, "bf16", HEADS, METHOD)
    run(x, arena, starts, gains, caches, buffers, sizes)       # logits in buffers.logits

packed_model.py makes the arguments. The layer loop reads as a decoder is drawn.
"""

from __future__ import annotations

from functools import cache
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from numba import prange

from membound.kernels.cpu.attention.several import attend_new
from membound.kernels.cpu.attention.softcap import cap_scores
from membound.kernels.cpu.compile import kernel
from membound.kernels.cpu.linked import linked
from membound.kernels.cpu.matmul.activations import FEW_ROWS
from membound.kernels.cpu.matmul.linear import multiply, prepare
from membound.kernels.cpu.matmul.pack import Bytes
from membound.kernels.cpu.matmul.recipe import choose
from membound.kernels.cpu.simd.features import LANES
from membound.kernels.cpu.step.elementwise import (
    activate,
    normalise,
    rms_norm,
    rope,
    rope_neighbours,
    store_row,
)
from membound.kernels.weights.formats import F32


class Norms(NamedTuple):
    """Gains and biases of a norm, a row a layer; a width of 0 where the model has none."""

    gain: F32
    bias: F32


class Gains(NamedTuple):
    """Small float32 weights, a row a layer; a width of 0 where the model has none.

    attention_in, mlp_in: norms of what goes into the halves of a layer; attention_out, mlp_out: of what comes out. bias: of
    q, k, v; up_bias: of gate, up. cosines, sines [layers · turns, pairs], a row a position; scales [layers · turns]: what queries
    are multiplied by; sinks [layers, query heads].
    """

    attention_in: Norms
    attention_out: Norms
    mlp_in: Norms
    mlp_out: Norms
    final: Norms
    bias: F32
    o_bias: F32
    up_bias: F32
    down_bias: F32
    q_norm: F32
    k_norm: F32
    cosines: F32
    sines: F32
    scales: F32
    sinks: F32
    orders: npt.NDArray[np.int32]
    """In which order the columns of a matrix lie, four rows a layer; no rows where all lie in theirs."""


class HeadGains(NamedTuple):
    """Of `Gains`, what the heads of one layer's new tokens take."""

    bias: F32
    q_norm: F32
    k_norm: F32
    cosines: F32
    sines: F32
    scales: F32


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
    ordered: F32
    scratch: Bytes


class Sizes(NamedTuple):
    """The model's shape as numbers.

    queries: new tokens of a sequence, from place `context` on. sequences: those of the caches, of which the rows belong to number
    `sequence` and those behind it. turns: places a layer, each a row of angles; number `turn` is that of the first new token. seen [layers · turns]:
    tokens before it that a token sees, the last ones. keys_are_values: one product makes both. value_norm: values have a norm without a gain. turned_norm [layers]: queries and keys have norms without gains behind RoPE. smooth: the MLP's activation is a GELU. centred: norms are LayerNorm.
    neighbours: RoPE turns (2i, 2i + 1). residual, logit_gain: factors, 1 in most models; softcap, logit_softcap: 0 in most.
    """

    hidden: int
    layers: int
    kv_heads: int
    group: int
    dim: int
    keys_are_values: bool
    value_norm: bool
    intermediate: int
    vocab: int
    gated: bool
    smooth: bool
    centred: bool
    neighbours: bool
    queries: int
    sequences: int
    sequence: int
    turns: int
    turn: int
    context: int
    capacity: int
    seen: npt.NDArray[np.int64]
    turned_norm: npt.NDArray[np.bool_]
    eps: float
    softcap: float
    residual: float
    logit_gain: float
    logit_softcap: float
    threads: int


@cache
def step_kernel(
    FMT: str, ACT: str, M: int, KV: str, HEADS: int, METHOD: str, LAST_FMT: str, LAST_ACT: str
) -> Any:
    """The compiled step for M new tokens, cached on disk; HEADS and METHOD as `attend_new` takes them, LAST_… of the LM head.

    run(x [M·hidden], arena, starts, gains, caches, buffers, sizes): matrix i of the arena begins at byte
    starts[i]; four a layer (QKV, output, gate and up, down), then the LM head.
    """
    ROWS = choose(FMT, ACT, M).panel_rows

    @kernel()
    def run(x: Any, arena: Any, starts: Any, gains: Any, caches: Any, b: Any, s: Any) -> None:
        for i in range(x.size):  # of a slice Numba would compile the words of its errors, for seconds
            b.x[i] = x[i]
        for layer in range(s.layers):
            at = starts[4 * layer :]
            attention_half(FMT, ACT, M, KV, HEADS, METHOD, ROWS, layer, arena, at, gains, caches, b, s)
            norm_rows(M, b.x, gains.mlp_in, layer, s, b.normed)
            mlp(
                FMT, ACT, M, ROWS, arena, at[2], at[3], s.intermediate,
                gains.up_bias[layer], gains.orders, 4 * layer + 2, b, s,
            )  # fmt: skip
            stride = (s.hidden + ROWS - 1) // ROWS * ROWS
            add_rows(M, b.x, b.narrow, stride, gains.down_bias, gains.mlp_out, layer, s)
        head(LAST_FMT, LAST_ACT, M, arena, starts[4 * s.layers], gains, b, s)

    return run


@linked
def attention_half(
    FMT: Any, ACT: Any, M: Any, KV: Any, HEADS: Any, METHOD: Any, ROWS: Any,
    layer: Any, arena: Any, at: Any, gains: Any, caches: Any, b: Any, s: Any,
) -> None:  # fmt: skip
    """Norm, heads, the append, attention and output projection of a layer, added to b.x; ROWS: rows of a panel."""
    q_width = s.kv_heads * s.group * s.dim
    qkv = q_width + (1 if s.keys_are_values else 2) * s.kv_heads * s.dim
    head_stride, stride = (qkv + ROWS - 1) // ROWS * ROWS, (s.hidden + ROWS - 1) // ROWS * ROWS
    norm_rows(M, b.x, gains.attention_in, layer, s, b.normed)
    read = in_order(M, b.normed, s.hidden, gains.orders, 4 * layer, b.ordered)
    prepare(FMT, ACT, M, read, 0, s.hidden, s.hidden, b.scratch)
    multiply(FMT, ACT, M, arena, at[0], qkv, s.hidden, b.scratch, b.heads, s.threads)
    new_heads(KV, M, b.heads, head_stride, layer, gains, caches, s)
    batch = M // s.queries
    unit = (layer * s.sequences + s.sequence) * s.kv_heads
    place = layer * s.turns + s.turn
    first = unit * s.capacity + s.context - s.seen[place]
    attend_new(
        KV, HEADS, METHOD, b.heads, 0, head_stride,
        caches.k, caches.v, caches.k_scales, caches.v_scales, first * s.dim, first, s.capacity,
        s.seen, place, s.queries, batch, s.kv_heads, s.group, s.dim,
        s.softcap, gains.sinks, layer * s.kv_heads * s.group, b.attention, 0, q_width, s.threads,
    )  # fmt: skip
    read = in_order(M, b.attention, q_width, gains.orders, 4 * layer + 1, b.ordered)
    prepare(FMT, ACT, M, read, 0, q_width, q_width, b.scratch)
    multiply(FMT, ACT, M, arena, at[1], s.hidden, q_width, b.scratch, b.narrow, s.threads)
    add_rows(M, b.x, b.narrow, stride, gains.o_bias, gains.attention_out, layer, s)


@linked
def mlp(
    FMT: Any, ACT: Any, M: Any, ROWS: Any, arena: Any, into: Any, down: Any, width: Any,
    bias: Any, orders: Any, order: Any, b: Any, s: Any,
) -> None:  # fmt: skip
    """b.narrow = the MLP of b.normed, of that width; its matrices begin at bytes `into` and `down`."""
    wide = (2 if s.gated else 1) * width
    read = in_order(M, b.normed, s.hidden, orders, order, b.ordered)
    prepare(FMT, ACT, M, read, 0, s.hidden, s.hidden, b.scratch)
    multiply(FMT, ACT, M, arena, into, wide, s.hidden, b.scratch, b.wide, s.threads)
    _activate(M, s, b.wide, (wide + ROWS - 1) // ROWS * ROWS, width, bias, b.hidden)
    read = in_order(M, b.hidden, width, orders, order + 1, b.ordered)
    prepare(FMT, ACT, M, read, 0, width, width, b.scratch)
    multiply(FMT, ACT, M, arena, down, s.hidden, width, b.scratch, b.narrow, s.threads)


@linked
def head(FMT: Any, ACT: Any, M: Any, arena: Any, at: Any, gains: Any, b: Any, s: Any) -> None:
    """Final norm and LM head of b.x: b.logits."""
    norm_rows(M, b.x, gains.final, 0, s, b.normed)
    prepare(FMT, ACT, M, b.normed, 0, s.hidden, s.hidden, b.scratch)
    multiply(FMT, ACT, M, arena, at, s.vocab, s.hidden, b.scratch, b.logits, s.threads)
    if s.logit_gain != 1 or s.logit_softcap > 0:
        _bound(b.logits, s)


# Rows one after the other while they are few, else in parallel


@linked
def norm_rows(M: Any, x: Any, norms: Any, layer: Any, s: Any, out: Any) -> None:
    """Every row of x [M · hidden] under a layer's norm."""
    for row in range(M):
        norm_row(row, x, norms, layer, s, out)


@linked
def norm_row(row: Any, x: Any, norms: Any, layer: Any, s: Any, out: Any) -> None:
    """One row of x [rows · hidden] under a layer's norm."""
    part = slice(row * s.hidden, (row + 1) * s.hidden)
    normalise(x[part], norms.gain[layer], norms.bias[layer], s.centred, np.float32(s.eps), out[part])


@linked
def in_order(M: Any, x: Any, width: Any, orders: Any, row: Any, out: Any) -> Any:
    """The columns of x as those of the matrix lie that it meets."""
    if orders.shape[0] == 0:
        return x
    order = orders[row]
    if M <= FEW_ROWS:
        for m in range(M):
            _order_row(m, x, width, order, out)
    else:
        _order_rows(M, x, width, order, out)
    return out


@linked
def _order_row(m: Any, x: Any, width: Any, order: Any, out: Any) -> None:
    into, from_ = out[m * width :][:width], x[m * width :][:width]
    for i in range(width):
        into[i] = from_[order[i]]


@linked(parallel=True)
def _order_rows(M: Any, x: Any, width: Any, order: Any, out: Any) -> None:
    for m in prange(M):
        _order_row(np.intp(m), x, width, order, out)


@linked
def add_rows(M: Any, x: Any, y: Any, stride: Any, biases: Any, norms: Any, layer: Any, s: Any) -> None:
    """What comes out of a half of a layer, under its norm, to x."""
    for row in range(M):
        add_row(row, x, y, stride, biases, norms, layer, s)


@linked
def add_row(row: Any, x: Any, y: Any, stride: Any, biases: Any, norms: Any, layer: Any, s: Any) -> None:
    """One row of it."""
    residual, gain = np.float32(s.residual), norms.gain[layer]
    into, from_ = x[row * s.hidden :][: s.hidden], y[row * stride :][: s.hidden]
    _add_bias(from_, biases[layer])
    if gain.size:
        normalise(from_, gain, norms.bias[layer], s.centred, np.float32(s.eps), from_)
    for i in range(s.hidden):
        into[i] += residual * from_[i]


@linked
def _add_bias(line: Any, bias: Any) -> None:
    for i in range(bias.size):
        line[i] += bias[i]


@linked
def _activate(M: Any, s: Any, y: Any, stride: Any, width: Any, bias: Any, out: Any) -> None:
    if M <= FEW_ROWS:
        for row in range(M):
            _add_bias(y[row * stride :], bias)
            activate(s.gated, s.smooth, y, row * stride, width, out[row * width :][:width])
    else:
        _activate_parallel(M, s.gated, s.smooth, y, stride, width, bias, out)


@linked(parallel=True)
def _activate_parallel(
    M: Any, gated: Any, smooth: Any, y: Any, stride: Any, width: Any, bias: Any, out: Any
) -> None:
    for row in prange(M):
        _add_bias(y[row * stride :], bias)
        activate(gated, smooth, y, row * stride, width, out[row * width :][:width])


@linked
def new_heads(KV: Any, M: Any, heads: Any, stride: Any, layer: Any, gains: Any, caches: Any, s: Any) -> None:
    """Every new token's heads: bias, head norm, RoPE, scale, then key and value into the cache."""
    own = head_gains(gains, layer)
    for row in range(M):
        sequence, query = s.sequence + row // s.queries, row % s.queries
        line, turn = heads[row * stride :], layer * s.turns + s.turn + query
        new_token(KV, line, turn, sequence, s.context + query, layer, own, caches, s)


@linked
def head_gains(gains: Any, layer: Any) -> Any:
    """Those of a layer."""
    return HeadGains(
        gains.bias[layer], gains.q_norm[layer], gains.k_norm[layer], gains.cosines, gains.sines, gains.scales
    )


@linked
def new_token(
    KV: Any, heads: Any, turn: Any, sequence: Any, place: Any, layer: Any, gains: Any, caches: Any, s: Any
) -> None:
    """The heads of the token at a place of a sequence, turned by angles number `turn`."""
    dim, ones = s.dim, np.ones(s.dim, np.float32)
    q_heads = s.kv_heads * s.group
    line = heads[: (q_heads + (1 if s.keys_are_values else 2) * s.kv_heads) * dim]
    _add_bias(line, gains.bias)
    _store_values(KV, line, sequence, place, layer, caches, s)
    _norm_heads(line[: q_heads * dim], gains.q_norm, s)
    _norm_heads(line[q_heads * dim :][: s.kv_heads * dim], gains.k_norm, s)
    for h in range(q_heads + s.kv_heads):
        head = line[h * dim : (h + 1) * dim]
        if s.neighbours:
            rope_neighbours(head, gains.cosines[turn], gains.sines[turn])
        else:
            rope(head, gains.cosines[turn], gains.sines[turn])
        if s.turned_norm[layer]:
            rms_norm(head, ones, np.float32(s.eps), head)
    if gains.scales[turn] != 1:
        for i in range(q_heads * dim):
            line[i] *= gains.scales[turn]
    for h in range(s.kv_heads):
        token = ((layer * s.sequences + sequence) * s.kv_heads + h) * s.capacity + place
        key = line[(q_heads + h) * dim :][:dim]
        store_row(KV, key, caches.k, token * dim, caches.k_scales, token)


@linked
def _store_values(KV: Any, line: Any, sequence: Any, place: Any, layer: Any, caches: Any, s: Any) -> None:
    """The values of a token into the cache, while keys, which they may be, have neither a norm nor RoPE."""
    dim, first = s.dim, s.kv_heads * (s.group if s.keys_are_values else s.group + 1)
    normed, ones = np.empty(dim, np.float32), np.ones(dim, np.float32)
    for h in range(s.kv_heads):
        value = line[(first + h) * dim :][:dim]
        if s.value_norm:
            rms_norm(value, ones, np.float32(s.eps), normed)
            value = normed
        token = ((layer * s.sequences + sequence) * s.kv_heads + h) * s.capacity + place
        store_row(KV, value, caches.v, token * dim, caches.v_scales, token)


@linked
def _norm_heads(line: Any, gain: Any, s: Any) -> None:
    """Every head under a norm of its width, or all of them under one of theirs."""
    if gain.size:
        for start in range(0, line.size, gain.size):
            part = line[start : start + gain.size]
            rms_norm(part, gain, np.float32(s.eps), part)


@linked(parallel=True)
def _bound(y: Any, s: Any) -> None:
    """Logits times their gain, within their cap."""
    gain, cap, each = np.float32(s.logit_gain), np.float32(s.logit_softcap), y.size // LANES
    for thread in prange(s.threads):
        begin, end = thread * each // s.threads, (thread + 1) * each // s.threads
        part = y[begin * LANES : end * LANES]
        for i in range(part.size):
            part[i] *= gain
        if cap > 0:
            cap_scores(part, end - begin, cap)
