"""Decode attention as launches on a GPU: which kernel, in how many parts, on which memory.

>>> prepared = prepare_attention(gpu, inputs)
>>> for launch in prepared.launches[slot]: launch.start()
>>> prepared.out.read().reshape(*inputs.q.shape[:2], -1)     # [B, Hq, D], of latent attention 512 for D

`gpu` is any gpu.Gpu. Ask `unsupported_attention` first.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from membound.kernels.cuda.attention.cache_layout import DeviceCache, upload, upload_latent
from membound.kernels.cuda.attention.cache_tiles import HEAD_DIMS, Tiles, unsupported
from membound.kernels.cuda.attention.combine import combine_kernel
from membound.kernels.cuda.attention.decode import (
    attention_kernel,
    gain,
    grid,
    plan_splits,
)
from membound.kernels.cuda.attention.latent import (
    GAIN,
    latent_grid,
    latent_kernel,
    latent_splits,
    latent_tiles,
)
from membound.kernels.cuda.device.gpu import Array, Gpu, Launch
from membound.kernels.inputs import AttentionInputs
from membound.kernels.operations import LATENT_VALUE_DIM
from membound.kernels.work import DecodeAttention, LatentAttention


@dataclass(frozen=True, slots=True)
class PreparedAttention:
    """The launches of each input set, in order, and where all of them leave their output, flat float32."""

    launches: tuple[tuple[Launch, ...], ...]
    out: Array


def unsupported_attention(work: DecodeAttention | LatentAttention) -> str | None:
    """Why this attention cannot run on CUDA, or None."""
    if isinstance(work, LatentAttention):
        return unsupported(work.kv, HEAD_DIMS[-1], work.page)
    if work.queries > 1:
        return f"the CUDA kernels attend with one query a sequence, not {work.queries}"
    return unsupported(work.kv, work.head_dim, work.page)


def prepare_attention(gpu: Gpu, inputs: AttentionInputs, numbers: Array | None = None) -> PreparedAttention:
    """Copy queries and caches to the GPU and ready every input set's launches.

    numbers: the constants of extra arithmetic for each element of the cache (free_compute.py); None for none.
    """
    work = inputs.work
    if isinstance(work, LatentAttention):
        return _prepare_latent(gpu, inputs, work)
    tiles = Tiles(work.kv, work.head_dim, work.q_heads // work.kv_heads, work.page)
    q, out = gpu.array(inputs.q), gpu.zeros(inputs.q.size, np.float32)
    loaded = numbers is not None
    binder = AttentionBinder(gpu, tiles, work.batch, work.q_heads, work.kv_heads, work.context, loaded)
    launches = []
    for slot in range(inputs.slots):
        cache = upload(gpu, inputs.cache(slot), tiles, inputs.page_table(slot))
        if numbers is not None:
            cache = replace(cache, k_scales=numbers)
        launches.append(tuple(binder.bind(q, cache, out)))
    return PreparedAttention(tuple(launches), out)


def _prepare_latent(gpu: Gpu, inputs: AttentionInputs, work: LatentAttention) -> PreparedAttention:
    tiles = latent_tiles(work.kv, work.q_heads, work.page)
    splits = latent_splits(tiles, work.batch, work.context, gpu.multiprocessors)
    heads = work.batch * work.q_heads
    q, out = gpu.array(inputs.q), gpu.zeros(heads * LATENT_VALUE_DIM, np.float32)
    logs = gpu.zeros(heads * splits, np.float32)
    parts = gpu.zeros(heads * splits * LATENT_VALUE_DIM, np.float32) if splits > 1 else out
    combine = gpu.bind(combine_kernel(LATENT_VALUE_DIM), heads, (parts, logs, out, splits))
    launches = []
    for slot in range(inputs.slots):
        cache = upload_latent(gpu, inputs.cache(slot), tiles, inputs.page_table(slot))
        arguments = (q, cache.k, cache.k_scales, cache.table, parts, logs, GAIN)
        attend = gpu.bind(
            latent_kernel(tiles),
            latent_grid(tiles, work.batch, splits),
            (*arguments, work.q_heads, work.context, cache.room),
        )
        launches.append((attend, combine) if splits > 1 else (attend,))
    return PreparedAttention(tuple(launches), out)


class AttentionBinder:
    """Attention of one shape, bound to one memory after another; they share what lies between the kernels.

    loaded: with extra arithmetic, whose constants are the caches' `k_scales`.
    """

    def __init__(
        self,
        gpu: Gpu,
        tiles: Tiles,
        batch: int,
        q_heads: int,
        kv_heads: int,
        context: int,
        loaded: bool = False,
    ) -> None:
        self._kernel = attention_kernel(tiles, loaded)
        self._gpu, self._tiles, self._context = gpu, tiles, context
        self._batch, self._heads = batch, (q_heads, kv_heads)
        self.splits = plan_splits(tiles, batch, kv_heads, context, gpu.multiprocessors)
        rows = batch * q_heads * self.splits
        self._logs = gpu.zeros(rows, np.float32)
        self._parts = gpu.zeros(rows * tiles.head_dim, np.float32) if self.splits > 1 else None

    def bind(self, q: Array, cache: DeviceCache, out: Array) -> Sequence[Launch]:
        """Launches from q [B, Hq, D] float32 to `out`, the same, over the first `context` tokens of `cache`."""
        tiles, (q_heads, kv_heads) = self._tiles, self._heads
        attention = self._gpu.bind(
            self._kernel,
            grid(tiles, self._batch, kv_heads, self.splits),
            (
                *(q, cache.k, cache.v, cache.k_scales, cache.v_scales, cache.table),
                *(out if self._parts is None else self._parts, self._logs),
                *(gain(tiles.head_dim), q_heads, kv_heads, self._context, cache.room),
            ),
        )
        if self._parts is None:
            return [attention]
        arguments = (self._parts, self._logs, out, self.splits)
        combine = self._gpu.bind(combine_kernel(tiles.head_dim), self._batch * q_heads, arguments)
        return [attention, combine]
