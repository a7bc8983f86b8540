"""Sixteen tokens of a cache in the registers of a warp, without shared memory: every byte is loaded once, straight into operands.

A dot product does not care about the order of its terms. So lane 4·g + t loads 16 contiguous bytes of the
keys of tokens g and g + 8, and takes its columns in the order in which they lie; the queries are loaded in the
same order. Of the values it loads tokens 2t, 2t + 1, 2t + 8 and 2t + 9 at columns g·w to g·w + w - 1, and
takes one of these columns at a time. The scores of tokens 2t, 2t + 1, … then already are the left operand of
the product with the values. Fragments: the docstring of ptx.py.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from membound.kernels.cuda import ptx
from membound.kernels.cuda.attention.cache_formats import BITS, CacheFormat
from membound.kernels.cuda.compile import cuda, device

TOKENS = 16
"""Tokens of a tile: the depth of the product with the values, twice the width of that with the keys."""
ROWS = 16
"""Query heads that one tensor-core product takes."""
HEAD_DIMS = (32, 64, 128)
_LOADS = 16
"""Loads of 16 bytes that a lane has in flight: with 8 warps on a multiprocessor these are 64 KiB, twice what Little's
law asks of an H100 (25 GB/s per multiprocessor times 0.8 µs)."""


@dataclass(frozen=True, slots=True)
class Tiles:
    """How the cache of one attention lies in memory and in registers.

    `group` query heads share a KV head; `page` is 0 for a cache of one piece [B, Hkv, tokens, D], else the
    tokens a page of [pages, page, Hkv, D]; `warps` take tiles of one sequence and KV head in turn, `at_once`
    of them at a time (0: as many as make _LOADS).
    """

    kv: str
    head_dim: int
    group: int
    page: int = 0
    warps: int = 4
    at_once: int = 0

    @property
    def name(self) -> str:
        """What compiled code is found by."""
        return f"{self.kv}_d{self.head_dim}_g{self.group}_p{self.page}_w{self.warps}"

    @property
    def halves(self) -> int:
        """Eights of rows with heads in them: the second eight costs registers only where it is used."""
        return 1 if self.group <= ROWS // 2 else 2

    @property
    def head_tiles(self) -> int:
        """Blocks that share a KV head, each with up to sixteen of its query heads."""
        return -(-self.group // ROWS)

    @property
    def row_words(self) -> int:
        """Words of one token of one head."""
        return self.head_dim * BITS[self.kv] // 32

    @property
    def key_words(self) -> int:
        """Words of a key that a lane loads at once: 16 bytes, or a quarter of a short row."""
        return min(4, self.row_words // 4)

    @property
    def value_words(self) -> int:
        """Words of a value that a lane loads at once: 16 bytes, or an eighth of a short row."""
        return min(4, self.row_words // 8)

    @property
    def columns_per_word(self) -> int:
        """Numbers in a word."""
        return 32 // BITS[self.kv]

    @property
    def tiles_at_once(self) -> int:
        """Tiles that a warp loads before it computes: `at_once`, or as many as make _LOADS, up to four."""
        return self.at_once or max(1, min(4, _LOADS * 4 // self.row_words))

    @property
    def stride(self) -> int:
        """Tokens that a warp takes at once; a cache of one piece has room for a multiple of it."""
        return TOKENS * self.tiles_at_once

    def room(self, tokens: int) -> int:
        """The tokens that memory must hold for that many in use; those beyond must not be NaN."""
        unit = self.page or self.stride
        return -(-tokens // unit) * unit


def unsupported(kv: str, head_dim: int, page: int) -> str | None:
    """Why there is no kernel for such a cache, or None."""
    if kv not in BITS:
        return f"the tensor cores that attention runs on do not take {kv}"
    if head_dim not in HEAD_DIMS:
        return f"attention kernels are made for heads of {', '.join(map(str, HEAD_DIMS))}, not {head_dim}"
    if page % TOKENS:
        return f"attention kernels take pages of multiples of {TOKENS} tokens, not {page}"
    return None


def loader(words: int) -> Any:
    """load(memory, index, out, at): 1, 2 or 4 words into a local array."""

    @device
    def one(memory: Any, index: Any, out: Any, at: Any) -> None:
        out[at] = memory[index]

    @device
    def two(memory: Any, index: Any, out: Any, at: Any) -> None:
        out[at], out[at + 1] = ptx.stream2_ordered(memory, index)

    @device
    def four(memory: Any, index: Any, out: Any, at: Any) -> None:
        out[at], out[at + 1], out[at + 2], out[at + 3] = ptx.stream4_ordered(memory, index)

    return {1: one, 2: two, 4: four}[words]


def key_loader(tiles: Tiles) -> Callable[..., None]:
    """load_keys(memory, base, stride, words, at): a tile's keys; `base` is its first token, `stride` a token, in words.

    words[at + (2·c + r)·key_words …] hold chunk c of token g + 8·r.
    """
    WORDS, CHUNKS = tiles.key_words, tiles.row_words // (4 * tiles.key_words)
    load = loader(WORDS)

    @device
    def load_keys(memory: Any, base: Any, stride: Any, words: Any, at: Any) -> None:
        g, t = (cuda.threadIdx.x & 31) >> 2, cuda.threadIdx.x & 3
        first = base + g * stride + t * WORDS
        for c in range(CHUNKS):
            for r in range(2):
                load(memory, first + 8 * r * stride + 4 * WORDS * c, words, at + (2 * c + r) * WORDS)

    return load_keys  # type: ignore[no-any-return]


def value_loader(tiles: Tiles) -> Callable[..., None]:
    """load_values(memory, base, stride, words, at): a tile's values, as `key_loader`.

    words[at + (4·c + e)·value_words …] hold chunk c of token 2t + e for e of 0 and 1, 2t + 6 + e for 2 and 3.
    """
    WORDS, CHUNKS = tiles.value_words, tiles.row_words // (8 * tiles.value_words)
    load = loader(WORDS)

    @device
    def load_values(memory: Any, base: Any, stride: Any, words: Any, at: Any) -> None:
        g, t = (cuda.threadIdx.x & 31) >> 2, cuda.threadIdx.x & 3
        first = base + 2 * t * stride + g * WORDS
        for c in range(CHUNKS):
            for e in range(4):
                token = (e & 1) + 8 * (e >> 1)
                load(memory, first + token * stride + 8 * WORDS * c, words, at + (4 * c + e) * WORDS)

    return load_values  # type: ignore[no-any-return]


def query_loader(tiles: Tiles, form: CacheFormat) -> Callable[..., None]:
    """load_queries(q, first, count, operands): `count` rows of float32 queries from number `first` on, packed.

    Left operands in the order of the keys, as `query_packer` makes them. Rows beyond `count` are zeros.
    """
    D, LANE = tiles.head_dim, tiles.key_words * tiles.columns_per_word
    STEPS = LANE // 4
    put = query_packer(tiles, form)

    @device
    def load_queries(q: Any, first: Any, count: Any, operands: Any) -> None:
        t = cuda.threadIdx.x & 3
        for s in range(D // 16):
            column = (s // STEPS) * 4 * LANE + t * LANE + (s % STEPS) * 4
            put(q, np.int64(first) * D + column, D, count, operands, 4 * s)

    return load_queries  # type: ignore[no-any-return]


def query_packer(tiles: Tiles, form: CacheFormat) -> Callable[..., None]:
    """put(q, at, width, count, operands, to): four columns from q[at] on, of rows `width` apart, as left operands.

    With two halves of rows: a pair of row g, one of row g + 8, and another of each. With one, the second half
    is what rounding the first has lost: queries are as exact as float32, at no cost, since the tensor cores
    take sixteen rows anyway.
    """
    HALVES = tiles.halves
    pack, low, high = form.pack, form.low, form.high

    @device
    def both(q: Any, at: Any, width: Any, count: Any, operands: Any, to: Any) -> None:
        g = (cuda.threadIdx.x & 31) >> 2
        for half in range(2):
            a = b = c = d = np.uint32(0)
            if g + 8 * half < count:
                a, b, c, d = ptx.load4(q, at + (g + 8 * half) * width)
            operands[to + half] = pack(ptx.as_f32(a), ptx.as_f32(b))
            operands[to + 2 + half] = pack(ptx.as_f32(c), ptx.as_f32(d))

    @device
    def split(q: Any, at: Any, width: Any, count: Any, operands: Any, to: Any) -> None:
        g = (cuda.threadIdx.x & 31) >> 2
        a = b = c = d = np.uint32(0)
        if g < count:
            a, b, c, d = ptx.load4(q, at + g * width)
        operands[to] = pack(ptx.as_f32(a), ptx.as_f32(b))
        operands[to + 1] = pack(ptx.as_f32(a) - low(operands[to]), ptx.as_f32(b) - high(operands[to]))
        operands[to + 2] = pack(ptx.as_f32(c), ptx.as_f32(d))
        operands[to + 3] = pack(ptx.as_f32(c) - low(operands[to + 2]), ptx.as_f32(d) - high(operands[to + 2]))

    return both if HALVES == 2 else split  # type: ignore[no-any-return]
