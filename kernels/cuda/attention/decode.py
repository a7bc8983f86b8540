"""Decode attention on CUDA: one query token a sequence against its cache, split over blocks, then combined.

    tiles = Tiles("bf16", head_dim=128, group=4, page=16)
    kernel = attention_kernel(tiles)
    splits = plan_splits(tiles, batch, kv_heads, context, multiprocessors=132)
    launch(kernel, grid(tiles, batch, kv_heads, splits), (q, k, v, k_scales, v_scales, table, parts, logs, …))

Every byte of the cache is loaded once, in registers, by the warp that needs it (cache_tiles.py); a block's
warps take tiles in turn. With one split the kernel's parts are the output and nothing is left to combine.
Splitting over the context is Flash-Decoding (Dao et al., 2023); softmax is online (arXiv 1805.02867).
"""

from __future__ import annotations

from functools import cache
from math import ceil, log, sqrt
from typing import Any

import numpy as np

from membound.kernels.cuda.attention.cache_formats import formats
from membound.kernels.cuda.attention.cache_tiles import (
    ROWS,
    TOKENS,
    Tiles,
    key_loader,
    query_loader,
    value_loader,
)
from membound.kernels.cuda.attention.combine import rounds
from membound.kernels.cuda.attention.warp import (
    INT8_GAIN,
    LEAST,
    masker,
    merger,
    scaler,
    score_maker,
    softmax_maker,
    value_adder,
)
from membound.kernels.cuda.compile import Kernel, cuda, device
from membound.kernels.cuda.instruments.chains import CHAINS, begin, nothing_of, spinner

BLOCKS_PER_SM = 2
"""Blocks of four warps that share a multiprocessor: 8 warps with 16 loads of 512 bytes each in flight are 64 KiB."""
MOST_SPLITS = 128
_BLOCK_COST = 4
"""What starting and merging a block costs, in turns of its loop: splitting must save more than that."""
_COMBINE_COST, _ROUND_COST = 1.0, 0.25
"""What a second kernel costs, and a trip of it to memory, in the same unit: about 2.9 µs, in which all blocks that fit an
H100 load 8.6 MB. Neither is measured."""


def gain(head_dim: int) -> float:
    """log2(e) / sqrt(D): what turns scores into exponents of two."""
    return 1 / (log(2) * sqrt(head_dim))


def grid(tiles: Tiles, batch: int, kv_heads: int, splits: int) -> tuple[int, int]:
    """Blocks: a sequence, KV head and up to sixteen of its query heads in x, parts of the context in y."""
    return batch * kv_heads * tiles.head_tiles, splits


