"""What instructions between registers compute: one entry of OPERATIONS for each opcode, over all lanes of a warp.

>>> operation = OPERATIONS["prmt"]
>>> operation.compute(("b32",), a, b, selector)

`kinds(qualifiers)` gives the type of the result, then those of the operands; `compute(qualifiers, *operands)` takes
NumPy arrays of these types. sections.py cites the section of the PTX ISA 9.0 out of which alone each entry is written:
nothing here may be derived from the simulator of membound.kernels.cuda, nor that from this. The ISA leaves open whether
mul.f32 and add.f32 without a rounding modifier become one fused operation, and how exact approximations are within
their bounds: here nothing is fused and all is exact, so results agree with hardware within tolerances only.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from executor.numbers import (
    Lanes,
    bits,
    dtype,
    flushed,
    fused,
    halves,
    joined,
    of_bf16,
    of_e4m3,
    of_f16,
    to_bf16,
    to_e4m3,
    to_f16,
)
from executor.program import PtxError

Qualifiers = tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Operation:
    """Types and meaning of one opcode."""

    kinds: Callable[[Qualifiers], tuple[str, ...]]
    compute: Callable[..., Any]


def _alike(count: int) -> Callable[[Qualifiers], tuple[str, ...]]:
    """The result and `count` operands of the type that the instruction ends in."""
    return lambda q: (q[-1],) * (count + 1)


def _floating(q: Qualifiers) -> bool:
    return q[-1] in ("f32", "f64")


def _ftz(q: Qualifiers, *values: Lanes) -> tuple[Lanes, ...]:
    """.ftz flushes subnormal inputs, and results by `_result`, to zero of their sign (Floating Point Instructions)."""
    return tuple(flushed(v) for v in values) if "ftz" in q else values


def _result(q: Qualifiers, value: Lanes) -> Lanes:
    return flushed(value) if "ftz" in q else value


def _pairs(q: Qualifiers, compute: Callable[..., Lanes], *words: Lanes) -> Lanes:
    """A .f16x2 or .bf16x2 instruction: the same on low and on high halves, rounded to nearest even."""
    wide, narrow = (of_f16, to_f16) if q[-1] == "f16x2" else (of_bf16, to_bf16)
    numbers = [wide(np.concatenate(halves(word))) for word in words]
    low, high = narrow(compute(*numbers)).reshape(2, -1)
    return joined(low, high)


# Integer Arithmetic Instructions and Floating Point Instructions: add, sub, mul, fma, mad, min, max, neg, abs


def _add(q: Qualifiers, a: Lanes, b: Lanes) -> Lanes:
    """Add: integers wrap; floats round to nearest even."""
    a, b = _ftz(q, a, b)
    return _result(q, a + b)


def _sub(q: Qualifiers, a: Lanes, b: Lanes) -> Lanes:
    """Subtract."""
    if q[-1] in ("f16x2", "bf16x2"):
        return _pairs(q, lambda x, y: x.astype(np.float64) - y, a, b)
    a, b = _ftz(q, a, b)
    return _result(q, a - b)


def _mul(q: Qualifiers, a: Lanes, b: Lanes) -> Lanes:
    """Multiply: of integers .lo keeps the low half, .hi the high half, .wide all."""
    if "wide" in q:
        return a.astype(dtype(_wider(q[-1]))) * b.astype(dtype(_wider(q[-1])))
    if "hi" in q:
        product = a.astype(object) * b.astype(object)
        return np.array([int(p) >> bits(q[-1]) for p in product]).astype(dtype(q[-1]))
    a, b = _ftz(q, a, b)
    return _result(q, a * b)


def _mul_kinds(q: Qualifiers) -> tuple[str, ...]:
    return (_wider(q[-1]) if "wide" in q else q[-1], q[-1], q[-1])


def _wider(kind: str) -> str:
    return f"{kind[0]}{2 * bits(kind)}"


def _mad(q: Qualifiers, a: Lanes, b: Lanes, c: Lanes) -> Lanes:
    """Multiply-Add: the product as `mul` has it, plus c, which is of the result's type."""
    return _mul(q, a, b) + c


def _mad_kinds(q: Qualifiers) -> tuple[str, ...]:
    wide = _mul_kinds(q)
    return (*wide, wide[0])


def _fma(q: Qualifiers, a: Lanes, b: Lanes, c: Lanes) -> Lanes:
    """Fused Multiply-Add: one rounding."""
    if q[-1] in ("f16x2", "bf16x2"):
        return _pairs(q, lambda x, y, z: x.astype(np.float64) * y + z, a, b, c)
    a, b, c = _ftz(q, a, b, c)
    return _result(q, fused(a, b, c))


def _extreme(pick: Any) -> Callable[..., Lanes]:
    """Minimum, Maximum: of a number and a NaN the number."""

    def compute(q: Qualifiers, a: Lanes, b: Lanes) -> Lanes:
        a, b = _ftz(q, a, b)
        return _result(q, pick(a, b))

    return compute


