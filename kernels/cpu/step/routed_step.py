"""A whole decode step of a model whose layers differ in kind, in one compiled call: experts, and latent attention.

    run = routed_step_kernel("bf16", "float", 1, "bf16", HEADS, METHOD, "", "", "bf16", "1", "bf16", "float")
    run(x, arena, starts, gains, caches, buffers, sizes, routed)       # logits in buffers.logits

packed_routed.py makes the arguments. step.py has what such a model shares with a dense one.
"""

from __future__ import annotations

from functools import cache
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from numba.extending import overload

from membound.kernels.cpu.compile import kernel
from membound.kernels.cpu.experts.layer_experts import ExpertVectors, LayerBuffers, LayerSizes, layer_experts
from membound.kernels.cpu.experts.router import Rule
from membound.kernels.cpu.experts.routes import I64
from membound.kernels.cpu.linked import LINKED, linked
from membound.kernels.cpu.matmul.pack import Bytes
from membound.kernels.cpu.matmul.recipe import choose
from membound.kernels.cpu.step.elementwise import normalise
from membound.kernels.cpu.step.latent import latent_half
from membound.kernels.cpu.step.step import Norms, add_rows, attention_half, head, mlp, norm_rows
from membound.kernels.weights.formats import F32

FIXED = 5
"""Matrices of a layer besides its experts, in the order of `starts`: two or three of attention, the MLP's two behind them."""


class Plain(NamedTuple):
    """What the second halves of a dense model go by: the width of each layer's MLP; 0: it has none."""

    widths: I64


class Routed(NamedTuple):
    """What a layer's second half goes by. Arrays have a row a layer.

    widths: of the MLP that every row takes, alone or beside experts; 0: there is none. chooses: whether there are experts.
    routers from `router_starts` on; experts [layers, count, 2] in the arena. vectors and shared_gate: a width of 0 where there are
    none. given: the choice of each row where it is made already, [layers, rows · chosen] or no columns. orders [layers, experts, 2, widest]: in
    which order the columns of gate and up, and of down, lie; no experts where all lie in theirs. ids: the last choice, as `given`.
    """

    widths: I64
    chooses: npt.NDArray[np.bool_]
    routers: Bytes
    router_starts: I64
    expert_starts: I64
    router_bias: F32
    correction: F32
    expert_gain: F32
    into_bias: F32
    down_bias: F32
    shared_gate: F32
    given: I64
    orders: npt.NDArray[np.int32]
    ids: I64
    rule: Rule
    buffers: LayerBuffers
    sizes: LayerSizes


class Beside(NamedTuple):
    """What a layer's second half goes by where experts stand beside an MLP, each with norms of their own (Gemma 4).

    router, experts_in: of what goes into the router and the experts; shared_out, experts_out: of what comes out of the MLP and the
    experts. seen, into [rows · hidden]: room for what goes in.
    """

    routed: Routed
    router: Norms
    experts_in: Norms
    shared_out: Norms
    experts_out: Norms
    seen: F32
    into: F32


