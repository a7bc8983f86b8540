"""Rows of a cache that an index has selected, brought together a block at a time, so that attention reads no others.

    gather(k, k_scales, at, scales_at, ids, first, used, dim, room)

A block of them stays in the caches of the core that copies it, and the products of rows.py find it as if it had lain so.
"""

from __future__ import annotations

from functools import cache
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from membound.kernels.cpu.linked import linked
from membound.kernels.cpu.simd.features import LANES
from membound.kernels.cpu.simd.loads import load_bytes
from membound.kernels.cpu.simd.stores import store
from membound.kernels.weights.formats import F32

BYTES = {"f32": 4, "bf16": 2, "f16": 2, "int8": 1}
"""Of a number."""


class SelectedRows(NamedTuple):
    """`Rows` of one query a sequence that sees `tokens` tokens of its cache: those of ids [batch · tokens], whose values lie within their keys."""

    tokens: int
    queries: int
    batch: int
    kv_heads: int
    group: int
    dim: int
    value_dim: int
    scale: float
    ids: npt.NDArray[np.int64]


class Room(NamedTuple):
    """A block of rows in the format of the cache, and their scales."""

    k: npt.NDArray[np.generic]
    scales: F32


@cache
def make_gather(kv: str) -> Any:
    """gather(k, k_scales, at, scales_at, ids, first, used, dim, room): rows ids[first:][:used] of the cache from k[at] on to room."""
    VECTOR, SCALED = 4 * LANES // BYTES[kv], kv == "int8"

    @linked
    def gather(
        k: Any, k_scales: Any, at: Any, scales_at: Any, ids: Any, first: Any, used: Any, dim: Any, room: Any
    ) -> None:
        whole = dim // VECTOR * VECTOR
        for t in range(used):
            row = ids[first + t]
            start, place = at + row * dim, t * dim
            for d in range(0, whole, VECTOR):
                store(room.k, place + d, load_bytes(k, start + d))
            for d in range(whole, dim):
                room.k[place + d] = k[start + d]
            if SCALED:
                room.scales[t] = k_scales[scales_at + row]

    return gather
