"""y[m, n] = x[m, k] · W[n, k]ᵀ by ordinary float32 arithmetic: for one to four rows of x, and for float32 weights.

A warp owns `rows` rows of W and reads each of them 512 bytes at a time, through a ring in shared memory as the
tensor-core products do (tensor.py). x stays float32 and in the first-level cache. With m rows of x a weight costs about 1 + m instructions, so at
more than four the arithmetic, not the memory, is the limit on an H100 (132 · 128 lanes at 1.7 GHz): there the
tensor cores take over.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np

from membound.kernels.cuda.compile import WARP, Kernel, cuda, device
from membound.kernels.cuda.instruments.chains import CHAINS, begin, nothing_of, spinner
from membound.kernels.cuda.matmul.tensor import PARAMETERS, check_stages
from membound.kernels.cuda.ptx import (
    as_f32,
    commit_copies,
    copy4_async,
    high_bf16,
    high_f16,
    load4,
    load4_shared,
    low_bf16,
    low_f16,
    wait_copies_but,
)

FORMATS = ("f32", "bf16", "f16")
_ALL = 0xFFFFFFFF


@dataclass(frozen=True, slots=True)
class Dot:
    """One variant: `m` rows of x at a time, `rows` of W a warp, warps of a block over rows and columns of W, `stages` of a ring.

    `loaded`: with extra arithmetic for each weight (chains.py), whose constants take the place of the scales.
    """

    format: str
    m: int
    rows: int
    row_warps: int
    column_warps: int
    stages: int
    accumulate: bool = False
    loaded: bool = False

    @property
    def name(self) -> str:
        """Says all of it."""
        add = ("_add" if self.accumulate else "") + ("_loaded" if self.loaded else "")
        warps = f"r{self.row_warps}_c{self.column_warps}"
        return f"dot_{self.format}_m{self.m}_w{self.rows}_{warps}_s{self.stages}{add}"

    def grid(self, padded_n: int, m: int) -> tuple[int, int]:
        """Blocks over rows of x, next to each other so that they read the same W, and over rows of W."""
        return -(-m // self.m), -(-padded_n // (self.rows * self.row_warps))


@cache
def dot_kernel(variant: Dot) -> Kernel:
    """The kernel of a variant; its parameters are those of the tensor-core products."""
    rows, m_rows, stages = variant.rows, variant.m, variant.stages
    check_stages(variant.name, stages)
    row_warps, column_warps = variant.row_warps, variant.column_warps
    values = 4 if variant.format == "f32" else 8  # in sixteen bytes
    start, use, write = _starter(variant), _user(variant), _writer(variant)
    sums, columns, unit_words = rows * m_rows, WARP * values, rows * 128
    ring_words, ahead_of = row_warps * column_warps * stages * unit_words, stages - 1
    LOADED, spin = variant.loaded, spinner(rows * values)

    def multiply(w: Any, s: Any, x: Any, y: Any, n: Any, k: Any, m: Any, stride: Any) -> None:
        lane = cuda.threadIdx.x % 32
        warp = cuda.threadIdx.x // 32
        x_row = cuda.blockIdx.x * m_rows
        row = (cuda.blockIdx.y * row_warps + warp // column_warps) * rows
        last = ((n + 15) // 16) * 16 - rows  # W is padded to tiles of 16 rows
        first = min(row, last)
        ring = cuda.shared.array(ring_words, np.uint32, 16)
        own = warp * (stages * unit_words) + lane * 4
        total = cuda.local.array(sums, np.float32)
        chains = cuda.local.array(CHAINS, np.float32)
        half, nothing, dose = np.float32(0), np.float32(0), np.int32(0)
        if LOADED:
            half, nothing, dose = begin(s, chains)
        for i in range(sums):
            total[i] = np.float32(0)
        step = column_warps * columns
        column = warp % column_warps * columns + lane * values
        ahead = column
        for stage in range(ahead_of):
            if ahead < k:
                start(w, first, ahead, k, ring, own + stage * unit_words)
            commit_copies()
            ahead += step
        here, there = 0, ahead_of
        while column < k:
            if ahead < k:
                start(w, first, ahead, k, ring, own + there * unit_words)
            commit_copies()  # also where there is nothing left to copy: groups are counted
            wait_copies_but(ahead_of)
            use(total, ring, own + here * unit_words, x, x_row, m, k, column)
            if LOADED:
                spin(chains, half, dose)
            ahead += step
            column += step
            there = here
            here += 1
            if here == stages:
                here = 0
        if LOADED:
            total[0] += nothing_of(chains, nothing)
        write(total, y, row, n, x_row, m, stride, warp, lane)

    return Kernel(variant.name, multiply, PARAMETERS, WARP * row_warps * column_warps)


def _starter(variant: Dot) -> Any:
    """Begins to copy a lane's sixteen bytes of each row."""
    rows, word_shift = variant.rows, 0 if variant.format == "f32" else 1

    def start(w: Any, first: Any, column: Any, k: Any, ring: Any, at: Any) -> None:
        for r in range(rows):
            copy4_async(ring, at + 128 * r, w, ((first + r) * k + column) >> word_shift)

    return device(start)