@cache
def routed_step_kernel(
    FMT: str, ACT: str, M: int, KV: str, HEADS: int, METHOD: str, UP: str, INDEX: str, EXPERTS: str, BLOCKS: str,
    LAST_FMT: str, LAST_ACT: str,
) -> Any:  # fmt: skip
    """The compiled step for M new tokens, cached on disk; HEADS and METHOD as `attend_new` takes them, EXPERTS, their format, and BLOCKS
    as `layer_experts`, LAST_… of the LM head.

    UP: the format of absorbed matrices, and METHOD is that of `attend_rows`; '' without latent attention. INDEX as `latent_half`.
    run(x [M·hidden], arena, starts [layers + 1, FIXED], gains, caches, buffers, sizes, routed): the LM head begins at the last
    row's first byte. With latent attention `latent`, a (LatentGains, LatentBuffers, Absorbed, LatentShape, Index or NoIndex), comes last.
    """
    ROWS = choose(FMT, ACT, M).panel_rows

    if UP:

        @kernel()
        def run_latent(
            x: Any, arena: Any, starts: Any, gains: Any, caches: Any, b: Any, s: Any, routed: Any, latent: Any
        ) -> None:
            for i in range(x.size):  # of a slice Numba would compile the words of its errors
                b.x[i] = x[i]
            own, buffers, up, shape, index = latent
            for layer in range(s.layers):
                at = starts[layer]
                latent_half(
                    FMT, ACT, M, KV, METHOD, UP, ROWS, INDEX,
                    layer, arena, at, gains, own, caches, b, buffers, up, shape, index, s,
                )  # fmt: skip
                second(FMT, ACT, M, EXPERTS, BLOCKS, ROWS, layer, arena, at, gains, b, s, routed)
            head(LAST_FMT, LAST_ACT, M, arena, starts[s.layers, 0], gains, b, s)

        return run_latent

    @kernel()
    def run(x: Any, arena: Any, starts: Any, gains: Any, caches: Any, b: Any, s: Any, routed: Any) -> None:
        for i in range(x.size):
            b.x[i] = x[i]
        for layer in range(s.layers):
            at = starts[layer]
            attention_half(FMT, ACT, M, KV, HEADS, METHOD, ROWS, layer, arena, at, gains, caches, b, s)
            second_half(FMT, ACT, M, EXPERTS, BLOCKS, ROWS, layer, arena, at, gains, b, s, routed)
        head(LAST_FMT, LAST_ACT, M, arena, starts[s.layers, 0], gains, b, s)

    return run


def second(
    FMT: str, ACT: str, M: int, EXPERTS: str, BLOCKS: str, ROWS: int,
    layer: Any, arena: Any, at: Any, gains: Any, b: Any, s: Any, routed: Any,
) -> None:  # fmt: skip
    """The MLP of a layer, its experts, both or nothing, added to b.x: whether there are experts, the type of `routed` says."""
    raise TypeError("second is for compiled code")


@overload(second, prefer_literal=True, jit_options=LINKED)
def _second_in_kernels(
    FMT: Any, ACT: Any, M: Any, EXPERTS: Any, BLOCKS: Any, ROWS: Any,
    layer: Any, arena: Any, at: Any, gains: Any, b: Any, s: Any, routed: Any,
) -> Any:  # fmt: skip
    if routed.instance_class is Beside:
        return beside_half
    return _mlp_or_nothing if routed.instance_class is Plain else _routed_or_nothing


def _mlp_or_nothing(
    FMT: Any, ACT: Any, M: Any, EXPERTS: Any, BLOCKS: Any, ROWS: Any,
    layer: Any, arena: Any, at: Any, gains: Any, b: Any, s: Any, routed: Any,
) -> None:  # fmt: skip
    width = routed.widths[layer]
    if width:
        norm_rows(M, b.x, gains.mlp_in, layer, s, b.normed)
        mlp(
            FMT, ACT, M, ROWS, arena, at[3], at[4], width, gains.up_bias[layer], gains.orders, 4 * layer + 2, b, s,
        )  # fmt: skip
        stride = (s.hidden + ROWS - 1) // ROWS * ROWS
        add_rows(M, b.x, b.narrow, stride, gains.down_bias, gains.mlp_out, layer, s)


def _routed_or_nothing(
    FMT: Any, ACT: Any, M: Any, EXPERTS: Any, BLOCKS: Any, ROWS: Any,
    layer: Any, arena: Any, at: Any, gains: Any, b: Any, s: Any, routed: Any,
) -> None:  # fmt: skip
    if routed.widths[layer] > 0 or routed.chooses[layer]:
        second_half(FMT, ACT, M, EXPERTS, BLOCKS, ROWS, layer, arena, at, gains, b, s, routed)


