"""Attention of several query tokens a sequence, compiled: their keys and values are appended, then rows.py attends.

several_kernel(g.kv, g.method)                        # of `rows_grouping`, cached on disk
attend_new(KV, HEADS, METHOD, q, …, threads)          # within a step, one query or several
new_method(kv, dim, bounded)                          # its METHOD for several
"""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
from numba.extending import overload

from membound.kernels.cpu.attention.decode import attend
from membound.kernels.cpu.attention.rows import BoundedRows, Rows, attend_rows, rows_grouping
from membound.kernels.cpu.compile import kernel
from membound.kernels.cpu.linked import LINKED
from membound.kernels.cpu.simd.ir import literal_value
from membound.kernels.cpu.step.elementwise import store_row

BOUNDED = " bounded"
"""Ends a METHOD of `attend_new` where windows, chunks, a softcap or sinks bound what queries see."""


def new_method(kv: str, dim: int, bounded: bool) -> str:
    """METHOD of `attend_new` for several queries over keys and values of `dim` numbers in format `kv`."""
    return rows_grouping(kv, dim, dim).method + (BOUNDED if bounded else "")


@cache
def several_kernel(KV: str, METHOD: str) -> Any:
    """run(q, new_k, new_v, k, v, k_scales, v_scales, shape, capacity, out, threads).

    Like `rows_kernel`; new_k and new_v are float32 [batch, kv_heads, queries, dim] and become the last tokens of the cache.
    """

    @kernel()
    def run(
        q: Any, new_k: Any, new_v: Any, k: Any, v: Any, k_scales: Any, v_scales: Any,
        shape: Any, capacity: Any, out: Any, threads: Any,
    ) -> None:  # fmt: skip
        heads, dim, queries = shape.kv_heads * shape.group, shape.dim, shape.queries
        for unit in range(shape.batch * shape.kv_heads):
            for i in range(queries):
                row, new = unit * capacity + shape.tokens - queries + i, (unit * queries + i) * dim
                store_row(KV, new_k[new : new + dim], k, row * dim, k_scales, row)
                store_row(KV, new_v[new : new + dim], v, row * dim, v_scales, row)
        attend_rows(
            KV, METHOD, q, 0, heads * dim, k, v, k_scales, v_scales, 0, 0, capacity,
            shape, out, 0, heads * shape.value_dim, threads,
        )  # fmt: skip

    return run


def attend_new(
    KV: str, HEADS: int, METHOD: str, q: Any, q_at: int, q_stride: int,
    k: Any, v: Any, k_scales: Any, v_scales: Any, at: int, scales_at: int, capacity: int,
    seen: Any, seen_at: int, queries: int, batch: int, kv_heads: int, group: int, dim: int, softcap: float, sinks: Any, sinks_at: int,
    out: Any, out_at: int, out_stride: int, threads: int,
) -> None:  # fmt: skip
    """Attention of a step's new tokens, the last `queries` of those that are cached already; arrays as in `attend`.

    seen: int64; query i sees itself and seen[seen_at + i] tokens before it. Token 0, at `at`, is the first that any query sees.
    HEADS, METHOD: literals, of `grouping` for one query; for several 0 and that of `new_method`.
    """
    raise TypeError("attend_new is for compiled code")


@overload(attend_new, prefer_literal=True, jit_options=LINKED)
def _attend_new_in_kernels(
    KV: Any, HEADS: Any, METHOD: Any, q: Any, q_at: Any, q_stride: Any,
    k: Any, v: Any, k_scales: Any, v_scales: Any, at: Any, scales_at: Any, capacity: Any,
    seen: Any, seen_at: Any, queries: Any, batch: Any, kv_heads: Any, group: Any, dim: Any, softcap: Any, sinks: Any, sinks_at: Any,
    out: Any, out_at: Any, out_stride: Any, threads: Any,
) -> Any:  # fmt: skip
    kv, heads, method = (literal_value(x) for x in (KV, HEADS, METHOD))
    if None in (kv, heads, method):
        return None
    method, bounded = method.removesuffix(BOUNDED), method.endswith(BOUNDED)

    def one(
        KV: Any, HEADS: Any, METHOD: Any, q: Any, q_at: Any, q_stride: Any,
        k: Any, v: Any, k_scales: Any, v_scales: Any, at: Any, scales_at: Any, capacity: Any,
        seen: Any, seen_at: Any, queries: Any, batch: Any, kv_heads: Any, group: Any, dim: Any, softcap: Any, sinks: Any, sinks_at: Any,
        out: Any, out_at: Any, out_stride: Any, threads: Any,
    ) -> None:  # fmt: skip
        attend(
            kv, heads, method, q, q_at, q_stride, k, v, k_scales, v_scales, at, scales_at, capacity,
            seen[seen_at] + 1, batch, kv_heads, group, dim, softcap, sinks, sinks_at, out, out_at, out_stride, threads,
        )  # fmt: skip

    def several(
        KV: Any, HEADS: Any, METHOD: Any, q: Any, q_at: Any, q_stride: Any,
        k: Any, v: Any, k_scales: Any, v_scales: Any, at: Any, scales_at: Any, capacity: Any,
        seen: Any, seen_at: Any, queries: Any, batch: Any, kv_heads: Any, group: Any, dim: Any, softcap: Any, sinks: Any, sinks_at: Any,
        out: Any, out_at: Any, out_stride: Any, threads: Any,
    ) -> None:  # fmt: skip
        shape = Rows(seen[seen_at] + queries, queries, batch, kv_heads, group, dim, dim, 1 / np.sqrt(dim))
        attend_rows(
            kv, method, q, q_at, q_stride, k, v, k_scales, v_scales, at, scales_at, capacity,
            shape, out, out_at, out_stride, threads,
        )  # fmt: skip

    def several_bounded(
        KV: Any, HEADS: Any, METHOD: Any, q: Any, q_at: Any, q_stride: Any,
        k: Any, v: Any, k_scales: Any, v_scales: Any, at: Any, scales_at: Any, capacity: Any,
        seen: Any, seen_at: Any, queries: Any, batch: Any, kv_heads: Any, group: Any, dim: Any, softcap: Any, sinks: Any, sinks_at: Any,
        out: Any, out_at: Any, out_stride: Any, threads: Any,
    ) -> None:  # fmt: skip
        shape = BoundedRows(
            seen[seen_at] + queries, queries, batch, kv_heads, group, dim, dim, 1 / np.sqrt(dim),
            seen, seen_at, softcap, sinks, sinks_at,
        )  # fmt: skip
        attend_rows(
            kv, method, q, q_at, q_stride, k, v, k_scales, v_scales, at, scales_at, capacity,
            shape, out, out_at, out_stride, threads,
        )  # fmt: skip

    if heads:
        return one
    return several_bounded if bounded else several
