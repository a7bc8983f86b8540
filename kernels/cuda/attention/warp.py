"""The arithmetic of a decode-attention kernel on one warp's registers: scores, online softmax, weighted values, merge.

Each function here makes a device function for one `Tiles`; attention.py puts them together. Arrays are the
thread's own: of lane 4·g + t, scores[2·(halves·i + half) + e] belongs to head g + 8·half and token 8·i + 2t + e;
sums[4·n + 2·half + e] to that head and to column w·(2t + e) + n % w of chunk n // w, with w values a lane. Operands
and sums always have both halves, as tensor cores take them: leaving the second out costs more moves than it saves.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from membound.kernels.cuda import ptx
from membound.kernels.cuda.attention.cache_formats import CacheFormat
from membound.kernels.cuda.attention.cache_tiles import ROWS, Tiles
from membound.kernels.cuda.compile import cuda, device

ALL_LANES = 0xFFFFFFFF
LEAST = np.float32(-1e30)
"""Below every score: what a masked token has, and the maximum before the first one."""
INT8_GAIN = np.float32(128.0)
"""Weights times an int8 scale (near 1/127 of the largest value) times this stay near 1, where float16 is exact."""
_ZERO = np.uint32(0)


def score_maker(tiles: Tiles, form: CacheFormat) -> Callable[..., None]:
    """multiply_keys(operands, words, at, scores, to): q · Kᵀ of a tile whose keys are words[at …]."""
    WORDS, HALVES, STEPS = tiles.key_words, tiles.halves, tiles.head_dim // 16
    STEP_WORDS = 4 // tiles.columns_per_word
    PER_CHUNK = WORDS // STEP_WORDS
    mma, key_pairs, keep = form.mma, form.key_pairs, score_keeper(tiles)

    @device
    def multiply_keys(operands: Any, words: Any, at: Any, scores: Any, to: Any) -> None:
        pairs = cuda.local.array(2, np.uint32)
        for r in range(2):
            c0 = c1 = c2 = c3 = np.float32(0)
            for s in range(STEPS):
                key_pairs(words, at + (2 * (s // PER_CHUNK) + r) * WORDS + s % PER_CHUNK * STEP_WORDS, pairs)
                c0, c1, c2, c3 = mma(
                    *(operands[4 * s], operands[4 * s + 1], operands[4 * s + 2], operands[4 * s + 3]),
                    *(pairs[0], pairs[1], c0, c1, c2, c3),
                )
            keep(scores, to + 2 * HALVES * r, c0, c1, c2, c3)

    return multiply_keys  # type: ignore[no-any-return]


def score_keeper(tiles: Tiles) -> Callable[..., None]:
    """keep(scores, to, c0, c1, c2, c3): a product of eight tokens; with one half of rows the other adds to it."""

    @device
    def two_halves(scores: Any, to: Any, c0: Any, c1: Any, c2: Any, c3: Any) -> None:
        scores[to], scores[to + 1], scores[to + 2], scores[to + 3] = c0, c1, c2, c3

    @device
    def one_half(scores: Any, to: Any, c0: Any, c1: Any, c2: Any, c3: Any) -> None:
        scores[to], scores[to + 1] = c0 + c2, c1 + c3

    return two_halves if tiles.halves == 2 else one_half  # type: ignore[no-any-return]


def masker(tiles: Tiles) -> Callable[..., None]:
    """hide(scores, first, context): LEAST for tokens of `context` and above; `first` is the warp's first token."""
    HALVES, EIGHTS = tiles.halves, 2 * tiles.tiles_at_once

    @device
    def hide(scores: Any, first: Any, context: Any) -> None:
        t = cuda.threadIdx.x & 3
        for i in range(EIGHTS):
            for e in range(2):
                if first + 8 * i + 2 * t + e >= context:
                    for half in range(HALVES):
                        scores[2 * (HALVES * i + half) + e] = LEAST

    return hide  # type: ignore[no-any-return]


def scaler(tiles: Tiles) -> Callable[..., None]:
    """scale(scores, factors): each token's scores times its factor; factors[2·i + e] is token 8·i + 2t + e."""
    HALVES, EIGHTS = tiles.halves, 2 * tiles.tiles_at_once

    @device
    def scale(scores: Any, factors: Any) -> None:
        for i in range(EIGHTS):
            for e in range(2):
                for half in range(HALVES):
                    scores[2 * (HALVES * i + half) + e] *= factors[2 * i + e]

    return scale  # type: ignore[no-any-return]


def softmax_maker(tiles: Tiles) -> Callable[..., None]:
    """weigh(scores, largest, total, sums, gain): scores become weights 2^((s - largest)·gain).

    Online softmax (arXiv 1805.02867): `largest` and `total` of a head run on, and `sums` so far are scaled
    down where a larger score appears. `total` is the lane's own share.
    """
    HALVES, EIGHTS, COLUMNS = tiles.halves, 2 * tiles.tiles_at_once, tiles.head_dim // 8

    @device
    def weigh(scores: Any, largest: Any, total: Any, sums: Any, gain: Any) -> None:
        for half in range(HALVES):
            top = largest[half]
            for i in range(EIGHTS):
                at = 2 * (HALVES * i + half)
                top = max(top, max(scores[at], scores[at + 1]))
            top = max(top, cuda.shfl_xor_sync(ALL_LANES, top, 1))
            top = max(top, cuda.shfl_xor_sync(ALL_LANES, top, 2))
            shrink = ptx.exp2_fast((largest[half] - top) * gain)
            largest[half] = top
            share = np.float32(0)
            for i in range(EIGHTS):
                at = 2 * (HALVES * i + half)
                scores[at] = ptx.exp2_fast((scores[at] - top) * gain)
                scores[at + 1] = ptx.exp2_fast((scores[at + 1] - top) * gain)
                share += scores[at] + scores[at + 1]
            total[half] = total[half] * shrink + share
            for n in range(COLUMNS):
                sums[4 * n + 2 * half] *= shrink
                sums[4 * n + 2 * half + 1] *= shrink

    return weigh  # type: ignore[no-any-return]


