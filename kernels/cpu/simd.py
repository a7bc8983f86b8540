"""SIMD for Numba: vector types and the operations on them, each a few lines of LLVM. IR stands here and in amx.py alone.

Two types fill one register each: F32 is LANES float32 numbers, I32 as many int32. Four int8 in every lane
of an I32 feed the dot products. Vectors live in ordinary local variables and in tuples; a tuple of vectors
is a register tile, and the operations on tiles unroll at compile time:

    acc = zeros(4)                                    # four accumulators
    for k in range(0, depth, LANES):
        acc = fma_tile(acc, load_each(w, rows, k, "bf16"), (load(x, k),))
    sums = add_lanes(acc)                             # four numbers

What differs between machines is chosen here, once, from the features that Numba compiles for: AVX-512
(VNNI, AMX where present), AVX2 with FMA, and for everything else (NEON among it) plain LLVM vectors of
128 bits, which any target can lower. NUMBA_CPU_NAME=generic forces the plain path.

Array arguments are C-contiguous; an index counts elements of the array's dtype.
"""

from __future__ import annotations

from typing import Any

import llvmlite.binding as llvm
from llvmlite import ir
from numba import types
from numba.core import cgutils, config
from numba.extending import intrinsic, models, register_model


def _features() -> frozenset[str]:
    """The features that Numba will compile for on this machine."""
    if config.CPU_FEATURES:
        return frozenset(f[1:] for f in config.CPU_FEATURES.split(",") if f.startswith("+"))
    if config.CPU_NAME and config.CPU_NAME != "host":
        return frozenset()
    return frozenset(name for name, present in llvm.get_host_cpu_features().items() if present)


FEATURES = _features()
AVX512 = {"avx512f", "avx512bw", "avx512vl", "avx512dq"} <= FEATURES
AVX2 = {"avx2", "fma", "f16c"} <= FEATURES
VNNI = AVX512 and "avx512vnni" in FEATURES
BF16_DOT = AVX512 and "avx512bf16" in FEATURES
FMA = AVX2 or AVX512 or llvm.get_process_triple().startswith("aarch64")
HALF = AVX2 or AVX512 or llvm.get_process_triple().startswith("aarch64")
LANES = 16 if AVX512 else 8 if AVX2 else 4
AMD = llvm.get_host_cpu_name().startswith("znver")
INSTRUCTION_SET = "avx512" if AVX512 else "avx2" if AVX2 else "plain"
REGISTERS = 32 if AVX512 or (not AVX2 and FMA) else 16

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


# Building blocks of the IR below


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


_STORED = {"f32": _F, "bf16": _W, "f16": _H, "int8": _B, "bytes": _I}


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
    if fmt == "int8":
        return builder.sitofp(builder.sext(value, wide_i), wide_f)
    return value


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


def literal_value(value: Any) -> Any:
    """The Python value of a literal type, or None if it is not one (the intrinsic then does not apply)."""
    return getattr(value, "literal_value", None)


def _unpack(builder: Any, value: Any, count: int) -> list[Any]:
    return [builder.extract_value(value, i) for i in range(count)]


# Constants and tiles


@intrinsic
def zeros(typing: Any, count: Any) -> Any:
    """A tile of `count` float32 vectors of zero."""
    n = literal_value(count)
    if n is None:
        return None
    sig = types.UniTuple(F32, n)(count)
    return sig, lambda cx, b, s, a: cx.make_tuple(b, s.return_type, [_splat(_F, 0.0)] * n)


@intrinsic
def zeros_i32(typing: Any, count: Any) -> Any:
    """A tile of `count` int32 vectors of zero."""
    n = literal_value(count)
    if n is None:
        return None
    sig = types.UniTuple(I32, n)(count)
    return sig, lambda cx, b, s, a: cx.make_tuple(b, s.return_type, [_splat(_I, 0)] * n)


@intrinsic
def splat(typing: Any, value: Any) -> Any:
    """A float32 in every lane."""
    return F32(types.float32), lambda cx, b, s, a: _broadcast(b, a[0])


@intrinsic
def splat_i32(typing: Any, value: Any) -> Any:
    """An int32 in every lane."""
    return I32(types.int32), lambda cx, b, s, a: _broadcast(b, a[0])


# Loads


@intrinsic
def load(typing: Any, array: Any, index: Any, fmt: Any) -> Any:
    """LANES stored numbers from array[index] on, widened to float32. fmt: f32, bf16, f16 or int8 (literal)."""
    kind = literal_value(fmt)
    if kind is None:
        return None

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        pointer = _address(context, builder, sig, args, 0, args[1], ir.VectorType(_STORED[kind], LANES))
        return _widen(builder, builder.load(pointer, align=1), kind)

    return F32(array, types.intp, fmt), codegen