def _user(variant: Dot) -> Any:
    """Adds the products of sixteen bytes of each row of W with x to a lane's sums."""
    rows, m_rows = variant.rows, variant.m
    wide = variant.format == "f32"
    count = 4 * rows

    @device
    def take(ring: Any, at: Any, words: Any) -> None:
        for r in range(rows):
            p, q, s, t = load4_shared(ring, at + 128 * r)
            words[4 * r] = p
            words[4 * r + 1] = q
            words[4 * r + 2] = s
            words[4 * r + 3] = t

    low, high = (low_f16, high_f16) if variant.format == "f16" else (low_bf16, high_bf16)

    def use_f32(total: Any, ring: Any, at: Any, x: Any, x_row: Any, m: Any, k: Any, column: Any) -> None:
        words = cuda.local.array(count, np.uint32)
        take(ring, at, words)
        for i in range(m_rows):
            a, b, c, d = load4(x, min(x_row + i, m - 1) * k + column)
            for r in range(rows):
                value = total[r * m_rows + i]
                value += as_f32(words[4 * r]) * as_f32(a)
                value += as_f32(words[4 * r + 1]) * as_f32(b)
                value += as_f32(words[4 * r + 2]) * as_f32(c)
                value += as_f32(words[4 * r + 3]) * as_f32(d)
                total[r * m_rows + i] = value

    def use_pairs(total: Any, ring: Any, at: Any, x: Any, x_row: Any, m: Any, k: Any, column: Any) -> None:
        words = cuda.local.array(count, np.uint32)
        take(ring, at, words)
        for i in range(m_rows):
            start = min(x_row + i, m - 1) * k + column
            a, b, c, d = load4(x, start)
            e, f, g, h = load4(x, start + 4)
            for r in range(rows):
                value = total[r * m_rows + i]
                value += low(words[4 * r]) * as_f32(a)
                value += high(words[4 * r]) * as_f32(b)
                value += low(words[4 * r + 1]) * as_f32(c)
                value += high(words[4 * r + 1]) * as_f32(d)
                value += low(words[4 * r + 2]) * as_f32(e)
                value += high(words[4 * r + 2]) * as_f32(f)
                value += low(words[4 * r + 3]) * as_f32(g)
                value += high(words[4 * r + 3]) * as_f32(h)
                total[r * m_rows + i] = value

    return device(use_f32 if wide else use_pairs)


def _writer(variant: Dot) -> Any:
    """Adds up lanes, then warps that share rows, and stores."""
    rows, m_rows, column_warps = variant.rows, variant.m, variant.column_warps
    sums, warps, accumulate = rows * m_rows, variant.row_warps * column_warps, variant.accumulate
    shape = (warps, sums)

    def write(
        total: Any, y: Any, row: Any, n: Any, x_row: Any, m: Any, stride: Any, warp: Any, lane: Any
    ) -> None:
        shared = cuda.shared.array(shape, np.float32)
        for i in range(sums):
            value = total[i]
            value += cuda.shfl_xor_sync(_ALL, value, 16)
            value += cuda.shfl_xor_sync(_ALL, value, 8)
            value += cuda.shfl_xor_sync(_ALL, value, 4)
            value += cuda.shfl_xor_sync(_ALL, value, 2)
            value += cuda.shfl_xor_sync(_ALL, value, 1)
            if lane == 0:
                shared[warp, i] = value
        cuda.syncthreads()
        part = warp % column_warps
        i = lane
        while part == 0 and i < sums:
            value = np.float32(0)
            for other in range(column_warps):
                value += shared[warp + other, i]
            column = row + i // m_rows
            to = x_row + i % m_rows
            if column < n and to < m:
                if accumulate:
                    value += y[to * stride + column]
                y[to * stride + column] = value
            i += 32

    return device(write)
