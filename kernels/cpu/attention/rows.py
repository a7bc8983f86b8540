"""softmax(q · Kᵀ · scale) · V for many query rows a KV head, compiled: latent attention, several queries, prompts.

    g = rows_grouping(kv, dim, value_dim)                 # which kernel
    attend_rows(g.kv, g.method, q, …, threads)            # from compiled code, the first two literal
    rows_kernel(g.kv, g.method)                           # one attention, cached on disk

A row is one query head of one query token. Sixteen of them and more meet each row of the cache: 128 in latent attention, which
has one KV head; `queries` times the group when several tokens are decoded or a chunk of a prompt is read. That is a product of
matrices, and bound by arithmetic where decode.py is bound by memory, so the loops are those of a GEMM: panels that stay in the
caches, tiles of sums in registers. What differs by processor is in row_vectors.py (multiply-adds, pairs of bfloat16) and
row_tiles.py (AMX); here is what all have in common: shares, blocks of tokens, masks, and merging what was split.

The cache is read as it lies (decode.py). Where value_dim < dim, V is the first value_dim columns of K, and each row is read once.
The last `queries` tokens are the queries' own: query i sees all but those behind it. What else bounds its attention in some models
(a first token, a cap of scores, a sink) comes with `BoundedRows`, which tokens an index has selected with `SelectedRows`, and either
is compiled for these alone.
"""

from __future__ import annotations

from functools import cache
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from numba import prange
from numba.extending import overload

from membound.kernels.cpu.attention import row_tiles, row_vectors
from membound.kernels.cpu.attention.row_queries import make_prepare
from membound.kernels.cpu.attention.scores import HIDDEN, chunks_of, padded_width
from membound.kernels.cpu.attention.selected_rows import Room, SelectedRows, make_gather
from membound.kernels.cpu.attention.softcap import LOG2_E, cap_scores
from membound.kernels.cpu.attention.softmax import make_softmax
from membound.kernels.cpu.compile import kernel
from membound.kernels.cpu.linked import LINKED, linked
from membound.kernels.cpu.matmul.grouping import Grouping
from membound.kernels.cpu.matmul.parts import make_add_part, part_size
from membound.kernels.cpu.simd.amx import AMX_BF16
from membound.kernels.cpu.simd.features import BF16_DOT, LANES
from membound.kernels.cpu.simd.ir import literal_value
from membound.kernels.cpu.simd.lines import aligned_floats
from membound.kernels.cpu.simd.stores import store
from membound.kernels.cpu.simd.vectors import splat
from membound.kernels.weights.formats import F32


@cache
def rows_grouping(kv: str, dim: int, value_dim: int) -> Grouping:
    """The kernel on this machine for keys of `dim` and values of `value_dim` numbers in format `kv`.

    `tile`: AMX on bfloat16, which holds every int8 exactly. `pairs`: AVX512-BF16 on the same. `float`: float32, of any width.
    """
    method = "float"
    if kv in ("bf16", "int8"):
        if AMX_BF16 and dim % row_tiles.COLUMNS == 0 and value_dim % LANES == 0:
            method = "tile"
        elif BF16_DOT:
            method = "pairs"
    return Grouping(kv, LANES, method)


class Rows(NamedTuple):
    """The shape of an attention as numbers; `rows` = queries · group."""

    tokens: int
    queries: int
    batch: int
    kv_heads: int
    group: int
    dim: int
    value_dim: int
    scale: float


class BoundedRows(NamedTuple):
    """`Rows` of which query i sees no more than the seen[seen_at + i] tokens before its own, the first query those from token 0 on.

    softcap: what bounds scores, or 0. sinks: a logit a query head from `sinks_at` on, as `attend` takes them, or empty.
    """

    tokens: int
    queries: int
    batch: int
    kv_heads: int
    group: int
    dim: int
    value_dim: int
    scale: float
    seen: npt.NDArray[np.int64]
    seen_at: int
    softcap: float
    sinks: F32
    sinks_at: int


