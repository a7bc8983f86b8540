"""y[m, n] = x[m, k] · W[n, k]ᵀ by ordinary float32 arithmetic: for one to four rows of x, and for float32 weights.

A warp owns `rows` rows of W and reads each of them 512 bytes at a time, through a ring in shared memory as the
tensor-core products do (tensor.py). x stays float32 and in the first-level cache. With m rows of x a weight costs about 1 + m instructions, so at
more than four the arithmetic, not the memory, is the limit on an H100 (132 · 128 lanes at 1.7 GHz): there the
tensor cores take over.

What stands before and behind the products of a step can go with them, so that it takes no launch of its own. `normed`:
W · (x · gain) / rms(x) is the product with the RMSNorm of x (arXiv 1910.07467), and a warp that reads all of x anyway adds up
its squares beside the products. `finish`: where rows of W alternate between gate and up, a warp has both of a pair.
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
    rsqrt_fast,
    wait_copies_but,
)
from membound.kernels.cuda.step.elementwise import gelu, silu

FORMATS = ("f32", "bf16", "f16")
_ALL = 0xFFFFFFFF


@dataclass(frozen=True, slots=True)
class Dot:
    """One variant: `m` rows of x at a time, `rows` of W a warp, warps of a block over rows and columns of W, `stages` of a ring.

    `loaded`: with extra arithmetic for each weight (chains.py), whose constants take the place of the scales. `normed`: with the
    RMSNorm of x, whose gain [k] and eps behind it take that place; k must need no padding. `finish`: "gelu" of every product, or
    "silu" of each even row's times the odd row's behind it. Raises ValueError for what does not go together.
    """

    format: str
    m: int
    rows: int
    row_warps: int
    column_warps: int
    stages: int
    accumulate: bool = False
    loaded: bool = False
    normed: bool = False
    finish: str = ""

    def __post_init__(self) -> None:
        if self.loaded and self.normed:
            raise ValueError("constants and a gain cannot both take the place of the scales")
        if self.finish not in ("", "gelu", "silu") or (self.finish and self.accumulate):
            raise ValueError(f"no product is finished by {self.finish!r} and added to what is there")
        if self.finish == "silu" and self.rows % 2:
            raise ValueError(f"gate and up are pairs of rows, of which a warp cannot take {self.rows}")

    @property
    def name(self) -> str:
        """Says all of it."""
        add = ("_add" if self.accumulate else "") + ("_loaded" if self.loaded else "")
        add += ("_norm" if self.normed else "") + (f"_{self.finish}" if self.finish else "")
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
    sums, columns, unit_words = (rows + variant.normed) * m_rows, WARP * values, rows * 128
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
            use(total, ring, own + here * unit_words, x, s, x_row, m, k, column)
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
        write(total, y, s, row, n, k, x_row, m, stride, warp, lane)

    return Kernel(variant.name, multiply, PARAMETERS, WARP * row_warps * column_warps)


def _starter(variant: Dot) -> Any:
    """Begins to copy a lane's sixteen bytes of each row."""
    rows, word_shift = variant.rows, 0 if variant.format == "f32" else 1

    def start(w: Any, first: Any, column: Any, k: Any, ring: Any, at: Any) -> None:
        for r in range(rows):
            copy4_async(ring, at + 128 * r, w, ((first + r) * k + column) >> word_shift)

    return device(start)


def _user(variant: Dot) -> Any:
    """Adds the products of sixteen bytes of each row of W with x to a lane's sums, and x² behind them."""
    rows, m_rows, NORMED = variant.rows, variant.m, variant.normed
    wide = variant.format == "f32"
    count, values, SQUARES = 4 * rows, 4 if wide else 8, rows * m_rows
    low, high = (low_f16, high_f16) if variant.format == "f16" else (low_bf16, high_bf16)

    @device
    def take(ring: Any, at: Any, words: Any) -> None:
        for r in range(rows):
            p, q, s, t = load4_shared(ring, at + 128 * r)
            words[4 * r] = p
            words[4 * r + 1] = q
            words[4 * r + 2] = s
            words[4 * r + 3] = t

    @device
    def read(memory: Any, at: Any, numbers: Any) -> None:
        for i in range(0, values, 4):
            a, b, c, d = load4(memory, at + i)
            numbers[i] = as_f32(a)
            numbers[i + 1] = as_f32(b)
            numbers[i + 2] = as_f32(c)
            numbers[i + 3] = as_f32(d)

    def of_floats(value: Any, words: Any, first: Any, numbers: Any) -> Any:
        for i in range(4):
            value += as_f32(words[first + i]) * numbers[i]
        return value

    def of_pairs(value: Any, words: Any, first: Any, numbers: Any) -> Any:
        for i in range(4):
            value += low(words[first + i]) * numbers[2 * i]
            value += high(words[first + i]) * numbers[2 * i + 1]
        return value

    add = device(of_floats if wide else of_pairs)

    def use(
        total: Any, ring: Any, at: Any, x: Any, gain: Any, x_row: Any, m: Any, k: Any, column: Any
    ) -> None:
        words = cuda.local.array(count, np.uint32)
        numbers, gains = cuda.local.array(values, np.float32), cuda.local.array(values, np.float32)
        take(ring, at, words)
        if NORMED:
            read(gain, column, gains)
        for i in range(m_rows):
            read(x, min(x_row + i, m - 1) * k + column, numbers)
            if NORMED:
                squares = total[SQUARES + i]
                for j in range(values):
                    squares += numbers[j] * numbers[j]
                    numbers[j] = numbers[j] * gains[j]
                total[SQUARES + i] = squares
            for r in range(rows):
                total[r * m_rows + i] = add(total[r * m_rows + i], words, 4 * r, numbers)

    return device(use)


def _writer(variant: Dot) -> Any:
    """Adds up lanes, then warps that share rows, finishes, and stores."""
    rows, m_rows, column_warps = variant.rows, variant.m, variant.column_warps
    NORMED, ACCUMULATE, GELU, GATED = (
        variant.normed,
        variant.accumulate,
        variant.finish == "gelu",
        variant.finish == "silu",
    )
    sums, SQUARES, FOLD = (rows + NORMED) * m_rows, rows * m_rows, 2 if GATED else 1
    written, shape = SQUARES // FOLD, (variant.row_warps * column_warps, sums)

    @device
    def whole(shared: Any, warp: Any, i: Any) -> Any:
        value = np.float32(0)
        for other in range(column_warps):
            value += shared[warp + other, i]
        return value

    def write(
        total: Any,
        y: Any,
        gain: Any,
        row: Any,
        n: Any,
        k: Any,
        x_row: Any,
        m: Any,
        stride: Any,
        warp: Any,
        lane: Any,
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
        while part == 0 and i < written:
            pair, of_x = i // m_rows, i % m_rows
            at = pair * (FOLD * m_rows) + of_x
            value = whole(shared, warp, at)
            scale = np.float32(1)
            if NORMED:
                mean = whole(shared, warp, SQUARES + of_x) / np.float32(k)
                scale = rsqrt_fast(mean + as_f32(gain[k]))
                value *= scale
            if GELU:
                value = gelu(value)
            if GATED:
                value = silu(value) * (scale * whole(shared, warp, at + m_rows))
            column, to = row // FOLD + pair, x_row + of_x
            if column < n // FOLD and to < m:
                if ACCUMULATE:
                    value += y[to * stride + column]
                y[to * stride + column] = value
            i += 32

    return device(write)
