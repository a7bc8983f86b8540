"""Attention of several query tokens a sequence, compiled: their keys and values are appended, then rows.py attends.

several_kernel(g.kv, g.method)                        # of `rows_grouping`, cached on disk
"""

from __future__ import annotations

from functools import cache
from typing import Any

from membound.kernels.cpu.attention.rows import attend_rows
from membound.kernels.cpu.compile import kernel
from membound.kernels.cpu.step.elementwise import store_row


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
