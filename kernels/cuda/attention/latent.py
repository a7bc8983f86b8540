"""Latent attention (MLA) on CUDA: one query token a sequence over rows of 576 numbers, whose first 512 are the value.

    kernel = latent_kernel(tiles)                      # tiles = latent_tiles("bf16", q_heads=16, page=64)
    launch(kernel, latent_grid(tiles, batch, splits), (q, rows, scales, table, parts, logs, gain, …))
    launch(combine_kernel(512), batch * q_heads, (parts, logs, out, splits))

Four warps take the same sixteen tokens and a quarter of the columns each: 128 of the values and 16 of the RoPE
keys. Their shares of the scores are added up in shared memory; from there each has its own columns of the
output. Rows are loaded once, as keys; a transposition in registers (ptx.transpose8) makes values of them.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from math import log, sqrt
from typing import Any

import numpy as np

from membound.kernels.cuda import ptx
from membound.kernels.cuda.attention.cache_formats import BITS, CacheFormat, formats
from membound.kernels.cuda.attention.cache_tiles import ROWS, Tiles, loader, query_packer
from membound.kernels.cuda.attention.decode import placer, plan_splits, scale_loader
from membound.kernels.cuda.attention.warp import (
    ALL_LANES,
    INT8_GAIN,
    LEAST,
    masker,
    scaler,
    score_keeper,
    softmax_maker,
)
from membound.kernels.cuda.compile import WARP, Kernel, cuda, device
from membound.kernels.operations import LATENT_DIM, LATENT_HEAD_DIM, LATENT_VALUE_DIM

WARPS = 4
BLOCKS_PER_SM = 2
AT_ONCE = 2
"""Tiles of sixteen rows in flight: with two blocks on a multiprocessor these are 74 KB of 16-bit rows."""
_SHARE = LATENT_VALUE_DIM // WARPS
_ROPE_SHARE = (LATENT_DIM - LATENT_VALUE_DIM) // WARPS
_STEPS = (_SHARE + _ROPE_SHARE) // 16
"""Tensor-core products a warp needs for its share of a score, the last one for RoPE."""
GAIN = 1 / (log(2) * sqrt(LATENT_HEAD_DIM))
"""What turns scores into exponents of two."""


def latent_tiles(kv: str, q_heads: int, page: int) -> Tiles:
    """A warp's share of the values, as the tiles of a head of its width; all warps take the same ones."""
    return Tiles(kv, _SHARE, q_heads, page, warps=1, at_once=AT_ONCE)


def latent_grid(tiles: Tiles, batch: int, splits: int) -> tuple[int, int]:
    """Blocks: a sequence and up to sixteen heads in x, parts of the context in y."""
    return batch * tiles.head_tiles, splits


def latent_splits(tiles: Tiles, batch: int, context: int, multiprocessors: int) -> int:
    """Parts of the context that end soonest (decode.plan_splits)."""
    return plan_splits(tiles, batch, 1, context, multiprocessors, LATENT_VALUE_DIM)


