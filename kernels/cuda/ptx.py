"""What CUDA can do and Numba does not offer: wide loads, packed arithmetic, tensor cores. The only file with PTX.

Memory is a pointer argument of a kernel (or a shared array); an index counts its elements. A group of four
words is 16 bytes, which the hardware moves in one instruction; such an index must be a multiple of 16 bytes.

    a, b, c, d = load4(w, i)                         # sixteen bytes of weights
    c0, c1, c2, c3 = mma_bf16(a0, a1, a2, a3, b0, b1, c0, c1, c2, c3)

Every operation has its double of the same name in simulator.py, which is how kernels run without a GPU.
Sources: the PTX ISA 9.0 for the instructions, their operands and the fragments of mma (its section on
mma.m16n8k16: of lane 4·g + t, a0 holds row g, a1 row g + 8, columns 2t and 2t + 1; a2 and a3 those plus 8;
b0 and b1 hold column g, rows 2t, 2t + 1 and those plus 8; c0, c1 row g, c2, c3 row g + 8, columns 2t, 2t + 1).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from llvmlite import ir

from membound.kernels.cuda.compile import TypingError, intrinsic, types

_U32, _F32, _I64, _U64 = types.uint32, types.float32, types.int64, types.uint64
_WORD, _LONG, _FLOAT = ir.IntType(32), ir.IntType(64), ir.FloatType()
_GLOBAL, _SHARED = 1, 3  # LLVM's numbers of NVPTX address spaces
_LLVM = {_U32: _WORD, _F32: _FLOAT, _U64: _LONG}
MOST_GROUPS = 15
"""Groups of copies that `wait_copies_but` may leave under way: rings here have up to MOST_STAGES stages."""
MOST_STAGES = MOST_GROUPS + 1
_LETTER = {_U32: "r", _F32: "f", _U64: "l"}


def _address(context: Any, builder: Any, sig: Any, args: Any, memory: int, space: int) -> Any:
    """Pointer in `space` to the element that argument `memory` and the index behind it name."""
    kind = sig.args[memory]
    base = args[memory]
    if not isinstance(kind, types.CPointer):
        base = context.make_array(kind)(context, builder, value=base).data
    pointer = builder.gep(base, [args[memory + 1]])
    return builder.addrspacecast(pointer, pointer.type.pointee.as_pointer(space))


def _words(context: Any, builder: Any, sig: Any, value: Any) -> Any:
    """The members of an LLVM structure as a tuple of Numba's."""
    count = len(sig.return_type)
    return context.make_tuple(
        builder, sig.return_type, [builder.extract_value(value, i) for i in range(count)]
    )


def _operation(text: str, result: Any, operands: tuple[Any, ...], volatile: bool = False) -> Any:
    """An intrinsic of one instruction between registers; several results are a tuple of one type."""
    results = tuple(result) if isinstance(result, types.UniTuple) else (result,)
    letters = [f"={_LETTER[kind]}" for kind in results] + [_LETTER[kind] for kind in operands]
    several = len(results) > 1
    returned = ir.LiteralStructType([_LLVM[kind] for kind in results]) if several else _LLVM[result]
    function = ir.FunctionType(returned, [_LLVM[kind] for kind in operands])

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        assembly = ir.InlineAsm(function, text, ",".join(letters), side_effect=volatile)
        value = builder.call(assembly, args)
        return _words(context, builder, sig, value) if several else value

    return result(*operands), codegen


# Memory


def _load_through_llvm(space: int, invariant: bool = False) -> Callable[..., Any]:
    def typer(_context: Any, memory: Any, index: Any) -> Any:
        def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
            vector = ir.VectorType(_WORD, 4)
            pointer = _address(context, builder, sig, args, 0, space)
            value = builder.load(builder.bitcast(pointer, vector.as_pointer(space)), align=16)
            if invariant:
                value.set_metadata("invariant.load", builder.module.add_metadata([]))
            lanes = [builder.extract_element(value, _WORD(i)) for i in range(4)]
            return context.make_tuple(builder, sig.return_type, lanes)

        return types.UniTuple(_U32, 4)(memory, _I64), codegen

    return typer


