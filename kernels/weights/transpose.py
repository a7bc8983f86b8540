"""int8 matrices transposed at memory speed, for runtimes that take W[k, n], as signed or as unsigned numbers.

>>> transposed(np.int8([[1, -2, 3]])).tolist()
[[1], [-2], [3]]
>>> transposed(np.int8([[1, -2, 3]]), unsigned=True).tolist()      # 128 added
[[129], [126], [131]]

NumPy moves a byte at a time. Eight words of eight bytes are transposed in registers instead: bytes are exchanged
between neighbouring words, then pairs of bytes two words apart, then fours (Warren, "Hacker's Delight", 7-3).
"""

from __future__ import annotations

from typing import Any

import numba
import numpy as np
import numpy.typing as npt
from numba import prange

from membound.kernels.cpu.compile import kernel

WORD = 8
STRIP_ROWS = 256
"""Rows that a thread takes at a time: four cache lines of each row of the result."""
BYTES = np.uint64(0x00FF00FF00FF00FF)
PAIRS = np.uint64(0x0000FFFF0000FFFF)
FOURS = np.uint64(0x00000000FFFFFFFF)
"""The lower half of every unit of two, four and eight bytes."""


def transposed(matrix: npt.NDArray[np.int8], unsigned: bool = False) -> npt.NDArray[np.int8 | np.uint8]:
    """The matrix [n, k] as [k, n], contiguous; `unsigned`: as uint8 with 128 added.

    n and k in whole words take the fast way, others NumPy's.
    """
    n, k = matrix.shape
    top_bit = np.uint8(0x80 if unsigned else 0)
    out = np.empty((k, n), np.uint8)
    if n % WORD or k % WORD:
        np.bitwise_xor(matrix.view(np.uint8).T, top_bit, out=out)
    else:
        words = np.ascontiguousarray(matrix).view(np.uint64)
        _transpose_words(words, out.view(np.uint64), np.uint64(int(top_bit) * 0x0101010101010101))
    return out if unsigned else out.view(np.int8)


@kernel(parallel=True)
def _transpose_words(words: Any, out: Any, flip: Any) -> None:
    """words [n, k / 8] to out [k, n / 8], with the bits of `flip` turned over in each."""
    n, width = words.shape
    for strip in prange(-(-n // STRIP_ROWS)):
        first = np.intp(strip) * STRIP_ROWS
        for column in range(width):
            for row in range(first, min(n, first + STRIP_ROWS), 8):
                _transpose_block(words, out, row, column, flip)


@numba.njit(inline="always")
def _transpose_block(words: Any, out: Any, row: Any, column: Any, flip: Any) -> None:
    """Words of eight rows in one column of `words` to eight rows of `out`."""
    a, b = words[row, column] ^ flip, words[row + 1, column] ^ flip
    c, d = words[row + 2, column] ^ flip, words[row + 3, column] ^ flip
    e, f = words[row + 4, column] ^ flip, words[row + 5, column] ^ flip
    g, h = words[row + 6, column] ^ flip, words[row + 7, column] ^ flip
    (a, b), (c, d) = _exchange(a, b, 8, BYTES), _exchange(c, d, 8, BYTES)
    (e, f), (g, h) = _exchange(e, f, 8, BYTES), _exchange(g, h, 8, BYTES)
    (a, c), (b, d) = _exchange(a, c, 16, PAIRS), _exchange(b, d, 16, PAIRS)
    (e, g), (f, h) = _exchange(e, g, 16, PAIRS), _exchange(f, h, 16, PAIRS)
    (a, e), (b, f) = _exchange(a, e, 32, FOURS), _exchange(b, f, 32, FOURS)
    (c, g), (d, h) = _exchange(c, g, 32, FOURS), _exchange(d, h, 32, FOURS)
    to, at = 8 * column, row // 8
    out[to, at], out[to + 1, at], out[to + 2, at], out[to + 3, at] = a, b, c, d
    out[to + 4, at], out[to + 5, at], out[to + 6, at], out[to + 7, at] = e, f, g, h


@numba.njit(inline="always")
def _exchange(low: Any, high: Any, bits: Any, mask: Any) -> Any:
    """Two words with the upper halves of `low`'s units exchanged for the lower halves of `high`'s."""
    differing = ((low >> np.uint64(bits)) ^ high) & mask
    return low ^ (differing << np.uint64(bits)), high ^ differing
