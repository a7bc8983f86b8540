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
from membound.kernels.cuda.matmul.operands import operands
from membound.kernels.cuda.ptx import (
    MOST_STAGES,
    as_f32,
    as_u32,
    commit_copies,
    high_f16,
    low_f16,
    wait_copies_but,
)
from membound.kernels.weights.formats import FORMATS

PARAMETERS = ("u32*", "u32*", "u32*", "f32*", "i32", "i32", "i32", "i32")
"""W and its scales as `pack` leaves them, x, y, rows n, padded columns k, rows m of x, elements from row to row of y."""

MOST_SHARED_BYTES = 48 << 10
"""Of a block that does not ask for more when it is launched (CUDA C++ Programming Guide, compute capabilities)."""


@dataclass(frozen=True, slots=True)
class Tensor:
    """One variant: `tiles` of eight rows of x, warps of a block over rows and columns of W, `stages` of a ring.

    A warp takes `row_tiles` tiles of 16 rows of W at once: each word of x that it loads serves all of them.
    `packed` x is of 16 bits already, otherwise float32 that each warp rounds; `accumulate` adds to y; `wide` is that of
    operands.operands.
    """

    format: str
    tiles: int
    row_warps: int
    column_warps: int
    stages: int
    packed: bool = False
    accumulate: bool = False
    row_tiles: int = 1
    wide: bool = False

    @property
    def name(self) -> str:
        """Says all of it."""
        flags = f"{'_packed' if self.packed else ''}{'_add' if self.accumulate else ''}"
        flags += f"_w{self.row_tiles}" if self.row_tiles > 1 else ""
        flags += "_wide" if self.wide else ""
        return (
            f"tensor_{self.format}_t{self.tiles}_r{self.row_warps}_c{self.column_warps}_s{self.stages}{flags}"
        )

    def grid(self, padded_n: int, m: int) -> tuple[int, int]:
        """Blocks over tiles of W, which `row_warps` · `row_tiles` must divide, and over rows of x."""
        return padded_n // 16 // (self.row_warps * self.row_tiles), -(-m // (8 * self.tiles))

    @property
    def shared_bytes(self) -> int:
        """What a block takes of shared memory; MOST_SHARED_BYTES is the most."""
        return self.row_warps * self.column_warps * self.stages * self.unit_bytes

    @property
    def fits(self) -> bool:
        """Whether a block has the shared memory, and a warp's ring has room for its sums, which take its place at the end."""
        sums_bytes = 4 * self.tiles * self.row_tiles * WARP * 4
        return self.shared_bytes <= MOST_SHARED_BYTES and sums_bytes <= self.stages * self.unit_bytes

    @property
    def unit_bytes(self) -> int:
        """What a warp copies in a stage of its ring."""
        return self.row_tiles * operands(self.format, self.wide).words * 4 * WARP


def check_stages(name: str, stages: int) -> None:
    """Raises ValueError for a ring that a kernel cannot wait for: ptx.wait_copies_but takes up to MOST_GROUPS."""
    if not 1 <= stages <= MOST_STAGES:
        raise ValueError(f"{name}: a ring has 1 to {MOST_STAGES} stages, not {stages}")


