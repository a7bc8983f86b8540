"""Which kernel multiplies a matrix, and how the matrix is laid out for it.

>>> recipe = choose("int8", "int8", m=4)
>>> recipe.method, recipe.tokens, recipe.panels
('integer', 4, 4)

A panel holds LANES rows of W, column after column: one vector load fetches the same column of all of
them, and no sum over lanes is ever needed. Panels are padded with zero rows at the end of the matrix.
A kernel walks `panels` panels at once, far apart in memory: several sequential streams a thread come
25 % nearer to the read ceiling than one on some machines, and cost nothing on others.

`tokens` rows of x meet each loaded vector, in `tiles` rounds over a block of columns that stays in the
first-level cache. The numbers follow from the registers: panels · tokens accumulators, the loaded
vectors and the broadcast ones must fit.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache

from membound.kernels.cpu.matmul.records import SUPER_BLOCKS, parts_of, summed_columns
from membound.kernels.cpu.simd.amx import AMX_BF16, AMX_INT8
from membound.kernels.cpu.simd.features import AMD, AVX512, BF16_DOT, LANES, REGISTERS
from membound.kernels.weights.formats import EVERY_FORMAT, kernel_format

BLOCK = 128
"""Columns that meet a group of panels before the next. Measured for 64 rows of float32 and float16: 128 beats 64 by
2–20 % (sums go to and from memory half as often) and 256 by 15–25 % (the widened block and x together fill the
first-level cache)."""

SHORT_BLOCK_ROWS, SHORT_BLOCK = 16, 32
"""Up to this many rows the kernel consumes weights faster than memory delivers them. A short block keeps prefetched lines
in the first-level cache until they are used. 16 rows of float32, two threads of a Zen 5: 32 columns beat 128
by 11 %; compiled for AVX2 by 3 %."""

COLUMNS_A_LOAD = {"bf16": 2}
"""Neighbouring columns of a row that share a lane, where that is more than one: a shift and a mask then widen
twice as many numbers a load as a conversion does."""

PANEL_PADDING = 64
"""Bytes between panels, so that streams do not lie a power of two apart and share cache sets."""

MOST_PANELS = 2 if AVX512 and AMD else 8 if REGISTERS == 32 else 4
"""Streams a thread at most. One row of x, 4096 × 4096, a thread of a Zen 5: two streams beat eight by 11 % in bfloat16
and int8, by 8 % in int4 and by 6 % in float16 (float32: no difference); four lie between. For an Emerald Rapids see
PREFETCH_BYTES."""

PREFETCH_BYTES = 1024
"""How far ahead of each stream a kernel asks for lines on Intel with AVX-512. Interleaved, 4096 × 4096, m=1, two threads of
an Emerald Rapids: 1024 bytes with eight streams gain 8–20 % in every format over none with four; 512 bytes
gain half of that."""

PREFETCH_BYTES_OF_ROWS = 4096
"""The same for two rows of x and more on AMD with AVX-512. m=4, one thread of a Zen 5: 4096 bytes beat none by 23 % (bfloat16),
11 % (int8) and 6 % (float32), 2048 and 6144 half of that. For one row it makes no difference there and 1024 lost up to
15 %; on a Zen 3 software prefetch lost 5–25 % for one row, so AVX2 gets none."""

MOST_STREAMED = 4
"""Rows of x that may come from the second-level cache without slowing the weights down."""

ANY_FLOATS = ("float",)
"""The prepared x of a member whose kernel reads columns alone."""

STREAMED = AVX512 and AMD
"""Whether block_panels.py walks panels one after the other, each from end to end, and multiplies float32 where it lies. Two threads
of a Zen 4 against groups of panels and a copy: 5 rows of bfloat16 74 % faster, 8 rows 38 to 40 % (bfloat16) and 59 %
(float32), 16 rows 11 to 16 % and 9 %, 32 rows the same and 9 %. The streams of a group are pieces of two
kilobytes, which its hardware does not prefetch, and what software alone keeps in flight is too little: 8 rows of bfloat16 took
as long as the read and the products one after the other. Compiled for AVX2, 8 rows lost 12 % in order and those of float32 10 % uncopied.
Against the kernels of up to four rows: 2 rows of float32 9 %, 4 rows 6 to 11 % faster; float16, which is widened, 5 to 7 % slower."""

PAIRED = {"bf16": 2, "bytes": 2, "nibbles": 1} if STREAMED else {"bf16": MOST_STREAMED + 1}
"""From how many rows of x weights are multiplied as pairs of bfloat16 (AVX512-BF16), by their kind: numbers of eight and four bits are exact in it. Two
threads of a Zen 4, which takes two products a lane in the time of one of float32, against float32, 14336 × 4096: int4g128 1 row 81 %
faster (from 0.59 to 0.92 of what memory reads), 4 rows 108 %, 8 rows 163 %, 64 rows 102 %; int8 4 rows 39 %, 16 rows 84 %, 64 rows
93 %; q8_0 4 rows 40 %, fp8b128 2 rows 14 %, 4 rows 29 %; bfloat16 2 rows 10 %, 4 rows 4 %. One row of bytes: no difference. An Intel
with AMX takes the pairs at half the rate of float32."""

MOST_PAIRED_BYTES = 14
"""Rows of x that meet bytes with scales of groups in one round: more share pairs that are scaled once for all."""

TILE_ROWS = 16
"""Rows of W in a matrix tile (AMX)."""

MOST_TILE_ROWS = 128
"""Rows of x on matrix tiles at most: with 4096 columns they are a megabyte, half of the second-level cache of a Sapphire Rapids."""


@dataclass(frozen=True, slots=True)
class Recipe:
    """How W[n, k] in `format` is multiplied by `m` rows of x.

    method: `float` widens weights to float32; `pairs` makes them bfloat16 and multiplies them by activations rounded
    to it, two a lane (AVX512-BF16); `integer` takes int8 activations; `tile` is AMX, with bfloat16
    activations for bf16 weights and int8 ones for int8. `mixed`: matrices have several formats, which `format` joins by a plus,
    and each is multiplied as its member of `members` says, whose other numbers count.
    """

    format: str
    act: str
    m: int
    method: str
    panels: int
    tokens: int
    tiles: int

    @property
    def mixed(self) -> bool:
        """Whether matrices have several formats."""
        return self.method == "mixed"

    @property
    def members(self) -> tuple[Recipe, ...]:
        """A recipe for each format of a mixed one."""
        return tuple(_untiled(one, self.act, self.m) for one in self.format.split("+"))

    @property
    def sections(self) -> tuple[int, ...]:
        """Which prepared x each of `members` reads: 0 for the first. What differs are sums of columns, pairs of them, or integers."""
        wishes = [_prepared(one) for one in self.members]
        found = sorted(set(wishes), key=wishes.index)
        floats = [wish for wish in found if wish[0] == "float" and wish != ANY_FLOATS]
        if floats and ANY_FLOATS in found:
            found.remove(ANY_FLOATS)
        return tuple(found.index(wish if wish in found else floats[0]) for wish in wishes)

    @property
    def preparers(self) -> tuple[Recipe, ...]:
        """The recipe whose x each section holds: of those that share it, the one that wants most."""
        pairs = list(zip(self.sections, self.members, strict=True))
        return tuple(
            max((one for place, one in pairs if place == section), key=_wants)
            for section in range(max(self.sections) + 1)
        )

    @property
    def blocked(self) -> bool:
        """Whether blocks of columns meet every row of x before the next (block_panels.py), for float and pairs."""
        if self.method == "pairs":
            return self.format == "bf16" or (self.tiles > 1 and _widened_once(self.format))
        return self.m > (1 if STREAMED and self.format == "f32" else MOST_STREAMED)

    @property
    def rows(self) -> int:
        """Rows of x after padding to whole rounds."""
        if self.mixed:
            return max(one.rows for one in self.members)
        return self.tokens * self.tiles

    @property
    def panel_rows(self) -> int:
        """Rows of W in one panel."""
        return TILE_ROWS if self.method == "tile" else LANES

    @property
    def block(self) -> int:
        """Columns of a block, whole groups of int4; pairs take half the room. Super-blocks are cut between their parts."""
        columns = SHORT_BLOCK if self.rows <= SHORT_BLOCK_ROWS else BLOCK
        group = 0 if self.format in SUPER_BLOCKS else EVERY_FORMAT[self.format].group
        return max(2 * columns if self.method == "pairs" else columns, group)

    @property
    def integer_block(self) -> int:
        """Columns of a block of a kernel with several rounds over int8 or over parts with a scale, whole groups of them.

        This block and the next one must leave room for x in the first-level cache while two rounds meet it: 16 rows, two threads of
        a Zen 4: 128 columns of int8 beat 512 by 9 %, 256 of q8_0 by 5 % (int4: no difference); 64 rows lose 4 % with 128.
        """
        short = STREAMED and self.rows <= SHORT_BLOCK_ROWS
        columns = (1 if self.format == "int8" else 2) * BLOCK if short else 4 * BLOCK
        return max(columns, EVERY_FORMAT[self.format].group)

    @property
    def ahead(self) -> int:
        """Bytes from what a stream of a float or an integer kernel uses to what it asks for; 0: it does not ask.

        With several rounds over a block the memory would rest in all but the first: they ask for the next block.
        m=16, a thread of a Zen 5: int8 70 %, int4 90 % faster; compiled for AVX2 15 and 47 %.
        """
        if self.method == "integer" and self.tiles > 1:
            return self.integer_block * LANES * EVERY_FORMAT[self.format].bits // 8
        if not AVX512:
            return 0
        if AMD:
            return PREFETCH_BYTES_OF_ROWS if self.m > 1 else 0
        return PREFETCH_BYTES

    def padded_n(self, n: int) -> int:
        """Rows of W after padding to whole panels: the stride of y."""
        return -(-n // self.panel_rows) * self.panel_rows

    def padded_k(self, k: int) -> int:
        """Columns of W after padding to whole loads."""
        wide = COLUMNS_A_LOAD.get(self.format, 1)
        tile = 64 // (EVERY_FORMAT[self.format].bits // 8 or 1)
        step = {"float": wide, "pairs": wide, "integer": 4, "tile": tile}[self.method]
        if EVERY_FORMAT[self.format].group:
            step = EVERY_FORMAT[self.format].group
        return -(-k // step) * step

    def panel_bytes(self, k: int) -> int:
        """Distance between panels."""
        fmt = EVERY_FORMAT[self.format]
        if self.format in SUPER_BLOCKS:
            return k // fmt.group * SUPER_BLOCKS[self.format].size + PANEL_PADDING
        size = self.padded_k(k) * self.panel_rows * fmt.bits // 8
        if fmt.group:
            size += self.padded_k(k) // fmt.group * self.panel_rows * fmt.scale_bytes
        return size + PANEL_PADDING

    def matrix_bytes(self, n: int, k: int) -> int:
        """Bytes of the packed matrix: panels, then int8's float32 scales."""
        scales = 4 * self.padded_n(n) if self.format == "int8" else 0
        return self.padded_n(n) // self.panel_rows * self.panel_bytes(k) + scales

    def scratch_bytes(self, k: int) -> int:
        """Bytes of x prepared for the kernel: values, a scale a row, sums a group."""
        if self.mixed:
            return len(self.preparers) * section_bytes(self.rows, k)
        scaled = parts_of(self.format).columns if EVERY_FORMAT[self.format].group else self.padded_k(k)
        groups = self.padded_k(k) // scaled
        return self.rows * (4 * self.padded_k(k) + 64 + 4 + 4 * groups) + 256


