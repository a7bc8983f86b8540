"""A whole prompt of a model some of whose layers hold states, in one compiled call.

    run = hybrid_prompt_kernel("bf16", "float", 64, "bf16", METHOD, "bf16", "", "bf16", "float", 1)
    run(x, arena, starts, gains, caches, buffers, sizes, states, routed, prompt)       # logits of each sequence's last token

packed_hybrid_prompt.py makes the arguments. Layer after layer, all rows of the prompt pass in chunks of M: each streams the layer's weights
once, and takes states and caches on by its tokens. The last chunk is filled up with copies of the last token, which neither see
nor are seen; with experts they choose no others than it does.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
from numba import prange
from numba.extending import overload

from membound.kernels.cpu.compile import kernel
from membound.kernels.cpu.linked import LINKED, linked
from membound.kernels.cpu.matmul.linear import multiply, prepare
from membound.kernels.cpu.matmul.recipe import choose
from membound.kernels.cpu.step.chunk import Chunk
from membound.kernels.cpu.step.delta import States
from membound.kernels.cpu.step.delta_prompt import delta_chunk
from membound.kernels.cpu.step.mamba_prompt import mamba_chunk
from membound.kernels.cpu.step.parallel_rows import add_all, norm_all
from membound.kernels.cpu.step.prefill import attend_chunk
from membound.kernels.cpu.step.routed_prompt import load_last
from membound.kernels.cpu.step.routed_step import Plain, second_half
from membound.kernels.cpu.step.step import Buffers, head, head_gains, in_order, mlp, new_token


@cache
def hybrid_prompt_kernel(
    FMT: str, ACT: str, M: int, KV: str, METHOD: str, EXPERTS: str, BLOCKS: str, LAST_FMT: str, LAST_ACT: str, LAST: int
) -> Any:  # fmt: skip
    """The compiled prompt in chunks of M rows, LAST sequences, cached on disk; METHOD as `attend_rows` takes it, the others as a step.

    run(x [batch·tokens·hidden], arena, starts, gains, caches, buffers, sizes, states, routed, prompt): angles of every place; room for
    whole chunks in prompt.hidden. states, routed: as in a step, and what is before the prompt is not read.
    """
    ROWS = choose(FMT, ACT, M).panel_rows

    @kernel()
    def run(
        x: Any, arena: Any, starts: Any, gains: Any, caches: Any, b: Any, s: Any, states: Any, routed: Any, prompt: Any
    ) -> None:  # fmt: skip
        for i in range(x.size):  # as in a step
            prompt.hidden[i] = x[i]
        rows = s.sequences * prompt.tokens
        for layer in range(s.layers):
            at = starts[layer]
            for begin in range(0, rows, M):
                chunk = Chunk(begin, min(M, rows - begin), prompt.tokens)
                here = _with_rows(b, prompt.hidden[begin * s.hidden : (begin + M) * s.hidden])
                first_of_chunk(
                    FMT, ACT, M, KV, METHOD, ROWS, layer, arena, at, gains, caches, here, s, states, chunk
                )
                _fill(M, here.x, s.hidden, chunk.rows)
                second_of_chunk(
                    FMT,
                    ACT,
                    M,
                    EXPERTS,
                    BLOCKS,
                    ROWS,
                    layer,
                    arena,
                    at,
                    gains,
                    here,
                    s,
                    routed,
                    prompt,
                    chunk,
                )
        load_last(s.sequences, prompt, s.hidden, b.x)
        head(LAST_FMT, LAST_ACT, LAST, arena, starts[s.layers, 0], gains, b, s)

    return run


@linked
def _with_rows(b: Any, x: Any) -> Any:
    """The buffers for rows that lie elsewhere."""
    return Buffers(
        x, b.normed, b.heads, b.attention, b.wide, b.hidden, b.narrow, b.logits, b.ordered, b.scratch
    )


@linked
def _fill(M: Any, x: Any, width: Any, count: Any) -> None:
    """The last of `count` rows to those behind it."""
    for row in range(count, M):
        for i in range(width):
            x[row * width + i] = x[(count - 1) * width + i]


def first_of_chunk(
    FMT: str, ACT: str, M: int, KV: str, METHOD: str, ROWS: int,
    layer: Any, arena: Any, at: Any, gains: Any, caches: Any, b: Any, s: Any, states: Any, chunk: Any,
) -> None:  # fmt: skip
    """The state or the attention of a layer, added to b.x: which pair of them, the type of `states` says."""
    raise TypeError("first_of_chunk is for compiled code")


@overload(first_of_chunk, prefer_literal=True, jit_options=LINKED)
def _first_in_kernels(
    FMT: Any, ACT: Any, M: Any, KV: Any, METHOD: Any, ROWS: Any,
    layer: Any, arena: Any, at: Any, gains: Any, caches: Any, b: Any, s: Any, states: Any, chunk: Any,
) -> Any:  # fmt: skip
    return _delta_or_gated if states.instance_class is States else _mamba_or_plain


def _delta_or_gated(
    FMT: Any, ACT: Any, M: Any, KV: Any, METHOD: Any, ROWS: Any,
    layer: Any, arena: Any, at: Any, gains: Any, caches: Any, b: Any, s: Any, states: Any, chunk: Any,
) -> None:  # fmt: skip
    if states.place[layer] >= 0:
        delta_chunk(FMT, ACT, M, ROWS, layer, arena, at, gains, b, s, states, chunk)
    else:
        _attention(FMT, ACT, M, KV, METHOD, ROWS, True, layer, arena, at, gains, caches, b, s, chunk)


def _mamba_or_plain(
    FMT: Any, ACT: Any, M: Any, KV: Any, METHOD: Any, ROWS: Any,
    layer: Any, arena: Any, at: Any, gains: Any, caches: Any, b: Any, s: Any, states: Any, chunk: Any,
) -> None:  # fmt: skip
    if states.place[layer] >= 0:
        mamba_chunk(FMT, ACT, M, ROWS, layer, arena, at, gains, b, s, states, chunk)
    else:
        _attention(FMT, ACT, M, KV, METHOD, ROWS, False, layer, arena, at, gains, caches, b, s, chunk)


@linked
def _attention(
    FMT: Any, ACT: Any, M: Any, KV: Any, METHOD: Any, ROWS: Any, gated: Any,
    layer: Any, arena: Any, at: Any, gains: Any, caches: Any, b: Any, s: Any, chunk: Any,
) -> None:  # fmt: skip
    """Attention of a layer, whose output is multiplied by the sigmoid of a gate if `gated`: the first matrix has it behind q, k and v."""
    width = s.kv_heads * s.group * s.dim
    gates = width + 2 * s.kv_heads * s.dim
    wide = gates + width if gated else gates
    line = (wide + ROWS - 1) // ROWS * ROWS
    norm_all(M, b.x, gains.attention_in, layer, s, b.normed)
    read = in_order(M, b.normed, s.hidden, gains.orders, 4 * layer, b.ordered)
    prepare(FMT, ACT, M, read, 0, s.hidden, s.hidden, b.scratch)
    multiply(FMT, ACT, M, arena, at[0], wide, s.hidden, b.scratch, b.heads, s.threads)
    _new_tokens(KV, b.heads, line, layer, head_gains(gains, layer), caches, s, chunk)
    attend_chunk(
        KV, METHOD, b.heads, line, chunk.first, chunk.rows, chunk.tokens, layer, caches, b.attention, s
    )
    if gated:
        _gate_rows(b.attention, width, b.heads, line, gates, chunk.rows)
    read = in_order(M, b.attention, width, gains.orders, 4 * layer + 1, b.ordered)
    prepare(FMT, ACT, M, read, 0, width, width, b.scratch)
    multiply(FMT, ACT, M, arena, at[1], s.hidden, width, b.scratch, b.narrow, s.threads)
    add_all(
        M, b.x, b.narrow, (s.hidden + ROWS - 1) // ROWS * ROWS, gains.o_bias, gains.attention_out, layer, s
    )


@linked(parallel=True)
def _new_tokens(
    KV: Any, lines: Any, stride: Any, layer: Any, gains: Any, caches: Any, s: Any, chunk: Any
) -> None:
    """Every token's heads, turned by the angles of its place, and its row of the cache."""
    for t in prange(chunk.rows):
        row = np.intp(t)
        sequence, place = (chunk.first + row) // chunk.tokens, (chunk.first + row) % chunk.tokens
        new_token(
            KV, lines[row * stride :], layer * s.turns + place, sequence, place, layer, gains, caches, s
        )


