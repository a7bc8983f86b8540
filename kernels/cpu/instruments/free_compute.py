"""Products and attention that do more arithmetic than they need, over the same bytes.

    run = loaded_linear_kernel("f32")
    run(w, 0, n, k, x, scratch_with_constants(k, fmas=8), y, threads)         # else as `linear_kernel`'s
    run = loaded_attention_kernel("bf16", heads=4)
    run(q, k, v, constants(fmas=8), context, batch, kv_heads, group, dim, out, threads)

An instrument: if memory alone decides, time stays as it is until the arithmetic takes as long as the bytes.
The loops are those of float_panels.py, scores.py and values.py for one row of x and a float cache, with
`fmas` extra fused multiply-adds for each number that is loaded. They are independent of what is loaded:
chains v = v/2 + 1/2 that stay in registers, as many as hide their latency, spread evenly between the
loads. Each chain begins with different numbers and ends, times a zero that is not known when compiled, in
the result: none can be merged or left out, and the result stays what it was. The dose is an argument, so
that every dose runs the same machine code.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import numba
import numpy as np
import numpy.typing as npt
from numba import prange
from numba.extending import overload

from membound.kernels.cpu.attention.decode import make_attend
from membound.kernels.cpu.attention.scores import hide_padding
from membound.kernels.cpu.attention.values import make_add_tile
from membound.kernels.cpu.compile import kernel
from membound.kernels.cpu.linked import LINKED, linked
from membound.kernels.cpu.matmul.float_panels import make_add_columns
from membound.kernels.cpu.matmul.grouping import Grouping, grouping
from membound.kernels.cpu.matmul.linear import prepare
from membound.kernels.cpu.matmul.pack import aligned_bytes
from membound.kernels.cpu.matmul.panels import make_share
from membound.kernels.cpu.matmul.recipe import COLUMNS_A_LOAD, PANEL_PADDING, Recipe, choose
from membound.kernels.cpu.simd.arithmetic import add, add_tiles, fma_chains, fma_tile
from membound.kernels.cpu.simd.features import LANES
from membound.kernels.cpu.simd.ir import literal_value
from membound.kernels.cpu.simd.lanes import add_lanes, sums_vector
from membound.kernels.cpu.simd.loads import load, load_each, load_next
from membound.kernels.cpu.simd.stores import store, store_grid
from membound.kernels.cpu.simd.streams import far_starts, prefetch_each, row_starts
from membound.kernels.cpu.simd.vectors import splat, tile_of_columns, zeros
from membound.kernels.weights.formats import FORMATS
from membound.kernels.work import DecodeAttention, Linear, Work

CHAINS = 8
"""Two units times a latency of four cycles. Fewer cannot reach the peak: with four, the knee of float32
products on an AMD Milan lay at 0.54 of the ridge, with eight at 0.79. With more of them, sums and operands spill to the stack."""
LINEAR_FORMATS = ("f32", "bf16", "f16")
CACHE_FORMATS = ("f32", "bf16")
LINE = 16
"""float32 numbers in a cache line."""
HALF, NOTHING, DOSE = (CHAINS * LANES + i for i in range(3))
"""Where the constants stand behind the chains' first values: factor and addend in one register, zero, the dose."""


def constants(fmas: int) -> npt.NDArray[np.float32]:
    """The chains' first values, all different and near 1, then a half, zero and the dose (below 2^24)."""
    starts = 1 + np.arange(CHAINS * LANES, dtype=np.float32) / np.float32(CHAINS * LANES)
    return np.concatenate([starts, np.array([0.5, 0.0, fmas], np.float32)])


