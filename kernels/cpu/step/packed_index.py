"""The index of latent attention packed for steps: keys of all layers that have one of their own, vectors, and buffers.

>>> index = PackedIndex(inputs, vectors, threads=2)
>>> index.method, index.arguments.chosen
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from membound.kernels.cpu.attention.choice import make_choice
from membound.kernels.cpu.attention.decode import flat_cache
from membound.kernels.cpu.attention.rows import rows_grouping
from membound.kernels.cpu.simd.features import LANES
from membound.kernels.cpu.step.index import Index
from membound.kernels.inputs import ModelInputs
from membound.kernels.mixers import Indexer, Latent
from membound.kernels.weights.formats import F32, KVCache
from membound.kernels.work import Step


class PackedIndex:
    """Of all layers. `method`: of the products with keys; `arguments`: what `latent_half` takes."""

    def __init__(self, inputs: ModelInputs, small: list[Mapping[str, F32]], threads: int) -> None:
        work, layers = inputs.work, len(small)
        if not isinstance(work, Step):
            raise AssertionError(f"{type(work).__name__} is no Step")
        kinds = [index_of(inputs, number) for number in range(layers)]
        own = [number for number, kind in enumerate(kinds) if not kind.shared]
        one, batch, tokens = kinds[own[0]], work.batch, work.context + 1
        self.method = rows_grouping(work.kv, one.head_dim, one.head_dim).method
        place = np.full(layers, -1, np.int64)
        place[own] = np.arange(len(own))
        keys, _, scales, _ = flat_cache(_keys(inputs, own))
        given = np.stack([inputs.selection(number).reshape(-1) for number in range(layers)])
        self.arguments = Index(
            chosen=given.shape[1] // batch,
            heads=one.heads,
            dim=one.head_dim,
            neighbours=one.neighbours,
            place=place,
            gain=np.stack([small[number]["index_k_norm"] for number in own]),
            bias=np.stack([small[number]["index_k_norm_bias"] for number in own]),
            keys=keys,
            scales=scales,
            given=given,
            ids=np.full_like(given, -1),
            queries=np.zeros(batch * one.heads * one.head_dim, np.float32),
            weights=np.zeros(batch * -(-one.heads // LANES) * LANES, np.float32),
            choice=make_choice(given.shape[1] // batch, tokens, batch, threads),
        )


def index_of(inputs: ModelInputs, number: int) -> Indexer:
    """The index of a layer. Raises AssertionError where it has none."""
    mixer = inputs.model.decoder.layers[number].mixer
    if not isinstance(mixer, Latent) or mixer.index is None:
        raise AssertionError(f"layer {number} has no index")
    return mixer.index


def _keys(inputs: ModelInputs, own: list[int]) -> KVCache:
    """Keys of those layers with room for one more token, [layers, batch, 1, context + 1, dim], as one array with the values."""
    held = [inputs.index_keys(number) for number in own]
    k, scales = (
        _with_room([one.k for one in held]),
        [one.k_scales for one in held if one.k_scales is not None],
    )
    wide = _with_room(scales) if scales else None
    return KVCache(inputs.work.kv, k, k, wide, wide)


def _with_room(parts: Sequence[npt.NDArray[Any]]) -> npt.NDArray[Any]:
    """Arrays [batch, 1, context, …] of layers as one, each with room for one token more."""
    batch, one, context = parts[0].shape[:3]
    whole = np.zeros((len(parts), batch, one, context + 1, *parts[0].shape[3:]), parts[0].dtype)
    for into, part in zip(whole, parts, strict=True):
        into[:, :, :context] = part
    return whole
