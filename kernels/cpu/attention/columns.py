"""In which order a kernel keeps the numbers of a head: that in which its loads bring them.

    column = make_column(g)                           # column(d): where element d stands

A vector of bfloat16 becomes two of float32 by a shift (its even places) and a mask (its odd ones), without moving a number from
lane to lane; int8 values and pairs of bfloat16 are interleaved row by row. Queries are put into that order once, sums are taken out of it once.
"""

from __future__ import annotations

from functools import cache
from typing import Any

from membound.kernels.cpu.linked import linked
from membound.kernels.cpu.matmul.grouping import Grouping
from membound.kernels.cpu.simd.features import LANES


@cache
def make_column(g: Grouping) -> Any:
    """column(d): where element d of a head stands in its sums, and of `halves` in its query."""
    return {"integer": _interleaved, "pairs": _interleaved, "halves": _halves}.get(g.method, _as_stored)


@linked
def _as_stored(d: Any) -> Any:
    return d


@linked
def _interleaved(d: Any) -> Any:
    i = d % (2 * LANES)
    return d - i + i // 4 % 2 * LANES + i // 8 * 4 + i % 4


@linked
def _halves(d: Any) -> Any:
    i = d % (2 * LANES)
    return d - i + i % 2 * LANES + i // 2
