"""Intel AMX for Numba: eight registers of 16 rows × 64 bytes and their matrix product.

    configure_tiles(configuration)                        # once a thread
    clear_sums()
    for step in range(steps):                             # four panels of W, 16 rows of x
        multiply_step(w, starts, step * 1024, x, step * 64, stride, 1, "bf16")
    store_sums(y, at, panel_step, 0, stride, 4, 1)
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

from membound.kernels.cpu.simd import AVX512, FEATURES, literal_value

_BYTE, _WORD = ir.IntType(8), ir.IntType(64)
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


def _registers(panels: int, tiles: int) -> tuple[list[int], list[int]]:
    """Registers for the operands, 0..3 being the sums: (rows of x, panels of W)."""
    if panels == 1:
        return [4, 5, 6], [7]
    return ([4], [5, 6, 7]) if tiles == 1 else ([4, 5], [6, 7])


@intrinsic
def clear_sums(typing: Any) -> Any:
    """Zero the sums, registers 0 to 3."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        for register in range(4):
            _emit(builder, "llvm.x86.tilezero", [_BYTE(register)])
        return context.get_dummy_value()

    return types.void(), codegen


@intrinsic
def multiply_step(
    typing: Any, w: Any, starts: Any, at: Any, x: Any, x_at: Any, x_stride: Any, tiles: Any, fmt: Any
) -> Any:
    """One step of 64 bytes of k: sum[panel, tile] += x[tile] · w[panel].

    w[starts[panel] + at] is 16 rows of 64 bytes behind each other; x[x_at] rows `x_stride` bytes apart,
    16 rows a tile. At most four sums; fmt is bf16 or int8.
    """
    m, kind = literal_value(tiles), literal_value(fmt)
    if m is None or kind is None:
        return None
    product = "llvm.x86.tdpbf16ps" if kind == "bf16" else "llvm.x86.tdpbssd"

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        def load(register: int, array: int, index: Any, stride: Any) -> None:
            pointer = _pointer(context, builder, sig, args, array, index)
            _emit(builder, "llvm.x86.tileloadd64", [_BYTE(register), pointer, stride])

        a, b = _registers(starts.count, m)
        if starts.count > 1:
            for tile in range(m):
                load(a[tile], 3, builder.add(args[4], builder.mul(args[5], _WORD(16 * tile))), args[5])
        for panel in range(starts.count):
            w_register = b[panel % len(b)]
            place = builder.add(builder.extract_value(args[1], panel), args[2])
            load(w_register, 0, place, _WORD(64))
            for tile in range(m):
                x_register = a[tile % len(a)]
                if starts.count == 1:
                    load(x_register, 3, builder.add(args[4], builder.mul(args[5], _WORD(16 * tile))), args[5])
                numbers = (panel * m + tile, x_register, w_register)
                _emit(builder, product, [_BYTE(n) for n in numbers])
        return context.get_dummy_value()

    sig = types.void(w, starts, types.intp, x, types.intp, types.intp, tiles, fmt)
    return sig, codegen


@intrinsic
def store_sums(
    typing: Any, out: Any, at: Any, panel_step: Any, tile_step: Any, stride: Any, panels: Any, tiles: Any
) -> Any:
    """Sums to out[at + panel·panel_step + tile·tile_step], rows `stride` apart, all in bytes."""
    n, m = literal_value(panels), literal_value(tiles)
    if n is None or m is None:
        return None

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        for panel in range(n):
            for tile in range(m):
                right = builder.mul(args[2], _WORD(panel))
                down = builder.mul(args[3], _WORD(tile))
                pointer = _pointer(
                    context, builder, sig, args, 0, builder.add(args[1], builder.add(right, down))
                )
                _emit(builder, "llvm.x86.tilestored64", [_BYTE(panel * m + tile), pointer, args[4]])
        return context.get_dummy_value()

    ints = (types.intp,) * 4
    return types.void(out, *ints, panels, tiles), codegen