def refusal(work: Work) -> str | None:
    """Why these kernels cannot do a work, or None."""
    if isinstance(work, Linear):
        if work.weight not in LINEAR_FORMATS or work.m != 1:
            return f"extra arithmetic goes with one row and weights in {', '.join(LINEAR_FORMATS)}"
        return None
    if not isinstance(work, DecodeAttention):
        return "extra arithmetic goes with single operations"
    if work.queries > 1:
        return "extra arithmetic goes with one query a sequence"
    shape = grouping(work.kv, work.q_heads // work.kv_heads, work.head_dim)
    if work.kv not in CACHE_FORMATS or shape.heads * work.kv_heads != work.q_heads:
        return f"extra arithmetic goes with a cache in {', '.join(CACHE_FORMATS)} and small groups of heads"
    if work.head_dim % (LANES * _steps(shape)):
        return f"extra arithmetic needs head_dim to be a multiple of {LANES * _steps(shape)}"
    return None


def scratch_with_constants(k: int, fmas: int) -> npt.NDArray[np.uint8]:
    """Room for one row of x, with the constants behind it, where `loaded_linear_kernel` looks for them."""
    place, numbers = _constants_at(k), constants(fmas)
    scratch = aligned_bytes(4 * (place + numbers.size))
    scratch.view(np.float32)[place:] = numbers
    return scratch


@numba.njit
def _constants_at(k: Any) -> Any:
    """The float32 number of the scratch at which the constants begin, on a cache line."""
    return (k + LINE - 1) // LINE * LINE


@numba.njit(inline="always")
def _zero(chains: Any, nothing: Any) -> Any:
    """The sum of the chains times a zero that is not known when compiled, in every lane."""
    total = np.float32(0)
    for number in add_lanes(chains):
        total += number
    return splat(total * nothing)


# One row of x


def multiply_loaded(FMT: str, w: Any, at: int, n: int, k: int, scratch: Any, y: Any, threads: int) -> None:
    """`linear.multiply` for one row of x with more multiply-adds a weight, in whole rounds of columns."""
    raise TypeError("multiply_loaded is for compiled code")


@cache
def _multiply_loaded(fmt: str) -> Any:
    recipe = choose(fmt, "float", 1)
    PANEL_ROWS = recipe.panel_rows
    share = make_share(recipe, _loaded_stream)

    @linked(parallel=True)
    def run(w: Any, at: Any, n: Any, k: Any, scratch: Any, y: Any, threads: Any) -> None:
        panels = (n + PANEL_ROWS - 1) // PANEL_ROWS
        for t in prange(threads):
            begin, end = t * panels // threads, (t + 1) * panels // threads
            share(w, at, panels, begin, end, k, scratch, y, panels * PANEL_ROWS)

    return run


def _loaded_stream(recipe: Recipe, panels_at_once: int) -> Any:
    FMT, PANELS = recipe.format, panels_at_once
    COLUMN = LANES * FORMATS[FMT].bits // 8
    STEP = COLUMNS_A_LOAD.get(FMT, 1)
    TOGETHER = max(CHAINS // PANELS, STEP)
    EACH = TOGETHER * PANELS // CHAINS
    UNROLL = max(4, TOGETHER)
    add_columns = make_add_columns(FMT, 1)
    LINES = max(1, UNROLL * COLUMN // 64)
    AHEAD = recipe.ahead

    @linked
    def run(
        w: Any, at: Any, panels: Any, first: Any, far: Any, k: Any, scratch: Any, y: Any, stride: Any
    ) -> None:
        x = scratch.view(np.float32)
        numbers = x[_constants_at(k) :]
        half = splat(numbers[HALF])
        rounds = int(numbers[DOSE]) * EACH
        padded = (k + STEP - 1) // STEP * STEP
        panel_bytes = padded * COLUMN + PANEL_PADDING
        whole = padded // UNROLL * UNROLL
        for i in range(first, first + far):
            starts = far_starts(at + i * panel_bytes, far * panel_bytes, PANELS)
            acc = zeros(PANELS)
            chains = load_next(numbers, 0, CHAINS, "f32")
            for j0 in range(0, whole, UNROLL):
                if AHEAD:
                    for line in range(LINES):
                        prefetch_each(w, starts, j0 * COLUMN + AHEAD + 64 * line)
                for j1 in range(j0, j0 + UNROLL, TOGETHER):
                    for j in range(j1, j1 + TOGETHER, STEP):
                        acc = add_columns(acc, w, starts, j, x)
                    for _ in range(rounds):
                        chains = fma_chains(chains, half, half)
            for j in range(whole, padded, STEP):
                acc = add_columns(acc, w, starts, j, x)
            zero = tile_of_columns((_zero(chains, numbers[NOTHING]),), PANELS)
            acc = add_tiles(acc, zero)
            store_grid(y, i * LANES, far * LANES, stride, acc, PANELS)

    return run


@overload(multiply_loaded, prefer_literal=True, jit_options=LINKED)
def _multiply_loaded_in_kernels(
    FMT: Any, w: Any, at: Any, n: Any, k: Any, scratch: Any, y: Any, threads: Any
) -> Any:
    fmt = literal_value(FMT)
    if fmt is None:
        return None
    inner = _multiply_loaded(fmt)

    def implementation(FMT: Any, w: Any, at: Any, n: Any, k: Any, scratch: Any, y: Any, threads: Any) -> None:
        inner(w, at, n, k, scratch, y, threads)

    return implementation


@cache
def loaded_linear_kernel(FMT: str) -> Any:
    """`linear.linear_kernel` for one row, cached on disk: run(w, at, n, k, x, scratch, y, threads).

    `scratch` comes from `scratch_with_constants`.
    """

    @kernel()
    def run(w: Any, at: Any, n: Any, k: Any, x: Any, scratch: Any, y: Any, threads: Any) -> None:
        prepare(FMT, "float", 1, x, 0, k, k, scratch)
        multiply_loaded(FMT, w, at, n, k, scratch, y, threads)

    return run


# Attention


def attend_loaded(
    KV: str, HEADS: int, q: Any, k: Any, v: Any, numbers: Any,
    context: int, batch: int, kv_heads: int, group: int, dim: int, out: Any, threads: int,
) -> None:  # fmt: skip
    """`attention.attend` over a dense float cache with more multiply-adds an element of K and V."""
    raise TypeError("attend_loaded is for compiled code")


@cache
def _attend_loaded(g: Grouping) -> Any:
    run = make_attend(g, hide_padding(g, _loaded_scores(g)), _loaded_values(g))

    @linked
    def attend(
        q: Any, k: Any, v: Any, numbers: Any, context: Any, batch: Any, kv_heads: Any, group: Any, dim: Any,
        out: Any, threads: Any,
    ) -> None:  # fmt: skip
        width, none = kv_heads * group * dim, np.empty(0, np.float32)
        # A float cache has no scales: the constants of the chains travel in their place.
        run(
            q, 0, width, k, v, numbers, numbers, 0, 0, context,
            context, batch, kv_heads, group, dim, 0.0, none, 0, out, 0, width, threads,
        )  # fmt: skip

    return attend


def _steps(g: Grouping) -> int:
    """Vectors of a row between two rounds of chains, so that a round has a chain for each loaded vector."""
    return max(1, CHAINS // g.rows)


def _loaded_scores(g: Grouping) -> Any:
    KV, ROWS, HEADS, LINE, AHEAD = g.kv, g.rows, g.heads, g.line, g.ahead
    STEP, EACH = _steps(g) * LANES, max(1, g.rows // CHAINS)

    @linked
    def fill(
        query: Any, factors: Any, k: Any, numbers: Any, at: Any, scales_at: Any, group: Any, dim: Any,
        begin: Any, end: Any, stride: Any, last: Any, scores: Any,
    ) -> None:  # fmt: skip
        half = splat(numbers[HALF])
        chains, rounds = load_next(numbers, 0, CHAINS, "f32"), int(numbers[DOSE]) * EACH
        heads = far_starts(0, dim, HEADS)
        for t in range(begin, end):
            rows = row_starts(t, stride, last, ROWS, at, dim)
            sums = zeros(LANES)
            for first in range(0, dim, STEP):
                for d in range(first, first + STEP, LANES):
                    if AHEAD and d % LINE == 0:
                        prefetch_each(k, rows, d + AHEAD)
                    sums = fma_tile(sums, load_each(k, rows, d, KV), load_each(query, heads, d, "f32"))
                for _ in range(rounds):
                    chains = fma_chains(chains, half, half)
            store(scores, (t - begin) * LANES, sums_vector(sums))
        store(scores, 0, add(load(scores, 0, "f32"), _zero(chains, numbers[NOTHING])))

    return fill


def _loaded_values(g: Grouping) -> Any:
    add_tile = make_add_tile(g, _steps(g))
    STEP, EACH = _steps(g) * LANES, max(1, g.rows // CHAINS)

    @linked
    def add_values(
        weights: Any, v: Any, numbers: Any, at: Any, scales_at: Any, chunks: Any, dim: Any,
        begin: Any, end: Any, stride: Any, last: Any, sums: Any, worth: Any,
    ) -> None:  # fmt: skip
        half = splat(numbers[HALF])
        chains, rounds = load_next(numbers, 0, CHAINS, "f32"), int(numbers[DOSE]) * EACH
        for t in range(begin, end):
            for d in range(0, dim, STEP):
                add_tile(weights, (t - begin) * LANES, v, at, t, stride, last, 0, dim, d, sums)
                for _ in range(rounds):
                    chains = fma_chains(chains, half, half)
        store(sums, 0, add(load(sums, 0, "f32"), _zero(chains, numbers[NOTHING])))

    return add_values


@overload(attend_loaded, prefer_literal=True, jit_options=LINKED)
def _attend_loaded_in_kernels(
    KV: Any, HEADS: Any, q: Any, k: Any, v: Any, numbers: Any,
    context: Any, batch: Any, kv_heads: Any, group: Any, dim: Any, out: Any, threads: Any,
) -> Any:  # fmt: skip
    kv, heads = literal_value(KV), literal_value(HEADS)
    if None in (kv, heads):
        return None
    inner = _attend_loaded(Grouping(kv, heads, "float"))

    def implementation(
        KV: Any, HEADS: Any, q: Any, k: Any, v: Any, numbers: Any,
        context: Any, batch: Any, kv_heads: Any, group: Any, dim: Any, out: Any, threads: Any,
    ) -> None:  # fmt: skip
        inner(q, k, v, numbers, context, batch, kv_heads, group, dim, out, threads)

    return implementation


@cache
def loaded_attention_kernel(KV: str, HEADS: int) -> Any:
    """One decode attention, cached on disk: run(q, k, v, numbers, context, batch, kv_heads, group, dim, out, threads).

    Arrays flat and dense as for `attention.attention_kernel`; `numbers` are `constants(fmas)`.
    """

    @kernel()
    def run(
        q: Any, k: Any, v: Any, numbers: Any, context: Any, batch: Any, kv_heads: Any, group: Any, dim: Any,
        out: Any, threads: Any,
    ) -> None:  # fmt: skip
        attend_loaded(KV, HEADS, q, k, v, numbers, context, batch, kv_heads, group, dim, out, threads)

    return run