def _div(q: Qualifiers, a: Lanes, b: Lanes) -> Lanes:
    """Divide: integers round toward zero, by zero the value is machine-specific (all ones here); .rn rounds to nearest even.

    .approx and .full are within 2 units in the last place; exact here.
    """
    if _floating(q):
        a, b = _ftz(q, a, b)
        return _result(q, a / b)
    by = np.where(b == 0, dtype(q[-1]).type(1), b)
    quotient = np.abs(a) // np.abs(by) if q[-1][0] == "s" else a // by
    signed = np.where((a < 0) != (by < 0), -quotient, quotient) if q[-1][0] == "s" else quotient
    return np.where(b == 0, ~np.zeros_like(a), signed)


def _rem(q: Qualifiers, a: Lanes, b: Lanes) -> Lanes:
    """Remainder: of the sign of a, so that a = b · (a / b) + rem."""
    return a - b * _div(q, a, b)


def _unary(compute: Callable[[Lanes], Lanes]) -> Callable[..., Lanes]:
    def flush(q: Qualifiers, a: Lanes) -> Lanes:
        (a,) = _ftz(q, a)
        return _result(q, compute(a))

    return flush


def _lg2(a: Lanes) -> Lanes:
    """Base-2 logarithm; of ±0, and of subnormals that are flushed, minus infinity."""
    return np.log2(a.astype(np.float64)).astype(np.float32)


def _ex2(a: Lanes) -> Lanes:
    """2^a, exact to a unit where hardware is within two."""
    return np.exp2(a.astype(np.float64)).astype(np.float32)


# Comparison and Selection Instructions: setp, selp

_COMPARE = {"eq": np.equal, "ne": np.not_equal, "lt": np.less, "le": np.less_equal} | {
    "gt": np.greater,
    "ge": np.greater_equal,
}
_UNSIGNED_NAMES = {"lo": "lt", "ls": "le", "hi": "gt", "hs": "ge"}
_COMBINE = {"and": np.logical_and, "or": np.logical_or, "xor": np.logical_xor}


def _setp(q: Qualifiers, a: Lanes, b: Lanes, c: Lanes | None = None) -> Lanes:
    """Compare, then combine with a predicate. Ordered float comparisons with a NaN are false, those with a u true."""
    name = _UNSIGNED_NAMES.get(q[0], q[0])
    if _floating(q):
        a, b = _ftz(q, a, b)
        if name in ("lt", "le", "gt", "ge", "eq"):  # false of a NaN as it is
            found = _COMPARE[name](a, b)
            return found if c is None else _COMBINE[q[1]](found, c)
        unordered = np.isnan(a) | np.isnan(b)
        if name in ("num", "nan"):
            found = unordered == (name == "nan")
        elif name in _COMPARE:
            found = _COMPARE[name](a, b) & ~unordered
        else:
            found = _COMPARE[name.removesuffix("u")](a, b) | unordered
    else:
        found = _COMPARE[name](a, b)
    return found if c is None else _COMBINE[q[1]](found, c)


def _setp_kinds(q: Qualifiers) -> tuple[str, ...]:
    combined = ("pred",) if len(q) > 1 and q[1] in _COMBINE else ()
    return ("pred", q[-1], q[-1], *combined)


# Logic and Shift Instructions


def _bitwise(pick: Any) -> Callable[..., Lanes]:
    return lambda q, a, b: pick(a, b)


def _lop3(q: Qualifiers, a: Lanes, b: Lanes, c: Lanes, table: Lanes) -> Lanes:
    """lop3: bit i of the table, an immediate, is the result for (a, b, c) = the bits of i, a the highest."""
    bit = int(table[0])
    if np.count_nonzero(table != table[0]):
        raise PtxError("lop3: the table is no immediate")
    of_a, of_b, of_c = (~a, a), (~b, b), (~c, c)
    found = np.zeros_like(a)
    for i in range(8):
        if bit >> i & 1:
            found |= of_a[i >> 2] & of_b[i >> 1 & 1] & of_c[i & 1]
    return found


def _shift(left: bool) -> Callable[..., Lanes]:
    """shl, shr: amounts beyond the width are cut to it; shr of a signed type copies the sign."""

    def compute(q: Qualifiers, a: Lanes, by: Lanes) -> Lanes:
        width = bits(q[-1])
        if int(np.maximum.reduce(by)) < width:
            return a << by.astype(a.dtype) if left else a >> by.astype(a.dtype)
        within = np.minimum(by, width - 1).astype(a.dtype)
        moved = a << within if left else a >> within
        beyond = np.zeros_like(a) if left or q[-1][0] != "s" else a >> dtype(q[-1]).type(width - 1)
        return np.where(by >= width, beyond, moved)

    return compute


def _shf(q: Qualifiers, a: Lanes, b: Lanes, by: Lanes) -> Lanes:
    """Funnel Shift of {b, a}: .l keeps the high word of the left shift, .r the low word of the right shift; .wrap: amount mod 32."""
    amount = (by & np.uint32(31) if "wrap" in q else np.minimum(by, 32)).astype(np.uint64)
    both = b.astype(np.uint64) << np.uint64(32) | a
    found = (both << amount) >> np.uint64(32) if q[0] == "l" else both >> amount
    return found.astype(np.uint32)


