"""Intel AMX for Numba: eight registers of 16 rows × 64 bytes and their matrix product.

    configure_tiles(configuration)                        # once a thread
    clear_sums()
    for step in range(steps):                             # four panels of W, 16 rows of x
        multiply_panels(w, starts, step * 1024, x, step * 64, stride, "bf16")
    store_sums(y, at, panel_step, stride, 4)
    release_tiles()

Linux hands the tile state out on request only, once a process
(`permit_tiles`). Intel, "Intel 64 and IA-32 Architectures Software Developer's Manual", vol. 1 ch. 18;
arch_prctl(2) ARCH_REQ_XCOMP_PERM.
"""

from __future__ import annotations

import ctypes
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt
from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from membound.kernels.cpu.simd.features import AVX512, FEATURES
from membound.kernels.cpu.simd.ir import literal_value

_BYTE, _WORD = ir.IntType(8), ir.IntType(64)
_LOAD, _STORE = "llvm.x86.tileloadd64", "llvm.x86.tilestored64"
_ARCH_PRCTL, _ARCH_REQ_XCOMP_PERM, _XFEATURE_XTILEDATA = 158, 0x1023, 18


@cache
def permit_tiles() -> bool:
    """Ask the kernel for the tile registers; False where it or the processor has none."""
    if not AVX512 or "amx-tile" not in FEATURES:
        return False
    libc = ctypes.CDLL(None, use_errno=True)
    return bool(libc.syscall(_ARCH_PRCTL, _ARCH_REQ_XCOMP_PERM, _XFEATURE_XTILEDATA) == 0)


AMX_BF16 = "amx-bf16" in FEATURES and permit_tiles()
AMX_INT8 = "amx-int8" in FEATURES and permit_tiles()


def tile_configuration() -> npt.NDArray[np.uint8]:
    """64 bytes that give every register 16 rows of 64 bytes (palette 1)."""
    configuration = np.zeros(64, np.uint8)
    configuration[0] = 1
    configuration[16:32].view(np.uint16)[:] = 64
    configuration[48:56] = 16
    return configuration


def _pointer(context: Any, builder: Any, sig: Any, args: Any, array: int, index: Any) -> Any:
    data = context.make_array(sig.args[array])(context, builder, value=args[array]).data
    return builder.bitcast(builder.gep(data, [index]), _BYTE.as_pointer())


def _emit(builder: Any, name: str, args: list[Any]) -> None:
    function_type = ir.FunctionType(ir.VoidType(), [a.type for a in args])
    function = builder.module.globals.get(name)
    builder.call(function or ir.Function(builder.module, function_type, name), args)


@intrinsic
def configure_tiles(typing: Any, configuration: Any) -> Any:
    """Load the shapes of the registers from `tile_configuration()`."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        _emit(builder, "llvm.x86.ldtilecfg", [_pointer(context, builder, sig, args, 0, _WORD(0))])
        return context.get_dummy_value()

    return types.void(configuration), codegen


@intrinsic
def release_tiles(typing: Any) -> Any:
    """Return the registers to their initial state."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        _emit(builder, "llvm.x86.tilerelease", [])
        return context.get_dummy_value()

    return types.void(), codegen


SUMS, X_REGISTER, W_REGISTER = 4, 4, 5
"""Registers 0 to 3 hold sums, 4 rows of x, 5 rows of W; 6 and 7 stay unused on purpose. A core has few tile registers beyond the
eight that have names, and its two hyperthreads share them: while the other one works, a load into a register in use waits
for the products before it, the sooner the more names are in use. A product with its load from the first-level cache, four
sums, a core whose other hyperthread belongs to somebody else: W in three registers by turns 36-39 ns, in one 19-22 ns; while the
other one rests 7.3 ns both."""


@intrinsic
def clear_sums(typing: Any) -> Any:
    """Zero the four sums."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        for register in range(SUMS):
            _emit(builder, "llvm.x86.tilezero", [_BYTE(register)])
        return context.get_dummy_value()

    return types.void(), codegen


def _product(builder: Any, fmt: str, total: int, x: int, w: int) -> None:
    """sum[m, n] += Σ x[m, k] · w[n, k]: bfloat16 into float32, or signed int8 into int32."""
    name = "llvm.x86.tdpbf16ps" if fmt == "bf16" else "llvm.x86.tdpbssd"
    _emit(builder, name, [_BYTE(total), _BYTE(x), _BYTE(w)])


@intrinsic
def multiply_panels(
    typing: Any, w: Any, starts: Any, at: Any, x: Any, x_at: Any, stride: Any, fmt: Any
) -> Any:
    """64 bytes of k: sum[panel] += x · w[panel] for up to four panels.

    w[starts[panel] + at] is 16 rows of 64 bytes behind each other, x[x_at] 16 rows `stride` bytes apart.
    """
    kind = literal_value(fmt)
    if kind is None:
        return None

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        rows = _pointer(context, builder, sig, args, 3, args[4])
        _emit(builder, _LOAD, [_BYTE(X_REGISTER), rows, args[5]])
        for panel in range(starts.count):
            place = builder.add(builder.extract_value(args[1], panel), args[2])
            pointer = _pointer(context, builder, sig, args, 0, place)
            _emit(builder, _LOAD, [_BYTE(W_REGISTER), pointer, _WORD(64)])
            _product(builder, kind, panel, X_REGISTER, W_REGISTER)
        return context.get_dummy_value()

    return types.void(w, starts, types.intp, x, types.intp, types.intp, fmt), codegen


@intrinsic
def multiply_tiles(typing: Any, w: Any, at: Any, x: Any, x_at: Any, stride: Any, tiles: Any, fmt: Any) -> Any:
    """64 bytes of k: sum[tile] += x[tile] · w for up to four tiles of x, 16 rows each below the other."""
    m, kind = literal_value(tiles), literal_value(fmt)
    if m is None or kind is None:
        return None

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        rows = _pointer(context, builder, sig, args, 0, args[1])
        _emit(builder, _LOAD, [_BYTE(W_REGISTER), rows, _WORD(64)])
        for tile in range(m):
            place = builder.add(args[3], builder.mul(args[4], _WORD(16 * tile)))
            pointer = _pointer(context, builder, sig, args, 2, place)
            _emit(builder, _LOAD, [_BYTE(X_REGISTER), pointer, args[4]])
            _product(builder, kind, tile, X_REGISTER, W_REGISTER)
        return context.get_dummy_value()

    return types.void(w, types.intp, x, types.intp, types.intp, tiles, fmt), codegen


def _transfer(name: str, doc: str) -> Any:
    def typer(typing: Any, array: Any, at: Any, step: Any, stride: Any, count: Any) -> Any:
        n = literal_value(count)
        if n is None:
            return None

        def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
            for total in range(n):
                place = builder.add(args[1], builder.mul(args[2], _WORD(total)))
                pointer = _pointer(context, builder, sig, args, 0, place)
                _emit(builder, name, [_BYTE(total), pointer, args[3]])
            return context.get_dummy_value()

        return types.void(array, types.intp, types.intp, types.intp, count), codegen

    typer.__doc__ = doc
    return intrinsic(typer)


load_sums = _transfer(_LOAD, "Sums from array[at + sum · step] on, rows `stride` bytes apart.")
store_sums = _transfer(_STORE, "Sums to array[at + sum · step] on, rows `stride` bytes apart.")
