"""A whole decode step of a model whose layers have heads of two widths, in one compiled call (Gemma 4).

    run = wide_step_kernel("bf16", "float", 1, "bf16", NEAR, WIDE, "", "", "bf16", "float")
    run(x, arena, starts, near, wide, layers, buffers, second)       # logits in buffers.logits

packed_wide.py makes the arguments. step.py and routed_step.py have what such a model shares with others.
"""

from __future__ import annotations

from functools import cache
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from membound.kernels.cpu.compile import kernel
from membound.kernels.cpu.linked import linked
from membound.kernels.cpu.matmul.recipe import choose
from membound.kernels.cpu.step.routed_step import second
from membound.kernels.cpu.step.step import Caches, Gains, Sizes, attention_half, head
from membound.kernels.weights.formats import F32


class Heads(NamedTuple):
    """What the attention of layers with heads of one width goes by; rows of other layers are not read."""

    gains: Gains
    caches: Caches
    sizes: Sizes


class Layers(NamedTuple):
    """wide [layers]: whose heads are of the second width. gains [layers]: what is multiplied by behind a layer."""

    wide: npt.NDArray[np.bool_]
    gains: F32


@cache
def wide_step_kernel(
    FMT: str, ACT: str, M: int, KV: str, NEAR: tuple[int, str], WIDE: tuple[int, str], EXPERTS: str, BLOCKS: str,
    LAST_FMT: str, LAST_ACT: str,
) -> Any:  # fmt: skip
    """The compiled step for M new tokens, cached on disk; NEAR and WIDE: HEADS and METHOD of `attend_new` for each width, EXPERTS and
    BLOCKS, '' where there are none, as `routed_step_kernel`, LAST_… of the LM head.

    run(x [M·hidden], arena, starts [layers + 1, FIXED], near, wide, layers, buffers, routed): `Heads` of each width, and `Plain`,
    `Routed` or `Beside`. The LM head begins at the last row's first byte.
    """
    ROWS = choose(FMT, ACT, M).panel_rows
    (NEAR_HEADS, NEAR_METHOD), (WIDE_HEADS, WIDE_METHOD) = NEAR, WIDE

    @kernel()
    def run(x: Any, arena: Any, starts: Any, near: Any, wide: Any, layers: Any, b: Any, routed: Any) -> None:
        s = near.sizes
        for i in range(x.size):  # of a slice Numba would compile the words of its errors
            b.x[i] = x[i]
        for layer in range(s.layers):
            at = starts[layer]
            if layers.wide[layer]:
                attention_half(
                    FMT, ACT, M, KV, WIDE_HEADS, WIDE_METHOD, ROWS,
                    layer, arena, at, wide.gains, wide.caches, b, wide.sizes,
                )  # fmt: skip
            else:
                attention_half(
                    FMT, ACT, M, KV, NEAR_HEADS, NEAR_METHOD, ROWS,
                    layer, arena, at, near.gains, near.caches, b, s,
                )  # fmt: skip
            second(FMT, ACT, M, EXPERTS, BLOCKS, ROWS, layer, arena, at, near.gains, b, s, routed)
            scale_rows(M, b.x, layers.gains[layer], s)
        head(LAST_FMT, LAST_ACT, M, arena, starts[s.layers, 0], near.gains, b, s)

    return run


@linked
def scale_rows(M: Any, x: Any, factor: Any, s: Any) -> None:
    """Every row of x [M · hidden] times a number."""
    for i in range(M * s.hidden):
        x[i] *= factor
