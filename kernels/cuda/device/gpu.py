"""What kernels need of a GPU: memory, launches in order, their capture and timing.

Two classes do this: `driver.DriverGpu` on hardware, `simulated.SimulatedGpu` on NumPy arrays without any.
Code that plans launches takes either, so that it runs in tests as it runs on a GPU:

    x, y = gpu.array(x_host), gpu.zeros(64, np.float32)
    launch = gpu.bind(kernel, grid=4, arguments=(x, y, 64))    # arguments are packed once
    launch.start()
    gpu.synchronize()
    y.read()

Everything is put into one stream, `gpu.stream`, and runs in that order.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from membound.kernels.cuda.compile import Kernel

Grid = int | tuple[int, ...]
"""Blocks along x, or along x, y and z."""


class GpuError(RuntimeError):
    """The driver refused something, or there is none. The message has its name for the error."""


class Array(Protocol):
    """Flat memory on the GPU. A kernel's pointer may read it as elements of any type."""

    @property
    def size_bytes(self) -> int:
        """How long it is."""
        ...

    def write(self, values: npt.NDArray[Any]) -> None:
        """Copy from the host; `values` is contiguous and as long as the array."""
        ...

    def read(self) -> npt.NDArray[Any]:
        """A copy on the host, flat, of the type that the array was made with; waits for the stream."""
        ...


class Shared(Protocol):
    """uint32 words of the host's memory that a kernel reads and writes through a pointer while it runs."""

    values: npt.NDArray[np.uint32]
    """The host's view."""


class Launch(Protocol):
    """A kernel with its grid and arguments, or several launches captured as a graph."""

    def start(self) -> None:
        """Put it into the stream; returns at once."""
        ...


class Gpu(Protocol):
    """One device with one stream."""

    name: str
    target: str
    multiprocessors: int
    stream: int
    memory_bytes: int
    cache_bytes: int
    """The second-level cache, all of it."""
    pci: str
    """Address on the bus, as in ``0000:04:00.0``; "" without one."""

    def array(self, values: npt.NDArray[Any]) -> Array:
        """A copy of a contiguous host array."""
        ...

    def zeros(self, count: int, dtype: npt.DTypeLike) -> Array:
        """`count` elements of all-zero bits."""
        ...

    def shared(self, count: int) -> Shared:
        """`count` words of the host that kernels see: 0 at first."""
        ...

    def bind(self, kernel: Kernel, grid: Grid, arguments: Sequence[Any]) -> Launch:
        """Ready `kernel` for launching.

        A pointer parameter takes an Array, Shared words, any object with `__cuda_array_interface__` (contiguous, 16-byte
        aligned), or an address; the others take numbers.
        """
        ...

    def capture(self, launches: Sequence[Launch]) -> Launch:
        """The launches, in order, as one CUDA graph."""
        ...

    def synchronize(self) -> None:
        """Wait until the stream is empty. Raises GpuError if a kernel failed."""
        ...

    def mark(self) -> object:
        """A moment on the GPU's clock, behind all that was started so far."""
        ...

    def elapsed_s(self, start: object, end: object) -> float:
        """Seconds between two marks that have passed."""
        ...

    def close(self) -> None:
        """Give all memory back."""
        ...


def blocks(grid: Grid) -> tuple[int, int, int]:
    """A grid as its three sizes."""
    x, y, z, *_ = (*((grid,) if isinstance(grid, int) else grid), 1, 1, 1)
    return x, y, z


def check_count(kernel: Kernel, arguments: Sequence[Any]) -> None:
    """Raises TypeError unless there is an argument for each parameter."""
    if len(arguments) != len(kernel.parameters):
        raise TypeError(f"{kernel.name} takes {len(kernel.parameters)} arguments, not {len(arguments)}")


def dtype_of(parameter: str) -> np.dtype[Any]:
    """The NumPy type of a parameter's elements."""
    names = {"u8": "uint8", "u16": "uint16", "u32": "uint32", "i32": "int32", "f32": "float32"}
    return np.dtype(names[parameter.removesuffix("*")])
