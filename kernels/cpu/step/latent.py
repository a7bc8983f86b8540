"""The latent half of a layer in compiled code: DeepSeek's attention over one cached row a token, its matrices absorbed.

    latent_half(FMT, ACT, M, KV, METHOD, UP, ROWS, INDEX, layer, arena, at, gains, caches, buffers, latent, up, index, sizes)

What makes keys of cached rows multiplies the queries instead, head by head, and what makes values multiplies what attention gives:
as many numbers as `kv_up` stores, each read once. Folded into the queries' matrix they would be four times as many. The heads are
blocks of one parallel region, as experts are. Where an index selects tokens, attention reads their rows alone.
Source: arXiv 2405.04434, section 2.1; arithmetic: `forward.latent_heads`.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from numba import prange
from numba.extending import overload

from membound.kernels.cpu.attention.rows import Rows, attend_rows
from membound.kernels.cpu.attention.selected_rows import SelectedRows
from membound.kernels.cpu.experts.blocks import block_kernels, block_recipes
from membound.kernels.cpu.experts.routes import I64, Blocks, find_lines
from membound.kernels.cpu.linked import linked
from membound.kernels.cpu.matmul.linear import multiply, prepare
from membound.kernels.cpu.matmul.pack import Bytes
from membound.kernels.cpu.simd.ir import literal_value
from membound.kernels.cpu.step.elementwise import rms_norm, store_row
from membound.kernels.cpu.step.index import Index, select_tokens, turn_head
from membound.kernels.cpu.step.prompt_index import PromptIndex
from membound.kernels.cpu.step.step import add_rows, norm_rows
from membound.kernels.forward import LATENT_EPS
from membound.kernels.weights.formats import F32

_EPS = np.float32(LATENT_EPS)


class LatentShape(NamedTuple):
    """Widths, and what scores are multiplied by. q_rank: 0 where queries come straight from the hidden state."""

    heads: int
    q_rank: int
    rank: int
    nope: int
    turning: int
    value: int
    scale: float


class Absorbed(NamedTuple):
    """Matrices of each head and the room for their products, head by head.

    starts [layers, heads, 2]: bytes in `arena` where the one for queries [rank, nope] and the one for values [value, rank] begin.
    blocks: a block a head; inputs, gathered, products, scratch: a part for each, as far apart as the strides say.
    """

    arena: Bytes
    starts: I64
    blocks: Blocks
    inputs: F32
    gathered: F32
    products: F32
    scratch: Bytes
    lines: I64
    row_stride: int
    product_stride: int
    scratch_stride: int


class LatentBuffers(NamedTuple):
    """Rows of queries before and behind the absorbed matrices, and what attention gives of the cached rows."""

    low: F32
    queries: F32
    absorbed: F32
    attended: F32


class LatentGains(NamedTuple):
    """A row a layer, a width of 0 where the model has none: of what goes down, its biases (queries' first) and norms."""

    bias: F32
    q_norm: F32
    kv_norm: F32


def latent_half(
    FMT: str, ACT: str, M: int, KV: str, METHOD: str, UP: str, ROWS: int, INDEX: str,
    layer: int, arena: Any, at: Any, gains: Any, own: Any, caches: Any, b: Any, buffers: Any, up: Any, shape: Any, index: Any, s: Any,
) -> None:  # fmt: skip
    """Norm, queries, the cached row, attention and output of a layer, added to b.x.

    arena has from at[0] on what goes down (queries, then the cached row), from at[1] on what makes queries of their rank, and from
    at[2] on the output. UP: the format of `up`, METHOD: of `rows_grouping`. index: an `Index` or `PromptIndex`, whose products lie behind
    the first two and INDEX is the METHOD of whose keys, or `NoIndex`.
    """
    raise TypeError("latent_half is for compiled code")


@overload(latent_half, prefer_literal=True)
def _latent_half_in_kernels(
    FMT: Any, ACT: Any, M: Any, KV: Any, METHOD: Any, UP: Any, ROWS: Any, INDEX: Any,
    layer: Any, arena: Any, at: Any, gains: Any, own: Any, caches: Any, b: Any, buffers: Any, up: Any, shape: Any, index: Any, s: Any,
) -> Any:  # fmt: skip
    fmt, act, m, kv, method, form, keys = (literal_value(v) for v in (FMT, ACT, M, KV, METHOD, UP, INDEX))
    if None in (fmt, act, m, kv, method, form, keys):
        return None
    PROMPT = index.instance_class is PromptIndex
    SELECTS = PROMPT or index.instance_class is Index
    CAUSAL = PROMPT or not SELECTS
    gather, products, _ = block_kernels(form, "float", str(m))
    UP_ROWS = block_recipes(form, "float", str(m))[0].panel_rows

    def implementation(
        FMT: Any, ACT: Any, M: Any, KV: Any, METHOD: Any, UP: Any, ROWS: Any, INDEX: Any,
        layer: Any, arena: Any, at: Any, gains: Any, own: Any, caches: Any, b: Any, buffers: Any, up: Any, shape: Any, index: Any, s: Any,
    ) -> None:  # fmt: skip
        heads, rank, dim = shape.heads, shape.rank, shape.rank + shape.turning
        low, wide = 0, 0  # columns of the index behind attention's own
        if SELECTS and index.place[layer] >= 0:
            low, wide = index.dim + index.heads, index.heads * index.dim
        norm_rows(m, b.x, gains.attention_in, layer, s, b.normed)
        _queries(fmt, act, m, ROWS, low, wide, layer, arena, at, own, b, buffers, shape, s)
        _new_rows(kv, m, ROWS, low, layer, gains, own, caches, b, shape, s)
        if SELECTS and index.place[layer] >= 0:
            select_tokens(kv, keys, m, ROWS, layer, gains, index, b, shape, s)
        _turn_queries(m, layer, gains.cosines, gains.sines, buffers, up.inputs, shape, s)
        for half in range(2):  # of what is given as a literal, Numba would compile each kernel once more
            read, k, n = up.inputs, shape.nope, rank
            if half:
                read, k, n = buffers.attended, rank, shape.value
            gather(read, k, 1, up.blocks, heads, up.gathered, up.row_stride, up.scratch, up.scratch_stride)
            products(
                up.arena, up.starts[layer], half, up.blocks, heads, n, k,
                up.scratch, up.scratch_stride, up.products, up.product_stride, s.threads,
            )  # fmt: skip
            find_lines(up.blocks, heads, up.product_stride, (n + UP_ROWS - 1) // UP_ROWS * UP_ROWS, up.lines)
            if half:
                _place(up.products, up.lines, n, b.attention, n)
                continue
            _place(up.products, up.lines, n, buffers.absorbed, dim)
            first = (layer * s.sequences + s.sequence) * s.capacity
            whole = (
                index.whole if PROMPT else 0
            )  # new tokens that see all before them, among others that do not
            queries, batch = (whole, 1) if PROMPT else (s.queries, m // s.queries)
            if CAUSAL and queries > 0:
                rows = Rows(s.context + queries, queries, batch, 1, heads, dim, rank, shape.scale)
                attend_rows(
                    kv, method, buffers.absorbed, 0, heads * dim, caches.k, caches.v, caches.k_scales, caches.v_scales,
                    first * dim, first, s.capacity, rows, buffers.attended, 0, heads * rank, s.threads,
                )  # fmt: skip
            if SELECTS and whole < m:
                given = index.given if PROMPT else index.given[layer]
                some = SelectedRows(index.chosen, 1, m - whole, 1, heads, dim, rank, shape.scale, given)
                attend_rows(
                    kv, method, buffers.absorbed, whole * heads * dim, heads * dim,
                    caches.k, caches.v, caches.k_scales, caches.v_scales, first * dim, first, 0 if PROMPT else s.capacity,
                    some, buffers.attended, whole * heads * rank, heads * rank, s.threads,
                )  # fmt: skip
        width = heads * shape.value
        prepare(fmt, act, m, b.attention, 0, width, width, b.scratch)
        multiply(fmt, act, m, arena, at[2], s.hidden, width, b.scratch, b.narrow, s.threads)
        stride = (s.hidden + ROWS - 1) // ROWS * ROWS
        add_rows(m, b.x, b.narrow, stride, gains.o_bias, gains.attention_out, layer, s)

    return implementation


@linked
def _queries(
    FMT: Any, ACT: Any, M: Any, ROWS: Any, low: Any, wide: Any, layer: Any, arena: Any, at: Any, own: Any, b: Any, buffers: Any, shape: Any, s: Any,
) -> None:  # fmt: skip
    """buffers.queries [M, heads · (nope + turning)] of b.normed, and b.heads with the row that is cached behind what goes down.

    Behind these b.heads has `low` columns more, and b.wide `wide` behind the queries.
    """
    width = shape.heads * (shape.nope + shape.turning)
    down = shape.q_rank if shape.q_rank else width
    whole = down + shape.rank + shape.turning
    stride = (whole + low + ROWS - 1) // ROWS * ROWS
    prepare(FMT, ACT, M, b.normed, 0, s.hidden, s.hidden, b.scratch)
    multiply(FMT, ACT, M, arena, at[0], whole + low, s.hidden, b.scratch, b.heads, s.threads)
    bias = own.bias[layer]
    for row in range(M):
        line = b.heads[row * stride :][:whole]
        first = whole - bias.size  # queries without a rank have no bias
        for i in range(bias.size):
            line[first + i] += bias[i]
        if shape.q_rank:
            rms_norm(line[:down], own.q_norm[layer], _EPS, buffers.low[row * down :][:down])
        else:
            buffers.queries[row * width :][:width] = line[:width]
    if shape.q_rank:
        prepare(FMT, ACT, M, buffers.low, 0, down, down, b.scratch)
        multiply(FMT, ACT, M, arena, at[1], width + wide, down, b.scratch, b.wide, s.threads)
        padded = (width + wide + ROWS - 1) // ROWS * ROWS
        for row in range(M):
            buffers.queries[row * width :][:width] = b.wide[row * padded :][:width]


@linked
def _new_rows(
    KV: Any,
    M: Any,
    ROWS: Any,
    low: Any,
    layer: Any,
    gains: Any,
    own: Any,
    caches: Any,
    b: Any,
    shape: Any,
    s: Any,
) -> None:
    """Every new token's row: norm, RoPE, into the cache."""
    rank, dim = shape.rank, shape.rank + shape.turning
    down = shape.q_rank if shape.q_rank else shape.heads * (shape.nope + shape.turning)
    stride = (down + dim + low + ROWS - 1) // ROWS * ROWS
    for row in range(M):
        line = b.heads[row * stride + down :][:dim]
        rms_norm(line[:rank], own.kv_norm[layer], _EPS, line[:rank])
        sequence, query = s.sequence + row // s.queries, row % s.queries
        turn = layer * s.turns + s.turn + query
        turn_head(line[rank:], gains.cosines[turn], gains.sines[turn], s.neighbours)
        token = (layer * s.sequences + sequence) * s.capacity + s.context + query
        store_row(KV, line, caches.k, token * dim, caches.k_scales, token)


@linked
def _turn_queries(
    M: Any, layer: Any, cosines: Any, sines: Any, buffers: Any, inputs: Any, shape: Any, s: Any
) -> None:
    """Of each head what turns, to its place behind the absorbed numbers, and what does not, dense for the absorbed products."""
    width, dim = shape.nope + shape.turning, shape.rank + shape.turning
    for unit in range(M * shape.heads):
        head = buffers.queries[unit * width :][:width]
        inputs[unit * shape.nope :][: shape.nope] = head[: shape.nope]
        turned = buffers.absorbed[unit * dim + shape.rank :][: shape.turning]
        turned[:] = head[shape.nope :]
        turn = layer * s.turns + s.turn + unit // shape.heads % s.queries
        turn_head(turned, cosines[turn], sines[turn], s.neighbours)


@linked(parallel=True)
def _place(y: Any, lines: Any, width: Any, out: Any, stride: Any) -> None:
    """The products of each head, [width], to where its row begins."""
    for t in prange(lines.size):
        unit = np.intp(t)
        out[unit * stride :][:width] = y[lines[unit] :][:width]


def head_blocks(rows: int, heads: int) -> Blocks:
    """A block a head, of all rows: pair row · heads + h is head h of a row."""
    all_heads = np.arange(heads, dtype=np.int64)
    full: npt.NDArray[np.int64] = np.full(heads, rows, np.int64)
    pairs = (np.arange(rows, dtype=np.int64)[None, :] * heads + all_heads[:, None]).reshape(-1)
    return Blocks(all_heads, all_heads * rows, full, full.copy(), pairs, np.zeros(heads + 1, np.int64))