@cache
def latent_kernel(tiles: Tiles) -> Kernel:
    """parts, logs = latent attention of each part of the context.

    Arguments, all arrays flat: q float32 [B, Hq, 576]; rows as words, [B, room, 576] or [pages, page, 576];
    scales float32 [B, room] or [pages, page] for int8, any array else; table int32 [B, pages a sequence], any
    array without pages; parts float32 [B, Hq, splits, 512]; logs float32 [B, Hq, splits]; GAIN; q_heads;
    context; the room of a sequence in tokens (`Tiles.room`). The grid is that of `latent_grid`.
    """
    form, SCALED = formats(tiles.kv), tiles.kv == "int8"
    HALVES, STRIDE, HEAD_TILES = tiles.halves, tiles.stride, tiles.head_tiles
    RAW = _raw_words(tiles)
    WORDS, SCORES, FACTORS, SUMS = RAW * AT_ONCE, 4 * HALVES * AT_ONCE, 4 * AT_ONCE, _SHARE // 2
    OPERANDS = 4 * _STEPS
    load_queries, load_rows = _query_loader(tiles, form), _row_loader(tiles)
    load_scales, place = scale_loader(), placer(LATENT_DIM * BITS[tiles.kv] // 32, tiles.page)
    multiply, add_up, hide, scale = (
        _score_maker(tiles, form),
        _score_adder(tiles),
        masker(tiles),
        scaler(tiles),
    )
    weigh, add_values, write = softmax_maker(tiles), _value_adder(tiles, form), _writer(tiles)

    def latent(
        q: Any,
        rows: Any,
        scales: Any,
        table: Any,
        parts: Any,
        logs: Any,
        gain: Any,
        q_heads: Any,
        context: Any,
        room: Any,
    ) -> None:
        operands, words = cuda.local.array(OPERANDS, np.uint32), cuda.local.array(WORDS, np.uint32)
        scores, factors = cuda.local.array(SCORES, np.float32), cuda.local.array(FACTORS, np.float32)
        sums = cuda.local.array(SUMS, np.float32)
        largest, total = cuda.local.array(HALVES, np.float32), cuda.local.array(HALVES, np.float32)
        for i in range(SUMS):
            sums[i] = np.float32(0)
        for half in range(HALVES):
            largest[half], total[half] = LEAST, np.float32(0)
        sequence, tile_of_heads = cuda.blockIdx.x // HEAD_TILES, cuda.blockIdx.x % HEAD_TILES
        head = sequence * q_heads + tile_of_heads * ROWS
        count = min(q_heads - tile_of_heads * ROWS, ROWS)
        load_queries(q, head, count, operands)
        splits = cuda.gridDim.y
        turns = (context + STRIDE - 1) // STRIDE
        each = (turns + splits - 1) // splits
        turn = cuda.blockIdx.y * each
        end = min(turns, turn + each)
        while turn < end:
            for i in range(AT_ONCE):
                base, stride, scales_at = place(table, sequence, 0, turn * AT_ONCE + i, 1, context, room)
                load_rows(rows, base, stride, words, i * RAW)
                if SCALED:
                    load_scales(scales, scales_at, factors, 4 * i)
            cuda.syncwarp()  # all loads are under way before the first product waits for one
            for i in range(AT_ONCE):
                multiply(operands, words, i * RAW, scores, 4 * HALVES * i)
            add_up(scores, turn & 1)
            if SCALED:
                scale(scores, factors)
            if turn * STRIDE + STRIDE > context:
                hide(scores, turn * STRIDE, context)
            weigh(scores, largest, total, sums, gain)
            if SCALED:
                for i in range(FACTORS):
                    factors[i] *= INT8_GAIN
                scale(scores, factors)
            for i in range(AT_ONCE):
                add_values(scores, 4 * HALVES * i, words, i * RAW, sums)
            turn += 1
        write(
            largest, total, sums, gain, count, parts, logs, np.int64(head) * splits + cuda.blockIdx.y, splits
        )

    return Kernel(
        f"latent_{tiles.kv}_h{min(tiles.group, ROWS)}_x{HEAD_TILES}_p{tiles.page}",
        latent,
        ("f32*", "u32*", "f32*", "i32*", "f32*", "f32*", "f32", "i32", "i32", "i32"),
        threads=WARP * WARPS,
        blocks_per_sm=BLOCKS_PER_SM,
        fastmath=True,
    )


def _raw_words(tiles: Tiles) -> int:
    """Words a lane loads of a tile: of tokens g and g + 8, its columns of the values and of RoPE."""
    return 2 * (_STEPS * 4 // tiles.columns_per_word)


def _query_loader(tiles: Tiles, form: CacheFormat) -> Callable[..., None]:
    """load_queries(q, first, count, operands): as cache_tiles.query_loader, the warp's share of the columns."""
    LANE, put = tiles.key_words * tiles.columns_per_word, query_packer(tiles, form)

    @device
    def load_queries(q: Any, first: Any, count: Any, operands: Any) -> None:
        warp, t = cuda.threadIdx.x >> 5, cuda.threadIdx.x & 3
        for s in range(_STEPS):
            column = _SHARE * warp + 16 * s // (4 * LANE) * 4 * LANE + t * LANE + 4 * s % LANE
            if s == _STEPS - 1:
                column = LATENT_VALUE_DIM + _ROPE_SHARE * warp + 4 * t
            put(q, np.int64(first) * LATENT_DIM + column, LATENT_DIM, count, operands, 4 * s)

    return load_queries  # type: ignore[no-any-return]


def _row_loader(tiles: Tiles) -> Callable[..., None]:
    """load_rows(memory, base, stride, words, at): the words of steps 0 … of token g, then of token g + 8."""
    WORDS, PER_WORD = tiles.key_words, tiles.columns_per_word
    SHARE_WORDS, ROPE_WORDS = _SHARE // PER_WORD, _ROPE_SHARE // PER_WORD // 4
    CHUNKS, VALUE_WORDS = SHARE_WORDS // (4 * WORDS), LATENT_VALUE_DIM // PER_WORD
    HALF = _raw_words(tiles) // 2
    load, load_rope = loader(WORDS), loader(ROPE_WORDS)

    @device
    def load_rows(memory: Any, base: Any, stride: Any, words: Any, at: Any) -> None:
        warp, g, t = cuda.threadIdx.x >> 5, (cuda.threadIdx.x & 31) >> 2, cuda.threadIdx.x & 3
        for r in range(2):
            row = base + (g + 8 * r) * stride
            for c in range(CHUNKS):
                first = row + warp * SHARE_WORDS + (4 * c + t) * WORDS
                load(memory, first, words, at + r * HALF + c * WORDS)
            rope = row + VALUE_WORDS + (4 * warp + t) * ROPE_WORDS
            load_rope(memory, rope, words, at + r * HALF + CHUNKS * WORDS)

    return load_rows  # type: ignore[no-any-return]


def _score_maker(tiles: Tiles, form: CacheFormat) -> Callable[..., None]:
    """multiply(operands, words, at, scores, to): the warp's share of q · Kᵀ of a tile."""
    HALVES, STEP_WORDS, HALF = tiles.halves, 4 // tiles.columns_per_word, _raw_words(tiles) // 2
    mma, key_pairs, keep = form.mma, form.key_pairs, score_keeper(tiles)

    @device
    def multiply(operands: Any, words: Any, at: Any, scores: Any, to: Any) -> None:
        pairs = cuda.local.array(2, np.uint32)
        for r in range(2):
            c0 = c1 = c2 = c3 = np.float32(0)
            for s in range(_STEPS):
                key_pairs(words, at + r * HALF + s * STEP_WORDS, pairs)
                c0, c1, c2, c3 = mma(
                    *(operands[4 * s], operands[4 * s + 1], operands[4 * s + 2], operands[4 * s + 3]),
                    *(pairs[0], pairs[1], c0, c1, c2, c3),
                )
            keep(scores, to + 2 * HALVES * r, c0, c1, c2, c3)

    return multiply  # type: ignore[no-any-return]


def _score_adder(tiles: Tiles) -> Callable[..., None]:
    """add_up(scores, side): the sum over the block's warps, in the same order in each; `side` is 0 and 1 in turn.

    With two sides one barrier a turn is enough: who writes a side again has met, at the barrier of the turn between,
    all that read it before.
    """
    SCORES = 4 * tiles.halves * tiles.tiles_at_once

    @device
    def add_up(scores: Any, side: Any) -> None:
        shared = cuda.shared.array((2, WARPS, SCORES, WARP), np.float32)
        warp, lane = cuda.threadIdx.x >> 5, cuda.threadIdx.x & 31
        for i in range(SCORES):
            shared[side, warp, i, lane] = scores[i]
        cuda.syncthreads()
        for i in range(SCORES):
            score = np.float32(0)
            for other in range(WARPS):
                score += shared[side, other, i, lane]
            scores[i] = score

    return add_up  # type: ignore[no-any-return]


def _value_adder(tiles: Tiles, form: CacheFormat) -> Callable[..., None]:
    """add_values(weights, of, words, at, sums): weights · V of a tile over the warp's columns.

    A pair of columns of token g, transposed, is a pair of tokens of one column: the right operand.
    sums[8·s + 4·p + …] belong to columns 2p and 2p + 1 of the four that step s takes of lane t.
    """
    HALVES, STEP_WORDS, HALF = tiles.halves, 4 // tiles.columns_per_word, _raw_words(tiles) // 2
    mma, pack, key_pairs = form.mma, form.pack, form.key_pairs

    @device
    def add_values(weights: Any, of: Any, words: Any, at: Any, sums: Any) -> None:
        low, high = cuda.local.array(2, np.uint32), cuda.local.array(2, np.uint32)
        later = of + 2 * HALVES
        a0, a2 = pack(weights[of], weights[of + 1]), pack(weights[later], weights[later + 1])
        a1 = a3 = np.uint32(0)
        if HALVES == 2:
            a1, a3 = pack(weights[of + 2], weights[of + 3]), pack(weights[later + 2], weights[later + 3])
        for s in range(_STEPS - 1):
            key_pairs(words, at + s * STEP_WORDS, low)
            key_pairs(words, at + HALF + s * STEP_WORDS, high)
            for p in range(2):
                n = 8 * s + 4 * p
                sums[n], sums[n + 1], sums[n + 2], sums[n + 3] = mma(
                    *(a0, a1, a2, a3, ptx.transpose8(low[p]), ptx.transpose8(high[p])),
                    *(sums[n], sums[n + 1], sums[n + 2], sums[n + 3]),
                )

    return add_values  # type: ignore[no-any-return]


def _writer(tiles: Tiles) -> Callable[..., None]:
    """write(largest, total, sums, gain, count, out, logs, place, splits): the warp's columns of each head's mean.

    Head i of `count` is row place + i·splits of `out` [rows, 512]; its log2 of the denominator with the
    largest score in it goes to logs there, LEAST where the block has seen no token.
    """
    HALVES, LANE = tiles.halves, tiles.key_words * tiles.columns_per_word
    FACTOR = np.float32(1) / INT8_GAIN if tiles.kv == "int8" else np.float32(1)

    @device
    def write(
        largest: Any,
        total: Any,
        sums: Any,
        gain: Any,
        count: Any,
        out: Any,
        logs: Any,
        place: Any,
        splits: Any,
    ) -> None:
        warp, g, t = cuda.threadIdx.x >> 5, (cuda.threadIdx.x & 31) >> 2, cuda.threadIdx.x & 3
        for half in range(HALVES):
            share = total[half]
            share += cuda.shfl_xor_sync(ALL_LANES, share, 1)
            share += cuda.shfl_xor_sync(ALL_LANES, share, 2)
            mean, denominator = np.float32(0), LEAST
            if share > np.float32(0):
                mean, denominator = FACTOR / share, largest[half] * gain + ptx.log2_fast(share)
            if g + 8 * half < count:
                row = place + (g + 8 * half) * splits
                if warp == 0 and t == 0:
                    logs[row] = denominator
                for s in range(_STEPS - 1):
                    column = _SHARE * warp + 16 * s // (4 * LANE) * 4 * LANE + t * LANE + 4 * s % LANE
                    for i in range(4):
                        number = sums[8 * s + 4 * (i >> 1) + 2 * half + (i & 1)]
                        out[row * LATENT_VALUE_DIM + column + i] = number * mean

    return write  # type: ignore[no-any-return]