@intrinsic
def load_part(typing: Any, array: Any, index: Any, count: Any, fmt: Any) -> Any:
    """Like `load`, but only the first `count` numbers are read; the other lanes are zero."""
    kind = literal_value(fmt)
    if kind is None:
        return None

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        stored = _STORED[kind]
        memory: ir.Type = _W if kind == "f16" else stored  # masked loads of half crash some LLVM targets
        vector = ir.VectorType(memory, LANES)
        pointer = _address(context, builder, sig, args, 0, args[1], vector)
        lanes = ir.Constant(ir.VectorType(_I, LANES), list(range(LANES)))
        mask = builder.icmp_signed("<", lanes, _broadcast(builder, builder.trunc(args[2], _I)))
        name = f"llvm.masked.load.v{LANES}{'f32' if kind == 'f32' else f'i{memory.width}'}.p0"
        zero = _splat(memory, 0.0 if kind == "f32" else 0)
        value = _call(builder, name, vector, [pointer, _I(1), mask, zero])
        return _widen(builder, builder.bitcast(value, ir.VectorType(stored, LANES)), kind)

    return F32(array, types.intp, types.intp, fmt), codegen


@intrinsic
def load_each(typing: Any, array: Any, starts: Any, index: Any, fmt: Any) -> Any:
    """A tile: `load` at starts[i] + index for each start."""
    kind = literal_value(fmt)
    if kind is None:
        return None

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        vector = ir.VectorType(_STORED[kind], LANES)
        tile = []
        for start in _unpack(builder, args[1], starts.count):
            pointer = _address(context, builder, sig, args, 0, builder.add(start, args[2]), vector)
            tile.append(_widen(builder, builder.load(pointer, align=1), kind))
        return context.make_tuple(builder, sig.return_type, tile)

    return types.UniTuple(F32, starts.count)(array, starts, types.intp, fmt), codegen


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
def load_next(typing: Any, array: Any, index: Any, count: Any, fmt: Any) -> Any:
    """A tile: `count` vectors that follow each other from array[index] on."""
    kind, n = literal_value(fmt), literal_value(count)
    if kind is None or n is None:
        return None

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        vector = ir.VectorType(_STORED[kind], LANES)
        tile = []
        for i in range(n):
            place = builder.add(args[1], ir.IntType(64)(i * LANES))
            pointer = _address(context, builder, sig, args, 0, place, vector)
            tile.append(_widen(builder, builder.load(pointer, align=1), kind))
        return context.make_tuple(builder, sig.return_type, tile)

    return types.UniTuple(F32, n)(array, types.intp, count, fmt), codegen


@intrinsic
def broadcast_next(typing: Any, array: Any, index: Any, count: Any) -> Any:
    """A tile: float32 array[index], array[index+1], … `count` of them, each in all lanes of its vector."""
    n = literal_value(count)
    if n is None:
        return None

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        pointer = _address(context, builder, sig, args, 0, args[1], _F)
        tile = [_broadcast(builder, builder.load(builder.gep(pointer, [_I(i)]), align=4)) for i in range(n)]
        return context.make_tuple(builder, sig.return_type, tile)

    return types.UniTuple(F32, n)(array, types.intp, count), codegen


@intrinsic
def load_bytes(typing: Any, array: Any, index: Any) -> Any:
    """4·LANES bytes of a byte array from array[index] on, four to a lane."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return builder.load(_address(context, builder, sig, args, 0, args[1], _VI), align=1)

    return I32(array, types.intp), codegen


@intrinsic
def broadcast_bytes_next(typing: Any, array: Any, index: Any, count: Any) -> Any:
    """A tile: groups of four bytes from array[index] on, `count` of them, each in every lane of its vector."""
    n = literal_value(count)
    if n is None:
        return None

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        pointer = _address(context, builder, sig, args, 0, args[1], _I)
        tile = [_broadcast(builder, builder.load(builder.gep(pointer, [_I(i)]), align=1)) for i in range(n)]
        return context.make_tuple(builder, sig.return_type, tile)

    return types.UniTuple(I32, n)(array, types.intp, count), codegen


@intrinsic
def load_bytes_each(typing: Any, array: Any, starts: Any, index: Any) -> Any:
    """A tile: `load_bytes` at starts[i] + index for each start."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        tile = []
        for start in _unpack(builder, args[1], starts.count):
            pointer = _address(context, builder, sig, args, 0, builder.add(start, args[2]), _VI)
            tile.append(builder.load(pointer, align=1))
        return context.make_tuple(builder, sig.return_type, tile)

    return types.UniTuple(I32, starts.count)(array, starts, types.intp), codegen


@intrinsic
def load_tile(typing: Any, array: Any, index: Any, kind: Any) -> Any:
    """A tile like `kind`, whose vectors follow each other from array[index] on."""
    vector = kind.dtype

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        pointer = _address(context, builder, sig, args, 0, args[1], vector.llvm_type)
        places = [builder.gep(pointer, [_I(i)]) for i in range(kind.count)]
        tile = [builder.load(place, align=4) for place in places]
        return context.make_tuple(builder, sig.return_type, tile)

    return kind(array, types.intp, kind), codegen


