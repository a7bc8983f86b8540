"""Conversions between integers, narrow floats and float32, and steps of a power of two."""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from membound.kernels.cpu.simd.features import AVX512, LANES
from membound.kernels.cpu.simd.ir import (
    _F,
    _I,
    _VF,
    _VI,
    _W,
    F32,
    I32,
    _broadcast,
    _call,
    _splat,
    _unpack,
    literal_value,
)
from membound.kernels.weights.grouped import E2M1_VALUES


@intrinsic
def bf16_each(typing: Any, tile: Any, half: Any) -> Any:
    """The lower (half=0) or upper (half=1) bfloat16 of every lane as float32, vector by vector."""
    upper = literal_value(half)
    if upper is None:
        return None

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        values = _unpack(builder, args[0], tile.count)
        if upper:
            values = [builder.and_(v, _splat(_I, 0xFFFF0000)) for v in values]
        else:
            values = [builder.shl(v, _splat(_I, 16)) for v in values]
        return context.make_tuple(builder, sig.return_type, [builder.bitcast(v, _VF) for v in values])

    return types.UniTuple(F32, tile.count)(tile, half), codegen


@intrinsic
def to_f32(typing: Any, value: Any) -> Any:
    """int32 to float32."""
    return F32(I32), lambda cx, b, s, args: b.sitofp(args[0], _VF)


@intrinsic
def round_i32(typing: Any, value: Any) -> Any:
    """float32 to int32, nearest even (|value| below 2^22: the sum with 1.5·2^23 leaves the integer's bits)."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        magic = _splat(_F, 12582912.0)
        bits = builder.bitcast(builder.fadd(args[0], magic), _VI)
        return builder.sub(bits, builder.bitcast(magic, _VI))

    return I32(F32), codegen


@intrinsic
def scale_by_power_of_two(typing: Any, value: Any, exponent: Any) -> Any:
    """value · 2^exponent for normal results: the exponent is added to the float's own."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        shifted = builder.shl(args[1], _splat(_I, 23))
        return builder.bitcast(builder.add(builder.bitcast(args[0], _VI), shifted), _VF)

    return F32(F32, I32), codegen


NIBBLES = {
    "int4": tuple(float(q - 8) for q in range(16)),
    "unsigned": tuple(float(q) for q in range(16)),
    "e2m1": tuple(E2M1_VALUES.tolist()),
}
"""What the codes 0 to 15 of a kind of nibble mean."""


def _nibble_value(builder: Any, value: Any, shift: Any, kind: str) -> Any:
    shifted = builder.lshr(value, shift)
    if AVX512:  # vpermps looks at the low four bits of each index: a table of all sixteen values
        table = ir.Constant(_VF, list(NIBBLES[kind]))
        return _call(builder, "llvm.x86.avx512.permvar.sf.512", _VF, [table, shifted])
    nibble = builder.and_(shifted, _splat(_I, 15))
    if kind == "e2m1":
        return _e2m1_value(builder, nibble)
    return builder.sitofp(builder.sub(nibble, _splat(_I, -int(NIBBLES[kind][0]))), _VF)


def _e2m1_value(builder: Any, nibble: Any) -> Any:
    """Two bits of exponent and one of mantissa in the place of a float32's; exponents start 126 lower."""
    magnitude = builder.shl(builder.and_(nibble, _splat(_I, 7)), _splat(_I, 22))
    wide = builder.fmul(builder.bitcast(magnitude, _VF), _splat(_F, 2.0**126))
    sign = builder.shl(builder.and_(nibble, _splat(_I, 8)), _splat(_I, 28))
    return builder.bitcast(builder.or_(builder.bitcast(wide, _VI), sign), _VF)


@intrinsic
def nibble_values_each(typing: Any, tile: Any, position: Any, kind: Any) -> Any:
    """Nibble number `position` (0 lowest) of each lane as float32, vector by vector; `kind`, a literal, of `NIBBLES`."""
    meaning = literal_value(kind)
    if meaning is None:
        return None

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        shift = _broadcast(builder, builder.mul(args[1], _I(4)))
        values = [_nibble_value(builder, v, shift, meaning) for v in _unpack(builder, args[0], tile.count)]
        return context.make_tuple(builder, sig.return_type, values)

    return types.UniTuple(F32, tile.count)(tile, types.int32, kind), codegen


@intrinsic
def nibble_pairs_each(typing: Any, tile: Any, position: Any, kind: Any) -> Any:
    """Nibbles number `position` and `position` + 4 of each lane as a pair of bfloat16, vector by vector (AVX-512); literals both."""
    place, meaning = literal_value(position), literal_value(kind)
    if place is None or meaning is None or not AVX512:
        return None
    words = ir.VectorType(_W, 2 * LANES)
    bits = [int(np.float32(value).view(np.uint32)) >> 16 for value in NIBBLES[meaning]]

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        table = ir.Constant(words, 2 * bits)  # vpermw looks at the low five bits of each index
        values = []
        for word in _unpack(builder, args[0], tile.count):
            index = builder.bitcast(builder.lshr(word, _splat(_I, 4 * place)), words)
            value = _call(builder, "llvm.x86.avx512.permvar.hi.512", words, [table, index])
            values.append(builder.bitcast(value, _VI))
        return context.make_tuple(builder, sig.return_type, values)

    return types.UniTuple(I32, tile.count)(tile, position, kind), codegen


@intrinsic
def to_f32_tile(typing: Any, tile: Any) -> Any:
    """int32 to float32, vector by vector."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        values = [builder.sitofp(v, _VF) for v in _unpack(builder, args[0], tile.count)]
        return context.make_tuple(builder, sig.return_type, values)

    return types.UniTuple(F32, tile.count)(tile), codegen


@intrinsic
def pair_bf16_each(typing: Any, low: Any, high: Any, exact: Any) -> Any:
    """`pair_bf16`, vector by vector."""
    cut = literal_value(exact)
    if cut is None:
        return None

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        both = (_unpack(builder, tile, low.count) for tile in args[:2])
        pairs = [_pair(builder, first, second, cut) for first, second in zip(*both, strict=True)]
        return context.make_tuple(builder, sig.return_type, pairs)

    return types.UniTuple(I32, low.count)(low, high, exact), codegen


def _pair(builder: Any, low: Any, high: Any, exact: bool) -> Any:
    first, second = (builder.bitcast(v, _VI) for v in (low, high))
    if not exact:
        first, second = (builder.add(bits, _splat(_I, 0x8000)) for bits in (first, second))
    upper = builder.and_(second, _splat(_I, 0xFFFF0000))
    return builder.or_(builder.lshr(first, _splat(_I, 16)), upper)


@intrinsic
def pair_bf16(typing: Any, low: Any, high: Any, exact: Any) -> Any:
    """Both as bfloat16 in each lane, `low` in its lower half; rounded to nearest, halves away from zero, or cut if exact (literal) is set."""
    cut = literal_value(exact)
    if cut is None:
        return None

    return I32(F32, F32, exact), lambda cx, b, s, args: _pair(b, args[0], args[1], cut)