def attend_rows(
    KV: str, METHOD: str, q: Any, q_at: int, q_stride: int,
    k: Any, v: Any, k_scales: Any, v_scales: Any, at: int, scales_at: int, capacity: int,
    shape: Rows | BoundedRows | SelectedRows, out: Any, out_at: int, out_stride: int, threads: int,
) -> None:  # fmt: skip
    """Attention over the first shape.tokens of `capacity` tokens, the last shape.queries of which are the queries' own.

    KV, METHOD: literals from `rows_grouping`. Arrays as in `attend`; query i of sequence b has its heads
    [kv_heads·group, dim] from q_at + (b·queries + i)·q_stride on, and its output [kv_heads·group, value_dim] from
    out_at + (b·queries + i)·out_stride on.
    """
    raise TypeError("attend_rows is for compiled code")


@overload(attend_rows, prefer_literal=True, jit_options=LINKED)
def _attend_rows_in_kernels(
    KV: Any, METHOD: Any, q: Any, q_at: Any, q_stride: Any,
    k: Any, v: Any, k_scales: Any, v_scales: Any, at: Any, scales_at: Any, capacity: Any,
    shape: Any, out: Any, out_at: Any, out_stride: Any, threads: Any,
) -> Any:  # fmt: skip
    kv, method = literal_value(KV), literal_value(METHOD)
    if None in (kv, method):
        return None
    inner = _attend(Grouping(kv, LANES, method), shape.instance_class)

    def implementation(
        KV: Any, METHOD: Any, q: Any, q_at: Any, q_stride: Any,
        k: Any, v: Any, k_scales: Any, v_scales: Any, at: Any, scales_at: Any, capacity: Any,
        shape: Any, out: Any, out_at: Any, out_stride: Any, threads: Any,
    ) -> None:  # fmt: skip
        inner(
            q, q_at, q_stride, k, v, k_scales, v_scales, at, scales_at, capacity,
            shape, out, out_at, out_stride, threads,
        )  # fmt: skip

    return implementation


@cache
def rows_kernel(KV: str, METHOD: str) -> Any:
    """One attention for a `rows_grouping`, cached on disk.

    run(q, k, v, k_scales, v_scales, shape, capacity, out, threads), arrays flat and dense, shape a `Rows`.
    """

    @kernel()
    def run(
        q: Any,
        k: Any,
        v: Any,
        k_scales: Any,
        v_scales: Any,
        shape: Any,
        capacity: Any,
        out: Any,
        threads: Any,
    ) -> None:
        heads = shape.kv_heads * shape.group
        attend_rows(
            KV, METHOD, q, 0, heads * shape.dim, k, v, k_scales, v_scales, 0, 0, capacity,
            shape, out, 0, heads * shape.value_dim, threads,
        )  # fmt: skip

    return run


