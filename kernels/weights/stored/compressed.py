"""compressed-tensors' checkpoints: pack-quantized int4, int-quantized int8 and float-quantized e4m3.

>>> Packed(group=128, symmetric=True).format(4096)
'int4g128'

Of W [n, k]: weight_packed int32 [n, k/8], weight_scale [n, k/group], weight_shape int64 or int32 [2], and where it is not symmetric
weight_zero_point int32 [⌈n/8⌉, k/group], with activation ordering weight_g_idx int32 [k]; numbers and zero points are stored + 8.
Of the other two: weight int8 or e4m3 [n, k], weight_scale [n, 1], or [1] for the whole matrix. Source: vllm-project/
compressed-tensors, src/compressed_tensors/compressors (pack_quantized, naive_quantized).
"""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np

from membound.kernels.model import ModelError
from membound.kernels.weights.formats import FORMATS, Weight
from membound.kernels.weights.stored.scheme import (
    FLOATS,
    Arrays,
    Part,
    grouped_int4,
    kernel_group,
    sorted_columns,
    unpacked,
)

TEXT_PART = "language_model."
NOT_A_NUMBER = 0x7F
"""The code of e4m3 that is NaN, but for its sign."""


@dataclass(frozen=True, slots=True)
class Ignored:
    """The modules that config.json says stay float: names, or patterns behind ``re:``.

    Where the part that writes text says it, as Kimi K2.5's does, its names begin within that part.
    """

    names: tuple[str, ...] = ()

    def __contains__(self, module: str) -> bool:
        return any(
            re.match(name[3:], one) is not None if name.startswith("re:") else name == one
            for name in self.names
            for one in dict.fromkeys((module, module.removeprefix(TEXT_PART)))
        )


@dataclass(frozen=True, slots=True)
class Packed:
    """int4 in groups of `group` columns; 0: a row is a group."""

    group: int
    symmetric: bool
    ordered: bool = False
    ignored: Ignored = Ignored()
    mark: str = "weight_packed"
    values: str = "weight_packed"

    @property
    def title(self) -> str:
        """What it is, in a few words."""
        groups = f"groups of {self.group}" if self.group else "a group a row"
        return (
            f"compressed-tensors, 4 bits, {groups}, {'symmetric' if self.symmetric else 'with zero points'}"
        )

    def covers(self, module: str) -> bool | None:
        """All matrices but those that are ignored."""
        return module not in self.ignored

    def format(self, k: int) -> str:
        """int4, with zero points where it is not symmetric."""
        return f"int4g{kernel_group(self.group or k, k)}" + ("" if self.symmetric else "z")

    def parts(self, n: int, k: int) -> dict[str, Part]:
        """Numbers, scales, the shape, and what else config.json says."""
        groups = k // (self.group or k)
        parts = {
            "weight_packed": Part((n, k // 8), ("I32",)),
            "weight_scale": Part((n, groups), FLOATS),
            "weight_shape": Part((2,), ("I64", "I32")),
        }
        if not self.symmetric:
            parts["weight_zero_point"] = Part((-(-n // 8), groups), ("I32",))
        if self.ordered:
            parts["weight_g_idx"] = Part((k,), ("I32",))
        return parts

    def more(self, n: int, k: int) -> dict[str, Part]:
        """Nothing."""
        return {}

    def read(self, arrays: Arrays, n: int, k: int) -> Weight:
        """Columns are stored in the order of their groups unless `weight_g_idx` says otherwise."""
        if arrays["weight_shape"].tolist() != [n, k]:
            raise ModelError(
                f"its weight_shape is {arrays['weight_shape'].tolist()}, its tensors say {[n, k]}"
            )
        q = unpacked(arrays["weight_packed"], 4, 1)
        zeros = None if self.symmetric else unpacked(arrays["weight_zero_point"], 4, 0)[:n]
        order = None
        if self.ordered:
            order = sorted_columns("weight_g_idx", arrays["weight_g_idx"], self.group or k)
            q = np.ascontiguousarray(q[:, order])
        return grouped_int4(q, arrays["weight_scale"], zeros, order)


@dataclass(frozen=True, slots=True)
class Whole:
    """int8 or e4m3 numbers with a scale a row, or one for the matrix. `dtype` is safetensors' name of the numbers."""

    dtype: str
    by_row: bool
    ignored: Ignored = Ignored()
    mark: str = "weight_scale"
    values: str = "weight"

    @property
    def title(self) -> str:
        """What it is, in a few words."""
        kind = "int8" if self.dtype == "I8" else "e4m3"
        return f"compressed-tensors, {kind}, a scale {'a row' if self.by_row else 'a matrix'}"

    def covers(self, module: str) -> bool | None:
        """All matrices but those that are ignored."""
        return module not in self.ignored

    def format(self, k: int) -> str:
        """int8, or e4m3 with the row's scale at each 128 columns."""
        if self.dtype == "I8":
            return "int8"
        if k % FORMATS["fp8g128"].group:
            raise ModelError(f"e4m3 rows of {k} are not supported: they must be multiples of 128")
        return "fp8g128"

    def parts(self, n: int, k: int) -> dict[str, Part]:
        """Numbers and scales."""
        scales = (n, 1) if self.by_row else (1,)
        return {"weight": Part((n, k), (self.dtype,)), "weight_scale": Part(scales, ("BF16", "F16", "F32"))}

    def more(self, n: int, k: int) -> dict[str, Part]:
        """A scale of activations that is fixed: what it is good for is not computed here, and it is one number."""
        return {"input_scale": Part((1,), ("BF16", "F16", "F32"))}

    def read(self, arrays: Arrays, n: int, k: int) -> Weight:
        """Numbers as they are."""
        values = np.ascontiguousarray(arrays["weight"])
        scales = np.broadcast_to(arrays["weight_scale"].reshape(-1), (n,)).astype(np.float32)
        if self.dtype == "I8":
            return Weight("int8", n, k, values, scales)
        refuse_nan(values)
        group = FORMATS[self.format(k)].group
        return Weight("fp8g128", n, k, values, np.repeat(scales[:, None], k // group, axis=1))


def refuse_nan(codes: np.ndarray[tuple[int, ...], np.dtype[np.uint8]]) -> None:
    """Raises ModelError if a number of e4m3 is none."""
    if ((codes & 0x7F) == NOT_A_NUMBER).any():
        raise ModelError(
            "it holds NaN (not a number): the file is damaged, or the model was when it was saved"
        )
