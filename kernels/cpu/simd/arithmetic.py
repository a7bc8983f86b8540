"""Arithmetic lane by lane: sums, products and both at once, of vectors and of whole tiles.

    acc = fma_tile(acc, rows, columns)                # acc[i, j] += rows[i] · columns[j]

A tile with rows and columns holds row i, column j as vector i·columns + j.
"""

from __future__ import annotations

from typing import Any

from numba import types
from numba.extending import intrinsic

from membound.kernels.cpu.simd.features import LANES
from membound.kernels.cpu.simd.ir import (
    _F,
    _I,
    _VF,
    F32,
    I32,
    Vector,
    _address,
    _broadcast,
    _call,
    _multiply_add,
    _unpack,
)


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
def fma_chains(typing: Any, tile: Any, factor: Any, addend: Any) -> Any:
    """tile[i]·factor + addend for each vector: as many independent chains as vectors."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        chains = [_multiply_add(builder, v, args[1], args[2]) for v in _unpack(builder, args[0], tile.count)]
        return context.make_tuple(builder, sig.return_type, chains)

    return tile(tile, F32, F32), codegen