@intrinsic
def far_starts(typing: Any, start: Any, distance: Any, count: Any) -> Any:
    """(start, start + distance, …): `count` indices of streams far apart."""
    n = literal_value(count)
    if n is None:
        return None

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        starts = [args[0]]
        for _ in range(1, n):
            starts.append(builder.add(starts[-1], args[1]))
        return context.make_tuple(builder, sig.return_type, starts)

    return types.UniTuple(types.intp, n)(types.intp, types.intp, count), codegen


# Stores


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
        bits = builder.bitcast(args[2], _VI)
        odd = builder.and_(builder.lshr(bits, _splat(_I, 16)), _splat(_I, 1))
        rounded = builder.lshr(builder.add(builder.add(bits, _splat(_I, 0x7FFF)), odd), _splat(_I, 16))
        small = ir.VectorType(_W, LANES)
        pointer = _address(context, builder, sig, args, 0, args[1], small)
        builder.store(builder.trunc(rounded, small), pointer, align=1)
        return context.get_dummy_value()

    return types.void(array, types.intp, F32), codegen


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


# Arithmetic


def _binary(operation: str, vector: Vector, doc: str) -> Any:
    def typer(typing: Any, a: Any, b: Any) -> Any:
        return vector(vector, vector), lambda cx, bd, s, args: getattr(bd, operation)(*args)

    typer.__doc__ = doc
    return intrinsic(typer)


add = _binary("fadd", F32, "a + b, float32.")
subtract = _binary("fsub", F32, "a - b, float32.")
multiply = _binary("fmul", F32, "a · b, float32.")
divide = _binary("fdiv", F32, "a / b, float32.")
add_i32 = _binary("add", I32, "a + b, int32.")


@intrinsic
def fma(typing: Any, a: Any, b: Any, c: Any) -> Any:
    """a·b + c."""
    return F32(F32, F32, F32), lambda cx, bd, s, args: _multiply_add(bd, *args)


@intrinsic
def maximum(typing: Any, a: Any, b: Any) -> Any:
    """The larger of each lane (no NaN)."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return builder.select(builder.fcmp_ordered(">", *args), *args)

    return F32(F32, F32), codegen


@intrinsic
def absolute(typing: Any, a: Any) -> Any:
    """The magnitude of each lane."""
    return F32(F32), lambda cx, b, s, args: _call(b, f"llvm.fabs.v{LANES}f32", _VF, [args[0]])


@intrinsic
def fma_tile(typing: Any, acc: Any, rows: Any, columns: Any) -> Any:
    """acc[i·len(columns) + j] += rows[i] · columns[j] for every pair: an outer product of registers."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        sums = _unpack(builder, args[0], acc.count)
        left, right = _unpack(builder, args[1], rows.count), _unpack(builder, args[2], columns.count)
        for i, row in enumerate(left):
            for j, column in enumerate(right):
                place = i * columns.count + j
                sums[place] = _multiply_add(builder, row, column, sums[place])
        return context.make_tuple(builder, sig.return_type, sums)

    if acc.count != rows.count * columns.count:
        return None
    return acc(acc, rows, columns), codegen


@intrinsic
def fma_broadcast(typing: Any, acc: Any, rows: Any, array: Any, index: Any) -> Any:
    """`fma_tile` with columns array[index], array[index+1], …, one loaded at a time: few registers live."""
    columns = acc.count // rows.count

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        sums, left = _unpack(builder, args[0], acc.count), _unpack(builder, args[1], rows.count)
        pointer = _address(context, builder, sig, args, 2, args[3], _F)
        for j in range(columns):
            column = _broadcast(builder, builder.load(builder.gep(pointer, [_I(j)]), align=4))
            for i, row in enumerate(left):
                place = i * columns + j
                sums[place] = _multiply_add(builder, row, column, sums[place])
        return context.make_tuple(builder, sig.return_type, sums)

    return acc(acc, rows, array, types.intp), codegen


@intrinsic
def add_tiles(typing: Any, a: Any, b: Any) -> Any:
    """Vector by vector a + b."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        pairs = zip(_unpack(builder, args[0], a.count), _unpack(builder, args[1], a.count), strict=True)
        return context.make_tuple(builder, sig.return_type, [builder.fadd(x, y) for x, y in pairs])

    return a(a, a), codegen


def _halves(builder: Any, value: Any, combine: Any) -> Any:
    """Fold a vector onto itself until one number is left."""
    lanes = value.type.count
    while lanes > 1:
        lanes //= 2
        low = ir.Constant(ir.VectorType(_I, lanes), list(range(lanes)))
        high = ir.Constant(ir.VectorType(_I, lanes), list(range(lanes, 2 * lanes)))
        value = combine(builder.shuffle_vector(value, value, low), builder.shuffle_vector(value, value, high))
    return builder.extract_element(value, _I(0))


@intrinsic
def add_lanes(typing: Any, tile: Any) -> Any:
    """The sum over the lanes of each vector of a tile: as many numbers as vectors."""
    element, combine = (types.float32, "fadd") if tile.dtype == F32 else (types.int32, "add")

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        sums = [_halves(builder, v, getattr(builder, combine)) for v in _unpack(builder, args[0], tile.count)]
        return context.make_tuple(builder, sig.return_type, sums)

    return types.UniTuple(element, tile.count)(tile), codegen


@intrinsic
def max_lanes(typing: Any, value: Any) -> Any:
    """The largest lane."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        def larger(a: Any, b: Any) -> Any:
            return builder.select(builder.fcmp_ordered(">", a, b), a, b)

        return _halves(builder, args[0], larger)

    return types.float32(F32), codegen


