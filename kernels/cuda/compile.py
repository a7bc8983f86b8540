"""How CUDA kernels are written, compiled and named. No GPU is needed for any of it.

A kernel is a plain function in a factory for each variant, whose constants are the factory's arguments:

    @cache
    def copy_kernel(unroll: int) -> Kernel:
        def copy(source, target, packets):
            ...                                    # cuda.threadIdx.x, ptx.load4, ptx.store4
        return Kernel(f"copy_u{unroll}", copy, ("u32*", "u32*", "i32"), threads=256)

`parameters` are the types of its arguments: a pointer ends in ``*`` (u8, u16, u32, i32, f32, elements of flat
memory without bounds, 16-byte aligned), the rest are numbers (i32, u32, f32). A kernel's name holds its
whole variant: compiled code is found by it. Functions that kernels share are decorated with `device`.

What leads on from a Kernel takes the same arguments in the same order:

    compile_cubin(kernel, "9.0a")                          # machine code; cubins.find prefers what is there
    simulator.launch(kernel, grid, (a, b, 12))             # on NumPy arrays, without a GPU
    gpu.bind(kernel, grid, (a, b, 12)).start()             # gpu.Gpu: hardware, or simulated

This module must be imported before anything of numba.cuda: take `cuda`, `types` and `intrinsic` from here.
"""

from __future__ import annotations

import importlib.util
import re
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import numpy as np

if importlib.util.find_spec("numba_cuda") is None:
    raise ModuleNotFoundError("numba-cuda is not installed: pip install 'membound[cuda]'", name="numba_cuda")
if "row_stack" not in vars(np):  # gone since NumPy 2.5, named by numba-cuda up to 0.30
    vars(np)["row_stack"] = np.vstack

with warnings.catch_warnings():
    # numba-cuda up to 0.30 makes np.timedelta64("nat") when it is imported, whose unit NumPy deprecates since 2.5
    warnings.simplefilter("ignore", DeprecationWarning)
    from numba import cuda
    from numba.cuda import types
    from numba.cuda.core.errors import TypingError
    from numba.cuda.extending import intrinsic

from membound.errors import MemboundError

__all__ = [
    "CompileError",
    "Kernel",
    "TypingError",
    "compile_cubin",
    "compile_ptx",
    "cuda",
    "device",
    "intrinsic",
    "types",
]

WARP = 32
OLDEST_TARGET = (8, 0)
"""bfloat16 tensor cores and cp.async came with it."""
FP8_TARGET = (8, 9)
"""Conversions of fp8 came with it (PTX ISA, cvt: e4m3x2 requires sm_89)."""

_ELEMENTS = {
    "u8": types.uint8,
    "u16": types.uint16,
    "u32": types.uint32,
    "i32": types.int32,
    "f32": types.float32,
}
_TARGET = re.compile(r"(\d+)\.(\d)(a?)")


class CompileError(MemboundError, RuntimeError):
    """A kernel cannot be compiled here. The message says what is missing or wrong."""


@dataclass(frozen=True, slots=True)
class Kernel:
    """A function for the GPU with all that its launch needs but the grid.

    `threads` a block; `blocks_per_sm` that must fit one multiprocessor at once, which caps the registers
    (0: the compiler chooses); `fastmath` allows approximate division and flushes subnormal numbers.
    """

    name: str
    function: Callable[..., None]
    parameters: tuple[str, ...]
    threads: int
    blocks_per_sm: int = 0
    fastmath: bool = False

    def __post_init__(self) -> None:
        unknown = [p for p in self.parameters if p.removesuffix("*") not in _ELEMENTS]
        if unknown or not re.fullmatch(r"[a-z0-9_]+", self.name) or not 1 <= self.threads <= 1024:
            raise ValueError(f"kernel {self.name!r}: threads={self.threads}, unknown parameters {unknown}")


def device(function: Callable[..., Any]) -> Any:
    """A function that kernels call; it becomes part of them."""
    return cuda.jit(device=True, forceinline=True)(function)


