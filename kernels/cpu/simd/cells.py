"""Outer products of vectors and cells: what a matrix product of panels is made of, whatever its numbers are.

    acc = add_outer(acc, vectors, array, index, stride, "float")

A cell has 32 bits: one float32, or two bfloat16 that stand next to each other along the sum. Kernels of several formats then
differ in how panels are filled and in nothing else.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from membound.kernels.cpu.simd.dot_products import _dot_bf16
from membound.kernels.cpu.simd.ir import _F, F32, _address, _broadcast, _multiply_add, _unpack, literal_value

CELLS = ("float", "pairs")
"""What a cell holds."""


@intrinsic
def add_outer(typing: Any, acc: Any, vectors: Any, array: Any, index: Any, stride: Any, kind: Any) -> Any:
    """acc[j·n + i] += vectors[i] ∘ cell j, for all n vectors and as many cells as the sums hold.

    Cell j is array[index + j·stride], in every lane; stride and kind (of CELLS) are literal. All float32 in type: of pairs
    the bits are, and the sums of their products are numbers.
    """
    step, cell = literal_value(stride), literal_value(kind)
    if step is None or cell not in CELLS or acc.count % vectors.count:
        return None
    n = vectors.count

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        sums, left = _unpack(builder, args[0], acc.count), _unpack(builder, args[1], n)
        pointer = _address(context, builder, sig, args, 2, args[3], _F)
        for j in range(acc.count // n):
            place = builder.gep(pointer, [ir.IntType(64)(j * step)])
            column = _broadcast(builder, builder.load(place, align=4))
            for i, vector in enumerate(left):
                at = j * n + i
                if cell == "pairs":
                    sums[at] = _dot_bf16(builder, sums[at], vector, column)
                else:
                    sums[at] = _multiply_add(builder, vector, column, sums[at])
        return context.make_tuple(builder, sig.return_type, sums)

    return types.UniTuple(F32, acc.count)(acc, vectors, array, types.intp, stride, kind), codegen