def plan_splits(
    tiles: Tiles, batch: int, kv_heads: int, context: int, multiprocessors: int, width: int = 0
) -> int:
    """Parts of the context that end soonest: waves of blocks times the turns of each block's loop, and combining them.

    The least number where several are as good. `width`: columns of a head's output where a tile holds a share of them only, as in
    latent attention; 0 for those of the tiles.
    """
    groups, resident = batch * kv_heads * tiles.head_tiles, BLOCKS_PER_SM * multiprocessors
    turns = -(-context // tiles.stride)

    def cost(splits: int) -> float:
        loop = ceil(ceil(turns / splits) / tiles.warps)
        attend = ceil(groups * splits / resident) * (loop + _BLOCK_COST)
        combine = _COMBINE_COST + _ROUND_COST * rounds(width or tiles.head_dim, splits) if splits > 1 else 0.0
        return attend + combine

    return min(range(1, min(MOST_SPLITS, turns) + 1), key=cost)


@cache
def attention_kernel(tiles: Tiles, loaded: bool = False) -> Kernel:
    """parts, logs = attention of each part of the context.

    Arguments, all arrays flat: q float32 [B, Hq, D]; k and v as words, [B, Hkv, room, D] or, with pages,
    [pages, page, Hkv, D]; k_scales and v_scales float32 [B, Hkv, room] or [pages, Hkv, page] for int8, any
    array else; table int32 [B, pages a sequence], any array without pages; parts float32 [B, Hq, splits, D];
    logs float32 [B, Hq, splits]; gain as `gain` says; q_heads; kv_heads; context; the room of a sequence in
    tokens (`Tiles.room`). The grid is that of `grid`. `loaded`: with extra arithmetic for each element of a
    cache without scales (chains.py), whose constants are k_scales; that of the keys is done while they are
    under way.
    """
    form, SCALED = formats(tiles.kv), tiles.kv == "int8"
    D, G, HALVES, WARPS = tiles.head_dim, tiles.group, tiles.halves, tiles.warps
    HEAD_TILES, AT_ONCE, STRIDE = tiles.head_tiles, tiles.tiles_at_once, tiles.stride
    TILE_WORDS = TOKENS * tiles.row_words // 32
    QUERIES, SCORES, SUMS = D // 4, 4 * HALVES * AT_ONCE, D // 2
    WORDS, FACTORS = TILE_WORDS * AT_ONCE, 4 * AT_ONCE
    FACTOR = np.float32(1) / INT8_GAIN if SCALED else np.float32(1)
    load_queries, load_keys, load_values = (
        query_loader(tiles, form),
        key_loader(tiles),
        value_loader(tiles),
    )
    load_scales, place = scale_loader(), placer(tiles.row_words, tiles.page)
    multiply_keys, hide, scale = score_maker(tiles, form), masker(tiles), scaler(tiles)
    LOADED, spin = loaded, spinner(WORDS * tiles.columns_per_word)
    weigh, add_values, merge = softmax_maker(tiles), value_adder(tiles, form), merger(tiles)

    def attention(
        q: Any,
        k: Any,
        v: Any,
        k_scales: Any,
        v_scales: Any,
        table: Any,
        parts: Any,
        logs: Any,
        scale_of_scores: Any,
        q_heads: Any,
        kv_heads: Any,
        context: Any,
        room: Any,
    ) -> None:
        operands, scores = cuda.local.array(QUERIES, np.uint32), cuda.local.array(SCORES, np.float32)
        keys, values = cuda.local.array(WORDS, np.uint32), cuda.local.array(WORDS, np.uint32)
        key_factors, value_factors = (
            cuda.local.array(FACTORS, np.float32),
            cuda.local.array(FACTORS, np.float32),
        )
        sums = cuda.local.array(SUMS, np.float32)
        largest, total = cuda.local.array(HALVES, np.float32), cuda.local.array(HALVES, np.float32)
        chains = cuda.local.array(CHAINS, np.float32)
        factor, nothing, dose = np.float32(0), np.float32(0), np.int32(0)
        if LOADED:
            factor, nothing, dose = begin(k_scales, chains)
        for i in range(SUMS):
            sums[i] = np.float32(0)
        for half in range(HALVES):
            largest[half], total[half] = LEAST, np.float32(0)
        tile_of_heads, pair = cuda.blockIdx.x % HEAD_TILES, cuda.blockIdx.x // HEAD_TILES
        sequence, kv_head = pair // kv_heads, pair % kv_heads
        head = pair * G + tile_of_heads * ROWS
        count = min(q_heads // kv_heads - tile_of_heads * ROWS, ROWS)
        load_queries(q, head, count, operands)

        splits = cuda.gridDim.y
        turns = (context + STRIDE - 1) // STRIDE
        each = (turns + splits - 1) // splits
        turn = cuda.blockIdx.y * each + (cuda.threadIdx.x >> 5)
        end = min(turns, cuda.blockIdx.y * each + each)
        while turn < end:
            for i in range(AT_ONCE):
                base, stride, scales_at = place(
                    table, sequence, kv_head, turn * AT_ONCE + i, kv_heads, context, room
                )
                load_keys(k, base, stride, keys, i * TILE_WORDS)
                load_values(v, base, stride, values, i * TILE_WORDS)
                if SCALED:
                    load_scales(k_scales, scales_at, key_factors, 4 * i)
                    load_scales(v_scales, scales_at, value_factors, 4 * i)
            cuda.syncwarp()  # all loads are under way before the first product waits for one
            if LOADED:
                spin(chains, factor, dose)
            for i in range(AT_ONCE):
                multiply_keys(operands, keys, i * TILE_WORDS, scores, 4 * HALVES * i)
            if SCALED:
                scale(scores, key_factors)
            if turn * STRIDE + STRIDE > context:
                hide(scores, turn * STRIDE, context)
            weigh(scores, largest, total, sums, scale_of_scores)
            if SCALED:
                for i in range(FACTORS):
                    value_factors[i] *= INT8_GAIN
                scale(scores, value_factors)
            if LOADED:
                spin(chains, factor, dose)
            for i in range(AT_ONCE):
                add_values(scores, 4 * HALVES * i, values, i * TILE_WORDS, sums)
            turn += WARPS
        if LOADED:
            sums[0] += nothing_of(chains, nothing)
        merge(
            largest,
            total,
            sums,
            scale_of_scores,
            count,
            parts,
            np.int64(head * splits + cuda.blockIdx.y) * D,
            splits * D,
            logs,
            head * splits + cuda.blockIdx.y,
            splits,
            FACTOR,
        )

    return Kernel(
        f"attention_{tiles.name}{'_loaded' if loaded else ''}",
        attention,
        ("f32*", "u32*", "u32*", "f32*", "f32*", "i32*", "f32*", "f32*", "f32", "i32", "i32", "i32", "i32"),
        threads=32 * WARPS,
        blocks_per_sm=BLOCKS_PER_SM,
        fastmath=True,
    )


def placer(row_words: int, page: int) -> Any:
    """place(table, sequence, kv_head, tile, kv_heads, context, room): where a tile of sixteen tokens lies.

    Returns the index in words of its first token, the words from one token to the next, and the index of its
    first scale. A tile beyond the context is the last one: all of its tokens are masked.
    """
    ROW, PAGE = row_words, page

    @device
    def in_one_piece(
        table: Any, sequence: Any, kv_head: Any, tile: Any, kv_heads: Any, context: Any, room: Any
    ) -> Any:
        token = np.int64(sequence * kv_heads + kv_head) * room + tile * TOKENS
        return token * ROW, np.int64(ROW), token

    @device
    def in_pages(
        table: Any, sequence: Any, kv_head: Any, tile: Any, kv_heads: Any, context: Any, room: Any
    ) -> Any:
        token = min(tile, (context - 1) // TOKENS) * TOKENS
        page = np.int64(table[sequence * (room // PAGE) + token // PAGE])
        offset = token % PAGE
        value = ((page * PAGE + offset) * kv_heads + kv_head) * ROW
        return value, np.int64(kv_heads) * ROW, (page * kv_heads + kv_head) * PAGE + offset

    return in_pages if page else in_one_piece


def scale_loader() -> Any:
    """load_scales(scales, first, factors, at): the scales of the four tokens of a tile that a lane has weights of."""

    @device
    def load_scales(scales: Any, first: Any, factors: Any, at: Any) -> None:
        t = cuda.threadIdx.x & 3
        for e in range(4):
            factors[at + e] = scales[first + 2 * t + (e & 1) + 8 * (e >> 1)]

    return load_scales
