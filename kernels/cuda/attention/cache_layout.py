"""A cache in the order in which attention kernels read it.

>>> arrays = lay_out(inputs.cache(0), tiles, inputs.page_table(0))
>>> arrays.k.dtype, arrays.table.shape
(dtype('uint32'), (batch * pages_of_a_sequence,))
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from membound.kernels.cuda.attention.cache_tiles import Tiles
from membound.kernels.cuda.device.gpu import Array, Gpu
from membound.kernels.weights.formats import KVCache
from membound.kernels.weights.pages import paged

Words = npt.NDArray[np.uint32]
F32 = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class CacheArrays:
    """One layer's cache, every array flat: [B, Hkv, room, D] or [pages, page, Hkv, D].

    k, v: words. k_scales, v_scales: [B, Hkv, room] or [pages, Hkv, page] for int8, else 4 unused numbers.
    table: page numbers [B, pages a sequence], or one unused number. What is beyond the tokens is zeros.
    """

    k: Words
    v: Words
    k_scales: F32
    v_scales: F32
    table: npt.NDArray[np.int32]


@dataclass(frozen=True, slots=True)
class DeviceCache:
    """`CacheArrays` on a GPU, with room for `room` tokens a sequence."""

    k: Array
    v: Array
    k_scales: Array
    v_scales: Array
    table: Array
    room: int


def upload(
    gpu: Gpu, cache: KVCache, tiles: Tiles, table: npt.NDArray[np.int32], tokens: int = 0
) -> DeviceCache:
    """`lay_out` and copy to the GPU; arguments as there."""
    a = lay_out(cache, tiles, table, tokens)
    room = tiles.room(tokens or cache.k.shape[2])
    k, v, k_scales, v_scales = (gpu.array(array) for array in (a.k, a.v, a.k_scales, a.v_scales))
    return DeviceCache(k, v, k_scales, v_scales, gpu.array(a.table), room)


def upload_latent(gpu: Gpu, cache: KVCache, tiles: Tiles, table: npt.NDArray[np.int32]) -> DeviceCache:
    """A latent cache on the GPU: its rows as `k` and as `v`, [B, room, 576] or [pages, page, 576], stored once."""
    room = tiles.room(cache.k.shape[2])
    rows = gpu.array(_placed(cache.k, tiles, table, room).reshape(-1).view(np.uint32))
    scales = np.zeros(4, np.float32)
    if cache.k_scales is not None:
        scales = _placed(cache.k_scales, tiles, table, room).reshape(-1)
    placed = gpu.array(scales)
    numbers = gpu.array(table.reshape(-1) if tiles.page else np.zeros(1, np.int32))
    return DeviceCache(rows, rows, placed, placed, numbers, room)


def lay_out(cache: KVCache, tiles: Tiles, table: npt.NDArray[np.int32], tokens: int = 0) -> CacheArrays:
    """The arrays of a cache, with room for `tokens` (0: as many as there are).

    `table` is as `AttentionInputs.page_table` makes it, for that room; it is not looked at without pages.
    """
    room = tiles.room(tokens or cache.k.shape[2])

    def values(array: npt.NDArray[Any]) -> Words:
        return _placed(array, tiles, table, room).reshape(-1).view(np.uint32)

    def scales(array: F32 | None) -> F32:
        if array is None:
            return np.zeros(4, np.float32)
        placed = _placed(array, tiles, table, room)
        # A head's scales of a page side by side: its tile is read at once.
        return np.ascontiguousarray(placed.transpose(0, 2, 1) if tiles.page else placed).reshape(-1)

    numbers = table.reshape(-1) if tiles.page else np.zeros(1, np.int32)
    return CacheArrays(
        values(cache.k), values(cache.v), scales(cache.k_scales), scales(cache.v_scales), numbers
    )


def _placed(
    array: npt.NDArray[Any], tiles: Tiles, table: npt.NDArray[np.int32], room: int
) -> npt.NDArray[Any]:
    """[B, Hkv, tokens, …] widened to `room` tokens, in one piece or in pages."""
    batch, heads, tokens, *rest = array.shape
    wide = np.zeros((batch, heads, room, *rest), array.dtype)
    wide[:, :, :tokens] = array
    return paged(wide, table, tiles.page) if tiles.page else wide
