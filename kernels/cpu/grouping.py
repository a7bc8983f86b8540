"""How the query heads of a KV head and the tokens of its cache fill the registers of decode attention.

>>> grouping("bf16", group=4, dim=128)
Grouping(kv='bf16', heads=4, method='float')   # on AVX-512

A register tile is `rows` tokens times `heads` query heads, LANES scores in all. One vector holds them:
lane i·heads + j is token i, head j. The tokens of a tile are far apart (a quarter of the context for
four rows), so that a thread walks that many sequential streams, and every stream runs through the
whole cache. Groups of more than `heads` query heads take several `chunks`, which find the rows in the
first-level cache.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

from membound.kernels.cpu.simd import AMD, AVX2, AVX512, LANES, VNNI

BLOCK_TOKENS = 512
"""Tokens whose scores are computed before their softmax: the scores of a block stay in the first-level cache, and
the streams of K and V take turns seldom. On a Zen 5, 512 beat 256 by 1-11 % (f32, bf16, int8; one and two threads) and,
compiled for AVX2, by 7-20 %."""

PREFETCH_BYTES = (2048 if AMD else 1024) if AVX512 else 0
"""How far ahead of each stream to ask for cache lines. On a Zen 5 with one thread 2048 beat 1024 by 6 % (int8), 9 %
(f32) and 26 % (bf16) and none by a third to two thirds; two threads, which share what the memory gives, are within 4 %.
1024 was measured on an Emerald Rapids; no help on a Zen 3."""

INTEGER = VNNI or (AVX2 and not AVX512)
"""Whether the machine multiplies int8 and int16 faster than it widens them to float32."""


@dataclass(frozen=True, slots=True)
class Grouping:
    """Register tiles of `heads` query heads for a cache in format `kv`.

    method: `float` widens the cache to float32; `integer` multiplies an int8 cache as it is; `scalar`
    serves head sizes that are no multiple of LANES. Kernels take the group and the head size as
    arguments: known when compiled, they make LLVM unroll the loops and spill registers (half the speed).
    """

    kv: str
    heads: int
    method: str

    @property
    def rows(self) -> int:
        """Tokens in a tile."""
        return LANES // self.heads

    @property
    def block(self) -> int:
        """Tokens of one stream in a block."""
        return max(1, BLOCK_TOKENS // self.rows)

    @property
    def line(self) -> int:
        """Elements of the cache in 64 bytes."""
        return 64 // {"f32": 4, "bf16": 2, "int8": 1}[self.kv]


@cache
def grouping(kv: str, group: int, dim: int) -> Grouping:
    """The tiles on this machine for `group` query heads a KV head, each `dim` wide."""
    most = 4 if LANES == 16 else 2
    heads = min(most, 1 << (group - 1).bit_length())
    method = "scalar" if dim % LANES else "float"
    if kv == "int8" and INTEGER and dim % (4 * LANES) == 0:
        method = "integer"
    return Grouping(kv, heads, method)
