"""The index of latent attention packed for steps and prompts: keys of all layers that have one of their own, vectors, and buffers.

>>> index = PackedIndex(inputs, vectors, rows=1, threads=2)
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
from membound.kernels.cpu.step.prompt_index import Chunks, PromptIndex
from membound.kernels.features import tokens_of
from membound.kernels.inputs import ModelInputs
from membound.kernels.mixers import Indexer, Latent
from membound.kernels.routing import I64
from membound.kernels.weights.formats import F32, KVCache, cache_layout
from membound.kernels.work import Prefill, Step


class PackedIndex:
    """Of all layers, for `rows` tokens at once. `method`: of the products with keys; `arguments`: what `latent_half` takes, or `index_at`."""

    def __init__(self, inputs: ModelInputs, small: list[Mapping[str, F32]], rows: int, threads: int) -> None:
        work, layers = inputs.work, range(len(small))
        kinds = [index_of(inputs, number) for number in layers]
        own = [number for number in layers if not kinds[number].shared]
        one = kinds[own[0]]
        self.method = rows_grouping(work.kv, one.head_dim, one.head_dim).method
        place = np.full(len(layers), -1, np.int64)
        place[own] = np.arange(len(own))
        room = _chunks_of(work.tokens, rows) * rows if isinstance(work, Prefill) else 0
        keys, _, scales, _ = flat_cache(_empty_keys(inputs, own, room) if room else _keys(inputs, own))
        chosen = min(one.chosen, room or tokens_of(work))
        common: dict[str, Any] = {
            "chosen": chosen,
            "heads": one.heads,
            "dim": one.head_dim,
            "neighbours": one.neighbours,
            "place": place,
            "gain": np.stack([small[number]["index_k_norm"] for number in own]),
            "bias": np.stack([small[number]["index_k_norm_bias"] for number in own]),
            "keys": keys,
            "scales": scales,
            "queries": np.zeros(rows * one.heads * one.head_dim, np.float32),
            "weights": np.zeros(rows * -(-one.heads // LANES) * LANES, np.float32),
            "choice": make_choice(chosen, room or tokens_of(work), rows, threads),
        }
        self.arguments: Index | PromptIndex
        if isinstance(work, Step):
            given = np.stack([inputs.selection(number).reshape(-1) for number in layers])
            self.arguments = Index(**common, given=given, ids=np.full_like(given, -1))
            return
        bits = np.zeros((len(layers), work.batch, work.tokens, 0), np.uint8)
        if work.tokens > chosen:
            bits = np.stack([np.packbits(inputs.seen(number), -1) for number in layers])
        self.arguments = PromptIndex(
            **common,
            given=np.zeros(rows * chosen, np.int64),
            ids=np.full((len(layers), rows * chosen), -1, np.int32),
            whole=0,
            bits=bits,
            chunks=_chunks(chosen, room, rows, threads),
        )


def _chunks_of(tokens: int, rows: int) -> int:
    return -(-tokens // rows)


def _chunks(chosen: int, room: int, rows: int, threads: int) -> Chunks:
    """The choices of all chunks of `rows` tokens, in each of which a token sees those up to its own place."""
    ends = range(rows, room + 1, rows)
    made = [make_choice(min(chosen, end), end, rows, threads) for end in ends]
    widest = max(len(one.sequence) for one in made)

    def table(name: str) -> I64:
        parts = [getattr(each, name) for each in made]
        return np.stack([np.pad(one, (0, widest - len(one))) for one in parts])

    return Chunks(
        pieces=np.array([len(one.sequence) for one in made], np.int64),
        sequence=table("sequence"),
        begin=table("begin"),
        end=table("end"),
        first_of_thread=np.stack([one.first_of_thread for one in made]),
        first_of_sequence=np.stack([one.first_of_sequence for one in made]),
        seen=np.stack([end - rows + 1 + np.arange(rows) for end in ends]),
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


def _empty_keys(inputs: ModelInputs, own: list[int], room: int) -> KVCache:
    """Room for the keys of those layers, [layers · batch, 1, tokens, dim]."""
    shape = (len(own) * inputs.work.batch, 1, room, index_of(inputs, own[0]).head_dim)
    k, _, *scales = (np.zeros(size, kind) for size, kind in cache_layout(inputs.work.kv, shape))
    return KVCache(inputs.work.kv, k, k, *(scales[:1] * 2))


def _with_room(parts: Sequence[npt.NDArray[Any]]) -> npt.NDArray[Any]:
    """Arrays [batch, 1, context, …] of layers as one, each with room for one token more."""
    batch, one, context = parts[0].shape[:3]
    whole = np.zeros((len(parts), batch, one, context + 1, *parts[0].shape[3:]), parts[0].dtype)
    for into, part in zip(whole, parts, strict=True):
        into[:, :, :context] = part
    return whole
