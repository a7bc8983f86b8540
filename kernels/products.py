"""Products with matrices in any format, in float64: the definition of `linear`, and of every product in a model.

>>> y = linear(x, weight, act="float")        # x [m, k] times W [n, k], transposed

Weights are widened a few thousand rows at a time, so that memory stays near that of the stored weights.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from membound.kernels.weights.formats import EVERY_INTEGER_FORMAT, Weight, dequantize

F64 = npt.NDArray[np.float64]
Floats = npt.NDArray[np.floating[Any]]

CHUNK_ELEMENTS = 1 << 20  # 8 MiB of float64: widened weights stay in the last-level cache


def quantize_rows(x: F64) -> tuple[F64, F64]:
    """Dynamic int8 a row: (q [m, k] whole numbers within ±127, s [m, 1]) with x ≈ q·s; a zero row is zeros."""
    scales = np.abs(x).max(1, keepdims=True) / 127
    return np.rint(x / np.where(scales > 0, scales, 1)), scales


def linear(x: Floats, weight: Weight, act: str, power: int = 1) -> F64:
    """y [m, n] = x [m, k] · W[n, k]ᵀ; with act=int8 each row of x is quantised first. Power 2 sums the squares of the terms."""
    x64 = x.astype(np.float64)
    scales: F64 | None = None
    if (
        act == "int8" and weight.format in EVERY_INTEGER_FORMAT
    ):  # a float matrix among stored ones keeps float activations
        x64, scales = quantize_rows(x64)
    y = np.empty((len(x64), weight.n))
    rows = max(1, CHUNK_ELEMENTS // weight.k)
    for start in range(0, weight.n, rows):
        chunk = slice(start, min(start + rows, weight.n))
        y[:, chunk] = x64**power @ (_widen(weight, chunk) ** power).T
    if weight.format == "int8":
        if weight.scales is None:
            raise AssertionError("no weight.scales")
        y *= weight.scales.astype(np.float64) ** power
    return y if scales is None else y * scales**power


def _widen(weight: Weight, rows: slice) -> F64:
    """Rows of W in float64, exact; for int8 without the row's scale, which `linear` applies to its sum."""
    if weight.format == "int8":
        return weight.values[rows].astype(np.float64)
    return dequantize(weight, rows).astype(np.float64)