def _stream(words: int, load: str) -> Callable[..., Any]:
    def typer(_context: Any, memory: Any, index: Any) -> Any:
        def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
            pointer = _address(context, builder, sig, args, 0, _GLOBAL)
            function = ir.FunctionType(ir.LiteralStructType([_WORD] * words), [pointer.type])
            names = ",".join(f"${i}" for i in range(words))
            text = f"{load}.L1::no_allocate.L2::256B.v{words}.u32 {{{names}}}, [${words}];"
            assembly = ir.InlineAsm(function, text, "=r," * words + "l", side_effect=True)
            return _words(context, builder, sig, builder.call(assembly, [pointer]))

        return types.UniTuple(_U32, words)(memory, _I64), codegen

    return typer


@intrinsic
def load4(typingctx: Any, memory: Any, index: Any) -> Any:
    """Sixteen bytes that nobody writes during the kernel, as four uint32; the compiler may move the load."""
    return _load_through_llvm(_GLOBAL, invariant=True)(typingctx, memory, index)


@intrinsic
def load4_coherent(typingctx: Any, memory: Any, index: Any) -> Any:
    """Sixteen bytes that this kernel may also write, as four uint32."""
    return _load_through_llvm(_GLOBAL)(typingctx, memory, index)


@intrinsic
def stream4(typingctx: Any, memory: Any, index: Any) -> Any:
    """Sixteen bytes that are read once: past the first-level cache, 256 bytes at a time into the second.

    It keeps its place in the program, so that loads written before a syncwarp are all in flight after it.
    """
    return _stream(4, "ld.global.nc")(typingctx, memory, index)


@intrinsic
def stream4_ordered(typingctx: Any, memory: Any, index: Any) -> Any:
    """As `stream4`, and no later syncwarp passes it: with long chains of mma behind, the others sink into them."""
    return _stream(4, "ld.global")(typingctx, memory, index)


@intrinsic
def stream2_ordered(typingctx: Any, memory: Any, index: Any) -> Any:
    """Eight bytes, as `stream4_ordered`."""
    return _stream(2, "ld.global")(typingctx, memory, index)


@intrinsic
def store4(typingctx: Any, memory: Any, index: Any, a: Any, b: Any, c: Any, d: Any) -> Any:
    """Write four uint32, sixteen bytes."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        vector = ir.VectorType(_WORD, 4)
        pointer = _address(context, builder, sig, args, 0, _GLOBAL)
        value = ir.Constant(vector, ir.Undefined)
        for i in range(4):
            value = builder.insert_element(value, args[2 + i], _WORD(i))
        builder.store(value, builder.bitcast(pointer, vector.as_pointer(_GLOBAL)), align=16)
        return context.get_dummy_value()

    return types.void(memory, _I64, _U32, _U32, _U32, _U32), codegen


@intrinsic
def copy4_async(typingctx: Any, shared: Any, to: Any, memory: Any, index: Any) -> Any:
    """Start to copy sixteen bytes of global memory into a shared array (cp.async): those behind it must wait for it."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        target = builder.ptrtoint(_address(context, builder, sig, args, 0, _SHARED), _WORD)
        source = builder.ptrtoint(_address(context, builder, sig, args, 2, _GLOBAL), _LONG)
        function = ir.FunctionType(ir.VoidType(), [_WORD, _LONG])
        text = "cp.async.cg.shared.global.L2::256B [$0], [$1], 16;"
        builder.call(ir.InlineAsm(function, text, "r,l,~{memory}", side_effect=True), [target, source])
        return context.get_dummy_value()

    return types.void(shared, _I64, memory, _I64), codegen


def _order(text: str) -> Any:
    """An instruction without operands that orders memory accesses."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        assembly = ir.InlineAsm(ir.FunctionType(ir.VoidType(), []), text, "~{memory}", side_effect=True)
        builder.call(assembly, [])
        return context.get_dummy_value()

    return types.void(), codegen


@intrinsic
def commit_copies(typingctx: Any) -> Any:
    """Close the group of the copies that this thread started."""
    return _order("cp.async.commit_group;")


@intrinsic
def wait_copies(typingctx: Any) -> Any:
    """Wait until all groups of this thread's copies have arrived; syncthreads makes others' visible."""
    return _order("cp.async.wait_group 0;")


@intrinsic
def wait_copies_but(typingctx: Any, groups: Any) -> Any:
    """Wait until all but the last `groups` groups of this thread's copies have arrived.

    The instruction takes a constant. Compilation fails unless `groups` is one, from 0 to MOST_GROUPS.
    """
    if not isinstance(groups, types.IntegerLiteral) or not 0 <= groups.literal_value <= MOST_GROUPS:
        raise TypingError(f"wait_copies_but takes a constant from 0 to {MOST_GROUPS}, not {groups}")
    _, codegen = _order(f"cp.async.wait_group {groups.literal_value};")
    return types.void(groups), codegen


@intrinsic
def load4_shared(typingctx: Any, shared: Any, index: Any) -> Any:
    """Sixteen bytes of a shared array, as four uint32."""
    return _load_through_llvm(_SHARED)(typingctx, shared, index)


# Words of the host, which it reads and writes while a kernel runs


@intrinsic
def load_host(typingctx: Any, memory: Any, index: Any) -> Any:
    """A uint32 that the host may have written since it was last read."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        pointer = _address(context, builder, sig, args, 0, _GLOBAL)
        function = ir.FunctionType(_WORD, [pointer.type])
        assembly = ir.InlineAsm(function, "ld.volatile.global.u32 $0, [$1];", "=r,l", side_effect=True)
        return builder.call(assembly, [pointer])

    return _U32(memory, _I64), codegen


