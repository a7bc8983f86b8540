"""Stores: vectors and tiles to memory, narrowed where numbers are kept narrow, or added to what is there."""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from membound.kernels.cpu.simd.features import HALF, LANES
from membound.kernels.cpu.simd.ir import (
    _B,
    _F,
    _H,
    _I,
    _VF,
    _VI,
    _W,
    F32,
    I32,
    _address,
    _bf16_bits,
    _multiply_add,
    _splat,
    _unpack,
    literal_value,
)


@intrinsic
def store_tile(typing: Any, array: Any, index: Any, tile: Any) -> Any:
    """The vectors of a tile, one behind the other, to array[index] on."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        pointer = _address(context, builder, sig, args, 0, args[1], tile.dtype.llvm_type)
        for i, value in enumerate(_unpack(builder, args[2], tile.count)):
            builder.store(value, builder.gep(pointer, [_I(i)]), align=4)
        return context.get_dummy_value()

    return types.void(array, types.intp, tile), codegen


@intrinsic
def store(typing: Any, array: Any, index: Any, value: Any) -> Any:
    """LANES float32 (or int32) numbers to array[index] on."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        pointer = _address(context, builder, sig, args, 0, args[1], value.llvm_type)
        builder.store(args[2], pointer, align=4)
        return context.get_dummy_value()

    return types.void(array, types.intp, value), codegen


@intrinsic
def store_int8(typing: Any, array: Any, index: Any, value: Any) -> Any:
    """LANES int32 numbers, cut to their low byte, to an int8 array."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        small = ir.VectorType(_B, LANES)
        pointer = _address(context, builder, sig, args, 0, args[1], small)
        builder.store(builder.trunc(args[2], small), pointer, align=1)
        return context.get_dummy_value()

    return types.void(array, types.intp, I32), codegen


@intrinsic
def store_bf16(typing: Any, array: Any, index: Any, value: Any) -> Any:
    """LANES float32 numbers, rounded to bfloat16 (nearest even, no NaN), to a uint16 array."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        small = ir.VectorType(_W, LANES)
        pointer = _address(context, builder, sig, args, 0, args[1], small)
        builder.store(builder.trunc(_bf16_bits(builder, args[2]), small), pointer, align=1)
        return context.get_dummy_value()

    return types.void(array, types.intp, F32), codegen


@intrinsic
def store_grid(typing: Any, array: Any, index: Any, row: Any, column: Any, tile: Any, rows: Any) -> Any:
    """Vector (i, j) of a tile with `rows` rows to array[index + i·row + j·column] on."""
    n = literal_value(rows)
    if n is None:
        return None

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        columns = tile.count // n
        for place, value in enumerate(_unpack(builder, args[4], tile.count)):
            right = builder.mul(args[2], ir.IntType(64)(place // columns))
            down = builder.mul(args[3], ir.IntType(64)(place % columns))
            at = builder.add(builder.add(args[1], right), down)
            pointer = _address(context, builder, sig, args, 0, at, tile.dtype.llvm_type)
            builder.store(value, pointer, align=4)
        return context.get_dummy_value()

    return types.void(array, types.intp, types.intp, types.intp, tile, rows), codegen


@intrinsic
def store_each(typing: Any, array: Any, starts: Any, index: Any, tile: Any, mode: Any) -> Any:
    """Vector i of a tile to starts[i] + index; mode (literal) "cached", or "streaming" for aligned addresses."""
    kind = literal_value(mode)
    if kind is None:
        return None

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        vectors = _unpack(builder, args[3], tile.count)
        for start, vector in zip(_unpack(builder, args[1], starts.count), vectors, strict=True):
            pointer = _address(context, builder, sig, args, 0, builder.add(start, args[2]), vector.type)
            written = builder.store(vector, pointer, align=4 * LANES if kind == "streaming" else 4)
            if kind == "streaming":
                written.set_metadata("nontemporal", builder.module.add_metadata([_I(1)]))
        return context.get_dummy_value()

    return types.void(array, starts, types.intp, tile, mode), codegen


@intrinsic
def store_int16(typing: Any, array: Any, index: Any, value: Any) -> Any:
    """LANES int32 numbers, cut to their low half, to an int16 array."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        small = ir.VectorType(_W, LANES)
        pointer = _address(context, builder, sig, args, 0, args[1], small)
        builder.store(builder.trunc(args[2], small), pointer, align=1)
        return context.get_dummy_value()

    return types.void(array, types.intp, I32), codegen


@intrinsic
def add_scaled_each(typing: Any, array: Any, starts: Any, tile: Any, factors: Any) -> Any:
    """array[starts[i] + j·LANES …] += factors[i] · tile[i·columns + j], float32 in memory."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        values, scales = _unpack(builder, args[2], tile.count), _unpack(builder, args[3], factors.count)
        columns = tile.count // factors.count
        for i, start in enumerate(_unpack(builder, args[1], starts.count)):
            first = _address(context, builder, sig, args, 0, start, _VF)
            for j in range(columns):
                place = builder.gep(first, [_I(j)])
                before = builder.load(place, align=4)
                after = _multiply_add(builder, values[i * columns + j], scales[i], before)
                builder.store(after, place, align=4)
        return context.get_dummy_value()

    return types.void(array, starts, tile, factors), codegen


@intrinsic
def store_f16(typing: Any, array: Any, index: Any, value: Any) -> Any:
    """LANES float32 numbers, rounded to float16 (nearest even, infinite from 65520 on, no NaN), to a uint16 array."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        small = ir.VectorType(_W, LANES)
        pointer = _address(context, builder, sig, args, 0, args[1], small)
        if HALF:
            bits = builder.bitcast(builder.fptrunc(args[2], ir.VectorType(_H, LANES)), small)
        else:
            bits = builder.trunc(_round_to_half(builder, args[2]), small)
        builder.store(bits, pointer, align=1)
        return context.get_dummy_value()

    return types.void(array, types.intp, F32), codegen


def _round_to_half(builder: Any, value: Any) -> Any:
    """float32 to the bits of float16 in int32 lanes, by its own bits: see `_half_bits`."""
    bits = builder.bitcast(value, _VI)
    magnitude = builder.and_(bits, _splat(_I, 0x7FFFFFFF))
    sign = builder.and_(builder.lshr(bits, _splat(_I, 16)), _splat(_I, 0x8000))
    # Normal numbers: the exponent's bias is 112 less, 13 bits of the mantissa are rounded away.
    odd = builder.and_(builder.lshr(magnitude, _splat(_I, 13)), _splat(_I, 1))
    nearest = builder.add(builder.add(magnitude, _splat(_I, 0xFFF - (112 << 23))), odd)
    normal = builder.lshr(nearest, _splat(_I, 13))
    # Below 2^-14 the sum with a half has its last bit at 2^-24, where float16 has its last: the adder rounds.
    half = _splat(_F, 0.5)
    sum_bits = builder.bitcast(builder.fadd(builder.bitcast(magnitude, _VF), half), _VI)
    subnormal = builder.sub(sum_bits, builder.bitcast(half, _VI))
    small = builder.icmp_signed("<", magnitude, _splat(_I, (127 - 14) << 23))
    large = builder.icmp_signed(">=", magnitude, _splat(_I, (127 + 16) << 23))
    rounded = builder.select(small, subnormal, builder.select(large, _splat(_I, 0x7C00), normal))
    return builder.or_(rounded, sign)
