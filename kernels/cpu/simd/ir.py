"""The types of vectors, and the LLVM IR that the operations in this folder are made of.

Two types fill one register each: F32 is LANES float32 numbers, I32 as many int32. Four int8 in every lane
of an I32 feed the dot products. Vectors live in ordinary local variables and in tuples; a tuple of vectors
is a register tile, and the operations on tiles unroll at compile time:

    acc = zeros(4)                                    # four accumulators
    for k in range(0, depth, LANES):
        acc = fma_tile(acc, load_each(w, rows, k, "bf16"), (load(x, k),))
    sums = add_lanes(acc)                             # four numbers

Each operation is a few lines of LLVM. IR for CPUs stands in this folder alone, and names with an underscore
are for its files alone. Array arguments are C-contiguous; an index counts elements of the array's dtype.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import models, register_model

from membound.kernels.cpu.simd.features import FMA, HALF, LANES

_F, _I, _W, _B, _H = ir.FloatType(), ir.IntType(32), ir.IntType(16), ir.IntType(8), ir.HalfType()
_VF, _VI = ir.VectorType(_F, LANES), ir.VectorType(_I, LANES)


class Vector(types.Type):  # type: ignore[misc]
    """Numba type of one register of LANES elements."""

    def __init__(self, name: str, llvm_type: ir.VectorType) -> None:
        super().__init__(name=f"{name}x{LANES}")
        self.llvm_type = llvm_type


@register_model(Vector)
class _VectorModel(models.PrimitiveModel):  # type: ignore[misc]
    def __init__(self, manager: Any, vector: Vector) -> None:
        super().__init__(manager, vector, vector.llvm_type)


F32 = Vector("f32", _VF)
I32 = Vector("i32", _VI)


def _splat(element: ir.Type, value: float, lanes: int = LANES) -> ir.Constant:
    return ir.Constant(ir.VectorType(element, lanes), [value] * lanes)


def _address(context: Any, builder: Any, sig: Any, args: Any, array: int, index: Any, to: ir.Type) -> Any:
    """Pointer to element `index` of array argument number `array`, cast to a pointer to `to`."""
    data = context.make_array(sig.args[array])(context, builder, value=args[array]).data
    return builder.bitcast(builder.gep(data, [index]), to.as_pointer())


def _broadcast(builder: Any, value: Any, lanes: int = LANES) -> Any:
    undefined = ir.Constant(ir.VectorType(value.type, lanes), ir.Undefined)
    one = builder.insert_element(undefined, value, _I(0))
    return builder.shuffle_vector(one, undefined, _splat(_I, 0, lanes))


def _call(builder: Any, name: str, result: ir.Type, args: list[Any]) -> Any:
    function_type = ir.FunctionType(result, [a.type for a in args])
    return builder.call(cgutils.get_or_insert_function(builder.module, function_type, name), args)


def _multiply_add(builder: Any, a: Any, b: Any, c: Any) -> Any:
    """a·b + c, fused where the machine can (without it LLVM would call fmaf for every lane)."""
    if FMA:
        return _call(builder, f"llvm.fma.v{LANES}f32", _VF, [a, b, c])
    return builder.fadd(builder.fmul(a, b), c)


_STORED = {"f32": _F, "bf16": _W, "f16": _H, "int8": _B, "fp8": _B, "e8m0": _B, "bytes": _I}
FP8_FACTOR = 2.0**-8
"""e4m3 is widened to its value times this: its bits are a float16 whose exponents start 8 higher."""


def _widen(builder: Any, value: Any, fmt: str) -> Any:
    """A vector (or scalar) as stored to float32."""
    vector = isinstance(value.type, ir.VectorType)
    lanes = value.type.count if vector else 0
    wide_f: ir.Type = ir.VectorType(_F, lanes) if vector else _F
    wide_i: ir.Type = ir.VectorType(_I, lanes) if vector else _I
    if fmt == "bf16":
        shift = _splat(_I, 16, lanes) if vector else _I(16)
        return builder.bitcast(builder.shl(builder.zext(value, wide_i), shift), wide_f)
    if fmt == "f16" and HALF:
        return builder.fpext(value, wide_f)
    if fmt == "f16":
        return _half_bits(builder, value, lanes)
    if fmt == "fp8":
        return _fp8_bits(builder, value, lanes)
    if fmt == "e8m0":
        shift = _splat(_I, 23, lanes) if vector else _I(23)
        return builder.bitcast(builder.shl(builder.zext(value, wide_i), shift), wide_f)
    if fmt == "int8":
        return builder.sitofp(builder.sext(value, wide_i), wide_f)
    return value


def _fp8_bits(builder: Any, value: Any, lanes: int) -> Any:
    """e4m3 that is not NaN to float32, times FP8_FACTOR: exponent and mantissa in the place of a float16's."""

    def same(number: int) -> ir.Constant:
        return _splat(_W, number, lanes) if lanes else _W(number)

    bits = builder.zext(value, ir.VectorType(_W, lanes) if lanes else _W)
    magnitude = builder.shl(builder.and_(bits, same(0x7F)), same(7))
    sign = builder.shl(builder.and_(bits, same(0x80)), same(8))
    half = builder.bitcast(builder.or_(magnitude, sign), ir.VectorType(_H, lanes) if lanes else _H)
    return _widen(builder, half, "f16")


def _half_bits(builder: Any, value: Any, lanes: int) -> Any:
    """Finite float16 to float32 by its bits, exact; LLVM would call a function that the JIT cannot find."""

    def same(element: ir.Type, number: float) -> ir.Constant:
        return _splat(element, number, lanes) if lanes else ir.Constant(element, number)

    bits = builder.bitcast(value, ir.VectorType(_W, lanes) if lanes else _W)
    bits = builder.zext(bits, ir.VectorType(_I, lanes) if lanes else _I)
    magnitude = builder.shl(builder.and_(bits, same(_I, 0x7FFF)), same(_I, 13))
    sign = builder.shl(builder.and_(bits, same(_I, 0x8000)), same(_I, 16))
    wide = same(_F, 2.0**112)  # the exponents of float32 start 112 below those of float16
    magnitude = builder.fmul(builder.bitcast(magnitude, wide.type), wide)
    return builder.bitcast(builder.or_(builder.bitcast(magnitude, sign.type), sign), wide.type)


def _bf16_bits(builder: Any, value: Any) -> Any:
    """float32 lanes rounded to bfloat16 (nearest even, no NaN): the bits in the lower half of int32 lanes, the upper is zero."""
    bits = builder.bitcast(value, _VI)
    odd = builder.and_(builder.lshr(bits, _splat(_I, 16)), _splat(_I, 1))
    return builder.lshr(builder.add(builder.add(bits, _splat(_I, 0x7FFF)), odd), _splat(_I, 16))


def literal_value(value: Any) -> Any:
    """The Python value of a literal type, or None if it is not one (the intrinsic then does not apply)."""
    return getattr(value, "literal_value", None)


def _unpack(builder: Any, value: Any, count: int) -> list[Any]:
    return [builder.extract_value(value, i) for i in range(count)]
