"""What every way of storing quantised matrices has in common: their tensors, and how groups of them become a `Weight`.

>>> from membound.kernels.weights.stored.gptq import Gptq
>>> scheme = Gptq(bits=4, group=128)
>>> sum(part.nbytes for part in scheme.parts(4096, 4096).values())       # with its order of columns: 8 732 672
8716288

A module is a matrix's name without its last part: "model.layers.0.self_attn.q_proj" has qweight, qzeros and scales.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from math import prod
from typing import Any, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

from membound.kernels.model import ModelError
from membound.kernels.weights.formats import FORMATS, Weight
from membound.kernels.weights.grouped import pack_int4

FLOATS = ("F16", "BF16", "F32")
BYTES = {"I64": 8, "I32": 4, "F32": 4, "F16": 2, "BF16": 2, "I8": 1, "U8": 1, "F8_E4M3": 1}
"""Bytes of a number, by safetensors' dtypes."""
Arrays = Mapping[str, npt.NDArray[Any]]


@dataclass(frozen=True, slots=True)
class Part:
    """A tensor of a module: its shape, and the dtypes that it may have."""

    shape: tuple[int, ...]
    dtypes: tuple[str, ...]

    @property
    def nbytes(self) -> int:
        """Its bytes in the first of the dtypes."""
        return prod(self.shape) * BYTES[self.dtypes[0]]


@runtime_checkable
class Scheme(Protocol):
    """One way of storing matrices. `mark` is the tensor whose presence says that a module is stored so, `values` the one of its numbers."""

    @property
    def title(self) -> str:
        """What it is, in a few words."""
        ...

    @property
    def mark(self) -> str:
        """The tensor that only quantised modules have."""
        ...

    @property
    def values(self) -> str:
        """The tensor that holds the numbers; all others count as scales."""
        ...

    def covers(self, module: str) -> bool | None:
        """Whether config.json says that a module is quantised; None where the file alone says it."""
        ...

    def format(self, k: int) -> str:
        """The weight format that kernels multiply a matrix of `k` columns in. Raises ModelError where there is none."""
        ...

    def parts(self, n: int, k: int) -> dict[str, Part]:
        """The tensors that a module of this shape must have."""
        ...

    def more(self, n: int, k: int) -> dict[str, Part]:
        """The tensors that it may have besides."""
        ...

    def read(self, arrays: Arrays, n: int, k: int) -> Weight:
        """The matrix; floats come as float32. Raises ModelError that says what is wrong with its numbers."""
        ...


def is_named(module: str, names: Iterable[str]) -> bool:
    """Whether one of the names is a run of whole parts of the module's: mlp.gate is of layers.1.mlp.gate, and not of mlp.gate_proj."""
    return any(f".{name.strip('.')}." in f".{module}." for name in names)


def kernel_group(group: int, k: int) -> int:
    """The group of the kernels' formats that divides one of the file. Raises ModelError."""
    for own in (128, 32):
        if group % own == 0 and k % group == 0:
            return own
    raise ModelError(
        f"groups of {group} in rows of {k} are not supported: groups must be multiples of 32 that fill a row"
    )


def grouped_int4(
    q: npt.NDArray[np.uint8],
    scales: npt.NDArray[np.float32],
    zeros: npt.NDArray[np.uint8] | None,
    order: npt.NDArray[np.int32] | None = None,
) -> Weight:
    """A `Weight` of int4 numbers 0..15 [n, k], scales [n, groups] and zero points [n, groups]; None: all are 8."""
    n, k = q.shape
    own = kernel_group(k // scales.shape[1], k)
    times = k // scales.shape[1] // own
    fmt = f"int4g{own}" + ("" if zeros is None else "z")
    points = None if zeros is None else np.repeat(zeros, times, axis=1)
    return Weight(fmt, n, k, pack_int4(q), np.repeat(as_f16(scales), times, axis=1), points, order)


def grouped_int8(
    q: npt.NDArray[np.int8], scales: npt.NDArray[np.float32], order: npt.NDArray[np.int32] | None
) -> Weight:
    """A `Weight` of int8 numbers [n, k] and scales [n, groups]."""
    n, k = q.shape
    group, own = k // scales.shape[1], FORMATS["q8_0"].group
    if group % own:
        raise ModelError(f"groups of {group} are not supported: groups must be multiples of {own}")
    return Weight("q8_0", n, k, q, np.repeat(as_f16(scales), group // own, axis=1), None, order)


def as_f16(scales: npt.NDArray[np.float32]) -> npt.NDArray[np.float16]:
    """Scales as float16. Raises ModelError where that would change one."""
    with np.errstate(over="ignore"):
        half = scales.astype(np.float16)
    if not np.array_equal(half.astype(np.float32), scales):
        raise ModelError("its scales are no float16 numbers, as which they are multiplied")
    return half


def sorted_columns(name: str, groups: npt.NDArray[np.int32], size: int) -> npt.NDArray[np.int32]:
    """The columns in the order of their groups, of which tensor `name` has one for each. Raises ModelError.

    Every group must have `size` columns.
    """
    count = len(groups) // size
    within = groups.min() >= 0 and groups.max() < count  # else counting them would take memory without bound
    if not within or (np.bincount(groups, minlength=count) != size).any():
        raise ModelError(f"its {name} does not say {size} columns for each of {count} groups")
    return np.argsort(groups, kind="stable").astype(np.int32)


def whole_words(n: int, each: int) -> int:
    """Words that hold n numbers, `each` in one. Raises ModelError where one would be left partly empty."""
    if n % each:
        raise ModelError(
            f"{n} rows are not supported: they are stored {each} to a word, and must be a multiple"
        )
    return n // each


def unpacked(words: npt.NDArray[np.int32], bits: int, axis: int) -> npt.NDArray[np.uint8]:
    """The 32/bits numbers of each word, the lowest bits first, next to each other along `axis`."""
    shifts = np.arange(0, 32, bits, dtype=np.uint32)
    numbers = (words.view(np.uint32)[..., None] >> shifts) & np.uint32((1 << bits) - 1)
    along = np.moveaxis(numbers.astype(np.uint8), -1, axis + 1)
    shape = list(words.shape)
    shape[axis] *= len(shifts)
    return np.ascontiguousarray(along).reshape(shape)