@linked
def second_half(
    FMT: Any, ACT: Any, M: Any, EXPERTS: Any, BLOCKS: Any, ROWS: Any,
    layer: Any, arena: Any, at: Any, gains: Any, b: Any, s: Any, routed: Any,
) -> None:  # fmt: skip
    """The MLP of a layer, its experts, or both, added to b.x."""
    stride = (s.hidden + ROWS - 1) // ROWS * ROWS
    norm_rows(M, b.x, gains.mlp_in, layer, s, b.normed)
    width = routed.widths[layer]
    if width:
        mlp(
            FMT, ACT, M, ROWS, arena, at[3], at[4], width, gains.up_bias[layer], gains.orders, 4 * layer + 2, b, s,
        )  # fmt: skip
    if routed.chooses[layer]:
        _choose_and_mix(EXPERTS, ACT, M, BLOCKS, b.normed, b.normed, layer, arena, routed)
        _join(M, b.narrow, stride, width > 0, b.normed, routed.shared_gate[layer], routed.buffers.out, s)
    add_rows(M, b.x, b.narrow, stride, gains.down_bias, gains.mlp_out, layer, s)


@linked
def _choose_and_mix(
    EXPERTS: Any, ACT: Any, M: Any, BLOCKS: Any, x: Any, seen: Any, layer: Any, arena: Any, routed: Any
) -> None:
    """The experts of x that a layer's router chooses by `seen`, to routed.buffers.out."""
    vectors = ExpertVectors(
        routed.router_bias[layer], routed.correction[layer], routed.expert_gain[layer], routed.into_bias[layer],
        routed.down_bias[layer], routed.given[layer], routed.orders[layer],
    )  # fmt: skip
    layer_experts(
        EXPERTS, ACT, M, BLOCKS, x, seen, routed.routers, routed.router_starts[layer],
        arena, routed.expert_starts[layer], vectors, routed.rule, routed.buffers, routed.sizes,
    )  # fmt: skip
    routed.ids[layer, :] = routed.buffers.ids


def beside_half(
    FMT: Any, ACT: Any, M: Any, EXPERTS: Any, BLOCKS: Any, ROWS: Any,
    layer: Any, arena: Any, at: Any, gains: Any, b: Any, s: Any, routed: Any,
) -> None:  # fmt: skip
    """The MLP of a layer and its experts, both of b.x, under their norms, added to it."""
    own, stride = routed.routed, (s.hidden + ROWS - 1) // ROWS * ROWS
    norm_rows(M, b.x, gains.mlp_in, layer, s, b.normed)
    mlp(
        FMT, ACT, M, ROWS, arena, at[3], at[4], own.widths[layer], gains.up_bias[layer], gains.orders, 4 * layer + 2, b, s,
    )  # fmt: skip
    norm_rows(M, b.x, routed.router, layer, s, routed.seen)
    norm_rows(M, b.x, routed.experts_in, layer, s, routed.into)
    _choose_and_mix(EXPERTS, ACT, M, BLOCKS, routed.into, routed.seen, layer, arena, own)
    norm_rows(M, own.buffers.out, routed.experts_out, layer, s, routed.into)
    _add_under_norm(M, b.narrow, stride, routed.shared_out, routed.into, layer, s)
    add_rows(M, b.x, b.narrow, stride, gains.down_bias, gains.mlp_out, layer, s)


@linked
def _add_under_norm(M: Any, y: Any, stride: Any, norms: Any, more: Any, layer: Any, s: Any) -> None:
    """Rows of y, `stride` apart, under their norm and with `more` [M · hidden] added."""
    for row in range(M):
        line, other = y[row * stride :][: s.hidden], more[row * s.hidden :][: s.hidden]
        normalise(line, norms.gain[layer], norms.bias[layer], s.centred, np.float32(s.eps), line)
        for i in range(s.hidden):
            line[i] += other[i]


@linked
def _join(M: Any, y: Any, stride: Any, shared: Any, normed: Any, gate: Any, mixed: Any, s: Any) -> None:
    """What comes out of the experts to y, which holds that of the shared MLP, under its gate, or nothing."""
    for row in range(M):
        line, more = y[row * stride :][: s.hidden], mixed[row * s.hidden :][: s.hidden]
        share = np.float32(1 if shared else 0)
        if gate.size:
            logit, x = np.float32(0), normed[row * s.hidden :][: s.hidden]
            for i in range(gate.size):
                logit += gate[i] * x[i]
            share = np.float32(1) / (np.float32(1) + np.exp(-logit))
        for i in range(s.hidden):
            line[i] = (share * line[i] if shared else np.float32(0)) + more[i]
