"""A GPU that is none: gpu.Gpu on NumPy arrays, every launch through the simulator at once.

>>> from membound.kernels.cuda.instruments.stream import copy_kernel
>>> gpu = SimulatedGpu()
>>> gpu.bind(copy_kernel(4), 2, (gpu.array(source), target, 1000)).start()
"""

from __future__ import annotations

from collections.abc import Sequence
from time import perf_counter
from typing import Any

import numpy as np
import numpy.typing as npt

from membound.kernels.cuda.compile import Kernel
from membound.kernels.cuda.device import simulator
from membound.kernels.cuda.device.gpu import Grid, Launch, check_count, dtype_of


class HostArray:
    """Flat memory of a SimulatedGpu."""

    def __init__(self, values: npt.NDArray[Any]) -> None:
        self.values = values

    @property
    def size_bytes(self) -> int:
        """How long it is."""
        return self.values.nbytes

    def write(self, values: npt.NDArray[Any]) -> None:
        """Copy from the host."""
        if values.nbytes != self.size_bytes or not values.flags.c_contiguous:
            raise ValueError(f"{values.nbytes} bytes do not fill an array of {self.size_bytes}")
        self.values.view(np.uint8)[:] = values.reshape(-1).view(np.uint8)

    def read(self) -> npt.NDArray[Any]:
        """A flat copy."""
        return self.values.copy()


class _KernelLaunch:
    def __init__(self, kernel: Kernel, grid: Grid, arguments: Sequence[Any]) -> None:
        self._kernel, self._grid, self._arguments = kernel, grid, arguments

    def start(self) -> None:
        """Run it to its end."""
        simulator.launch(self._kernel, self._grid, self._arguments)


class _Sequence:
    def __init__(self, launches: Sequence[Launch]) -> None:
        self._launches = tuple(launches)

    def start(self) -> None:
        """Run all."""
        for launch in self._launches:
            launch.start()


class SimulatedGpu:
    """A GPU of compute capability 9.0 with few multiprocessors, so that small grids are shared out as large ones."""

    def __init__(self, multiprocessors: int = 2) -> None:
        self.name = "simulated GPU"
        self.target = "9.0a"
        self.multiprocessors = multiprocessors
        self.stream = 0
        self.memory_bytes = self.cache_bytes = 0
        self.pci = ""

    def array(self, values: npt.NDArray[Any]) -> HostArray:
        """A copy of a host array."""
        return HostArray(np.array(values, order="C").reshape(-1))

    def zeros(self, count: int, dtype: npt.DTypeLike) -> HostArray:
        """`count` zeros."""
        return HostArray(np.zeros(count, dtype))

    def shared(self, count: int) -> HostArray:
        """`count` words."""
        return self.zeros(count, np.uint32)

    def bind(self, kernel: Kernel, grid: Grid, arguments: Sequence[Any]) -> Launch:
        """Ready a kernel; a pointer parameter takes an Array of this GPU or a NumPy array."""
        check_count(kernel, arguments)
        values = [_seen_as(kernel.parameters[i], value) for i, value in enumerate(arguments)]
        return _KernelLaunch(kernel, grid, values)

    def capture(self, launches: Sequence[Launch]) -> Launch:
        """The launches, in order."""
        return _Sequence(launches)

    def synchronize(self) -> None:
        """Nothing: every launch has ended when it returns."""

    def mark(self) -> float:
        """The host's clock."""
        return perf_counter()

    def elapsed_s(self, start: object, end: object) -> float:
        """Seconds between two marks."""
        if not isinstance(start, float):
            raise AssertionError(f"{type(start).__name__} is no float")
        if not isinstance(end, float):
            raise AssertionError(f"{type(end).__name__} is no float")
        return end - start

    def close(self) -> None:
        """Nothing: NumPy's arrays go with their last user."""


def _seen_as(parameter: str, value: Any) -> Any:
    """An array as the flat elements of a pointer parameter, without a copy."""
    values = value.values if isinstance(value, HostArray) else value
    if not parameter.endswith("*") or not isinstance(values, np.ndarray):
        return values
    if not values.flags.c_contiguous:
        raise TypeError("an argument is not contiguous")
    return values.reshape(-1).view(dtype_of(parameter))