@intrinsic
def store_host(typingctx: Any, memory: Any, index: Any, value: Any) -> Any:
    """Write a uint32 that the host sees while the kernel runs."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        pointer = _address(context, builder, sig, args, 0, _GLOBAL)
        function = ir.FunctionType(ir.VoidType(), [pointer.type, _WORD])
        assembly = ir.InlineAsm(function, "st.volatile.global.u32 [$0], $1;", "l,r", side_effect=True)
        builder.call(assembly, [pointer, args[2]])
        return context.get_dummy_value()

    return types.void(memory, _I64, _U32), codegen


@intrinsic
def microseconds(typingctx: Any) -> Any:
    """The GPU's clock in units of 1.024 µs, as uint32, which begins anew after 73 minutes."""
    text = "{.reg .b64 t; mov.u64 t, %globaltimer; shr.u64 t, t, 10; cvt.u32.u64 $0, t;}"
    return _operation(text, _U32, (), volatile=True)


# Bits and packed pairs: a word holds two 16-bit numbers, the first in its low half


@intrinsic
def as_f32(typingctx: Any, word: Any) -> Any:
    """The float32 of these bits."""
    return _F32(_U32), lambda context, builder, sig, args: builder.bitcast(args[0], _FLOAT)


@intrinsic
def as_u32(typingctx: Any, value: Any) -> Any:
    """The bits of a float32."""
    return _U32(_F32), lambda context, builder, sig, args: builder.bitcast(args[0], _WORD)


@intrinsic
def low_bf16(typingctx: Any, word: Any) -> Any:
    """The first bfloat16 of a pair, as float32."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return builder.bitcast(builder.shl(args[0], _WORD(16)), _FLOAT)

    return _F32(_U32), codegen


@intrinsic
def high_bf16(typingctx: Any, word: Any) -> Any:
    """The second bfloat16 of a pair, as float32."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return builder.bitcast(builder.and_(args[0], _WORD(0xFFFF0000)), _FLOAT)

    return _F32(_U32), codegen


@intrinsic
def low_f16(typingctx: Any, word: Any) -> Any:
    """The first float16 of a pair, as float32."""
    return _operation("{.reg .b16 l,h; mov.b32 {l,h}, $1; cvt.f32.f16 $0, l;}", _F32, (_U32,))


@intrinsic
def high_f16(typingctx: Any, word: Any) -> Any:
    """The second float16 of a pair, as float32."""
    return _operation("{.reg .b16 l,h; mov.b32 {l,h}, $1; cvt.f32.f16 $0, h;}", _F32, (_U32,))


@intrinsic
def pack_bf16(typingctx: Any, low: Any, high: Any) -> Any:
    """Two float32 as a pair of bfloat16, rounded to nearest even."""
    return _operation("cvt.rn.bf16x2.f32 $0, $2, $1;", _U32, (_F32, _F32))


@intrinsic
def pack_f16(typingctx: Any, low: Any, high: Any) -> Any:
    """Two float32 as a pair of float16, rounded to nearest even."""
    return _operation("cvt.rn.f16x2.f32 $0, $2, $1;", _U32, (_F32, _F32))


@intrinsic
def subtract_f16(typingctx: Any, a: Any, b: Any) -> Any:
    """a - b of two pairs of float16."""
    return _operation("sub.rn.f16x2 $0, $1, $2;", _U32, (_U32, _U32))


@intrinsic
def fma_f16(typingctx: Any, a: Any, b: Any, c: Any) -> Any:
    """a·b + c of pairs of float16, rounded once."""
    return _operation("fma.rn.f16x2 $0, $1, $2, $3;", _U32, (_U32, _U32, _U32))


