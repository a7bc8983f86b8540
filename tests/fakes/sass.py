"""The machine code of kernels for the GPU that the contracts on it are written for."""

from __future__ import annotations

from membound.kernels.cuda.compile import Kernel
from membound.kernels.cuda.device.machine_code import MachineCode, machine_code, missing

__all__ = ["MachineCode", "missing", "sass"]

TARGET = "9.0a"


def sass(kernel: Kernel, target: str = TARGET) -> MachineCode:
    """Compiled once for all tests."""
    return machine_code(kernel, target)
