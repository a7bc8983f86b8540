"""Numbers as PTX stores them, in NumPy: bits to values and back, one array element a lane.

Sources: PTX ISA 9.0, Alternate Floating-Point Data Formats (bf16: the upper half of a float32; e4m3: 4 bits of
exponent, 3 of mantissa, no infinity, 0x7f and 0xff are NaN) and Packed Floating Point Data Types (the first
number of a pair in the low bits); OCP 8-bit Floating Point Specification, E4M3 (bias 7).
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

Lanes = npt.NDArray[Any]
_VIEWS = {
    **{f"b{n}": np.dtype(f"uint{n}") for n in (8, 16, 32, 64)},
    **{f"u{n}": np.dtype(f"uint{n}") for n in (8, 16, 32, 64)},
    **{f"s{n}": np.dtype(f"int{n}") for n in (8, 16, 32, 64)},
    "f32": np.dtype("float32"),
    "f64": np.dtype("float64"),
    "f16": np.dtype("float16"),
    "f16x2": np.dtype("uint32"),
    "bf16x2": np.dtype("uint32"),
    "e4m3x2": np.dtype("uint16"),
    "pred": np.dtype("bool"),
}
_LEAST_NORMAL = np.float32(2.0**-126)


def dtype(kind: str) -> np.dtype[Any]:
    """The NumPy type of a PTX type."""
    return _VIEWS[kind]


def bits(kind: str) -> int:
    """The width of a PTX type; a predicate has one."""
    return 1 if kind == "pred" else 8 * _VIEWS[kind].itemsize


def raw(values: Lanes) -> Lanes:
    """Values as the unsigned bits of a register; predicates as they are."""
    return values if values.dtype == bool else values.view(f"u{values.dtype.itemsize}")


def flushed(values: Lanes) -> Lanes:
    """Subnormal float32 as zeros of their sign: .ftz."""
    small = np.abs(values) < _LEAST_NORMAL
    if not np.count_nonzero(small):
        return values
    return np.where(small, np.copysign(np.float32(0), values), values)


def halves(words: Lanes) -> tuple[Lanes, Lanes]:
    """The low and the high 16 bits of 32."""
    return (words & np.uint32(0xFFFF)).astype(np.uint16), (words >> np.uint32(16)).astype(np.uint16)


def joined(low: Lanes, high: Lanes) -> Lanes:
    """32 bits of two times 16."""
    return low.astype(np.uint32) | high.astype(np.uint32) << np.uint32(16)


def of_f16(codes: Lanes) -> Lanes:
    """float16 bits as float32, exact."""
    return codes.view(np.float16).astype(np.float32)


def to_f16(values: Lanes) -> Lanes:
    """float32 or float64 to float16 bits, to nearest even; beyond the range infinity."""
    return values.astype(np.float16).view(np.uint16)


def of_bf16(codes: Lanes) -> Lanes:
    """bfloat16 bits as float32, exact."""
    return (codes.astype(np.uint32) << np.uint32(16)).view(np.float32)


def to_bf16(values: Lanes) -> Lanes:
    """float32 or float64 to bfloat16 bits, to nearest even: half of the lowest kept bit is added, less one if that is even."""
    word = _to_odd(values).view(np.uint32).astype(np.uint64)
    rounded = (word + 0x7FFF + (word >> np.uint64(16) & np.uint64(1))) >> np.uint64(16)
    return np.where(np.isnan(values), 0x7FFF, rounded).astype(np.uint16)


def _to_odd(values: Lanes) -> Lanes:
    """float64 as float32, rounded to odd, so that a second rounding falls as one of the exact value would."""
    if values.dtype == np.float32:
        return values
    near = values.astype(np.float32)
    even = near.view(np.uint32) & np.uint32(1) == 0
    toward = np.where(values > near, np.float32(np.inf), np.float32(-np.inf))
    return np.where((near != values) & even & np.isfinite(near), np.nextafter(near, toward), near)


def _may_round_twice(total: Lanes) -> Lanes:
    """Where a float64 lies in the middle between two float32, so that it matters from where it was rounded; or below
    the normal ones, whose middles are elsewhere. What is no finite number is neither."""
    is_middle = total.view(np.int64) & 0x1FFFFFFF == 0x10000000
    return is_middle | (np.abs(total) < _LEAST_NORMAL)


def _e4m3_values() -> npt.NDArray[np.float32]:
    codes = np.arange(256)
    exponent, mantissa = codes >> 3 & 15, codes & 7
    size = np.where(exponent, np.ldexp(1 + mantissa / 8, exponent - 7), np.ldexp(mantissa / 8, -6))
    size = np.where(codes & 0x7F == 0x7F, np.nan, size)
    return np.where(codes & 0x80, -size, size).astype(np.float32)


E4M3 = _e4m3_values()
"""The value of each code."""


def of_e4m3(codes: Lanes) -> Lanes:
    """e4m3 bits as float32, exact."""
    return E4M3[codes]


def to_e4m3(values: Lanes) -> Lanes:
    """float32 to e4m3, to nearest even; cut at ±448 (.satfinite), NaN stays NaN."""
    size = np.minimum(np.abs(values).astype(np.float64), 448.0)
    above = np.searchsorted(E4M3[:0x7F], size)  # the first code that is as large
    below = np.maximum(above - 1, 0)
    middle = (E4M3[above].astype(np.float64) + E4M3[below]) / 2
    code = np.where((size > middle) | ((size == middle) & (above % 2 == 0)), above, below)
    code = np.where(np.isnan(values), 0x7F, code)
    return (code | np.where(np.signbit(values), 0x80, 0)).astype(np.uint16)


def fused(a: Lanes, b: Lanes, c: Lanes) -> Lanes:
    """a·b + c of float32 with one rounding.

    The product is exact in float64; a sum that is rounded to odd there rounds to float32 as the exact sum would
    (Boldo and Melquiond, "Emulation of FMA and correctly rounded sums", 2008).
    """
    product, third = a.astype(np.float64) * b.astype(np.float64), c.astype(np.float64)
    total = product + third
    if not np.count_nonzero(_may_round_twice(total)):
        return total.astype(np.float32)
    lost_first = total - product
    lost = (product - (total - lost_first)) + (third - lost_first)
    if not np.count_nonzero(lost):
        return total.astype(np.float32)
    word = total.view(np.int64)
    toward = np.where((lost > 0) == (total > 0), 1, -1)
    odd = np.where((lost != 0) & np.isfinite(lost) & (word & 1 == 0), word + toward, word)
    return odd.view(np.float64).astype(np.float32)
