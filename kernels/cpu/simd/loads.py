"""Loads: numbers and bytes from memory into vectors and tiles.

    x = load(array, index, "bf16")                    # LANES numbers, as float32
    rows = load_each(w, starts, k, "int8")            # a vector from each start

Numbers are widened to float32 as they are loaded; bytes and int16 come packed into the lanes of an I32.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from membound.kernels.cpu.simd.features import LANES
from membound.kernels.cpu.simd.ir import (
    _B,
    _F,
    _I,
    _STORED,
    _VF,
    _VI,
    _W,
    F32,
    I32,
    _address,
    _broadcast,
    _call,
    _splat,
    _unpack,
    _widen,
    literal_value,
)


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
def load_half_each(typing: Any, array: Any, starts: Any, index: Any, half: Any) -> Any:
    """A tile: of 2·LANES bfloat16 from starts[i] + index on, those at even places (half 0, literal) or at odd ones (1), as float32."""
    which = literal_value(half)
    if which is None:
        return None

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        tile = []
        for start in _unpack(builder, args[1], starts.count):
            pointer = _address(context, builder, sig, args, 0, builder.add(start, args[2]), _VI)
            tile.append(_half(builder, builder.load(pointer, align=1), which))
        return context.make_tuple(builder, sig.return_type, tile)

    return types.UniTuple(F32, starts.count)(array, starts, types.intp, half), codegen


@intrinsic
def load_halves_next(typing: Any, array: Any, index: Any, count: Any, fmt: Any) -> Any:
    """A tile: `count` vectors of the bfloat16 from array[index] on, of each 2·LANES those at even places and those at odd ones."""
    n = literal_value(count)
    if n is None or n % 2 or literal_value(fmt) != "bf16":
        return None

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        first = _address(context, builder, sig, args, 0, args[1], _VI)
        words = [builder.load(builder.gep(first, [_I(i)]), align=1) for i in range(n // 2)]
        tile = [_half(builder, word, half) for word in words for half in (0, 1)]
        return context.make_tuple(builder, sig.return_type, tile)

    return types.UniTuple(F32, n)(array, types.intp, count, fmt), codegen


def _half(builder: Any, words: Any, half: int) -> Any:
    """The lower (0) or upper (1) 16 bits of each lane as a bfloat16."""
    bits = builder.and_(words, _splat(_I, 0xFFFF0000)) if half else builder.shl(words, _splat(_I, 16))
    return builder.bitcast(bits, _VF)


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
def widen_at(typing: Any, array: Any, index: Any, fmt: Any) -> Any:
    """One stored number array[index] as float32."""
    kind = literal_value(fmt)
    if kind is None:
        return None

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        pointer = _address(context, builder, sig, args, 0, args[1], _STORED[kind])
        return _widen(builder, builder.load(pointer, align=1), kind)

    return types.float32(array, types.intp, fmt), codegen


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
