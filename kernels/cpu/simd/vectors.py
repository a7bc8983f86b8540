"""Vectors and tiles of constants: zeros, one number in every lane, the same columns in every row."""

from __future__ import annotations

from typing import Any

from numba import types
from numba.extending import intrinsic

from membound.kernels.cpu.simd.ir import _F, _I, F32, I32, _broadcast, _splat, _unpack, literal_value


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
