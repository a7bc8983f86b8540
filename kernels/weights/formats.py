"""How numbers are stored: formats of weights and caches, with their scales, and the way there and back.

>>> FORMATS["int4g32"].matrix_bytes(n=2, k=64)
(64, 8)
>>> weight = quantize(np.ones((2, 64), np.float32), "int4g32")
>>> dequantize(weight).shape
(2, 64)

Caches store fp8 besides (`membound.kernels.weights.fp8`).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from math import prod

import numpy as np
import numpy.typing as npt

from membound.errors import Unsupported
from membound.kernels.weights import fp8, ggml, grouped

F32 = npt.NDArray[np.float32]
Array = npt.NDArray[np.generic]
Layout = tuple[tuple[tuple[int, ...], str], ...]
"""Shapes of arrays, and their dtypes as NumPy writes them short: ``((8, 32), "u2")``."""


@dataclass(frozen=True, slots=True)
class Format:
    """How numbers are stored. `group` weights share one scale; 0 means one scale a row or none.

    With `zeros` a zero point of one byte stands beside each scale and is counted in `scale_bytes`. `rows`: rows that share
    a scale. `same_as`: the format that holds the same numbers and scales in the order of the kernels.
    """

    name: str
    bits: int
    scale_bytes: int = 0
    group: int = 0
    zeros: bool = False
    rows: int = 1
    same_as: str = ""

    def matrix_bytes(self, n: int, k: int) -> tuple[int, int]:
        """Bytes of an [n, k] matrix: (values, scales)."""
        scales = -(-n // self.rows) * (k // self.group if self.group else 1) * self.scale_bytes
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
        Format("int4g32z", 4, scale_bytes=3, group=32, zeros=True),
        Format("int4g128z", 4, scale_bytes=3, group=128, zeros=True),
        Format("q8_0", 8, scale_bytes=2, group=32),
        Format("q4_0", 4, scale_bytes=2, group=32, same_as="int4g32"),
        Format("q4_k", 4, scale_bytes=16, group=256),
        Format("fp8g128", 8, scale_bytes=4, group=128),
        Format("fp8b128", 8, scale_bytes=4, group=128, rows=128, same_as="fp8g128"),
        Format("mxfp4", 4, scale_bytes=1, group=32),
    )
}
FILE_FORMATS = {"q6_k": Format("q6_k", 6, scale_bytes=18, group=256)}
"""Formats that files have and works do not ask for."""
EVERY_FORMAT = FORMATS | FILE_FORMATS
STORED = "stored"
"""A work's weight format that means: each matrix as the model's folder holds it."""
INTEGER_FORMATS = ("int8", "int4g32", "int4g128", "int4g32z", "int4g128z", "q8_0", "q4_0", "q4_k")
"""Formats whose products with int8 activations are integers."""
EVERY_INTEGER_FORMAT = (*INTEGER_FORMATS, "q6_k")
"""Those that works ask for, and those that files have."""
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
    "q8_0": "i1",
    "fp8g128": "u1",
    "fp8b128": "u1",
} | {name: "u1" for name, one in FORMATS.items() if one.bits == 4}
"""How NumPy holds the values; two of four bits are a byte."""
_SCALE_DTYPES = {1: "u1", 2: "f2", 3: "f2", 4: "f4"}
"""How NumPy holds scales, by a format's `scale_bytes`."""


@dataclass(frozen=True, slots=True)
class Weight:
    """A matrix W[n, k] as stored, row-major.

    values: f32 float32 [n, k]; bf16 uint16 bits [n, k]; f16 float16 [n, k]; int8 int8 [n, k];
    int4 uint8 [n, k/2], low nibble = even k, stored as q+8; q8_0 int8 [n, k]; q4_0 uint8 [n, k/2] in the order of
    ggml's blocks (`membound.kernels.weights.ggml`); q4_k and q6_k uint8 [n, k/256 · bytes of a block], ggml's blocks with their scales;
    fp8g128 and fp8b128 uint8 codes of e4m3 [n, k]; mxfp4 uint8 codes of e2m1 [n, k/2],
    low nibble = even k.
    scales: int8 float32 [n]; int4, q8_0, q4_0 float16 [n, k/group]; fp8g128 float32 [n, k/128]; fp8b128 float32 [⌈n/128⌉, k/128];
    mxfp4 uint8 exponents [n, k/32], 2^(e−127); else None. W = values · scales.
    zeros: int4g32z and int4g128z uint8 [n, k/group], the stored value that means 0; else None.
    order: int32 [k] where the columns of a file were sorted by their groups: column j of the arrays is column order[j] of W.
    """

    format: str
    n: int
    k: int
    values: Array
    scales: Array | None = None
    zeros: Array | None = None
    order: Array | None = None


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


@dataclass(frozen=True, slots=True)
class IndexedCache:
    """A latent cache and the keys of its layer's index, which are that cache's values too."""

    rows: KVCache
    keys: KVCache


