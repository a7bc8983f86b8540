"""Types of numbers in ONNX files: how wide they are, and how their bytes become arrays.

>>> KINDS[16].name, KINDS[16].bytes_of(3)
('bfloat16', 6)

Source: TensorProto.DataType in onnx/onnx.proto (onnx/onnx).
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
import numpy.typing as npt

from membound.kernels.weights import fp8
from membound.kernels.weights.formats import from_bf16

Array = npt.NDArray[Any]


@dataclass(frozen=True, slots=True)
class Kind:
    """A type: `dtype` is what its bytes are read as, `bits` the width of an element."""

    name: str
    dtype: str
    bits: int

    def bytes_of(self, size: int) -> int:
        """Bytes of that many elements, packed."""
        return (size * self.bits + 7) // 8

    @property
    def is_float(self) -> bool:
        """Whether its values are real numbers."""
        return self.name.startswith(("float", "bfloat", "double"))

    @property
    def is_index(self) -> bool:
        """Whether shapes, axes and positions have it."""
        return self.name in ("int32", "int64", "bool", "uint32", "uint64")


KINDS = {
    1: Kind("float", "<f4", 32),
    2: Kind("uint8", "u1", 8),
    3: Kind("int8", "i1", 8),
    4: Kind("uint16", "<u2", 16),
    5: Kind("int16", "<i2", 16),
    6: Kind("int32", "<i4", 32),
    7: Kind("int64", "<i8", 64),
    9: Kind("bool", "?", 8),
    10: Kind("float16", "<f2", 16),
    11: Kind("double", "<f8", 64),
    12: Kind("uint32", "<u4", 32),
    13: Kind("uint64", "<u8", 64),
    16: Kind("bfloat16", "<u2", 16),
    17: Kind("float8e4m3fn", "u1", 8),
    21: Kind("uint4", "u1", 4),
    22: Kind("int4", "u1", 4),
}
"""The types that are read, by their numbers in the file."""


def decoded(data: bytes, kind: Kind, dims: tuple[int, ...]) -> Array:
    """Values [dims] of stored bytes; raises ValueError if there are not as many."""
    size = prod(dims)
    values: Array = np.frombuffer(data, kind.dtype) if size else np.empty(0, kind.dtype)
    if kind.bits == 4:
        pairs = np.stack([values & 15, values >> 4], -1).reshape(-1)[:size].astype(np.int8)
        values = np.where(pairs > 7, pairs - 16, pairs) if kind.name == "int4" else pairs
    elif kind.name == "bfloat16":
        values = from_bf16(values)
    elif kind.name == "float8e4m3fn":
        values = fp8.decode(values)
    return values.reshape(dims)