# Data Movement and Conversion Instructions: mov, selp, prmt, cvt


_NIBBLES = 4 * np.arange(4, dtype=np.uint32)


def _prmt(q: Qualifiers, a: Lanes, b: Lanes, selector: Lanes) -> Lanes:
    """Permute bytes of {b, a}, numbered from the lowest of a; a nibble's high bit replicates that byte's sign."""
    if len(q) != 1:
        raise PtxError(f"prmt.{'.'.join(q)}: only the generic form is known here")
    both = np.concatenate([a, b]).view(np.uint8).reshape(2, -1, 4)
    nibbles = selector[:, None] >> _NIBBLES & np.uint32(15)
    number = nibbles & np.uint32(7)
    found = both[number >> np.uint32(2), np.arange(len(a))[:, None], number & np.uint32(3)]
    if np.count_nonzero(sign := nibbles >= 8):
        found = np.where(sign, np.where(found & np.uint8(128), np.uint8(255), np.uint8(0)), found)
    return np.ascontiguousarray(found).view(np.uint32)[:, 0]


def _cvt_kinds(q: Qualifiers) -> tuple[str, ...]:
    target, source = q[-2], q[-1]
    if source == "f32" and target.endswith("x2"):
        return (target, source, source)
    return (target, source)


def _cvt(q: Qualifiers, a: Lanes, b: Lanes | None = None) -> Lanes:
    """Convert. Of two inputs the first goes to the upper half of the result, the second to the lower."""
    target, source = q[-2], q[-1]
    if b is not None:
        if target == "e4m3x2":
            return to_e4m3(a) << np.uint16(8) | to_e4m3(b)
        narrow = to_f16 if target == "f16x2" else to_bf16
        return joined(low=narrow(b), high=narrow(a))
    if (target, source) == ("f16x2", "e4m3x2"):
        return joined(low=to_f16(of_e4m3(a & np.uint16(255))), high=to_f16(of_e4m3(a >> np.uint16(8))))
    if target[0] in "us" and source[0] == "f":
        return _to_integer(q, a)
    (a,) = _ftz(q, a) if source == "f32" else (a,)
    if "rni" in q:
        a = np.rint(a)
    return a.astype(dtype(target))


def _to_integer(q: Qualifiers, a: Lanes) -> Lanes:
    """Integer rounding .rni to nearest even, .rzi toward zero; beyond the range the nearest, of NaN 0."""
    if not {"rni", "rzi"} & set(q):
        raise PtxError(f"cvt.{'.'.join(q)}: no rounding that is known here")
    whole = (np.rint if "rni" in q else np.trunc)(np.nan_to_num(a.astype(np.float64), nan=0.0))
    limits = np.iinfo(dtype(q[-2]))
    return np.array([min(max(int(x), limits.min), limits.max) for x in whole], dtype(q[-2]))


OPERATIONS = {
    "add": Operation(_alike(2), _add),
    "sub": Operation(_alike(2), _sub),
    "mul": Operation(_mul_kinds, _mul),
    "mad": Operation(_mad_kinds, _mad),
    "fma": Operation(_alike(3), _fma),
    "min": Operation(_alike(2), _extreme(np.fmin)),
    "max": Operation(_alike(2), _extreme(np.fmax)),
    "div": Operation(_alike(2), _div),
    "rem": Operation(_alike(2), _rem),
    "neg": Operation(_alike(1), _unary(np.negative)),
    "abs": Operation(_alike(1), _unary(np.abs)),
    "rcp": Operation(_alike(1), _unary(lambda a: np.float32(1) / a)),
    "sqrt": Operation(_alike(1), _unary(np.sqrt)),
    "rsqrt": Operation(_alike(1), _unary(lambda a: np.float32(1) / np.sqrt(a))),
    "lg2": Operation(_alike(1), _unary(_lg2)),
    "ex2": Operation(_alike(1), _unary(_ex2)),
    "setp": Operation(_setp_kinds, _setp),
    "selp": Operation(lambda q: (q[-1], q[-1], q[-1], "pred"), lambda q, a, b, c: np.where(c, a, b)),
    "and": Operation(_alike(2), _bitwise(np.bitwise_and)),
    "or": Operation(_alike(2), _bitwise(np.bitwise_or)),
    "xor": Operation(_alike(2), _bitwise(np.bitwise_xor)),
    "not": Operation(_alike(1), lambda q, a: ~a),
    "lop3": Operation(lambda q: ("b32",) * 4 + ("u32",), _lop3),
    "shl": Operation(lambda q: (q[-1], q[-1], "u32"), _shift(left=True)),
    "shr": Operation(lambda q: (q[-1], q[-1], "u32"), _shift(left=False)),
    "shf": Operation(lambda q: ("b32", "b32", "b32", "u32"), _shf),
    "mov": Operation(_alike(1), lambda q, a: a),
    "prmt": Operation(_alike(3), _prmt),
    "cvt": Operation(_cvt_kinds, _cvt),
}
"""By opcode. What moves data between lanes is in exchange.py, what touches memory in memory.py and copies.py."""
