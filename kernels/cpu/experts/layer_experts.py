"""A layer's experts within a step: router, choice by the model's rule, the chosen experts' products, biases, activations.

    layer_experts(FMT, ACT, M, BLOCKS, x, seen, routers, router_at, arena, starts, vectors, rule, buffers, sizes)   # buffers.out

Called from compiled code with literals. The products are those of `blocks`: one parallel region over (block, panel).
packed_layers.py makes the arguments.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from numba import prange
from numba.extending import overload

from membound.kernels.cpu.experts.blocks import block_kernels, block_recipes
from membound.kernels.cpu.experts.router import choose_by_rule
from membound.kernels.cpu.experts.routes import I64, Blocks, find_lines, group_rows
from membound.kernels.cpu.linked import linked
from membound.kernels.cpu.matmul.linear import multiply, prepare
from membound.kernels.cpu.matmul.pack import Bytes
from membound.kernels.cpu.matmul.recipe import choose
from membound.kernels.cpu.simd.ir import literal_value
from membound.kernels.cpu.step.elementwise import activate
from membound.kernels.forward import CLAMP, CLAMP_SLOPE
from membound.kernels.weights.formats import F32

_CLAMP, _SLOPE, _ONE = np.float32(CLAMP), np.float32(CLAMP_SLOPE), np.float32(1)


class ExpertVectors(NamedTuple):
    """Of a layer: the router's bias, correction and gains of shares [experts]; biases of gate and up [experts, 2 · width] and of down [experts, hidden];
    the choice of each row where it is given [rows · chosen]; in which order the columns of gate and up, and of down, lie
    [experts, 2, widest].

    Empty, or without columns, where there are none.
    """

    router: F32
    correction: F32
    gains: F32
    into: F32
    down: F32
    given: I64
    orders: npt.NDArray[np.int32]


class LayerBuffers(NamedTuple):
    """Room for one layer. ids and shares [rows · chosen]; placed and hidden hold a row for each pair of a row and its expert.

    The others as in `experts.ExpertBuffers`.
    """

    logits: F32
    score: F32
    wish: F32
    ids: I64
    shares: F32
    blocks: Blocks
    kernel_rows: I64
    placed: F32
    hidden: F32
    gathered: F32
    wide: F32
    narrow: F32
    scratch: Bytes
    lines: I64
    out: F32


class LayerSizes(NamedTuple):
    """Shapes, and how far the parts of blocks are apart: floats, of the scratch bytes.

    gated: experts have three products, else two; clamped: gpt-oss' activation; smooth: as `activate` takes it.
    """

    rows: int
    hidden: int
    width: int
    experts: int
    chosen: int
    gated: bool
    clamped: bool
    smooth: bool
    row_stride: int
    wide_stride: int
    narrow_stride: int
    scratch_stride: int
    threads: int


def layer_experts(
    FMT: str, ACT: str, M: int, BLOCKS: str, x: Any, seen: Any, routers: Any, router_at: Any, w: Any, starts: Any,
    vectors: Any, rule: Any, b: Any, s: Any,
) -> None:  # fmt: skip
    """b.out [rows, hidden] = Σ_j shares · expert(ids) of x [rows · hidden], as the router at byte `router_at` has it by `seen`, as wide, which x is in most models.

    Gate and up of expert e are one matrix from byte starts[e, 0] of `w` on, down is at starts[e, 1].
    """
    raise TypeError("layer_experts is for compiled code")


@overload(layer_experts, prefer_literal=True)
def _layer_experts_in_kernels(
    FMT: Any, ACT: Any, M: Any, BLOCKS: Any, x: Any, seen: Any, routers: Any, router_at: Any, w: Any, starts: Any,
    vectors: Any, rule: Any, b: Any, s: Any,
) -> Any:  # fmt: skip
    fmt, act, m, blocks = (literal_value(v) for v in (FMT, ACT, M, BLOCKS))
    if None in (fmt, act, m, blocks):
        return None
    gather, products, _ = block_kernels(fmt, act, blocks)
    ROWS, ROUTER_ROWS = block_recipes(fmt, act, blocks)[0].panel_rows, choose("f32", "float", m).panel_rows

    def implementation(
        FMT: Any, ACT: Any, M: Any, BLOCKS: Any, x: Any, seen: Any, routers: Any, router_at: Any, w: Any, starts: Any,
        vectors: Any, rule: Any, b: Any, s: Any,
    ) -> None:  # fmt: skip
        prepare("f32", "float", m, seen, 0, s.hidden, s.hidden, b.scratch)
        multiply("f32", "float", m, routers, router_at, s.experts, s.hidden, b.scratch, b.logits, s.threads)
        line = (s.experts + ROUTER_ROWS - 1) // ROUTER_ROWS * ROUTER_ROWS
        choose_by_rule(
            b.logits, line, s.rows, s.experts, s.chosen, rule,
            vectors.router, vectors.correction, vectors.gains, vectors.given, b.score, b.wish, b.ids, b.shares,
        )  # fmt: skip
        of = group_rows(b.ids, s.rows, s.chosen, s.experts, b.kernel_rows, b.blocks)
        ordered = vectors.orders.shape[0] > 0
        placed = rule.on_input or ordered
        if placed:
            _place_rows(x, b.ids, b.shares, rule.on_input, vectors.orders, s.hidden, s.chosen, b.placed)
        for half in range(2):  # of what is given as a literal, Numba would compile each kernel once more
            read, k, choices = x, s.hidden, s.chosen
            n, y, stride = (2 if s.gated else 1) * s.width, b.wide, s.wide_stride
            if half:
                read, k, choices = b.hidden, s.width, half
                n, y, stride = s.hidden, b.narrow, s.narrow_stride
                if ordered:
                    _place_pairs(b.hidden, b.ids, vectors.orders, s.width, b.placed)
                    read = b.placed
            elif placed:
                read, choices = b.placed, half + 1
            gather(read, k, choices, b.blocks, of, b.gathered, s.row_stride, b.scratch, s.scratch_stride)
            products(w, starts, half, b.blocks, of, n, k, b.scratch, s.scratch_stride, y, stride, s.threads)
            find_lines(b.blocks, of, stride, (n + ROWS - 1) // ROWS * ROWS, b.lines)
            if half == 0:
                _activate_pairs(b.wide, b.lines, b.ids, vectors.into, s, b.hidden)
        _sum_pairs(
            b.narrow, b.lines, b.ids, b.shares, vectors.down, rule.on_input, s.rows, s.chosen, s.hidden, b.out
        )

    return implementation


@linked
def _place_rows(
    x: Any, ids: Any, shares: Any, on_input: Any, orders: Any, hidden: Any, chosen: Any, out: Any
) -> None:
    """A row of x for each of its choices, times its share where shares multiply what goes in, as the columns of its expert lie."""
    for pair in range(ids.size):
        row, share = pair // chosen, shares[pair] if on_input else _ONE
        from_, into = x[row * hidden :][:hidden], out[pair * hidden :][:hidden]
        if orders.shape[0]:
            order = orders[ids[pair], 0]
            for i in range(hidden):
                into[i] = share * from_[order[i]]
        else:
            for i in range(hidden):
                into[i] = share * from_[i]


@linked
def _place_pairs(x: Any, ids: Any, orders: Any, width: Any, out: Any) -> None:
    """The row of each pair as the columns of its expert's down lie."""
    for pair in range(ids.size):
        from_, into, order = x[pair * width :][:width], out[pair * width :][:width], orders[ids[pair], 1]
        for i in range(width):
            into[i] = from_[order[i]]


