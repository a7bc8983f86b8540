"""Across the lanes of a vector: their sum, their largest, and numbers that change places."""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from membound.kernels.cpu.simd.features import LANES
from membound.kernels.cpu.simd.ir import _I, _VI, _W, F32, I32, _splat, _unpack, literal_value


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
def transpose(typing: Any, tile: Any) -> Any:
    """LANES vectors: lane j of vector i becomes lane i of vector j. Lanes are moved as they are, whatever they hold."""
    if tile.count != LANES:
        return None

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        vectors, width = _unpack(builder, args[0], LANES), 1
        while width < LANES:
            upper = [bool(i & width) for i in range(LANES)]
            first = ir.Constant(_VI, [LANES + i - width if up else i for i, up in enumerate(upper)])
            second = ir.Constant(_VI, [LANES + i if up else i + width for i, up in enumerate(upper)])
            for i in (i for i, up in enumerate(upper) if not up):
                a, b = vectors[i], vectors[i + width]
                vectors[i] = builder.shuffle_vector(a, b, first)
                vectors[i + width] = builder.shuffle_vector(a, b, second)
            width *= 2
        return context.make_tuple(builder, sig.return_type, vectors)

    return tile(tile), codegen
