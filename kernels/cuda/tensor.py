"""Tensor-core products y[m, n] = x[m, k] · W[n, k]ᵀ for few rows of x, at the speed at which W arrives.

A warp multiplies 16 rows of W by eight rows of x at a time. W goes from memory straight into the registers
that the tensor cores want, with no stop in shared memory (see operands.py). A batch of loads is under way
before the first of them is used; the warps of a block share the columns of W and add up at the end, so that
the result does not depend on which came first.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np

from membound.kernels.cuda.compile import WARP, Kernel, cuda, device
from membound.kernels.cuda.operands import operands
from membound.kernels.cuda.ptx import as_f32, high_f16, low_f16
from membound.kernels.work import FORMATS

PARAMETERS = ("u32*", "u32*", "u32*", "f32*", "i32", "i32", "i32", "i32")
"""W and its scales as `pack` leaves them, x, y, rows n, padded columns k, rows m of x, elements from row to row of y."""


@dataclass(frozen=True, slots=True)
class Tensor:
    """One variant: `tiles` of eight rows of x, warps of a block over rows and columns of W, `unroll` units a batch.

    `packed` x is of 16 bits already, otherwise float32 that each warp rounds; `accumulate` adds to y.
    """

    format: str
    tiles: int
    row_warps: int
    column_warps: int
    unroll: int
    packed: bool = False
    accumulate: bool = False

    @property
    def name(self) -> str:
        """Says all of it."""
        flags = f"{'_packed' if self.packed else ''}{'_add' if self.accumulate else ''}"
        return (
            f"tensor_{self.format}_t{self.tiles}_r{self.row_warps}_c{self.column_warps}_u{self.unroll}{flags}"
        )

    def grid(self, padded_n: int, m: int) -> tuple[int, int]:
        """Blocks over tiles of W, which `row_warps` must divide, and over rows of x."""
        return padded_n // 16 // self.row_warps, -(-m // (8 * self.tiles))


@cache
def tensor_kernel(variant: Tensor) -> Kernel:
    """The kernel of a variant, with PARAMETERS."""
    column_warps, row_warps, unroll, tiles = (
        variant.column_warps,
        variant.row_warps,
        variant.unroll,
        variant.tiles,
    )
    parts = operands(variant.format)
    load, unit_columns, unit_words = parts.load, parts.columns, parts.words
    use, write = _user(variant), _writer(variant)
    sums, raw = 4 * tiles, unroll * parts.words

    def multiply(w: Any, s: Any, x: Any, y: Any, n: Any, k: Any, m: Any, stride: Any) -> None:
        lane = cuda.threadIdx.x % 32
        warp = cuda.threadIdx.x // 32
        part = warp % column_warps
        tile = cuda.blockIdx.x * row_warps + warp // column_warps
        first_row = cuda.blockIdx.y * (8 * tiles)
        total = cuda.local.array(sums, np.float32)
        words = cuda.local.array(raw, np.uint32)
        for i in range(sums):
            total[i] = np.float32(0)
        units = k // unit_columns
        batches = units // unroll
        batch = part
        while batch < batches:
            for u in range(unroll):
                load(w, tile, batch * unroll + u, k, lane, words, u * unit_words)
            cuda.syncwarp()
            for u in range(unroll):
                use(total, words, u * unit_words, s, x, tile, batch * unroll + u, k, m, first_row, lane)
            batch += column_warps
        unit = batches * unroll + part
        while unit < units:
            load(w, tile, unit, k, lane, words, 0)
            use(total, words, 0, s, x, tile, unit, k, m, first_row, lane)
            unit += column_warps
        write(total, s, y, tile, n, m, first_row, stride, warp, lane)

    return Kernel(variant.name, multiply, PARAMETERS, WARP * row_warps * column_warps)


def _user(variant: Tensor) -> Any:
    """Adds the product of one unit of W with all rows of x to a lane's sums."""
    parts = operands(variant.format)
    tiles, decode, mma, columns = variant.tiles, parts.decode, parts.mma, parts.columns
    x_words = parts.x_packed if variant.packed else parts.x_float
    thirties, group = columns // 32, FORMATS[variant.format].group
    groups = columns // group if group else 1
    scaled, of_group, a_words = group > 0, thirties // groups, 8 * thirties

    def use(
        total: Any,
        words: Any,
        at: Any,
        s: Any,
        x: Any,
        tile: Any,
        unit: Any,
        k: Any,
        m: Any,
        first_row: Any,
        lane: Any,
    ) -> None:
        a = cuda.local.array(a_words, np.uint32)
        decode(words, at, a)
        for i in range(tiles):
            row = min(first_row + 8 * i + (lane >> 2), m - 1)  # a row beyond x gives sums that nobody stores
            start = row * k + unit * columns + 8 * (lane & 3)
            for g in range(groups):
                c0 = total[4 * i]
                c1 = total[4 * i + 1]
                c2 = total[4 * i + 2]
                c3 = total[4 * i + 3]
                if scaled:
                    c0 = c1 = c2 = c3 = np.float32(0)
                for j in range(of_group):
                    h = 8 * (g * of_group + j)
                    p, q, r, t = x_words(x, start + 4 * h)
                    c0, c1, c2, c3 = mma(a[h], a[h + 1], a[h + 2], a[h + 3], p, q, c0, c1, c2, c3)
                    c0, c1, c2, c3 = mma(a[h + 4], a[h + 5], a[h + 6], a[h + 7], r, t, c0, c1, c2, c3)
                if scaled:
                    pair = s[(tile * (k // group) + unit * groups + g) * 8 + (lane >> 2)]
                    c0 = total[4 * i] + low_f16(pair) * c0
                    c1 = total[4 * i + 1] + low_f16(pair) * c1
                    c2 = total[4 * i + 2] + high_f16(pair) * c2
                    c3 = total[4 * i + 3] + high_f16(pair) * c3
                total[4 * i] = c0
                total[4 * i + 1] = c1
                total[4 * i + 2] = c2
                total[4 * i + 3] = c3

    return device(use)


def _writer(variant: Tensor) -> Any:
    """Adds up what the warps of a block have of the same rows, and stores it."""
    column_warps, sums = variant.column_warps, 4 * variant.tiles
    shape = (variant.row_warps * column_warps, sums, WARP)
    accumulate, row_scales = variant.accumulate, variant.format == "int8"

    def write(
        total: Any,
        s: Any,
        y: Any,
        tile: Any,
        n: Any,
        m: Any,
        first_row: Any,
        stride: Any,
        warp: Any,
        lane: Any,
    ) -> None:
        shared = cuda.shared.array(shape, np.float32)
        for i in range(sums):
            shared[warp, i, lane] = total[i]
        cuda.syncthreads()
        part = warp % column_warps
        first = warp - part
        i = part
        while i < sums:
            value = np.float32(0)
            for other in range(column_warps):
                value += shared[first + other, i, lane]
            column = tile * 16 + (lane >> 2) + 8 * ((i >> 1) & 1)
            row = first_row + 8 * (i >> 2) + 2 * (lane & 3) + (i & 1)
            if row < m and column < n:
                if row_scales:
                    value *= as_f32(s[column])
                if accumulate:
                    value += y[row * stride + column]
                y[row * stride + column] = value
            i += column_warps

    return device(write)
