"""Streams through memory: where each begins, and asking for its cache lines ahead of the loads.

    starts = far_starts(first, row, 4)                # four rows, each `row` elements behind the last
    prefetch_each(w, starts, k + ahead)

Starts are tuples of indices, which the loads and stores of tiles take.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from membound.kernels.cpu.simd.ir import _B, _I, _address, _unpack, literal_value


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