def weight_layout(fmt: str, n: int, k: int) -> Layout:
    """Of the values and, where the format has them, the scales and the zero points of a `Weight`."""
    found = FORMATS[fmt]
    if fmt in ggml.WIDENED:
        return (((n, sum(found.matrix_bytes(1, k))), "u1"),)
    values = ((n, k * found.bits // 8 if found.bits == 4 else k), _DTYPES[fmt])
    if not found.scale_bytes:
        return (values,)
    if not found.group:
        return (values, ((n,), "f4"))
    grid = (-(-n // found.rows), k // found.group)
    scales = (grid, _SCALE_DTYPES[found.scale_bytes])
    return (values, scales, (grid, "u1")) if found.zeros else (values, scales)


def cache_layout(fmt: str, shape: tuple[int, ...]) -> Layout:
    """Of keys and values and, where the format has them, their scales in a `KVCache`."""
    values, scales = (shape, _DTYPES[fmt]), (shape[:3], "f4")
    return (values, values, scales, scales) if KV_FORMATS[fmt].scale_bytes else (values, values)


def layout_bytes(layout: Layout) -> int:
    """Bytes of all arrays of a layout."""
    return sum(prod(shape) * np.dtype(dtype).itemsize for shape, dtype in layout)


def quantize(w: F32, fmt: str) -> Weight:
    """Store a float32 matrix [n, k] in a format: round to nearest even, symmetric scales from the largest value.

    Formats of ggml's are quantised as ggml does (`membound.kernels.weights.ggml`).
    """
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
    return Weight(fmt, n, k, *_quantize_groups(np.ascontiguousarray(w, np.float32), fmt))


def _quantize_groups(w: F32, fmt: str) -> tuple[Array, ...]:
    if fmt in ggml.QUANTIZERS:
        return ggml.QUANTIZERS[fmt](w)
    if fmt == "mxfp4":
        return grouped.quantize_mxfp4(w)
    if fmt.startswith("fp8"):
        return grouped.quantize_fp8(w, FORMATS[fmt].rows)
    zeros, group = FORMATS[fmt].zeros, FORMATS[fmt].group
    return grouped.quantize_int4_zeros(w, group) if zeros else grouped.quantize_int4(w, group)


def to_bf16(values: F32) -> npt.NDArray[np.uint16]:
    """bfloat16 bits, rounded to nearest even."""
    bits = np.ascontiguousarray(values, np.float32).view(np.uint32)
    rounded: npt.NDArray[np.uint16] = ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)
    return rounded


def from_bf16(bits: npt.NDArray[np.uint16]) -> F32:
    """float32 values of bfloat16 bits, exact."""
    return (bits.astype(np.uint32) << 16).view(np.float32)


def dequantize(weight: Weight, rows: slice | npt.NDArray[np.int64] = slice(None)) -> F32:
    """Rows of a weight as float32 [rows, k], exact for every format but for the product with its scale.

    float32 comes as it is stored, not copied.
    """
    stored = _dequantize(weight, rows)
    if weight.order is None:
        return stored
    ordered = np.empty_like(stored)
    ordered[:, weight.order.view(np.int32)] = stored
    return ordered


def _dequantize(weight: Weight, rows: slice | npt.NDArray[np.int64]) -> F32:
    """Rows with their columns as they lie."""
    values, found = weight.values[rows], EVERY_FORMAT[weight.format]
    if weight.format in ggml.WIDENED:
        return ggml.WIDENED[weight.format](values.view(np.uint8))
    if weight.format == "bf16":
        return from_bf16(values.view(np.uint16))
    if weight.format in ("f32", "f16"):
        return values.astype(np.float32, copy=False)
    if weight.scales is None:
        raise AssertionError("no weight.scales")
    held = weight.scales[rows if found.rows == 1 else np.arange(weight.n)[rows] // found.rows]
    if weight.format == "mxfp4":
        return grouped.scaled(grouped.mxfp4_values(values.view(np.uint8)), grouped.power_of_two(held))
    scales: F32 = held.astype(np.float32)
    if weight.format == "int8":
        scaled: F32 = values.astype(np.float32) * scales[:, None]
        return scaled
    if weight.format == "q8_0":
        return grouped.scaled(values.astype(np.float32), scales)
    if weight.format.startswith("fp8"):
        return grouped.scaled(fp8.decode(values.view(np.uint8)), scales)
    packed = values.view(np.uint8)
    q = grouped.unpack_int4(ggml.neighbours(packed) if weight.format == "q4_0" else packed).astype(np.float32)
    if weight.zeros is None:
        return grouped.scaled(q - 8, scales)
    zeros = weight.zeros[rows].astype(np.float32)
    return grouped.scaled(q - np.repeat(zeros, found.group, axis=1), scales)


def common_order(weights: Sequence[Weight]) -> npt.NDArray[np.int32] | None:
    """The order in which the columns of matrices with the same input lie; None: in their places. Raises Unsupported where orders differ."""
    if all(weight.order is None for weight in weights):
        return None
    in_place = np.arange(weights[0].k, dtype=np.int32)
    orders = [in_place if weight.order is None else weight.order.view(np.int32) for weight in weights]
    if any(not np.array_equal(order, orders[0]) for order in orders):
        raise Unsupported("matrices of the same input have their columns in orders that differ")
    return orders[0]


def in_kernel_format(weight: Weight) -> Weight:
    """The same numbers in the order of the kernels, and scales that rows share for each of them."""
    found = EVERY_FORMAT[weight.format]
    if not found.same_as:
        return weight
    values, scales = weight.values.view(np.uint8), weight.scales
    if scales is None:
        raise AssertionError("no weight.scales")
    if weight.format == "q4_0":
        return replace(weight, format=found.same_as, values=ggml.neighbours(values))
    return replace(weight, format=found.same_as, scales=np.repeat(scales, found.rows, axis=0)[: weight.n])


def rows_of(weight: Weight, slices: Iterable[slice]) -> Weight:
    """Some rows of a weight as a matrix of their own, in the format of the kernels, in which rows share no scale."""
    held = in_kernel_format(weight)
    rows = np.concatenate([np.arange(held.n)[one] for one in slices])
    scales, zeros = (None if array is None else array[rows] for array in (held.scales, held.zeros))
    return replace(held, n=len(rows), values=held.values[rows], scales=scales, zeros=zeros)


def kernel_format(fmt: str) -> str:
    """The format that `in_kernel_format` makes of this one."""
    found = FORMATS.get(fmt)
    return found.same_as if found is not None and found.same_as else fmt
