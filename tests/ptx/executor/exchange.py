"""Instructions in which the 32 lanes of a warp hand registers to each other: shfl, movmatrix, mma.

Sources, PTX ISA 9.0: shfl.sync; movmatrix; Warp-level matrix instructions, Matrix Fragments for mma.m16n8k16 with
floating point type. The text on movmatrix calls what a thread holds of the result "a fragment of a column", which
can be read two ways; the witness for the reading here, the transpose in the distribution of the source, is
llama.cpp (ggml/src/ggml-cuda/mma.cuh), whose fallback without the instruction moves the same numbers by shuffles.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import numpy as np
from executor.numbers import Lanes, halves, joined, of_bf16, of_f16
from executor.program import PtxError

LANES = 32
_LANE = np.arange(LANES)
_GROUP, _IN_GROUP = _LANE >> 2, _LANE % 4


def shuffle(mode: str, a: Lanes, b: Lanes, c: Lanes) -> tuple[Lanes, Lanes]:
    """Each lane's a of the lane that mode, b and c name, and whether there is one: the ISA's pseudocode, line by line."""
    source, inside = _source(mode, b.tobytes(), c.tobytes())
    return a[source], inside


@cache
def _source(mode: str, b: bytes, c: bytes) -> tuple[Lanes, Lanes]:
    """The lane that each is given from, itself where there is none; and where there is one."""
    offsets, limits = (np.frombuffer(x, np.uint32).astype(np.int64) for x in (b, c))
    offset, clamp, segment = offsets & 31, limits & 31, limits >> 8 & 31
    most = (_LANE & segment) | (clamp & ~segment)
    least = _LANE & segment
    source = {
        "up": _LANE - offset,
        "down": _LANE + offset,
        "bfly": _LANE ^ offset,
        "idx": least | (offset & ~segment),
    }[mode]
    inside = source >= most if mode == "up" else source <= most
    return np.where(inside, source, _LANE), inside


def transpose(a: Lanes) -> Lanes:
    """movmatrix.m8n8.trans.b16: lane 4·r + c holds row r, columns 2c and 2c + 1, of the source and of its transpose."""
    low, high = halves(a)
    matrix = np.empty((8, 8), np.uint16)
    matrix[_GROUP, 2 * _IN_GROUP], matrix[_GROUP, 2 * _IN_GROUP + 1] = low, high
    turned = matrix.T
    return joined(turned[_GROUP, 2 * _IN_GROUP], turned[_GROUP, 2 * _IN_GROUP + 1])


def place_of_a(i: int) -> tuple[Lanes, Lanes]:
    """Row and column of a_i: row = groupID for 0 <= i < 2 || 4 <= i < 6, else groupID + 8; column + 8 from i = 4 on."""
    row = _GROUP if i < 2 or 4 <= i < 6 else _GROUP + 8
    return row, _IN_GROUP * 2 + (i & 1) + (8 if i >= 4 else 0)


def place_of_b(i: int) -> tuple[Lanes, Lanes]:
    """Row and column of b_i: row = threadID_in_group * 2 + (i & 1), + 8 from i = 2 on; column = groupID."""
    return _IN_GROUP * 2 + (i & 1) + (8 if i >= 2 else 0), _GROUP


def place_of_c(i: int) -> tuple[Lanes, Lanes]:
    """Row and column of c_i and d_i: row = groupID for i < 2, else groupID + 8; column = threadID_in_group * 2 + (i & 1)."""
    return (_GROUP if i < 2 else _GROUP + 8), _IN_GROUP * 2 + (i & 1)


Fragments = list[Lanes]


def multiply(kind: str, a: Fragments, b: Fragments, c: Fragments) -> Fragments:
    """mma.m16n8k16, D = A·B + C, float32 sums. The order of additions is unspecified: here float64, rounded once."""
    wide: Callable[[Lanes], Lanes] = {"bf16": of_bf16, "f16": of_f16}[kind]
    left, right, sums = np.empty((16, 16)), np.empty((16, 8)), np.empty((16, 8))
    left.reshape(-1)[_places(place_of_a, 8, 16)] = wide(_numbers(a))
    right.reshape(-1)[_places(place_of_b, 4, 8)] = wide(_numbers(b))
    where = _places(place_of_c, 4, 8)
    sums.reshape(-1)[where] = np.concatenate(c).view(np.float32).reshape(4, LANES)
    product = (sums + left @ right).astype(np.float32)
    return list(product.reshape(-1)[where].view(np.uint32))


def _numbers(words: Fragments) -> Lanes:
    """[numbers, lanes] of 16 bits, two of each word, the first in its low bits."""
    low, high = halves(np.concatenate(words).reshape(-1, LANES))
    return np.stack([low, high], axis=1).reshape(-1, LANES)


@cache
def _places(place: Callable[[int], tuple[Lanes, Lanes]], count: int, columns: int) -> Lanes:
    """[numbers, lanes]: where in a matrix, row by row, each number of a fragment lies."""
    return np.stack([row * columns + column for row, column in map(place, range(count))])


def check_mma(qualifiers: tuple[str, ...]) -> str:
    """The type of A and B. Raises PtxError for any other shape, layout or type of the sums."""
    match qualifiers:
        case ("sync", "aligned", "m16n8k16", "row", "col", "f32", "bf16" | "f16" as kind, other, "f32") if (
            kind == other
        ):
            return kind
    raise PtxError(f"mma.{'.'.join(qualifiers)} is not known here")
