"""How numbers are stored: formats of weights and caches, with their scales, and the way there and back.

>>> FORMATS["int4g32"].matrix_bytes(n=2, k=64)
(64, 8)
>>> weight = quantize(np.ones((2, 64), np.float32), "int4g32")
>>> dequantize(weight).shape
(2, 64)

Caches store fp8 besides (`membound.kernels.weights.fp8`).
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

import numpy as np
import numpy.typing as npt

F32 = npt.NDArray[np.float32]
Array = npt.NDArray[np.generic]
Layout = tuple[tuple[tuple[int, ...], str], ...]
"""Shapes of arrays, and their dtypes as NumPy writes them short: ``((8, 32), "u2")``."""


@dataclass(frozen=True, slots=True)
class Format:
    """How numbers are stored. `group` weights share one scale; 0 means one scale a row or none."""

    name: str
    bits: int
    scale_bytes: int = 0
    group: int = 0

    def matrix_bytes(self, n: int, k: int) -> tuple[int, int]:
        """Bytes of an [n, k] matrix: (values, scales)."""
        scales = n * (k // self.group if self.group else 1) * self.scale_bytes
        return n * k * self.bits // 8, scales


FORMATS = {
    f.name: f
    for f in (
        Format("f32", 32),
        Format("bf16", 16),
        Format("f16", 16),
        Format("int8", 8, scale_bytes=4),
        Format("int4g32", 4, scale_bytes=2, group=32),
        Format("int4g128", 4, scale_bytes=2, group=128),
    )
}
KV_FORMATS = {
    f.name: f for f in (FORMATS["f32"], FORMATS["bf16"], FORMATS["f16"], FORMATS["int8"], Format("fp8", 8))
}
"""int8 has a scale a token and head; fp8 is e4m3 (arXiv 2209.05433) as it is: its scale is 1."""
_DTYPES = {
    "f32": "f4",
    "bf16": "u2",
    "f16": "f2",
    "int8": "i1",
    "fp8": "u1",
    "int4g32": "u1",
    "int4g128": "u1",
}
"""How NumPy holds the values; two of int4 are a byte."""


@dataclass(frozen=True, slots=True)
class Weight:
    """A matrix W[n, k] as stored, row-major.

    values: f32 float32 [n, k]; bf16 uint16 bits [n, k]; f16 float16 [n, k]; int8 int8 [n, k];
    int4 uint8 [n, k/2], low nibble = even k, stored as q+8.
    scales: int8 float32 [n]; int4 float16 [n, k/group]; else None. W = values · scales.
    """

    format: str
    n: int
    k: int
    values: Array
    scales: Array | None = None


@dataclass(frozen=True, slots=True)
class KVCache:
    """Keys and values of one layer, [batch, kv_heads, tokens, head_dim] in `format` as in `Weight`.

    fp8 values are uint8 codes of e4m3 (membound.kernels.weights.fp8), without a scale. int8 caches carry
    float32 scales [batch, kv_heads, tokens]; otherwise the scales are None. Of a latent cache, v is a
    view of the first 512 columns of k and the two scales are the same array.
    """

    format: str
    k: Array
    v: Array
    k_scales: F32 | None = None
    v_scales: F32 | None = None


def weight_layout(fmt: str, n: int, k: int) -> Layout:
    """Of the values and, where the format has them, the scales of a `Weight`."""
    found, width = FORMATS[fmt], k // 2 if fmt.startswith("int4") else k
    values = ((n, width), _DTYPES[fmt])
    if not found.scale_bytes:
        return (values,)
    return (values, ((n, k // found.group), "f2") if found.group else ((n,), "f4"))


def cache_layout(fmt: str, shape: tuple[int, ...]) -> Layout:
    """Of keys and values and, where the format has them, their scales in a `KVCache`."""
    values, scales = (shape, _DTYPES[fmt]), (shape[:3], "f4")
    return (values, values, scales, scales) if KV_FORMATS[fmt].scale_bytes else (values, values)


def layout_bytes(layout: Layout) -> int:
    """Bytes of all arrays of a layout."""
    return sum(prod(shape) * np.dtype(dtype).itemsize for shape, dtype in layout)


def quantize(w: F32, fmt: str) -> Weight:
    """Store a float32 matrix [n, k] in a format: round to nearest even, symmetric scales from the largest value."""
    n, k = w.shape
    if fmt == "f32":
        return Weight(fmt, n, k, np.ascontiguousarray(w, np.float32))
    if fmt == "bf16":
        return Weight(fmt, n, k, to_bf16(w))
    if fmt == "f16":
        return Weight(fmt, n, k, w.astype(np.float16))
    if fmt == "int8":
        scales = np.maximum(np.abs(w).max(1), np.float32(1e-12)) / np.float32(127)
        return Weight(fmt, n, k, np.rint(w / scales[:, None]).astype(np.int8), scales)
    group = FORMATS[fmt].group
    grouped = w.reshape(n, k // group, group)
    scales16 = (np.maximum(np.abs(grouped).max(2), np.float32(1e-6)) / np.float32(8)).astype(np.float16)
    q = np.clip(np.rint(grouped / scales16.astype(np.float32)[:, :, None]) + 8, 0, 15).astype(np.uint8)
    q = q.reshape(n, k)
    return Weight(fmt, n, k, q[:, 0::2] | (q[:, 1::2] << 4), scales16)


def to_bf16(values: F32) -> npt.NDArray[np.uint16]:
    """bfloat16 bits, rounded to nearest even."""
    bits = np.ascontiguousarray(values, np.float32).view(np.uint32)
    rounded: npt.NDArray[np.uint16] = ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)
    return rounded


def from_bf16(bits: npt.NDArray[np.uint16]) -> F32:
    """float32 values of bfloat16 bits, exact."""
    return (bits.astype(np.uint32) << 16).view(np.float32)


def dequantize(weight: Weight, rows: slice = slice(None)) -> F32:
    """Rows of a weight as float32 [rows, k], exact for every format but for the product with its scale.

    float32 comes as it is stored, not copied.
    """
    values = weight.values[rows]
    if weight.format == "bf16":
        return from_bf16(values.view(np.uint16))
    if weight.format in ("f32", "f16"):
        return values.astype(np.float32, copy=False)
    if weight.scales is None:
        raise AssertionError("no weight.scales")
    scales = weight.scales[rows].astype(np.float32)
    if weight.format == "int8":
        return values.astype(np.float32) * scales[:, None]
    q = unpack_int4(values.view(np.uint8)).astype(np.float32) - 8
    grouped = q.reshape(len(q), -1, FORMATS[weight.format].group) * scales[:, :, None]
    return grouped.reshape(len(q), weight.k)


def unpack_int4(packed: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """Nibbles [n, k/2] to bytes 0..15 [n, k]."""
    out = np.empty((packed.shape[0], 2 * packed.shape[1]), np.uint8)
    out[:, 0::2] = packed & 15
    out[:, 1::2] = packed >> 4
    return out
