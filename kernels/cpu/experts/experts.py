"""Routed experts in one compiled call: router, choice, and the experts' two products over all blocks at once.

    run = experts_kernel("bf16", "float", 8, "1+2")
    run(x, router, router_at, arena, starts, buffers, sizes)      # y in buffers.out

    mix(FMT, ACT, BLOCKS, x, arena, starts, buffers, sizes)       # with a choice that is there already

`mix` is called from compiled code with literals, and knows nothing of where x and the choice came from: a step
calls it for a layer. packed_experts.py makes the arguments.
"""

from __future__ import annotations

from functools import cache
from typing import Any, NamedTuple

import numpy as np
from numba import prange
from numba.extending import overload

from membound.kernels.cpu.compile import kernel
from membound.kernels.cpu.experts.blocks import block_kernels, block_recipes
from membound.kernels.cpu.experts.routes import I64, Blocks, choose_experts, find_lines, group_rows
from membound.kernels.cpu.linked import LINKED, linked
from membound.kernels.cpu.matmul.linear import multiply, prepare
from membound.kernels.cpu.matmul.pack import Bytes
from membound.kernels.cpu.matmul.recipe import choose
from membound.kernels.cpu.simd.ir import literal_value
from membound.kernels.weights.formats import F32


class ExpertBuffers(NamedTuple):
    """What flows between the products. ids and shares [rows · chosen]; out [rows · hidden]; kernel_rows: sizes of blocks.

    gathered, wide, narrow and scratch hold a part for each block, as far apart as `ExpertSizes` says.
    """

    logits: F32
    ids: I64
    shares: F32
    blocks: Blocks
    kernel_rows: I64
    gathered: F32
    wide: F32
    narrow: F32
    scratch: Bytes
    lines: I64
    out: F32


class ExpertSizes(NamedTuple):
    """Shapes, and how far the parts of blocks are apart: floats, of the scratch bytes."""

    rows: int
    hidden: int
    width: int
    experts: int
    chosen: int
    row_stride: int
    wide_stride: int
    narrow_stride: int
    scratch_stride: int
    threads: int


def mix(FMT: str, ACT: str, BLOCKS: str, x: Any, w: Any, starts: Any, b: Any, s: Any) -> None:
    """b.out [rows, hidden] = Σ_j shares · expert(ids) of x [rows · hidden], for the ids and shares in `b`.

    Gate and up of expert e are one matrix from byte starts[e, 0] of `w` on, down is at starts[e, 1].
    """
    raise TypeError("mix is for compiled code")


@overload(mix, prefer_literal=True, jit_options=LINKED)
def _mix_in_kernels(FMT: Any, ACT: Any, BLOCKS: Any, x: Any, w: Any, starts: Any, b: Any, s: Any) -> Any:
    values = [literal_value(v) for v in (FMT, ACT, BLOCKS)]
    if None in values:
        return None
    kernels = block_kernels(*values)
    gather, products, activate = kernels
    ROWS = block_recipes(*values)[0].panel_rows

    def implementation(FMT: Any, ACT: Any, BLOCKS: Any, x: Any, w: Any, starts: Any, b: Any, s: Any) -> None:
        of = group_rows(b.ids, s.rows, s.chosen, s.experts, b.kernel_rows, b.blocks)
        line = (2 * s.width + ROWS - 1) // ROWS * ROWS
        gather(x, s.hidden, s.chosen, b.blocks, of, b.gathered, s.row_stride, b.scratch, s.scratch_stride)
        products(
            w, starts, np.intp(0), b.blocks, of, 2 * s.width, s.hidden,
            b.scratch, s.scratch_stride, b.wide, s.wide_stride, s.threads,
        )  # fmt: skip
        activate(
            b.wide, s.wide_stride, line, s.width, b.blocks, of,
            b.gathered, s.row_stride, b.scratch, s.scratch_stride,
        )  # fmt: skip
        products(
            w, starts, np.intp(1), b.blocks, of, s.hidden, s.width,
            b.scratch, s.scratch_stride, b.narrow, s.narrow_stride, s.threads,
        )  # fmt: skip
        find_lines(b.blocks, of, s.narrow_stride, (s.hidden + ROWS - 1) // ROWS * ROWS, b.lines)
        if s.rows == 1:
            _add_row(np.intp(0), b.out, b.shares, b.narrow, b.lines, s.hidden, s.chosen)
        else:
            _add_rows(b.out, b.shares, b.narrow, b.lines, s.rows, s.hidden, s.chosen)

    return implementation


@linked
def _add_row(row: Any, out: Any, shares: Any, y: Any, lines: Any, hidden: Any, chosen: Any) -> None:
    """A row's sum, in the order of its choices, so that no thread's speed changes it."""
    total = out[row * hidden : (row + 1) * hidden]
    total[:] = 0
    for pair in range(row * chosen, (row + 1) * chosen):
        share, line = shares[pair], y[lines[pair] : lines[pair] + hidden]
        for i in range(hidden):
            total[i] += share * line[i]


@linked(parallel=True)
def _add_rows(out: Any, shares: Any, y: Any, lines: Any, rows: Any, hidden: Any, chosen: Any) -> None:
    for row in prange(rows):
        _add_row(np.intp(row), out, shares, y, lines, hidden, chosen)


@cache
def experts_kernel(FMT: str, ACT: str, M: int, BLOCKS: str) -> Any:
    """M rows through a float32 router and its experts, cached on disk; BLOCKS as `block_kernels` takes them.

    run(x [M · hidden], routers, router_at, w, starts, buffers, sizes): the router is packed from that byte on.
    """
    ROWS = choose("f32", "float", M).panel_rows

    @kernel()
    def run(x: Any, routers: Any, router_at: Any, w: Any, starts: Any, b: Any, s: Any) -> None:
        prepare("f32", "float", M, x, 0, s.hidden, s.hidden, b.scratch)
        multiply("f32", "float", M, routers, router_at, s.experts, s.hidden, b.scratch, b.logits, s.threads)
        stride = (s.experts + ROWS - 1) // ROWS * ROWS
        choose_experts(b.logits, stride, M, s.experts, s.chosen, b.ids, b.shares)
        mix(FMT, ACT, BLOCKS, x, w, starts, b, s)

    return run
