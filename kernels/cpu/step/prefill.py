"""A whole prompt in one compiled call: chunks of rows through the matmuls of a step, with causal attention.

    run = prefill_kernel("bf16", "float", 64, "bf16", METHOD, "bf16", "float", 1)
    run(x, arena, starts, gains, caches, buffers, sizes)       # logits of each sequence's last token in buffers.logits

packed_prompt.py makes the arguments. Layer after layer, all rows of the prompt pass in chunks of M: each chunk streams the layer's
weights once, writes its keys and values to the cache, and attends over what its sequence has there so far.
"""

from __future__ import annotations

from functools import cache
from typing import Any, NamedTuple

import numpy as np
from numba import prange

from membound.kernels.cpu.attention.rows import Rows, attend_rows
from membound.kernels.cpu.compile import kernel
from membound.kernels.cpu.linked import linked
from membound.kernels.cpu.matmul.linear import multiply, prepare
from membound.kernels.cpu.matmul.recipe import choose
from membound.kernels.cpu.step.elementwise import activate, rms_norm, rope, store_row
from membound.kernels.cpu.step.step import in_order


class PromptSizes(NamedTuple):
    """The model's shape and the prompt's as numbers."""

    hidden: int
    layers: int
    kv_heads: int
    group: int
    dim: int
    intermediate: int
    vocab: int
    gated: bool
    sequences: int
    tokens: int
    eps: float
    threads: int


@cache
def prefill_kernel(
    FMT: str, ACT: str, M: int, KV: str, METHOD: str, LAST_FMT: str, LAST_ACT: str, LAST: int
) -> Any:
    """The compiled prompt in chunks of M rows, cached on disk; METHOD as `attend_rows` takes it, LAST_… of the LM head, which takes LAST rows.

    run(x [batch·tokens·hidden], arena, starts, gains, caches, buffers, sizes): matrices as for `step_kernel`.
    gains.cosines and gains.sines have a row for each place.
    """
    ROWS = choose(FMT, ACT, M).panel_rows
    LAST_ROWS = choose(LAST_FMT, LAST_ACT, LAST).panel_rows

    @kernel()
    def run(x: Any, arena: Any, starts: Any, gains: Any, caches: Any, b: Any, s: Any) -> None:
        for i in range(x.size):  # as in a step
            b.x[i] = x[i]
        rows = s.sequences * s.tokens
        q_width = s.kv_heads * s.group * s.dim
        qkv = q_width + 2 * s.kv_heads * s.dim
        wide = (2 if s.gated else 1) * s.intermediate
        head_stride = (qkv + ROWS - 1) // ROWS * ROWS
        wide_stride = (wide + ROWS - 1) // ROWS * ROWS
        stride = (s.hidden + ROWS - 1) // ROWS * ROWS
        for layer in range(s.layers):
            at = starts[4 * layer :]
            for first in range(0, rows, M):
                count = min(M, rows - first)
                chunk = b.x[first * s.hidden : (first + count) * s.hidden]
                _norm_rows(chunk, s.hidden, gains.attention_in.gain[layer], s.eps, b.normed)
                read = in_order(M, b.normed, s.hidden, gains.orders, 4 * layer, b.ordered)
                prepare(FMT, ACT, M, read, 0, s.hidden, s.hidden, b.scratch)
                multiply(FMT, ACT, M, arena, at[0], qkv, s.hidden, b.scratch, b.heads, s.threads)
                _turn_heads(
                    b.heads, head_stride, first, count, gains.bias[layer], gains.q_norm[layer],
                    gains.k_norm[layer], gains.cosines, gains.sines, s,
                )  # fmt: skip
                _store_heads(KV, b.heads, head_stride, first, count, layer, caches, s)
                attend_chunk(
                    KV, METHOD, b.heads, head_stride, first, count, s.tokens, layer, caches, b.attention, s
                )
                read = in_order(M, b.attention, q_width, gains.orders, 4 * layer + 1, b.ordered)
                prepare(FMT, ACT, M, read, 0, q_width, q_width, b.scratch)
                multiply(FMT, ACT, M, arena, at[1], s.hidden, q_width, b.scratch, b.narrow, s.threads)
                _add_rows(chunk, s.hidden, b.narrow, stride)
                _norm_rows(chunk, s.hidden, gains.mlp_in.gain[layer], s.eps, b.normed)
                read = in_order(M, b.normed, s.hidden, gains.orders, 4 * layer + 2, b.ordered)
                prepare(FMT, ACT, M, read, 0, s.hidden, s.hidden, b.scratch)
                multiply(FMT, ACT, M, arena, at[2], wide, s.hidden, b.scratch, b.wide, s.threads)
                _activate_rows(count, s.gated, b.wide, wide_stride, s.intermediate, b.hidden)
                read = in_order(M, b.hidden, s.intermediate, gains.orders, 4 * layer + 3, b.ordered)
                prepare(FMT, ACT, M, read, 0, s.intermediate, s.intermediate, b.scratch)
                multiply(FMT, ACT, M, arena, at[3], s.hidden, s.intermediate, b.scratch, b.narrow, s.threads)
                _add_rows(chunk, s.hidden, b.narrow, stride)
        head, vocab_stride = starts[4 * s.layers], (s.vocab + LAST_ROWS - 1) // LAST_ROWS * LAST_ROWS
        for first in range(0, s.sequences, LAST):
            for row in range(min(LAST, s.sequences - first)):
                last = ((first + row + 1) * s.tokens - 1) * s.hidden
                out = b.normed[row * s.hidden :][: s.hidden]
                rms_norm(b.x[last : last + s.hidden], gains.final.gain[0], np.float32(s.eps), out)
            prepare(LAST_FMT, LAST_ACT, LAST, b.normed, 0, s.hidden, s.hidden, b.scratch)
            logits = b.logits[first * vocab_stride :]
            multiply(LAST_FMT, LAST_ACT, LAST, arena, head, s.vocab, s.hidden, b.scratch, logits, s.threads)

    return run


