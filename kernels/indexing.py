"""Which tokens attention with an indexer sees, in float64 (DeepSeek-V3.2, GLM-5).

>>> left_out(normed, mixer, np.arange(20), 20, product, vectors, "bf16", lambda keys: keys).shape     # [B, T, T], True where a token is not selected

Scores of a token for another: the sum over heads of a weight times relu(query · key), scaled; the largest `chosen` of those up to its own
place are seen, or all where they are no more than that. Source: huggingface/transformers, models/deepseek_v32 and models/glm_moe_dsa, version 5.24, which leave out DeepSeek's
FP8 and its Hadamard transform, as both are of no concern to the choice in exact numbers.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import inf
from typing import Any

import numpy as np
import numpy.typing as npt

from membound.kernels.forward import F64, LATENT_EPS, Product, Vectors, layer_norm, rms_norm
from membound.kernels.mixers import Latent
from membound.kernels.rope import turn
from membound.kernels.stored_cache import store_rows, widened
from membound.kernels.weights.formats import KVCache

I64 = npt.NDArray[np.int64]
Flags = npt.NDArray[np.bool_]
Packed = npt.NDArray[np.uint8]
"""Of flags, eight in a byte along the last axis."""
QUERY_BLOCK = 256


@dataclass(frozen=True, slots=True)
class IndexHeads:
    """Queries [B, heads, T, D], keys [B, 1, T, D] and weights [B, heads, T] of tokens."""

    q: F64
    k: F64
    weights: F64


def index_heads(
    x: F64, mixer: Latent, positions: npt.NDArray[Any], length: int, product: Product, vectors: Vectors
) -> IndexHeads:
    """Of normed x [B·T, hidden] at `positions` [T]. Raises AssertionError where a layer has no index of its own."""
    index = mixer.index
    if index is None or index.shared:
        raise AssertionError("no index")
    tokens, (heads, dim) = len(positions), (index.heads, index.head_dim)
    low = product("q_down", x) + vectors.get("q_down_bias", 0.0)
    q = product("index_q", rms_norm(low, vectors["q_norm"], LATENT_EPS)).reshape(-1, tokens, heads, dim)
    k = layer_norm(
        product("index_k", x), vectors["index_k_norm"], vectors["index_k_norm_bias"], LATENT_EPS
    ).reshape(-1, tokens, dim)
    cos, sin = mixer.rope.table(positions, mixer.rope_dim, length)
    q, k = q.transpose(0, 2, 1, 3).copy(), k[:, None].copy()
    for each in (q, k):
        each[..., : mixer.rope_dim] = turn(each[..., : mixer.rope_dim], cos, sin, index.neighbours)
    weights = product("index_weights", x).reshape(-1, tokens, heads).transpose(0, 2, 1)
    return IndexHeads(q, k, weights)


def left_out(
    x: F64,
    mixer: Latent,
    positions: npt.NDArray[Any],
    length: int,
    product: Product,
    vectors: Vectors,
    kv: str,
    hold: Callable[[KVCache], KVCache],
) -> Flags:
    """Of normed x [B·T, hidden] at `positions`, which follow each other: which tokens each does not select, [B, T, tokens up to the last].

    Keys are what a cache of the format `kv` holds of them; `hold` takes the new ones and gives those of all tokens.
    """
    made, tokens, first = (
        index_heads(x, mixer, positions, length, product, vectors),
        len(positions),
        int(positions[0]),
    )
    keys = hold(store_rows(made.k, kv, made.k.shape[-1]))
    away = np.ones((len(made.q), tokens, first + tokens), np.bool_)
    for b in range(len(made.q)):
        k = widened(keys, b, 0)[0]
        for start in range(0, tokens, QUERY_BLOCK):
            end = min(start + QUERY_BLOCK, tokens)
            seen = first + end
            near = np.maximum(made.q[b, :, start:end] @ k[:seen].T, 0)
            scores = np.einsum(
                "ht,hts->ts", made.weights[b, :, start:end], near
            )  # scaled alike for all tokens
            later = np.arange(seen) > np.arange(first + start, seen)[:, None]
            scores[later] = -inf
            np.put_along_axis(away[b, start:end], _largest(scores, mixer), False, -1)
            away[b, start:end, :seen] |= later
    return away


def selected(made: IndexHeads, keys: KVCache, mixer: Latent) -> I64:
    """The cached tokens that one new token of each sequence sees, its own among them as the last of `keys`: [B, chosen], in their order."""
    scores = np.stack(
        [
            made.weights[b, :, 0] @ np.maximum(made.q[b, :, 0] @ widened(keys, b, 0)[0].T, 0)
            for b in range(len(made.q))
        ]
    )
    ids: I64 = np.sort(_largest(scores, mixer), -1)
    return ids


def rows_of(cache: KVCache, ids: I64) -> KVCache:
    """Those tokens of a latent cache."""

    def taken(array: Any) -> Any:
        if array is None:
            return None
        at = ids[:, None, :, None] if array.ndim == 4 else ids[:, None]
        return np.take_along_axis(array, at, 2)

    k, scales = taken(cache.k), taken(cache.k_scales)
    return KVCache(cache.format, k, k[..., : cache.v.shape[-1]], scales, scales)


def _largest(scores: F64, mixer: Latent) -> I64:
    if mixer.index is None:
        raise AssertionError("no index")
    return np.argsort(-scores, -1, kind="stable")[..., : mixer.index.chosen]