# Conversions


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


@intrinsic
def widen_at(typing: Any, array: Any, index: Any, fmt: Any) -> Any:
    """One stored number array[index] as float32."""
    kind = literal_value(fmt)
    if kind is None:
        return None

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        pointer = _address(context, builder, sig, args, 0, args[1], _STORED[kind])
        return _widen(builder, builder.load(pointer, align=1), kind)

    return types.float32(array, types.intp, fmt), codegen


# Integer dot products: four int8 a lane, summed into int32


def _dot4_plain(builder: Any, acc: Any, a: Any, b: Any, *, signed: bool) -> Any:
    """Four products a lane by shifts, for machines without an instruction for it."""
    for shift in (24, 16, 8, 0):  # move byte i to the top, then bring it down with its sign
        up = _splat(_I, shift)
        x = builder.shl(a, up)
        x = builder.ashr(x, _splat(_I, 24)) if signed else builder.lshr(x, _splat(_I, 24))
        y = builder.ashr(builder.shl(b, up), _splat(_I, 24))
        acc = builder.add(acc, builder.mul(x, y))
    return acc


_PAIRS = AVX2 and not AVX512
"""Whether products of bytes meet as pairs in int16 first."""


def _multiply_pairs(builder: Any, unsigned: Any, signed: Any) -> Any:
    """vpmaddubsw: sums of two neighbours' products, exact while they stay within int16."""
    args = [builder.bitcast(v, ir.VectorType(_B, 32)) for v in (unsigned, signed)]
    return _call(builder, "llvm.x86.avx2.pmadd.ub.sw", ir.VectorType(_W, 16), args)


def _add_pairs(builder: Any, acc: Any, words: Any) -> Any:
    """vpmaddwd by one, vpaddd: two neighbouring int16 and an int32."""
    return builder.add(acc, _call(builder, "llvm.x86.avx2.pmadd.wd", _VI, [words, _splat(_W, 1, 16)]))


def _dot4_avx2(builder: Any, acc: Any, unsigned: Any, signed: Any) -> Any:
    return _add_pairs(builder, acc, _multiply_pairs(builder, unsigned, signed))


def _dot4_signed(builder: Any, acc: Any, a: Any, b: Any) -> Any:
    if VNNI:  # the instruction wants one unsigned factor: flip a's top bit, correct with DOT_OFFSET
        flipped = builder.xor(a, _splat(_I, 0x80808080))
        return _call(builder, "llvm.x86.avx512.vpdpbusd.512", _VI, [acc, flipped, b])
    if _PAIRS:  # |a| · (b with a's sign): within int16 as neither factor is ever -128
        bytes_ = ir.VectorType(_B, 32)
        a8, b8 = builder.bitcast(a, bytes_), builder.bitcast(b, bytes_)
        magnitude = _call(builder, "llvm.abs.v32i8", bytes_, [a8, ir.IntType(1)(0)])
        moved = _call(builder, "llvm.x86.avx2.psign.b", bytes_, [b8, a8])
        return _dot4_avx2(builder, acc, magnitude, moved)
    return _dot4_plain(builder, acc, a, b, signed=True)


DOT_OFFSET = 128 if VNNI else 0
"""`dot_s8` returns a·b + DOT_OFFSET·b: subtract DOT_OFFSET times the sum of b once at the end."""


@intrinsic
def dot_s8_broadcast(typing: Any, acc: Any, rows: Any, array: Any, index: Any) -> Any:
    """acc[i·columns + j] += dot(rows[i], column j), plus DOT_OFFSET·column, exact.

    rows signed in −127..127; column j is the four signed bytes array[index + 4·j], within −127..127.
    """
    columns = acc.count // rows.count

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        sums, left = _unpack(builder, args[0], acc.count), _unpack(builder, args[1], rows.count)
        pointer = _address(context, builder, sig, args, 2, args[3], _I)
        for j in range(columns):
            column = _broadcast(builder, builder.load(builder.gep(pointer, [_I(j)]), align=1))
            for i, row in enumerate(left):
                place = i * columns + j
                sums[place] = _dot4_signed(builder, sums[place], row, column)
        return context.make_tuple(builder, sig.return_type, sums)

    return acc(acc, rows, array, types.intp), codegen


class _BFloat(ir.HalfType):  # type: ignore[misc]
    """LLVM's bfloat, which llvmlite does not name."""

    def __str__(self) -> str:
        return "bfloat"