@linked(parallel=True)
def _activate_pairs(y: Any, lines: Any, ids: Any, biases: Any, s: Any, out: Any) -> None:
    """out [pairs, width]: the activation of gate and up of each pair, under its expert's biases."""
    width = s.width
    for t in prange(lines.size):
        pair = np.intp(t)
        at, into = lines[pair], out[pair * width : (pair + 1) * width]
        if biases.shape[1]:
            bias = biases[ids[pair]]
            for i in range(bias.size):
                y[at + i] += bias[i]
        if s.clamped:
            _clamped(y[at : at + width], y[at + width : at + 2 * width], into)
        else:
            activate(s.gated, s.smooth, y, at, width, into)


@linked(fastmath=True)
def _clamped(gate: Any, up: Any, out: Any) -> None:
    """(up + 1) · gate · σ(slope · gate), gate and up bounded (`forward.feed_forward`)."""
    for i in range(out.size):
        g = min(gate[i], _CLAMP)
        u = min(max(up[i], -_CLAMP), _CLAMP)
        out[i] = (u + _ONE) * g / (_ONE + np.exp(-_SLOPE * g))


@linked(parallel=True)
def _sum_pairs(
    y: Any,
    lines: Any,
    ids: Any,
    shares: Any,
    biases: Any,
    on_input: Any,
    rows: Any,
    chosen: Any,
    hidden: Any,
    out: Any,
) -> None:
    """Each row's sum, in the order of its choices, so that no thread's speed changes it."""
    for t in prange(rows):
        row = np.intp(t)
        total = out[row * hidden : (row + 1) * hidden]
        total[:] = 0
        for pair in range(row * chosen, (row + 1) * chosen):
            share, line = _ONE if on_input else shares[pair], y[lines[pair] : lines[pair] + hidden]
            if biases.shape[1]:
                bias = biases[ids[pair]]
                for i in range(hidden):
                    total[i] += share * (line[i] + bias[i])
            else:
                for i in range(hidden):
                    total[i] += share * line[i]