@cache
def _attend(g: Grouping, shape: type) -> Any:
    """Every thread its share of the rows of the cache, then what was split is merged; see `attend_rows`."""
    walk, merge = _make_walk(g, shape), _make_merge(g)

    @linked(parallel=True)
    def run(
        q: Any, q_at: Any, q_stride: Any, k: Any, v: Any, k_scales: Any, v_scales: Any, at: Any, scales_at: Any,
        capacity: Any, shape: Any, out: Any, out_at: Any, out_stride: Any, threads: Any,
    ) -> None:  # fmt: skip
        units = shape.batch * shape.kv_heads
        size = part_size(shape.queries * shape.group, LANES, shape.value_dim)
        parts = np.empty(2 * threads * size if units % threads else 0, np.float32)
        for thread in prange(threads):  # unsigned in the loop's body: `walk` would be compiled for both
            walk(
                q, q_at, q_stride, k, v, k_scales, v_scales, at, scales_at, capacity, shape,
                out, out_at, out_stride, parts, np.intp(thread), threads,
            )  # fmt: skip
        if units % threads:
            for thread in prange(threads):
                for unit in range(thread * units // threads, (thread + 1) * units // threads):
                    merge(parts, np.intp(unit), shape, out, out_at, out_stride, threads)

    return run


def _make_walk(g: Grouping, kind: type) -> Any:
    """One thread's share: a run of rows of the cache over all KV heads, cut where a KV head ends."""
    products = row_tiles if g.method == "tile" else row_vectors
    prepare, attend_part, workspace = make_prepare(g), _make_part(g, kind), products.make_workspace(g)
    empty = _empty_but_for_sinks if kind is BoundedRows else _empty
    BROUGHT = products.BLOCK if kind is SelectedRows else 0
    begin_products, end_products = products.make_begin(), products.make_end()

    @linked
    def walk(
        q: Any, q_at: Any, q_stride: Any, k: Any, v: Any, k_scales: Any, v_scales: Any, at: Any, scales_at: Any,
        capacity: Any, shape: Any, out: Any, out_at: Any, out_stride: Any, parts: Any, thread: Any, threads: Any,
    ) -> None:  # fmt: skip
        tokens, group, dim = shape.tokens, shape.group, shape.dim
        rows, units = shape.queries * group, shape.batch * shape.kv_heads
        space = workspace(rows, dim, shape.value_dim)
        room = Room(np.empty(BROUGHT * dim, k.dtype), np.empty(BROUGHT, np.float32))
        part = aligned_floats(part_size(rows, LANES, shape.value_dim))
        first, final = thread * units * tokens // threads, (thread + 1) * units * tokens // threads
        begin_products()
        while first < final:
            unit = first // tokens
            begin = first - unit * tokens
            count = min(tokens - begin, final - first)
            b, h = unit // shape.kv_heads, unit % shape.kv_heads
            start = q_at + b * shape.queries * q_stride + h * group * dim
            prepare(q, start, q_stride, group, rows, dim, np.float32(shape.scale), space.query)
            row = unit * capacity + begin
            empty(part, rows, shape, h * group, begin == 0)
            attend_part(
                k, v, k_scales, v_scales, at + row * dim, scales_at + row, unit, begin, count, shape, space, room, part,
            )  # fmt: skip
            if count == tokens:
                _finish(part, unit, shape, out, out_at, out_stride)
            else:
                slot = 2 * thread + (begin == 0)
                for i in range(part.size):  # no slice, of which Numba would compile the words of its errors
                    parts[slot * part.size + i] = part[i]
            first += count
        end_products()

    return walk


@linked
def _empty(part: Any, rows: Any, shape: Any, head: Any, first: Any) -> None:
    """A part (see parts.py) before its tokens."""
    flat = chunks_of(rows, LANES) * LANES
    part[:flat], part[flat:] = HIDDEN, 0


@linked
def _empty_but_for_sinks(part: Any, rows: Any, shape: Any, head: Any, first: Any) -> None:
    """The same; the first part of a KV head, whose query heads begin with number `head`, holds the sinks, if any."""
    _empty(part, rows, shape, head, first)
    if shape.sinks.size == 0 or not first:
        return
    flat = chunks_of(rows, LANES) * LANES
    for r in range(rows):
        part[r] = shape.sinks[shape.sinks_at + head + r % shape.group] * LOG2_E
        part[flat + r] = np.float32(1)


def _make_part(g: Grouping, kind: type) -> Any:
    """Blocks of scores, softmax and values over `count` tokens from number `first` on: adds them to a part (see parts.py)."""
    products = row_tiles if g.method == "tile" else row_vectors
    bound = _bound if kind is BoundedRows else _hide
    SELECTED, gather = kind is SelectedRows, make_gather(g.kv)
    score, add_values, update = products.make_scores(g), products.make_values(g), make_softmax(g)
    BLOCK, STEP = products.BLOCK, products.STEP

    @linked
    def attend_part(
        k: Any, v: Any, k_scales: Any, v_scales: Any, at: Any, scales_at: Any, unit: Any, first: Any, count: Any,
        shape: Any, space: Any, room: Any, part: Any,
    ) -> None:  # fmt: skip
        rows, dim = shape.queries * shape.group, shape.dim
        chunks, width = chunks_of(rows, LANES), padded_width(shape.value_dim)
        flat = chunks * LANES
        peaks, totals, sums = part[:flat], part[flat : 2 * flat], part[2 * flat :]
        for start in range(0, count, BLOCK):
            used = min(BLOCK, count - start)
            padded = (used + STEP - 1) // STEP * STEP
            place, scale = at + start * dim, scales_at + start
            if SELECTED:
                one, at_ids = at - first * dim, unit * shape.tokens + first + start
                gather(k, k_scales, one, scales_at - first, shape.ids, at_ids, used, dim, room)
                score(room.k, room.scales, 0, 0, rows, dim, used, padded, space)
            else:
                score(k, k_scales, place, scale, rows, dim, used, padded, space)
            bound(space.scores, rows, shape, used, padded, first + start)
            update(space.scores, padded, chunks, width, peaks, totals, sums)
            if SELECTED:
                add_values(room.k, room.scales, 0, 0, rows, dim, shape.value_dim, used, padded, space, sums)
            else:
                add_values(v, v_scales, place, scale, rows, dim, shape.value_dim, used, padded, space, sums)

    return attend_part


@linked
def _hide(scores: Any, rows: Any, shape: Any, used: Any, padded: Any, first: Any) -> None:
    """Scores that no softmax notices, of tokens from number `first` on: behind the `used`, and for queries before a token."""
    group, ahead = shape.group, first - (shape.tokens - shape.queries)
    for t in range(min(used, max(0, 1 - ahead)), padded):
        hidden = rows if t >= used else min(rows, (ahead + t) * group)
        for c in range(chunks_of(hidden, LANES)):
            place = (c * padded + t) * LANES
            if (c + 1) * LANES <= hidden or hidden == rows:
                store(scores, place, splat(HIDDEN))
            else:
                scores[place : place + hidden - c * LANES] = HIDDEN


@linked
def _bound(scores: Any, rows: Any, shape: Any, used: Any, padded: Any, first: Any) -> None:
    """The same within the cap, and hidden from queries whose first token is behind a token too."""
    if shape.softcap > 0:
        cap_scores(scores, chunks_of(rows, LANES) * padded, np.float32(shape.softcap) * LOG2_E)
    _hide(scores, rows, shape, used, padded, first)
    query, before = 0, shape.tokens - shape.queries
    for t in range(used):
        while query < shape.queries and before + query - shape.seen[shape.seen_at + query] <= first + t:
            query += 1
        if query == shape.queries:
            return
        for c in range(query * shape.group // LANES, chunks_of(rows, LANES)):
            place, seeing = (c * padded + t) * LANES, query * shape.group - c * LANES
            if seeing <= 0:
                store(scores, place, splat(HIDDEN))
            else:
                scores[place + seeing : place + LANES] = HIDDEN


@linked
def _finish(part: Any, unit: Any, shape: Any, out: Any, out_at: Any, out_stride: Any) -> None:
    """Sums over totals to the output of one KV head."""
    group, width = shape.group, padded_width(shape.value_dim)
    rows = shape.queries * group
    flat = chunks_of(rows, LANES) * LANES
    b, h = unit // shape.kv_heads, unit % shape.kv_heads
    for r in range(rows):
        share = np.float32(1) / part[flat + r]
        at = (
            out_at + (b * shape.queries + r // group) * out_stride + (h * group + r % group) * shape.value_dim
        )
        into, sums = out[at : at + shape.value_dim], part[2 * flat + r * width :]
        for d in range(shape.value_dim):
            into[d] = sums[d] * share


def _make_merge(g: Grouping) -> Any:
    """merge(parts, unit, …): the parts of one KV head, if it was split, brought to one peak and added."""
    add_part = make_add_part(g)

    @linked
    def merge(
        parts: Any, unit: Any, shape: Any, out: Any, out_at: Any, out_stride: Any, threads: Any
    ) -> None:
        rows, tokens = shape.queries * shape.group, shape.tokens
        size, chunks = part_size(rows, LANES, shape.value_dim), chunks_of(rows, LANES)
        whole = np.zeros(size, np.float32)
        whole[: chunks * LANES] = HIDDEN
        begin, end, every = unit * tokens, (unit + 1) * tokens, shape.batch * shape.kv_heads * tokens
        for thread in range(threads):
            first, final = max(begin, thread * every // threads), min(end, (thread + 1) * every // threads)
            if final - first == tokens:
                return
            if first < final:
                add_part(
                    whole,
                    parts,
                    (2 * thread + (first == begin)) * size,
                    chunks,
                    padded_width(shape.value_dim),
                )
        _finish(whole, unit, shape, out, out_at, out_stride)

    return merge
