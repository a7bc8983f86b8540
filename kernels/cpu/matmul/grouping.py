"""How the query heads of a KV head and the tokens of its cache fill the registers of decode attention.

>>> grouping("bf16", group=4, dim=128)
Grouping(kv='bf16', heads=4, method='halves')   # on AVX-512

A register tile is `rows` tokens times `heads` query heads, LANES scores in all. One vector holds them:
lane i·heads + j is token i, head j. The tokens of a tile are far apart (a quarter of the context for
four rows), so that a thread walks that many sequential streams, and every stream runs through the
whole cache. Groups of more than `heads` query heads take several `chunks`, which find the rows in the
first-level cache.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

from membound.kernels.cpu.simd.features import AMD, AVX2, AVX512, BF16_DOT, LANES, VNNI

BLOCK_TOKENS = 512
"""Tokens whose scores are computed before their softmax: the scores of a block stay in the first-level cache, and
the streams of K and V take turns seldom. On a Zen 5, 512 beat 256 by 1-11 % (f32, bf16, int8; one and two threads) and,
compiled for AVX2, by 7-20 %."""

CACHES = ("f32", "bf16", "f16", "int8")
"""Formats of the cache that the kernels read."""

PREFETCH_BYTES = (
    {"f32": 2048, "bf16": 3072, "f16": 3072, "int8": 3072} if AMD else dict.fromkeys(CACHES, 1024)
)
"""How far ahead of each stream to ask for cache lines, with AVX-512. On a Zen 5 with one thread, asking 2048 bytes ahead beat
1024 by 6 % (f32) and 24 % (bf16), and not asking by a third to two thirds; 3072 beat 2048 by 5 % in bf16 and by
3 % in int8, and lost 2 % in f32. 1024 was measured on an Emerald Rapids; no help on a Zen 3, so AVX2 asks for nothing.
f16 takes the distances of bf16, whose bytes it has."""

INTEGER = VNNI or (AVX2 and not AVX512)
"""Whether the machine multiplies int8 and int16 faster than it widens them to float32."""


PAIRS = BF16_DOT and AMD
"""Whether the machine multiplies pairs of bfloat16 twice as fast as it does float32."""

PAIRED_GROUP = 5
"""Query heads from which on pairs are worth their rounding: two threads of a Zen 4, seven heads 19 % faster, and 57 % from the
caches; four heads 7 to 14 % slower, one 7 to 15 %."""


@dataclass(frozen=True, slots=True)
class Grouping:
    """Register tiles of `heads` query heads for a cache in format `kv`.

    method: `float` widens the cache to float32, `halves` a bfloat16 one without moving numbers from lane to lane; `integer` multiplies an
    int8 cache as it is, `pairs` a bfloat16 one, with queries and weights rounded to bfloat16; `scalar`
    serves head sizes that are no multiple of LANES; `tile`, and `pairs` with LANES heads, are of attention/rows.py, which has
    LANES rows in a tile and one token. Kernels take the group and the head size as
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
        return 64 // {"f32": 4, "bf16": 2, "f16": 2, "int8": 1}[self.kv]

    @property
    def ahead(self) -> int:
        """Elements between one that is used and one that is asked for; 0: none is."""
        return PREFETCH_BYTES[self.kv] * self.line // 64 if AVX512 else 0

    @property
    def vectors(self) -> int:
        """Vectors of a row of V whose weighted sums are in registers together.

        A line of float32, four vectors of what must be widened: 4 and 2 % more than four and two on a Zen 5.
        """
        return self.line // LANES if self.kv == "f32" else 4

    @property
    def together(self) -> int:
        """Vectors that a load brings."""
        return 2 if self.method == "halves" else 1


@cache
def grouping(kv: str, group: int, dim: int) -> Grouping:
    """The tiles on this machine for `group` query heads a KV head, each `dim` wide."""
    method = "scalar" if dim % LANES else "float"
    if kv == "bf16" and dim % (2 * LANES) == 0:
        method = "pairs" if PAIRS and group >= PAIRED_GROUP else "halves"
    if kv == "int8" and INTEGER and dim % (2 * LANES) == 0:
        method = "integer"
    # Four heads with AVX2 halve the widening, but load and store the sums for every two rows: 20 to 30 % slower in bf16 on a Zen 3.
    most = 4 if LANES == 16 or method == "integer" else 2
    return Grouping(kv, min(most, LANES // 2, 1 << (group - 1).bit_length()), method)
