"""Dot products of narrow numbers: int8, nibbles, int16 and bfloat16, several a lane, summed into 32 bits.

Products of integers are exact. An instruction does each where the machine has one (VNNI, AVX512-BF16); AVX2 adds
pairs in int16 first, and everything else shifts and multiplies.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from membound.kernels.cpu.simd.features import AVX2, AVX512, LANES, VNNI
from membound.kernels.cpu.simd.ir import (
    _B,
    _I,
    _VF,
    _VI,
    _W,
    F32,
    _address,
    _broadcast,
    _call,
    _splat,
    _unpack,
    literal_value,
)


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


def _dot_bf16(builder: Any, acc: Any, a: Any, b: Any) -> Any:
    """acc plus two products of bfloat16 a lane: see `dot_bf16_broadcast`."""
    pairs = ir.VectorType(_BFloat(), 2 * LANES)
    both = [builder.bitcast(a, pairs), builder.bitcast(b, pairs)]
    return _call(builder, "llvm.x86.avx512bf16.dpbf16ps.512", _VF, [acc, *both])


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
        for j in range(columns):
            column = _broadcast(builder, builder.load(builder.gep(pointer, [_I(j)]), align=1))
            for i, row in enumerate(left):
                place = i * columns + j
                sums[place] = _dot_bf16(builder, sums[place], row, column)
        return context.make_tuple(builder, sig.return_type, sums)

    return acc(acc, rows, array, types.intp), codegen


def _dot4_unsigned(builder: Any, acc: Any, unsigned: Any, signed: Any) -> Any:
    if VNNI:
        return _call(builder, "llvm.x86.avx512.vpdpbusd.512", _VI, [acc, unsigned, signed])
    if _PAIRS:
        return _dot4_avx2(builder, acc, unsigned, signed)
    return _dot4_plain(builder, acc, unsigned, signed, signed=False)


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


def _dot_into(acc: Any) -> Any:
    """What adds two products a lane to such sums."""
    return _dot_bf16 if acc.dtype == F32 else _dot2


@intrinsic
def dot_tile(typing: Any, acc: Any, rows: Any, columns: Any) -> Any:
    """acc[i·len(columns) + j] += dot(rows[i], columns[j]) of int16 pairs into int32, or of bfloat16 pairs into float32."""
    dot = _dot_into(acc)

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        sums = _unpack(builder, args[0], acc.count)
        left, right = _unpack(builder, args[1], rows.count), _unpack(builder, args[2], columns.count)
        for place in range(acc.count):
            i, j = divmod(place, columns.count)
            sums[place] = dot(builder, sums[place], left[i], right[j])
        return context.make_tuple(builder, sig.return_type, sums)

    if acc.count != rows.count * columns.count:
        return None
    return acc(acc, rows, columns), codegen


@intrinsic
def weigh_words(typing: Any, acc: Any, array: Any, index: Any, step: Any, pairs: Any, columns: Any) -> Any:
    """acc[i·columns + j] + Σ dot(array[index + p·step + i], pairs[p·columns + j]), of pairs as in `dot_tile`.

    The array is of 32 bits; each of its numbers, a pair, meets all lanes of a vector.
    """
    dot = _dot_into(acc)
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
                    sums[i * n + j] = dot(builder, sums[i * n + j], weights, right[p * n + j])
        return context.make_tuple(builder, sig.return_type, sums)

    return acc(acc, array, types.intp, step, pairs, columns), codegen