@intrinsic
def dot_bf16_broadcast(typing: Any, acc: Any, rows: Any, array: Any, index: Any) -> Any:
    """acc[i·columns + j] += a·c + b·d for the pair (a, b) in a lane of rows[i] and the pair (c, d) of column j.

    Pairs of bfloat16, the first in the lower half; column j is the four bytes of array[index + j]. vdpbf16ps: two
    fused multiply-adds, the second product first, each rounded to nearest even; denormal numbers count as zero.
    """
    columns = acc.count // rows.count

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        sums, left = _unpack(builder, args[0], acc.count), _unpack(builder, args[1], rows.count)
        pointer = _address(context, builder, sig, args, 2, args[3], _I)
        pairs = ir.VectorType(_BFloat(), 2 * LANES)
        for j in range(columns):
            column = _broadcast(builder, builder.load(builder.gep(pointer, [_I(j)]), align=1))
            for i, row in enumerate(left):
                both = [builder.bitcast(row, pairs), builder.bitcast(column, pairs)]
                place = i * columns + j
                sums[place] = _call(builder, "llvm.x86.avx512bf16.dpbf16ps.512", _VF, [sums[place], *both])
        return context.make_tuple(builder, sig.return_type, sums)

    return acc(acc, rows, array, types.intp), codegen


def _dot4_unsigned(builder: Any, acc: Any, unsigned: Any, signed: Any) -> Any:
    if VNNI:
        return _call(builder, "llvm.x86.avx512.vpdpbusd.512", _VI, [acc, unsigned, signed])
    if _PAIRS:
        return _dot4_avx2(builder, acc, unsigned, signed)
    return _dot4_plain(builder, acc, unsigned, signed, signed=False)


def _nibble_value(builder: Any, value: Any, shift: Any) -> Any:
    shifted = builder.lshr(value, shift)
    if AVX512:  # vpermps looks at the low four bits of each index: a table of all sixteen values
        table = ir.Constant(_VF, [float(q - 8) for q in range(16)])
        return _call(builder, "llvm.x86.avx512.permvar.sf.512", _VF, [table, shifted])
    nibble = builder.and_(shifted, _splat(_I, 15))
    return builder.sitofp(builder.sub(nibble, _splat(_I, 8)), _VF)


@intrinsic
def dot_u8_broadcast(typing: Any, acc: Any, rows: Any, array: Any, index: Any) -> Any:
    """acc[i·columns + j] += dot(rows[i], column j), exact.

    rows unsigned in 0..127; column j is the four signed bytes array[index + 4·j], within −127..127.
    """
    columns = acc.count // rows.count

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        sums, left = _unpack(builder, args[0], acc.count), _unpack(builder, args[1], rows.count)
        pointer = _address(context, builder, sig, args, 2, args[3], _I)
        for j in range(columns):
            column = _broadcast(builder, builder.load(builder.gep(pointer, [_I(j)]), align=1))
            for i, row in enumerate(left):
                place = i * columns + j
                sums[place] = _dot4_unsigned(builder, sums[place], row, column)
        return context.make_tuple(builder, sig.return_type, sums)

    return acc(acc, rows, array, types.intp), codegen


NIBBLE_WORDS = 4
"""Words of nibbles that `dot_nibbles` takes at once: the eight products of up to 2 · 15 · 127 that meet in an
int16 of AVX2 stay below 2^15."""


@intrinsic
def dot_nibbles(typing: Any, acc: Any, array: Any, starts: Any, index: Any, columns: Any, place: Any) -> Any:
    """acc[i·T + j] += dot(nibbles of row i, column j) over NIBBLE_WORDS words, exact; T columns of x.

    Word number v of row i is the 4·LANES bytes array[starts[i] + index + 4·LANES·v]: byte b of a lane meets, by its
    low and its high nibble (0..15), bytes b of the 2·v-th and the next group of columns, within −127..127; group g
    is T times four bytes from columns[place + 4·T·g] on.
    """
    tokens = acc.count // starts.count

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        sums, rows = _unpack(builder, args[0], acc.count), _unpack(builder, args[2], starts.count)
        right = _address(context, builder, sig, args, 4, args[5], _I)
        pairs: list[Any] = [None] * len(sums)
        for word in range(NIBBLE_WORDS):
            values = [
                _broadcast(builder, builder.load(builder.gep(right, [_I(2 * word * tokens + i)]), align=1))
                for i in range(2 * tokens)
            ]
            for i, start in enumerate(rows):
                left = builder.add(builder.add(start, args[3]), start.type(4 * LANES * word))
                packed = builder.load(_address(context, builder, sig, args, 1, left, _VI), align=1)
                for half, nibbles in enumerate(_nibbles(builder, packed)):
                    for j in range(tokens):
                        at = i * tokens + j
                        _add_nibbles(builder, sums, pairs, at, nibbles, values[half * tokens + j])
        if _PAIRS:
            sums = [_add_pairs(builder, total, words) for total, words in zip(sums, pairs, strict=True)]
        return context.make_tuple(builder, sig.return_type, sums)

    return acc(acc, array, starts, types.intp, columns, types.intp), codegen