@intrinsic
def pick_bytes(typingctx: Any, a: Any, b: Any, selector: Any) -> Any:
    """A word of four bytes out of the eight of a (0 to 3) and b (4 to 7); a nibble of the selector names each."""
    return _operation("prmt.b32 $0, $1, $2, $3;", _U32, (_U32, _U32, _U32))


@intrinsic
def transpose8(typingctx: Any, word: Any) -> Any:
    """The transpose of a warp's 8 × 8 matrix of 16 bits: lane 4·g + t has row g, columns 2t and 2t + 1."""
    return _operation("movmatrix.sync.aligned.m8n8.trans.b16 $0, $1;", _U32, (_U32,), volatile=True)


@intrinsic
def set_bits(typingctx: Any, word: Any, mask: Any, bits: Any) -> Any:
    """(word & mask) | bits, in one instruction where the compiler would make two of constants."""
    return _operation("lop3.b32 $0, $1, $2, $3, 0xEA;", _U32, (_U32, _U32, _U32))


@intrinsic
def unpack_e4m3(typingctx: Any, pair: Any) -> Any:
    """The two fp8 (e4m3) numbers in the low 16 bits as a pair of float16, exact."""
    text = "{.reg .b16 l,h; mov.b32 {l,h}, $1; cvt.rn.f16x2.e4m3x2 $0, l;}"
    return _operation(text, _U32, (_U32,))


@intrinsic
def pack_e4m3(typingctx: Any, low: Any, high: Any) -> Any:
    """Two float32 as fp8 (e4m3) in the low 16 bits, to nearest even, cut at ±448; needs capability 8.9."""
    text = "{.reg .b16 l; cvt.rn.satfinite.e4m3x2.f32 l, $2, $1; mov.b32 $0, {l, l};}"
    return _operation(text, _U32, (_F32, _F32))


# Arithmetic


@intrinsic
def fma_f32(typingctx: Any, a: Any, b: Any, c: Any) -> Any:
    """a·b + c, rounded once, in one instruction that no optimisation of the compiler takes apart."""
    return _operation("fma.rn.f32 $0, $1, $2, $3;", _F32, (_F32, _F32, _F32))


@intrinsic
def exp2_fast(typingctx: Any, x: Any) -> Any:
    """2^x to 2 units in the last place (ex2.approx.ftz.f32)."""
    return _operation("ex2.approx.ftz.f32 $0, $1;", _F32, (_F32,))


@intrinsic
def log2_fast(typingctx: Any, x: Any) -> Any:
    """log2(x) with an absolute error of 2^-22 (lg2.approx.ftz.f32)."""
    return _operation("lg2.approx.ftz.f32 $0, $1;", _F32, (_F32,))


@intrinsic
def rsqrt_fast(typingctx: Any, x: Any) -> Any:
    """1 / sqrt(x) with a relative error of 2^-22.9 (rsqrt.approx.ftz.f32)."""
    return _operation("rsqrt.approx.ftz.f32 $0, $1;", _F32, (_F32,))


_FRAGMENT = types.UniTuple(_F32, 4)
_MMA = "mma.sync.aligned.m16n8k16.row.col.f32.{0}.{0}.f32 {{$0,$1,$2,$3}}, {{$4,$5,$6,$7}}, {{$8,$9}}, {{$10,$11,$12,$13}};"
_MMA_OPERANDS = (_U32,) * 6 + (_F32,) * 4


@intrinsic
def mma_bf16(
    typingctx: Any, a0: Any, a1: Any, a2: Any, a3: Any, b0: Any, b1: Any, c0: Any, c1: Any, c2: Any, c3: Any
) -> Any:
    """C + A·B for a warp's fragments of A [16, 16], B [16, 8] in bfloat16 and C [16, 8] in float32."""
    return _operation(_MMA.format("bf16"), _FRAGMENT, _MMA_OPERANDS, volatile=True)


@intrinsic
def mma_f16(
    typingctx: Any, a0: Any, a1: Any, a2: Any, a3: Any, b0: Any, b1: Any, c0: Any, c1: Any, c2: Any, c3: Any
) -> Any:
    """C + A·B for a warp's fragments of A [16, 16], B [16, 8] in float16 and C [16, 8] in float32."""
    return _operation(_MMA.format("f16"), _FRAGMENT, _MMA_OPERANDS, volatile=True)