@linked(parallel=True)
def _norm_rows(x: Any, width: Any, gain: Any, eps: Any, out: Any) -> None:
    for row in prange(x.size // width):
        rms_norm(x[row * width :][:width], gain, np.float32(eps), out[row * width :][:width])


@linked(parallel=True)
def _add_rows(x: Any, width: Any, y: Any, stride: Any) -> None:
    for row in prange(x.size // width):
        into, from_ = x[row * width :][:width], y[row * stride :][:width]
        for i in range(width):
            into[i] += from_[i]


@linked(parallel=True)
def _activate_rows(count: Any, gated: Any, y: Any, stride: Any, width: Any, out: Any) -> None:
    for row in prange(count):
        activate(gated, not gated, y, row * stride, width, out[row * width :][:width])


@linked(parallel=True)
def _turn_heads(
    heads: Any,
    stride: Any,
    first: Any,
    count: Any,
    bias: Any,
    q_norm: Any,
    k_norm: Any,
    cosines: Any,
    sines: Any,
    s: Any,
) -> None:
    """Biases, head norms and RoPE of a chunk's queries and keys."""
    dim, q_heads = s.dim, s.kv_heads * s.group
    for row in prange(count):
        line = heads[row * stride :][: (q_heads + 2 * s.kv_heads) * dim]
        place = (first + np.intp(row)) % s.tokens
        for i in range(bias.size):
            line[i] += bias[i]
        for h in range(q_heads + s.kv_heads):
            head = line[h * dim : (h + 1) * dim]
            if q_norm.size:
                rms_norm(head, q_norm if h < q_heads else k_norm, np.float32(s.eps), head)
            rope(head, cosines[place], sines[place])


@linked
def _store_heads(
    KV: Any, heads: Any, stride: Any, first: Any, count: Any, layer: Any, caches: Any, s: Any
) -> None:
    """A chunk's keys and values into the cache."""
    dim, q_heads = s.dim, s.kv_heads * s.group
    for row in range(count):
        line = heads[row * stride + q_heads * dim :]
        b, place = (first + row) // s.tokens, (first + row) % s.tokens
        for h in range(s.kv_heads):
            token = ((layer * s.sequences + b) * s.kv_heads + h) * s.tokens + place
            key, value = line[h * dim :][:dim], line[(s.kv_heads + h) * dim :][:dim]
            store_row(KV, key, caches.k, token * dim, caches.k_scales, token)
            store_row(KV, value, caches.v, token * dim, caches.v_scales, token)


@linked
def attend_chunk(
    KV: Any, METHOD: Any, heads: Any, stride: Any, first: Any, count: Any, tokens: Any, layer: Any, caches: Any, out: Any, s: Any
) -> None:  # fmt: skip
    """Attention of `count` rows from row `first` of a prompt on, one sequence of `tokens` after another; s: PromptSizes or Sizes."""
    q_width, row = s.kv_heads * s.group * s.dim, 0
    while row < count:
        b, place = (first + row) // tokens, (first + row) % tokens
        queries = min(count - row, tokens - place)
        unit = (layer * s.sequences + b) * s.kv_heads * tokens
        shape = Rows(place + queries, queries, 1, s.kv_heads, s.group, s.dim, s.dim, 1 / np.sqrt(s.dim))
        attend_rows(
            KV, METHOD, heads, row * stride, stride,
            caches.k, caches.v, caches.k_scales, caches.v_scales, unit * s.dim, unit, tokens,
            shape, out, row * q_width, q_width, s.threads,
        )  # fmt: skip
        row += queries
