"""The query rows of a KV head as panels: cell after cell, each with the LANES rows of a chunk beside each other.

    prepare(q, at, q_stride, group, rows, dim, scale, query)

query[(c·cells + d)·LANES + lane] is cell d of row c·LANES + lane (cells: simd/cells.py), scaled by scale · log2(e) for softmax
by exp2; cells behind the last are zero. Lanes behind the last row repeat it, and nobody reads what becomes of them.
"""

from __future__ import annotations

from functools import cache
from math import e, log2
from typing import Any

import numpy as np

from membound.kernels.cpu.attention.scores import chunks_of
from membound.kernels.cpu.linked import linked
from membound.kernels.cpu.matmul.grouping import Grouping
from membound.kernels.cpu.simd.arithmetic import multiply
from membound.kernels.cpu.simd.features import LANES
from membound.kernels.cpu.simd.lanes import transpose
from membound.kernels.cpu.simd.loads import load, load_each, load_part
from membound.kernels.cpu.simd.stores import store, store_bf16, store_tile
from membound.kernels.cpu.simd.streams import far_starts
from membound.kernels.cpu.simd.vectors import splat

_LOG2_E = np.float32(log2(e))


@cache
def make_cells(g: Grouping) -> Any:
    """cells(dim): cells of a row of `dim` numbers, whole vectors of them."""
    NUMBERS = LANES if g.method == "float" else 2 * LANES

    @linked
    def cells(dim: Any) -> Any:
        return (dim + NUMBERS - 1) // NUMBERS * LANES

    return cells


@cache
def make_prepare(g: Grouping) -> Any:
    """prepare(q, at, q_stride, group, rows, dim, scale, query): row r is q[at + r // group · q_stride + r % group · dim :][:dim]."""
    cells_of, put = make_cells(g), store if g.method == "float" else store_bf16
    NUMBERS, KIND = (1, np.float32) if g.method == "float" else (2, np.uint16)

    @linked
    def prepare(
        q: Any, at: Any, q_stride: Any, group: Any, rows: Any, dim: Any, scale: Any, query: Any
    ) -> None:
        cells, by = cells_of(dim), splat(scale * _LOG2_E)
        width, whole = cells * NUMBERS, dim // LANES * LANES
        line = np.zeros(LANES * width, KIND)
        for c in range(chunks_of(rows, LANES)):
            for lane in range(LANES):
                r = min(c * LANES + lane, rows - 1)
                start = at + r // group * q_stride + r % group * dim
                for d in range(0, whole, LANES):
                    put(line, lane * width + d, multiply(load(q, start + d, "f32"), by))
                if whole < dim:
                    rest = load_part(q, start + whole, dim - whole, "f32")
                    put(line, lane * width + whole, multiply(rest, by))
            bits = line.view(np.float32)
            for d in range(0, cells, LANES):
                tile = load_each(bits, far_starts(d, cells, LANES), 0, "f32")
                store_tile(query, (c * cells + d) * LANES, transpose(tile))

    return prepare
