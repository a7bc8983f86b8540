"""Counts the multiply-adds of CUDA kernels: in the simulator, and in machine code."""

from __future__ import annotations

import re

import pytest
from sass import sass

from membound.kernels.cuda.compile import Kernel
from membound.kernels.cuda.device import emulation
from membound.kernels.cuda.instruments.chains import (
    CHAINS,
)

CHAIN = re.compile(r"\s*(R\d+), (R\d+), R\d+, \2\s*")
"""v = half · v + half: the same register is factor and addend."""


def in_chains(kernel: Kernel) -> list[list[tuple[str, str]]]:
    """Blocks of machine code that hold multiply-adds of all chains."""
    return [block for block in sass(kernel).blocks if sum(is_chain(*one) for one in block) >= CHAINS]


def is_chain(name: str, operands: str) -> bool:
    return name == "FFMA" and CHAIN.fullmatch(operands.replace(".reuse", "")) is not None


class Counter:
    """Stands in for an operation, and counts how often it is done."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
        self.count, operation = 0, getattr(emulation.Doubles, name)

        def counted(*arguments: object) -> object:
            self.count += 1
            return operation(*arguments)

        static = isinstance(vars(emulation.Doubles)[name], staticmethod)
        monkeypatch.setattr(emulation.Doubles, name, staticmethod(counted) if static else counted)
