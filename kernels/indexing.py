"""Which tokens attention with an indexer leaves out, in float64 (DeepSeek-V3.2, GLM-5).

>>> left_out(normed, mixer, np.arange(20), 20, product, vectors).shape        # [B, T, T], True where a token is not selected

Scores of a token for another: the sum over heads of a weight times relu(query · key), scaled; the largest `chosen` of those up to its own
place are seen. Source: huggingface/transformers, models/deepseek_v32 and models/glm_moe_dsa, version 5.24, which leave out DeepSeek's
FP8 and its Hadamard transform, as both are of no concern to the choice in exact numbers.
"""

from __future__ import annotations

from math import inf
from typing import Any

import numpy as np
import numpy.typing as npt

from membound.kernels.forward import F64, LATENT_EPS, Product, Vectors, layer_norm, rms_norm
from membound.kernels.mixers import Latent
from membound.kernels.rope import turn


def left_out(
    x: F64,
    mixer: Latent,
    positions: npt.NDArray[Any],
    length: int,
    product: Product,
    vectors: Vectors,
) -> npt.NDArray[np.bool_]:
    """Of normed x [B·T, hidden], whose tokens are all that there are: which each does not select, [B, T, T]."""
    index = mixer.index
    if index is None:
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
    near = np.maximum(q @ k.transpose(0, 1, 3, 2), 0)
    scores = (weights[..., None] * near).sum(1)  # their scales are the same for all tokens
    scores[:, np.triu_indices(tokens, 1)[0], np.triu_indices(tokens, 1)[1]] = -inf
    seen = np.argsort(-scores, -1, kind="stable")[..., : index.chosen]
    away = np.ones(scores.shape, np.bool_)
    np.put_along_axis(away, seen, False, -1)
    return away
