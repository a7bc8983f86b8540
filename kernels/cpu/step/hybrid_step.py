"""A whole decode step of a model some of whose layers hold states, in one compiled call.

    run = hybrid_step_kernel("bf16", "float", 1, "bf16", HEADS, METHOD, "")
    run(x, arena, starts, gains, caches, buffers, sizes, states, routed)       # logits in buffers.logits

packed_hybrid.py makes the arguments. step.py and routed_step.py have what such a model shares with others.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
from numba.extending import overload

from membound.kernels.cpu.attention.decode import attend
from membound.kernels.cpu.compile import kernel
from membound.kernels.cpu.linked import LINKED, linked
from membound.kernels.cpu.matmul.linear import multiply, prepare
from membound.kernels.cpu.matmul.recipe import choose
from membound.kernels.cpu.step.delta import States, delta_half
from membound.kernels.cpu.step.mamba import mamba_half
from membound.kernels.cpu.step.routed_step import second
from membound.kernels.cpu.step.step import add_rows, attention_half, head, new_heads, norm_rows


@cache
def hybrid_step_kernel(
    FMT: str, ACT: str, M: int, KV: str, HEADS: int, METHOD: str, EXPERTS: str, BLOCKS: str,
    LAST_FMT: str, LAST_ACT: str,
) -> Any:  # fmt: skip
    """The compiled step for M sequences, cached on disk; HEADS and METHOD as `attend` takes them, EXPERTS and BLOCKS, '' where there are none, as
    `routed_step_kernel`, LAST_… of the LM head.

    run(x [M·hidden], arena, starts [layers + 1, FIXED], gains, caches, buffers, sizes, states, routed): the LM head begins at the last
    row's first byte. states: `States` beside gated attention, `MambaStates` beside a plain one. routed: `Plain`, or `Routed`.
    """
    ROWS = choose(FMT, ACT, M).panel_rows

    @kernel()
    def run(
        x: Any, arena: Any, starts: Any, gains: Any, caches: Any, b: Any, s: Any, states: Any, routed: Any
    ) -> None:
        for i in range(x.size):  # of a slice Numba would compile the words of its errors
            b.x[i] = x[i]
        for layer in range(s.layers):
            at = starts[layer]
            first(FMT, ACT, M, KV, HEADS, METHOD, ROWS, layer, arena, at, gains, caches, b, s, states)
            second(FMT, ACT, M, EXPERTS, BLOCKS, ROWS, layer, arena, at, gains, b, s, routed)
        head(LAST_FMT, LAST_ACT, M, arena, starts[s.layers, 0], gains, b, s)

    return run


def first(
    FMT: str, ACT: str, M: int, KV: str, HEADS: int, METHOD: str, ROWS: int,
    layer: Any, arena: Any, at: Any, gains: Any, caches: Any, b: Any, s: Any, states: Any,
) -> None:  # fmt: skip
    """The state or the attention of a layer, added to b.x: which pair of them, the type of `states` says."""
    raise TypeError("first is for compiled code")


@overload(first, prefer_literal=True, jit_options=LINKED)
def _first_in_kernels(
    FMT: Any, ACT: Any, M: Any, KV: Any, HEADS: Any, METHOD: Any, ROWS: Any,
    layer: Any, arena: Any, at: Any, gains: Any, caches: Any, b: Any, s: Any, states: Any,
) -> Any:  # fmt: skip
    return _delta_or_gated if states.instance_class is States else _mamba_or_plain


def _delta_or_gated(
    FMT: Any, ACT: Any, M: Any, KV: Any, HEADS: Any, METHOD: Any, ROWS: Any,
    layer: Any, arena: Any, at: Any, gains: Any, caches: Any, b: Any, s: Any, states: Any,
) -> None:  # fmt: skip
    if states.place[layer] >= 0:
        delta_half(FMT, ACT, M, ROWS, layer, arena, at, gains, b, s, states)
    else:
        gated_half(FMT, ACT, M, KV, HEADS, METHOD, ROWS, layer, arena, at, gains, caches, b, s)


def _mamba_or_plain(
    FMT: Any, ACT: Any, M: Any, KV: Any, HEADS: Any, METHOD: Any, ROWS: Any,
    layer: Any, arena: Any, at: Any, gains: Any, caches: Any, b: Any, s: Any, states: Any,
) -> None:  # fmt: skip
    if states.place[layer] >= 0:
        mamba_half(FMT, ACT, M, ROWS, layer, arena, at, gains, b, s, states)
    else:
        attention_half(FMT, ACT, M, KV, HEADS, METHOD, ROWS, layer, arena, at, gains, caches, b, s)


@linked
def gated_half(
    FMT: Any, ACT: Any, M: Any, KV: Any, HEADS: Any, METHOD: Any, ROWS: Any,
    layer: Any, arena: Any, at: Any, gains: Any, caches: Any, b: Any, s: Any,
) -> None:  # fmt: skip
    """Attention of a layer whose output is multiplied by the sigmoid of a gate, which the first matrix has behind q, k and v."""
    width = s.kv_heads * s.group * s.dim
    heads = width + 2 * s.kv_heads * s.dim
    wide = heads + width
    line, stride = (wide + ROWS - 1) // ROWS * ROWS, (s.hidden + ROWS - 1) // ROWS * ROWS
    norm_rows(M, b.x, gains.attention_in, layer, s, b.normed)
    prepare(FMT, ACT, M, b.normed, 0, s.hidden, s.hidden, b.scratch)
    multiply(FMT, ACT, M, arena, at[0], wide, s.hidden, b.scratch, b.heads, s.threads)
    new_heads(KV, M, b.heads, line, layer, gains, caches, s)
    first = layer * M * s.kv_heads * s.capacity + s.context - s.seen[layer * s.turns]
    attend(
        KV, HEADS, METHOD, b.heads, 0, line,
        caches.k, caches.v, caches.k_scales, caches.v_scales, first * s.dim, first, s.capacity,
        s.seen[layer * s.turns] + 1, M, s.kv_heads, s.group, s.dim,
        s.softcap, gains.sinks, layer * s.kv_heads * s.group, b.attention, 0, width, s.threads,
    )  # fmt: skip
    for row in range(M):
        gates, attended = b.heads[row * line + heads :][:width], b.attention[row * width :][:width]
        for i in range(width):
            attended[i] /= np.float32(1) + np.exp(-gates[i])
    prepare(FMT, ACT, M, b.attention, 0, width, width, b.scratch)
    multiply(FMT, ACT, M, arena, at[1], s.hidden, width, b.scratch, b.narrow, s.threads)
    add_rows(M, b.x, b.narrow, stride, gains.o_bias, gains.attention_out, layer, s)