def target_of(major: int, minor: int) -> str:
    """What to compile for on a GPU of this compute capability: all its instructions, ``9.0a`` for 9.0."""
    return f"{major}.{minor}{'a' if major >= 9 else ''}"


def parse_target(target: str) -> tuple[int, int, str]:
    """``9.0a`` as (9, 0, "a"). Raises CompileError if it is none, or older than OLDEST_TARGET."""
    match = _TARGET.fullmatch(target)
    if not match:
        raise CompileError(f"{target!r} is no compute capability; they look like 8.0 or 9.0a")
    major, minor = int(match[1]), int(match[2])
    if (major, minor) < OLDEST_TARGET:
        oldest = ".".join(map(str, OLDEST_TARGET))
        raise CompileError(f"compute capability {target} is too old: the kernels need {oldest} or newer")
    return major, minor, match[3]


def compile_cubin(kernel: Kernel, target: str) -> bytes:
    """Machine code for `target`, linked as a just-in-time compilation links it; its entry is `kernel.name`.

    Raises CompileError where NVIDIA's compiler libraries are not installed.
    """
    capability = parse_target(target)
    library = _lower(kernel, capability, lto=True)
    with _explained():
        return bytes(library.get_cubin(cc=capability).code)


def compile_ptx(kernel: Kernel, target: str, linked: bool = False) -> str:
    """The kernel in NVIDIA's portable assembly; `linked`: as link-time optimisation leaves it, which is what is assembled."""
    capability = parse_target(target)
    library = _lower(kernel, capability, lto=linked)
    with _explained():
        text: str = (library.get_lto_ptx if linked else library.get_asm_str)(cc=capability)
        return text.rstrip("\0")


def _lower(kernel: Kernel, capability: tuple[int, int, str], lto: bool) -> Any:
    """The library that holds the kernel's LLVM code, under the kernel's own name."""
    from numba.cuda import compiler
    from numba.cuda.cudadrv import nvvm

    options = {"fastmath": kernel.fastmath, "opt": 3}
    arguments = tuple(_type(parameter) for parameter in kernel.parameters)
    with _as_if_on(capability):
        compiled = compiler.compile_cuda(
            kernel.function,
            types.void,
            arguments,
            fastmath=kernel.fastmath,
            nvvm_options=options,
            cc=capability,
            lto=lto,
        )
    library, mangled = compiled.library, compiled.fndesc.llvm_func_name
    function = library.get_function(mangled)
    compiler.kernel_fixup(function, False)
    bounds = (kernel.threads, kernel.blocks_per_sm) if kernel.blocks_per_sm else (kernel.threads,)
    nvvm.set_launch_bounds(function, bounds)
    # Numba's own name differs from process to process; code that is kept must be found again.
    library._llvm_strs = [code.replace(f'@"{mangled}"', f'@"{kernel.name}"') for code in library.llvm_strs]
    return library


def _type(parameter: str) -> Any:
    element = _ELEMENTS[parameter.removesuffix("*")]
    return types.CPointer(element) if parameter.endswith("*") else element


@contextmanager
def _as_if_on(capability: tuple[int, int, str]) -> Iterator[None]:
    """Device functions ask the driver what to compile for, even when their kernel is for another GPU or none."""
    from numba.cuda import dispatcher

    before = dispatcher.get_current_device
    dispatcher.get_current_device = lambda: SimpleNamespace(compute_capability=capability[:2])
    try:
        yield
    finally:
        dispatcher.get_current_device = before


@contextmanager
def _explained() -> Iterator[None]:
    """NVIDIA's libraries are loaded at their first use, and miss in many ways; each has an error of its own."""
    from cuda.bindings.nvjitlink import nvJitLinkError
    from numba.cuda.cudadrv.error import NvrtcError, NvvmError

    try:
        yield
    except (ImportError, OSError, RuntimeError, NvrtcError, NvvmError, nvJitLinkError) as error:
        message = " ".join(str(error).split())[:200]
        raise CompileError(
            f"NVIDIA's compiler failed or is not installed (pip install 'membound[cuda-compile]'): {message}"
        ) from error
