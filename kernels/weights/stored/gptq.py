"""GPTQ's checkpoints: numbers packed along the columns, zero points, and with act-order the group of each column.

>>> Gptq(bits=4, group=128).format(4096)
'int4g128z'

Of W [n, k]: qweight int32 [k·bits/32, n], qzeros int32 [groups, n·bits/32], scales [groups, n], g_idx int32 [k]. W = (q − z) ·
scale of its column's group; version 1 stores z − 1. Source: AutoGPTQ/AutoGPTQ, auto_gptq/nn_modules/qlinear/qlinear_cuda.py
(pack), ModelCloud/GPTQModel for version 2; arXiv 2210.17323.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from membound.kernels.model import ModelError
from membound.kernels.weights.formats import Weight
from membound.kernels.weights.stored.scheme import (
    FLOATS,
    Arrays,
    Part,
    grouped_int4,
    grouped_int8,
    is_named,
    kernel_group,
    sorted_columns,
    unpacked,
    whole_words,
)

MIDDLE = 128
"""The zero point of symmetric 8-bit numbers, the only one whose products are those of int8."""


@dataclass(frozen=True, slots=True)
class Gptq:
    """Numbers of `bits` in groups of `group` columns; 0: a row is a group. `head`: the LM head too."""

    bits: int
    group: int
    zero_offset: int = 1
    head: bool = False
    some: bool = False
    mark: str = "qweight"
    values: str = "qweight"

    @property
    def title(self) -> str:
        """What it is, in a few words."""
        return f"GPTQ, {self.bits} bits, " + (f"groups of {self.group}" if self.group else "a group a row")

    def covers(self, module: str) -> bool | None:
        """All matrices of layers, unless `some` of them are chosen."""
        if self.some:
            return None
        return self.head or not is_named(module, ("lm_head",))

    def format(self, k: int) -> str:
        """int4 with zero points, or int8 in groups."""
        group = kernel_group(self.group or k, k)
        return f"int4g{group}z" if self.bits == 4 else "q8_0"

    def parts(self, n: int, k: int) -> dict[str, Part]:
        """qweight, qzeros, scales."""
        groups, each = -(-k // (self.group or k)), 32 // self.bits
        return {
            "qweight": Part((k // each, n), ("I32",)),
            "qzeros": Part((groups, whole_words(n, each)), ("I32",)),
            "scales": Part((groups, n), FLOATS),
        }

    def more(self, n: int, k: int) -> dict[str, Part]:
        """The group of each column."""
        return {"g_idx": Part((k,), ("I32",))}

    def read(self, arrays: Arrays, n: int, k: int) -> Weight:
        """Columns sorted by their group."""
        q = unpacked(arrays["qweight"], self.bits, 0)
        zeros = unpacked(arrays["qzeros"], self.bits, 1) + np.uint8(self.zero_offset)
        order = self._order(arrays["g_idx"], k) if "g_idx" in arrays else None
        if order is not None:
            q = q[order]
        scales = arrays["scales"].T
        if self.bits == 4:
            return grouped_int4(np.ascontiguousarray(q.T), scales, zeros.T, order)
        if (zeros != MIDDLE).any():
            raise ModelError("its 8-bit numbers have zero points, which are not supported")
        return grouped_int8(np.ascontiguousarray((q ^ np.uint8(MIDDLE)).T).view(np.int8), scales, order)

    def _order(self, groups: npt.NDArray[np.int32], k: int) -> npt.NDArray[np.int32] | None:
        """Columns in the order of their groups; None where they are in it."""
        order = sorted_columns("g_idx", groups, self.group or k)
        return None if np.array_equal(order, np.arange(k)) else order
