"""Keys and values as a cache keeps them, and what a reference reads of it.

>>> store_cache(k, v, "int8").k_scales.shape        # of k [B, Hkv, T, D]: one scale a token and head
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from membound.kernels.weights import fp8
from membound.kernels.weights.formats import KVCache, from_bf16, to_bf16

F64 = npt.NDArray[np.float64]


def store_cache(k: F64, v: F64, kv: str) -> KVCache:
    """Keys and values [B, Hkv, T, D] as the cache keeps them: rounded to nearest even, or int8 a token and head."""
    (ks, k_scales), (vs, v_scales) = _store(k.astype(np.float32), kv), _store(v.astype(np.float32), kv)
    return KVCache(kv, ks, vs, k_scales, v_scales)


def store_rows(rows: F64, kv: str, value_dim: int) -> KVCache:
    """Rows [B, 1, T, D] of a latent cache as it keeps them: values are the first `value_dim` columns of keys, under their scales."""
    stored, scales = _store(rows.astype(np.float32), kv)
    return KVCache(kv, stored, stored[..., :value_dim], scales, scales)


def _store(
    values: npt.NDArray[np.float32], kv: str
) -> tuple[npt.NDArray[np.generic], npt.NDArray[np.float32] | None]:
    if kv == "f32":
        return values, None
    if kv == "bf16":
        return to_bf16(values), None
    if kv == "f16":
        return values.astype(np.float16), None
    if kv == "fp8":
        return fp8.encode(values), None
    scales = np.abs(values).max(-1) / np.float32(127)
    q = np.rint(values / np.where(scales > 0, scales, np.float32(1))[..., None])
    return q.astype(np.int8), scales


def append(cache: KVCache, new: KVCache) -> KVCache:
    """The cache with the tokens of `new` behind its own."""

    def join(old: Any, more: Any) -> Any:
        return None if old is None else np.concatenate([old, more], axis=2)

    return KVCache(
        cache.format,
        join(cache.k, new.k),
        join(cache.v, new.v),
        join(cache.k_scales, new.k_scales),
        join(cache.v_scales, new.v_scales),
    )


def widened(cache: KVCache, batch: int, head: int) -> tuple[F64, F64]:
    """K and V [T, D] of one sequence and KV head."""

    def widen(values: Any, scales: Any) -> F64:
        one = values[batch, head]
        if cache.format == "bf16":
            one = from_bf16(one)
        elif cache.format == "fp8":
            one = fp8.decode(one)
        wide: F64 = one.astype(np.float64)
        return wide if scales is None else wide * scales[batch, head, :, None].astype(np.float64)

    return widen(cache.k, cache.k_scales), widen(cache.v, cache.v_scales)


def last_tokens(cache: KVCache, tokens: int) -> KVCache:
    """The end of a cache."""
    if tokens >= cache.k.shape[2]:
        return cache

    def end(array: Any) -> Any:
        return None if array is None else array[:, :, -tokens:]

    return KVCache(cache.format, end(cache.k), end(cache.v), end(cache.k_scales), end(cache.v_scales))