def section_bytes(rows: int, k: int) -> int:
    """Room for any prepared x of `rows` padded rows, which compiled code can reckon too: `Recipe.scratch_bytes` at least."""
    return (rows * (5 * (k + 64) + 72) + 256 + 63) // 64 * 64


def mixed_format(formats: Sequence[str]) -> str:
    """The kernels' format of matrices that are stored in these."""
    return "+".join(sorted({kernel_format(fmt) for fmt in formats}))


def kind_of(fmt: str) -> str:
    """How a format's numbers lie in panels: `bytes`, `nibbles`, or as the floats that the format's name says."""
    if EVERY_FORMAT[fmt].group:
        return "nibbles" if parts_of(fmt).numbers.values == "nibbles" else "bytes"
    return "bytes" if fmt == "int8" else fmt


@cache
def choose(fmt: str, act: str, m: int) -> Recipe:
    """The kernel for that format, activation and number of rows on this machine; `format` is that of the kernels."""
    if "+" in fmt:
        return replace(_untiled(fmt.partition("+")[0], act, m), format=fmt, method="mixed")
    fmt = kernel_format(fmt)
    if 4 < m <= MOST_TILE_ROWS and (
        (fmt == "bf16" and AMX_BF16) or (fmt == "int8" and act == "int8" and AMX_INT8)
    ):
        tiles = -(-m // 16)
        return Recipe(fmt, act, m, "tile", 4, 16, tiles)
    return _untiled(fmt, act, m)


def _untiled(fmt: str, act: str, m: int) -> Recipe:
    """The kernel where matrix tiles are not used: as many panels and rows of x at once as registers hold, with sums of a part beside
    those of all where a method has them."""
    method = _method(fmt, act, m)
    in_parts = method == "integer" or (
        method == "pairs" and (m <= MOST_PAIRED_BYTES or not _widened_once(fmt))
    )
    twice = EVERY_FORMAT[fmt].group > 0 and in_parts
    least = 1 if twice else 2
    tiles = next(t for t in range(1, m + 1) if _fits(least, -(-m // t), twice))
    tokens = -(-m // tiles)
    if tokens == 1:
        panels = MOST_PANELS
    else:
        panels = max(p for p in (1, 2, 4) if p == least or (p <= MOST_PANELS and _fits(p, tokens, twice)))
    return Recipe(fmt, act, m, method, panels, tokens, tiles)


def _prepared(one: Recipe) -> tuple[str, ...]:
    """What tells the prepared x of a member apart from that of others; `ANY_FLOATS` goes with any floats."""
    if one.method == "integer":
        if one.format == "int8":
            return ("integer", "int8")
        parts = parts_of(one.format)
        return ("integer", f"{parts.columns} {parts.leasts} {parts.numbers.offset}")
    if one.method == "pairs":
        return (
            "pairs",
            kind_of(one.format) if kind_of(one.format) == "nibbles" else "",
            str(summed_columns(one.format)),
        )
    columns = summed_columns(one.format) if one.m <= MOST_STREAMED else 0
    return ("float", str(columns)) if columns else ANY_FLOATS


def _wants(one: Recipe) -> tuple[int, int]:
    """What a format's float kernels want besides the columns of x: sums of them, or zeros behind them."""
    return summed_columns(one.format), COLUMNS_A_LOAD.get(one.format, 1)


def _method(fmt: str, act: str, m: int) -> str:
    if act == "int8":
        return "integer"
    return "pairs" if BF16_DOT and m >= PAIRED.get(kind_of(fmt), m + 1) else "float"


def _widened_once(fmt: str) -> bool:
    """Whether pairs are made once for all rounds of tokens: of bytes each takes six instructions, of nibbles two."""
    return kind_of(fmt) == "bytes" and fmt not in SUPER_BLOCKS


def _fits(panels: int, tokens: int, twice: bool) -> bool:
    """Whether sums, loaded weights and one activation fit the registers; with scales of groups it takes two of each."""
    each = 2 if twice else 1
    return each * panels * (tokens + 1) + 1 <= REGISTERS