def _nibbles(builder: Any, packed: Any) -> tuple[Any, Any]:
    """The low and the high four bits of each byte."""
    mask = _splat(_I, 0x0F0F0F0F)
    return builder.and_(packed, mask), builder.and_(builder.lshr(packed, _splat(_I, 4)), mask)


def _add_nibbles(builder: Any, sums: list[Any], pairs: list[Any], at: int, left: Any, right: Any) -> None:
    """A product into sums[at], or on AVX2 as int16 into pairs[at], which `_add_pairs` sums up at the end."""
    if not _PAIRS:
        sums[at] = _dot4_unsigned(builder, sums[at], left, right)
        return
    words = _multiply_pairs(builder, left, right)
    pairs[at] = words if pairs[at] is None else builder.add(pairs[at], words)


@intrinsic
def nibble_values_each(typing: Any, tile: Any, position: Any) -> Any:
    """Nibble number `position` (0 lowest) of each lane as float32, less 8, vector by vector."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        shift = _broadcast(builder, builder.mul(args[1], _I(4)))
        values = [_nibble_value(builder, v, shift) for v in _unpack(builder, args[0], tile.count)]
        return context.make_tuple(builder, sig.return_type, values)

    return types.UniTuple(F32, tile.count)(tile, types.int32), codegen


@intrinsic
def tile_of_columns(typing: Any, columns: Any, rows: Any) -> Any:
    """A tile of `rows` · len(columns) vectors in which every row is `columns`."""
    n = literal_value(rows)
    if n is None:
        return None

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        values = _unpack(builder, args[0], columns.count)
        return context.make_tuple(builder, sig.return_type, values * n)

    return types.UniTuple(columns.dtype, n * columns.count)(columns, rows), codegen


@intrinsic
def scale_tile(typing: Any, tile: Any, rows: Any) -> Any:
    """tile[i·columns + j] · rows[i]."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        values, factors = _unpack(builder, args[0], tile.count), _unpack(builder, args[1], rows.count)
        columns = tile.count // rows.count
        scaled = [builder.fmul(v, factors[i // columns]) for i, v in enumerate(values)]
        return context.make_tuple(builder, sig.return_type, scaled)

    return tile(tile, rows), codegen


@intrinsic
def scale_columns(typing: Any, tile: Any, columns: Any) -> Any:
    """tile[i·columns + j] · columns[j]."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        values, factors = _unpack(builder, args[0], tile.count), _unpack(builder, args[1], columns.count)
        scaled = [builder.fmul(v, factors[i % columns.count]) for i, v in enumerate(values)]
        return context.make_tuple(builder, sig.return_type, scaled)

    return tile(tile, columns), codegen


@intrinsic
def to_f32_tile(typing: Any, tile: Any) -> Any:
    """int32 to float32, vector by vector."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        values = [builder.sitofp(v, _VF) for v in _unpack(builder, args[0], tile.count)]
        return context.make_tuple(builder, sig.return_type, values)

    return types.UniTuple(F32, tile.count)(tile), codegen


@intrinsic
def add_scaled_tile(typing: Any, acc: Any, tile: Any, rows: Any) -> Any:
    """acc[i·columns + j] + rows[i] · tile[i·columns + j]."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        sums, values = _unpack(builder, args[0], acc.count), _unpack(builder, args[1], acc.count)
        factors = _unpack(builder, args[2], rows.count)
        columns = acc.count // rows.count
        sums = [
            _multiply_add(builder, v, factors[i // columns], s)
            for i, (s, v) in enumerate(zip(sums, values, strict=True))
        ]
        return context.make_tuple(builder, sig.return_type, sums)

    return acc(acc, acc, rows), codegen


@intrinsic
def load_grid(typing: Any, array: Any, index: Any, row: Any, rows: Any, columns: Any) -> Any:
    """A tile of rows · columns float32 vectors: (i, j) from array[index + i·row + j·LANES] on."""
    height, width = literal_value(rows), literal_value(columns)
    if height is None or width is None:
        return None

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        tile = []
        for i in range(height):
            start = builder.add(args[1], builder.mul(args[2], ir.IntType(64)(i)))
            first = _address(context, builder, sig, args, 0, start, _VF)
            tile += [builder.load(builder.gep(first, [_I(j)]), align=4) for j in range(width)]
        return context.make_tuple(builder, sig.return_type, tile)

    return types.UniTuple(F32, height * width)(array, types.intp, types.intp, rows, columns), codegen


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
def prefetch_each(typing: Any, array: Any, starts: Any, index: Any) -> Any:
    """`prefetch` at starts[i] + index for each start."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        for start in _unpack(builder, args[1], starts.count):
            pointer = _address(context, builder, sig, args, 0, builder.add(start, args[2]), _B)
            _prefetch(builder, pointer)
        return context.get_dummy_value()

    return types.void(array, starts, types.intp), codegen


def _prefetch(builder: Any, pointer: Any) -> None:
    function_type = ir.FunctionType(ir.VoidType(), [pointer.type, _I, _I, _I])
    function = cgutils.get_or_insert_function(builder.module, function_type, "llvm.prefetch.p0")
    builder.call(function, [pointer, _I(0), _I(3), _I(1)])


@intrinsic
def prefetch(typing: Any, array: Any, index: Any) -> Any:
    """Ask for the cache line of array[index]; any address is allowed."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        _prefetch(builder, _address(context, builder, sig, args, 0, args[1], _B))
        return context.get_dummy_value()

    return types.void(array, types.intp), codegen


# Streams and peaks


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
def fma_chains(typing: Any, tile: Any, factor: Any, addend: Any) -> Any:
    """tile[i]·factor + addend for each vector: as many independent chains as vectors."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        chains = [_multiply_add(builder, v, args[1], args[2]) for v in _unpack(builder, args[0], tile.count)]
        return context.make_tuple(builder, sig.return_type, chains)

    return tile(tile, F32, F32), codegen


# Attention


@intrinsic
def row_starts(typing: Any, row: Any, step: Any, last: Any, count: Any, start: Any, width: Any) -> Any:
    """start + min(row + i·step, last)·width for i below `count`: rows far apart, none behind the last."""
    n = literal_value(count)
    if n is None:
        return None

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        first, distance, final, _, origin, size = args
        starts = []
        for i in range(n):
            place = builder.add(first, builder.mul(distance, ir.IntType(64)(i)))
            place = builder.select(builder.icmp_signed("<", place, final), place, final)
            starts.append(builder.add(origin, builder.mul(place, size)))
        return context.make_tuple(builder, sig.return_type, starts)

    i = types.intp
    return types.UniTuple(i, n)(i, i, i, count, i, i), codegen


@intrinsic
def sums_vector(typing: Any, tile: Any) -> Any:
    """LANES vectors to one: lane i is the sum over the lanes of vector i.

    Pairs are merged LANES−1 times: a blend of both plus what the blend left out, moved into its place.
    """
    if tile.count != LANES:
        return None

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        vectors = _unpack(builder, args[0], LANES)
        add = builder.fadd if tile.dtype == F32 else builder.add
        width = 1
        while width < LANES:  # narrow moves first: of wide ones LLVM makes two shuffles instead of a blend
            kept = [i + LANES * bool(i & width) for i in range(LANES)]
            left_out = [(i ^ width) + LANES * bool(i & width) for i in range(LANES)]
            vectors = [
                add(
                    builder.shuffle_vector(a, b, ir.Constant(_VI, kept)),
                    builder.shuffle_vector(a, b, ir.Constant(_VI, left_out)),
                )
                for a, b in zip(vectors[::2], vectors[1::2], strict=True)
            ]
            width *= 2
        return vectors[0]

    return tile.dtype(tile), codegen


@intrinsic
def gather_lanes(typing: Any, array: Any, places: Any, repeat: Any) -> Any:
    """Lane i·repeat + j is float32 array[places[i]], for every j below `repeat`."""
    n = literal_value(repeat)
    if n is None or n * places.count != LANES:
        return None

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        few = ir.Constant(ir.VectorType(_F, places.count), ir.Undefined)
        for i, place in enumerate(_unpack(builder, args[1], places.count)):
            pointer = _address(context, builder, sig, args, 0, place, _F)
            few = builder.insert_element(few, builder.load(pointer, align=4), _I(i))
        return builder.shuffle_vector(few, few, ir.Constant(_VI, [i // n for i in range(LANES)]))

    return F32(array, places, repeat), codegen


@intrinsic
def fold_lanes(typing: Any, value: Any, step: Any, operation: Any) -> Any:
    """Every lane becomes the "sum" or "max" (literal) over all lanes that are a multiple of `step` away."""
    n, kind = literal_value(step), literal_value(operation)
    if n is None or kind is None:
        return None

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        folded, width = args[0], LANES // 2
        while width >= n:
            turned = ir.Constant(_VI, [(i + width) % LANES for i in range(LANES)])
            other = builder.shuffle_vector(folded, folded, turned)
            if kind == "sum":
                folded = builder.fadd(folded, other)
            else:
                folded = builder.select(builder.fcmp_ordered(">", folded, other), folded, other)
            width //= 2
        return folded

    return F32(F32, step, operation), codegen


@intrinsic
def any_above(typing: Any, a: Any, b: Any) -> Any:
    """Whether a > b in some lane."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        mask = ir.IntType(LANES)
        bits = builder.bitcast(builder.fcmp_ordered(">", *args), mask)
        return builder.icmp_unsigned("!=", bits, mask(0))

    return types.boolean(F32, F32), codegen


@intrinsic
def load_words_each(typing: Any, array: Any, starts: Any, index: Any) -> Any:
    """A tile: 2·LANES int8 from starts[i] + index on, widened to int16, two to a lane."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        bytes_, words = ir.VectorType(_B, 2 * LANES), ir.VectorType(_W, 2 * LANES)
        tile = []
        for start in _unpack(builder, args[1], starts.count):
            pointer = _address(context, builder, sig, args, 0, builder.add(start, args[2]), bytes_)
            tile.append(builder.bitcast(builder.sext(builder.load(pointer, align=1), words), _VI))
        return context.make_tuple(builder, sig.return_type, tile)

    return types.UniTuple(I32, starts.count)(array, starts, types.intp), codegen


def _dot2(builder: Any, acc: Any, a: Any, b: Any) -> Any:
    """acc plus two int16 products a lane."""
    if VNNI:
        return _call(builder, "llvm.x86.avx512.vpdpwssd.512", _VI, [acc, a, b])
    if AVX2 and not AVX512:
        words = ir.VectorType(_W, 16)
        pair = [builder.bitcast(v, words) for v in (a, b)]
        return builder.add(acc, _call(builder, "llvm.x86.avx2.pmadd.wd", _VI, pair))
    half = _splat(_I, 16)
    low = builder.mul(*(builder.ashr(builder.shl(v, half), half) for v in (a, b)))
    return builder.add(acc, builder.add(low, builder.mul(*(builder.ashr(v, half) for v in (a, b)))))


@intrinsic
def dot_s16_tile(typing: Any, acc: Any, rows: Any, columns: Any) -> Any:
    """acc[i·len(columns) + j] += dot(rows[i], columns[j]) of int16 pairs, into int32."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        sums = _unpack(builder, args[0], acc.count)
        left, right = _unpack(builder, args[1], rows.count), _unpack(builder, args[2], columns.count)
        for place in range(acc.count):
            i, j = divmod(place, columns.count)
            sums[place] = _dot2(builder, sums[place], left[i], right[j])
        return context.make_tuple(builder, sig.return_type, sums)

    if acc.count != rows.count * columns.count:
        return None
    return acc(acc, rows, columns), codegen


def _interleave(builder: Any, a: Any, b: Any, high: bool) -> Any:
    """vpunpckl/vpunpckh: elements of a and b in turn, from one half of each 128-bit piece."""
    per_piece = 128 // a.type.element.width
    order = []
    for piece in range(0, a.type.count, per_piece):
        first = piece + (per_piece // 2 if high else 0)
        for i in range(first, first + per_piece // 2):
            order += [i, i + a.type.count]
    return builder.shuffle_vector(a, b, ir.Constant(ir.VectorType(_I, a.type.count), order))


@intrinsic
def interleave_words(typing: Any, tile: Any) -> Any:
    """Neighbouring vectors of int16 in pairs: lane l of vector 2i + j has the numbers (l//4)·8 + 4·j + l%4 of 2i and 2i + 1.

    Pieces of 128 bits stay where they are.
    """
    if tile.count % 2:
        return None

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        words = ir.VectorType(_W, 2 * LANES)
        rows = [builder.bitcast(row, words) for row in _unpack(builder, args[0], tile.count)]
        pairs = [
            builder.bitcast(_interleave(builder, a, b, high), _VI)
            for a, b in zip(rows[::2], rows[1::2], strict=True)
            for high in (False, True)
        ]
        return context.make_tuple(builder, sig.return_type, pairs)

    return tile(tile), codegen


@intrinsic
def pair_lanes(typing: Any, value: Any, step: Any) -> Any:
    """The low 16 bits of each lane and, above them, those of the lane `step` further on."""
    n = literal_value(step)
    if n is None:
        return None

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        further = ir.Constant(_VI, [(i + n) % LANES for i in range(LANES)])
        upper = builder.shl(builder.shuffle_vector(args[0], args[0], further), _splat(_I, 16))
        return builder.or_(builder.and_(args[0], _splat(_I, 0xFFFF)), upper)

    return I32(I32, step), codegen


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
def weigh_words(typing: Any, acc: Any, array: Any, index: Any, step: Any, pairs: Any, columns: Any) -> Any:
    """acc[i·columns + j] + Σ dot2(array[index + p·step + i], pairs[p·columns + j]): int16 in pairs, int32 sums.

    The array is of 32 bits; each of its numbers, two int16, meets all lanes of a vector.
    """
    apart, n = literal_value(step), literal_value(columns)
    if apart is None or n is None:
        return None

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        sums, right = _unpack(builder, args[0], acc.count), _unpack(builder, args[4], pairs.count)
        pointer = _address(context, builder, sig, args, 1, args[2], _I)
        for p in range(pairs.count // n):
            for i in range(acc.count // n):
                word = builder.load(builder.gep(pointer, [_I(p * apart + i)]), align=4)
                weights = _broadcast(builder, word)
                for j in range(n):
                    sums[i * n + j] = _dot2(builder, sums[i * n + j], weights, right[p * n + j])
        return context.make_tuple(builder, sig.return_type, sums)

    return acc(acc, array, types.intp, step, pairs, columns), codegen
