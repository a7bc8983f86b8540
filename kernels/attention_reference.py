"""Attention over a cache in float64: of one token a sequence, of several, over latent rows.

>>> y = decode_attention(q, cache)        # q [B, Hq, D], cache of any format -> [B, Hq, D]

`reference` runs whole works with it.
"""

from __future__ import annotations

from math import inf, sqrt
from typing import Any

import numpy as np
import numpy.typing as npt

from membound.kernels.forward import hidden_pairs, softcapped, softmax
from membound.kernels.operations import LATENT_HEAD_DIM
from membound.kernels.parts import Attention, Latent
from membound.kernels.stored_cache import widened
from membound.kernels.weights.formats import KVCache

F64 = npt.NDArray[np.float64]
Floats = npt.NDArray[np.floating[Any]]
QUERY_BLOCK = 256


def decode_attention(
    q: Floats, cache: KVCache, power: int = 1, softcap: float = 0.0, sinks: Floats | None = None
) -> F64:
    """softmax(q · Kᵀ / sqrt(D)) · V for q [B, Hq, D]; query head h reads KV head h // (Hq / Hkv). Power as in `linear`.

    `softcap` and `sinks` [Hq] as in `Attention`.
    """
    batch, q_heads, head_dim = q.shape
    kv_heads = cache.k.shape[1]
    grouped = q.astype(np.float64).reshape(batch, kv_heads, q_heads // kv_heads, head_dim)
    out = np.empty((*grouped.shape[:-1], cache.v.shape[-1]))
    for b, h in np.ndindex(batch, kv_heads):
        k, v = widened(cache, b, h)
        scores = softcapped(grouped[b, h] @ k.T / sqrt(head_dim), softcap)
        out[b, h] = softmax(scores, _of_group(sinks, kv_heads, h)) ** power @ v**power
    return out.reshape(batch, q_heads, -1)


def _of_group(sinks: Floats | None, kv_heads: int, head: int) -> F64 | None:
    """The sinks of a KV head's queries, [group, 1]."""
    return None if sinks is None else sinks.astype(np.float64).reshape(kv_heads, -1)[head][:, None]


def latent_attention(q: Floats, cache: KVCache) -> F64:
    """softmax(q · Kᵀ / sqrt(192)) · V for q [B, Hq, 576] over a latent cache: y [B, Hq, 512].

    192 is the width of a head before the up-projections are absorbed into q: 128 and 64 of RoPE
    (arXiv 2405.04434, equation 19).
    """
    y = np.empty((*q.shape[:2], cache.v.shape[-1]))
    for b in range(len(q)):
        k, v = widened(cache, b, 0)
        y[b] = softmax(q[b].astype(np.float64) @ k.T / sqrt(LATENT_HEAD_DIM)) @ v
    return y


def causal_attention(
    q: F64,
    cache: KVCache,
    first: int = 0,
    mixer: Attention | Latent | None = None,
    sinks: Floats | None = None,
    power: int = 1,
    unseen: npt.NDArray[np.bool_] | None = None,
) -> F64:
    """Attention of q [B, Hq, T, D] where token t, at position first + t, sees cached tokens up to its own, as `mixer` lets it.

    Power as in `linear`. `unseen` [B, T, tokens of the cache]: which tokens an index leaves out.
    """
    batch, q_heads, tokens, head_dim = q.shape
    kv_heads = cache.k.shape[1]
    softcap = mixer.softcap if isinstance(mixer, Attention) else 0.0
    grouped = q.reshape(batch, kv_heads, q_heads // kv_heads, tokens, head_dim)
    out = np.empty((*grouped.shape[:-1], cache.v.shape[-1]))
    for b, h in np.ndindex(batch, kv_heads):
        k, v = widened(cache, b, h)
        sink = _of_group(sinks, kv_heads, h)
        for start in range(0, tokens, QUERY_BLOCK):
            end = min(start + QUERY_BLOCK, tokens)
            seen = first + end
            scores = softcapped(grouped[b, h, :, start:end] @ k[:seen].T / sqrt(head_dim), softcap)
            scores[:, hidden_pairs(mixer or Latent(1, 0), first + start, first + end, seen)] = -inf
            if unseen is not None:
                scores[:, unseen[b, start:end, :seen]] = -inf
            shares = softmax(scores, None if sink is None else sink[..., None])
            out[b, h, :, start:end] = shares**power @ v[:seen] ** power
    return out.reshape(batch, q_heads, tokens, -1)
