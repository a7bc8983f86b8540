"""Norms and sums of a chunk's rows, shared out among threads: what step.py does one row after the other."""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import prange

from membound.kernels.cpu.linked import linked
from membound.kernels.cpu.step.step import add_row, norm_row


@linked(parallel=True)
def norm_all(M: Any, x: Any, norms: Any, layer: Any, s: Any, out: Any) -> None:
    """`step.norm_rows`."""
    for row in prange(M):
        norm_row(np.intp(row), x, norms, layer, s, out)


@linked(parallel=True)
def add_all(M: Any, x: Any, y: Any, stride: Any, biases: Any, norms: Any, layer: Any, s: Any) -> None:
    """`step.add_rows`."""
    for row in prange(M):
        add_row(np.intp(row), x, y, stride, biases, norms, layer, s)