def value_adder(tiles: Tiles, form: CacheFormat) -> Callable[..., None]:
    """add_values(weights, of, words, at, sums): weights · V of a tile whose values are words[at …]."""
    WORDS, HALVES, PER_WORD = tiles.value_words, tiles.halves, tiles.columns_per_word
    CHUNKS = tiles.row_words // (8 * WORDS)
    mma, pack, value_pairs = form.mma, form.pack, form.value_pairs

    @device
    def add_values(weights: Any, of: Any, words: Any, at: Any, sums: Any) -> None:
        low, high = cuda.local.array(PER_WORD, np.uint32), cuda.local.array(PER_WORD, np.uint32)
        later = of + 2 * HALVES
        a0, a2 = pack(weights[of], weights[of + 1]), pack(weights[later], weights[later + 1])
        a1 = a3 = _ZERO
        if HALVES == 2:
            a1, a3 = pack(weights[of + 2], weights[of + 3]), pack(weights[later + 2], weights[later + 3])
        for w in range(CHUNKS * WORDS):
            first = at + 4 * WORDS * (w // WORDS) + w % WORDS
            value_pairs(words[first], words[first + WORDS], low, 0)
            value_pairs(words[first + 2 * WORDS], words[first + 3 * WORDS], high, 0)
            for i in range(PER_WORD):
                n = 4 * (w * PER_WORD + i)
                sums[n], sums[n + 1], sums[n + 2], sums[n + 3] = mma(
                    *(a0, a1, a2, a3, low[i], high[i]),
                    *(sums[n], sums[n + 1], sums[n + 2], sums[n + 3]),
                )

    return add_values  # type: ignore[no-any-return]


def merger(tiles: Tiles) -> Callable[..., None]:
    """merge(largest, total, sums, gain, count, out, place, step, logs, log_place, log_step, factor).

    The warps of a block add up in shared memory, one after another. Head i of `count` writes D numbers, the
    weighted mean of values times `factor`, from out[place + i·step] on, and log2 of its denominator, with
    the largest score in it, to logs[log_place + i·log_step]; LEAST where the block has seen no token.
    """
    D, HALVES, WARPS, COLUMNS = tiles.head_dim, tiles.halves, tiles.warps, tiles.head_dim // 8
    LANE, HEADS = tiles.value_words * tiles.columns_per_word, 8 * tiles.halves
    PITCH, THREADS = tiles.head_dim + 4, 32 * tiles.warps

    @device
    def merge(
        largest: Any,
        total: Any,
        sums: Any,
        gain: Any,
        count: Any,
        out: Any,
        place: Any,
        step: Any,
        logs: Any,
        log_place: Any,
        log_step: Any,
        factor: Any,
    ) -> None:
        tops = cuda.shared.array((WARPS, ROWS), np.float32)
        totals = cuda.shared.array((WARPS, ROWS), np.float32)
        mean = cuda.shared.array((HEADS, PITCH), np.float32)
        warp, g, t = cuda.threadIdx.x >> 5, (cuda.threadIdx.x & 31) >> 2, cuda.threadIdx.x & 3
        for half in range(HALVES):
            share = total[half]
            share += cuda.shfl_xor_sync(ALL_LANES, share, 1)
            share += cuda.shfl_xor_sync(ALL_LANES, share, 2)
            if t == 0:
                tops[warp, g + 8 * half] = largest[half]
                totals[warp, g + 8 * half] = share
        cuda.syncthreads()
        for turn in range(WARPS):
            if warp == turn:
                for half in range(HALVES):
                    top = LEAST
                    for w in range(WARPS):
                        top = max(top, tops[w, g + 8 * half])
                    shrink = ptx.exp2_fast((largest[half] - top) * gain)
                    for n in range(COLUMNS):
                        for e in range(2):
                            column = (n // LANE) * 8 * LANE + (2 * t + e) * LANE + n % LANE
                            part = sums[4 * n + 2 * half + e] * shrink
                            if turn > 0:
                                part += mean[g + 8 * half, column]
                            mean[g + 8 * half, column] = part
            cuda.syncthreads()
        i = cuda.threadIdx.x
        while i < count * D:
            head, column = i // D, i % D
            top = LEAST
            for w in range(WARPS):
                top = max(top, tops[w, head])
            denominator = np.float32(0)
            for w in range(WARPS):
                denominator += totals[w, head] * ptx.exp2_fast((tops[w, head] - top) * gain)
            log, scale = LEAST, np.float32(0)
            if denominator > np.float32(0):
                log, scale = top * gain + ptx.log2_fast(denominator), factor / denominator
            out[place + head * step + column] = mean[head, column] * scale
            if column == 0:
                logs[log_place + head * log_step] = log
            i += THREADS

    return merge  # type: ignore[no-any-return]
