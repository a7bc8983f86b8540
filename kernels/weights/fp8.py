"""fp8 as caches store it: e4m3, one byte a number, in NumPy.

>>> encode(np.float32([1.0, 0.3, 1000.0])).tolist()
[56, 42, 126]
>>> decode(np.uint8([56, 42, 126])).tolist()
[1.0, 0.3125, 448.0]

A sign, four bits of exponent with bias 7, three of mantissa; no infinities, and one NaN (0x7f, 0xff).
Source: Micikevicius et al., "FP8 formats for deep learning", arXiv 2209.05433, table 1.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

LARGEST = 448.0
"""The largest e4m3 number, 0x7e; whatever is beyond becomes it, as runtimes store caches."""
_NAN = 0x7F


def _magnitudes() -> npt.NDArray[np.float32]:
    """The numbers of codes 0x00 to 0x7e, ascending; 0x7f is NaN."""
    codes = np.arange(_NAN)
    exponent, mantissa = codes >> 3, codes & 7
    normal = (1 + mantissa / 8) * 2.0 ** (exponent - 7)
    return np.where(exponent > 0, normal, mantissa * 2.0**-9).astype(np.float32)


MAGNITUDES = _magnitudes()
VALUES = np.concatenate([MAGNITUDES, [np.nan], -MAGNITUDES, [np.nan]], dtype=np.float32)
"""float32 value of each of the 256 codes."""


def decode(codes: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
    """float32 values of e4m3 codes, exact."""
    return VALUES[codes]


def encode(values: npt.NDArray[Any]) -> npt.NDArray[np.uint8]:
    """e4m3 codes of float32 values: rounded to nearest even, cut at ±448; NaN stays NaN."""
    wide = np.asarray(values, np.float32)
    sign = np.where(np.signbit(wide), np.uint8(0x80), np.uint8(0))
    middles = (MAGNITUDES[:-1] + MAGNITUDES[1:]) / 2  # exact in float32
    size = np.abs(wide)
    below = np.searchsorted(middles, size, side="left")
    above = np.searchsorted(middles, size, side="right")
    # On a middle the two differ by one, and the even code has a mantissa that ends in 0.
    codes = np.where(below % 2 == 0, below, above).astype(np.uint8)
    codes[np.isnan(size)] = _NAN
    return codes | sign