@linked(parallel=True)
def _gate_rows(x: Any, width: Any, lines: Any, stride: Any, gates: Any, count: Any) -> None:
    for t in prange(count):
        row = np.intp(t)
        attended, line = x[row * width :][:width], lines[row * stride + gates :][:width]
        for i in range(width):
            attended[i] /= np.float32(1) + np.exp(-line[i])


def second_of_chunk(
    FMT: str, ACT: str, M: int, EXPERTS: str, BLOCKS: str, ROWS: int,
    layer: Any, arena: Any, at: Any, gains: Any, b: Any, s: Any, routed: Any, prompt: Any, chunk: Any,
) -> None:  # fmt: skip
    """The MLP of a layer, its experts, both or nothing, added to b.x: whether there are experts, the type of `routed` says."""
    raise TypeError("second_of_chunk is for compiled code")


@overload(second_of_chunk, prefer_literal=True, jit_options=LINKED)
def _second_in_kernels(
    FMT: Any, ACT: Any, M: Any, EXPERTS: Any, BLOCKS: Any, ROWS: Any,
    layer: Any, arena: Any, at: Any, gains: Any, b: Any, s: Any, routed: Any, prompt: Any, chunk: Any,
) -> Any:  # fmt: skip
    return _mlp_or_nothing if routed.instance_class is Plain else _routed_or_nothing


def _mlp_or_nothing(
    FMT: Any, ACT: Any, M: Any, EXPERTS: Any, BLOCKS: Any, ROWS: Any,
    layer: Any, arena: Any, at: Any, gains: Any, b: Any, s: Any, routed: Any, prompt: Any, chunk: Any,
) -> None:  # fmt: skip
    width = routed.widths[layer]
    if width:
        norm_all(M, b.x, gains.mlp_in, layer, s, b.normed)
        mlp(
            FMT,
            ACT,
            M,
            ROWS,
            arena,
            at[3],
            at[4],
            width,
            gains.up_bias[layer],
            gains.orders,
            4 * layer + 2,
            b,
            s,
        )
        add_all(
            M, b.x, b.narrow, (s.hidden + ROWS - 1) // ROWS * ROWS, gains.down_bias, gains.mlp_out, layer, s
        )


def _routed_or_nothing(
    FMT: Any, ACT: Any, M: Any, EXPERTS: Any, BLOCKS: Any, ROWS: Any,
    layer: Any, arena: Any, at: Any, gains: Any, b: Any, s: Any, routed: Any, prompt: Any, chunk: Any,
) -> None:  # fmt: skip
    if routed.widths[layer] > 0 or routed.chooses[layer]:
        second_half(FMT, ACT, M, EXPERTS, BLOCKS, ROWS, layer, arena, at, gains, b, s, routed)
        chosen = routed.ids.shape[1] // M
        for i in range(chunk.rows * chosen):
            prompt.ids[layer, chunk.first * chosen + i] = routed.ids[layer, i]
