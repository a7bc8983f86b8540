"""A GPU of the tests whose launches run the compiler's PTX in this executor: gpu.Gpu without hardware.

>>> gpu = PtxGpu(multiprocessors=2)
>>> gpu.bind(kernel, 2, (gpu.array(x), y, 12)).start()

The text is that which nvJitLink assembles: after link-time optimisation. It is compiled once for all tests.
"""

from __future__ import annotations

import gc
from collections.abc import Sequence
from functools import cache
from typing import Any

import numpy as np
from executor.block import launch
from executor.copies import LATE
from executor.decode import decode
from executor.operations import OPERATIONS, Operation
from executor.program import Program, parse
from executor.warp import Step

from membound.kernels.cuda.compile import Kernel, compile_ptx
from membound.kernels.cuda.device.gpu import Grid, Launch, blocks, check_count, dtype_of
from membound.kernels.cuda.device.simulated import HostArray, SimulatedGpu

TARGET = "9.0a"


@cache
def text_of(kernel: Kernel) -> str:
    """What a kernel became. Collecting garbage meanwhile would walk again and again through all that Numba keeps."""
    collects = gc.isenabled()
    gc.disable()
    try:
        return compile_ptx(kernel, TARGET, linked=True)
    finally:
        if collects:
            gc.enable()


def program_of(kernel: Kernel) -> Program:
    """The same, taken apart."""
    return parse(text_of(kernel))


@cache
def steps_of(kernel: Kernel, meanings: tuple[tuple[str, Operation], ...]) -> tuple[Step, ...]:
    """And decoded, with these entries of OPERATIONS."""
    assert meanings == tuple(OPERATIONS.items())
    return decode(program_of(kernel))


class PtxGpu(SimulatedGpu):
    """Memory is the host's. `mode` and `races` are those of block.launch."""

    def __init__(self, multiprocessors: int = 2, mode: str = LATE, races: bool = False) -> None:
        super().__init__(multiprocessors)
        self.name = "PTX executor"
        self.mode, self.races = mode, races
        self.launched: list[str] = []

    def bind(self, kernel: Kernel, grid: Grid, arguments: Sequence[Any]) -> Launch:
        """Ready a kernel, decoded as OPERATIONS are now."""
        check_count(kernel, arguments)
        values = [_value(kernel.parameters[i], argument) for i, argument in enumerate(arguments)]
        return _PtxLaunch(self, kernel, blocks(grid), values)


class _PtxLaunch:
    def __init__(self, gpu: PtxGpu, kernel: Kernel, grid: tuple[int, int, int], arguments: list[Any]) -> None:
        self._gpu, self._kernel, self._grid, self._arguments = gpu, kernel, grid, arguments
        self._program = program_of(kernel)
        self._steps = steps_of(kernel, tuple(OPERATIONS.items()))

    def start(self) -> None:
        """Run it to its end."""
        kernel, gpu = self._kernel, self._gpu
        gpu.launched.append(kernel.name)
        launch(self._program, self._steps, self._grid, kernel.threads, self._arguments, gpu.mode, gpu.races)


def _value(parameter: str, argument: Any) -> Any:
    """An array as it lies in memory, the same object each time; a number as one of its parameter's type."""
    if not parameter.endswith("*"):
        return dtype_of(parameter).type(argument)
    values = argument.values if isinstance(argument, HostArray) else argument
    assert isinstance(values, np.ndarray)
    return values