@cache
def tensor_kernel(variant: Tensor) -> Kernel:
    """The kernel of a variant, with PARAMETERS."""
    column_warps, row_warps, stages = variant.column_warps, variant.row_warps, variant.stages
    parts, tiles = operands(variant.format, variant.wide), variant.tiles
    start, columns, tile_words = parts.start, parts.columns, parts.words * WARP
    ROW_TILES, unit_words = variant.row_tiles, variant.row_tiles * tile_words
    use, write = _user(variant), _writer(variant)
    sums, warp_words = 4 * tiles * ROW_TILES, stages * unit_words
    ring_words, ahead_of = row_warps * column_warps * warp_words, stages - 1
    if not variant.fits:
        raise ValueError(f"{variant.name}: a ring of {variant.shared_bytes} bytes is too long or too short")
    check_stages(variant.name, stages)

    def multiply(w: Any, s: Any, x: Any, y: Any, n: Any, k: Any, m: Any, stride: Any) -> None:
        lane = cuda.threadIdx.x % 32
        warp = cuda.threadIdx.x // 32
        tile = (cuda.blockIdx.x * row_warps + warp // column_warps) * ROW_TILES
        first_row = cuda.blockIdx.y * (8 * tiles)
        ring = cuda.shared.array(ring_words, np.uint32, 16)
        own = warp * warp_words
        total = cuda.local.array(sums, np.float32)
        for i in range(sums):
            total[i] = np.float32(0)
        units = k // columns
        unit = warp % column_warps
        ahead = unit
        for stage in range(ahead_of):
            if ahead < units:
                for t in range(ROW_TILES):
                    start(w, tile + t, ahead, k, lane, ring, own + stage * unit_words + t * tile_words)
            commit_copies()
            ahead += column_warps
        here, there = 0, ahead_of
        while unit < units:
            if ahead < units:
                for t in range(ROW_TILES):
                    start(w, tile + t, ahead, k, lane, ring, own + there * unit_words + t * tile_words)
            commit_copies()  # also where there is nothing left to copy: groups are counted
            wait_copies_but(ahead_of)
            use(total, ring, own + here * unit_words, s, x, tile, unit, k, m, first_row, lane)
            ahead += column_warps
            unit += column_warps
            there = here
            here += 1
            if here == stages:
                here = 0
        cuda.syncthreads()
        write(total, ring, own, warp_words, s, y, tile, n, m, first_row, stride, warp, lane)

    return Kernel(variant.name, multiply, PARAMETERS, WARP * row_warps * column_warps)


def _user(variant: Tensor) -> Any:
    """Adds the product of one unit of W with all rows of x to a lane's sums."""
    parts = operands(variant.format, variant.wide)
    tiles, take, mma, columns = variant.tiles, parts.take, parts.mma, parts.columns
    x_words = parts.x_packed if variant.packed else parts.x_float
    thirties, group = columns // 32, FORMATS[variant.format].group
    groups = max(1, columns // group) if group else 1
    part = group // columns // 2  # of a group that is longer than a unit, of which there are two then
    scaled, of_group, a_words = group > 0, thirties // groups, 8 * thirties
    ROW_TILES, tile_words = variant.row_tiles, parts.words * WARP
    all_words, parallel = ROW_TILES * a_words, 4 * ROW_TILES

    def use(
        total: Any,
        ring: Any,
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
        a, c = cuda.local.array(all_words, np.uint32), cuda.local.array(parallel, np.float32)
        for t in range(ROW_TILES):
            take(ring, at + t * tile_words, lane, a, t * a_words)
        for i in range(tiles):
            row = min(first_row + 8 * i + (lane >> 2), m - 1)  # a row beyond x gives sums that nobody stores
            start = row * k + unit * columns + 8 * (lane & 3)
            for g in range(groups):
                for e in range(parallel):
                    c[e] = np.float32(0) if scaled else total[parallel * i + e]
                for j in range(of_group):
                    h = 8 * (g * of_group + j)
                    p, q, r, s1 = x_words(x, start + 4 * h)
                    for t in range(ROW_TILES):
                        b, e = t * a_words + h, 4 * t
                        c[e], c[e + 1], c[e + 2], c[e + 3] = mma(
                            *(a[b], a[b + 1], a[b + 2], a[b + 3], p, q),
                            *(c[e], c[e + 1], c[e + 2], c[e + 3]),
                        )
                        c[e], c[e + 1], c[e + 2], c[e + 3] = mma(
                            *(a[b + 4], a[b + 5], a[b + 6], a[b + 7], r, s1),
                            *(c[e], c[e + 1], c[e + 2], c[e + 3]),
                        )
                for t in range(ROW_TILES):
                    n, e = parallel * i + 4 * t, 4 * t
                    if scaled:
                        pair = s[((tile + t) * (k // group) + (unit >> part) * groups + g) * 8 + (lane >> 2)]
                        total[n] += low_f16(pair) * c[e]
                        total[n + 1] += low_f16(pair) * c[e + 1]
                        total[n + 2] += high_f16(pair) * c[e + 2]
                        total[n + 3] += high_f16(pair) * c[e + 3]
                    else:
                        for o in range(4):
                            total[n + o] = c[e + o]

    return device(use)


def _writer(variant: Tensor) -> Any:
    """Adds up what the warps of a block have of the same rows, and stores it."""
    column_warps, ROW_TILES = variant.column_warps, variant.row_tiles
    sums = 4 * variant.tiles * ROW_TILES
    accumulate, row_scales = variant.accumulate, variant.format == "int8"

    def write(
        total: Any,
        ring: Any,
        own: Any,
        warp_words: Any,
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
        for i in range(sums):
            ring[own + i * 32 + lane] = as_u32(total[i])
        cuda.syncthreads()
        part = warp % column_warps
        first = own - part * warp_words
        i = part
        while i < sums:
            value = np.float32(0)
            for other in range(column_warps):
                value += as_f32(ring[first + other * warp_words + i * 32 + lane])
            column = (tile + (i >> 2) % ROW_TILES) * 16 + (lane >> 2) + 8 * ((i >> 1) & 1)
            row = first_row + 8 * ((i >> 2) // ROW_TILES) + 2 * (lane & 3) + (i & 1)
            if row < m and column < n:
                if row_scales:
                    value *= as_f32(s[column])
                if accumulate:
                    value += y[row * stride + column]
                y[row * stride + column] = value
            i += column_warps

    return device(write)
