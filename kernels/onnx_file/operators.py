"""How an operator of ONNX is walked through: its inputs, what it reads of the file, and what it gives.

>>> OPERATORS = {"Neg": Operator(lambda call: [-call.wide(0)])}

Every handler gets a `Call` and returns arrays. Real numbers are float64 throughout, whatever the file stores; whole numbers keep
their type, as shapes and positions come of them. A walk with `numbers=False` follows shapes alone: whatever depends on
weights or caches is `ghost`, an array of zeros that takes no memory, and heavy operators do not compute.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
import numpy.typing as npt

from membound.kernels.model import ModelError
from membound.kernels.onnx_file.graph import Node
from membound.kernels.onnx_file.numbers import Array
from membound.kernels.onnx_file.tally import Origin, Tally

F64 = npt.NDArray[np.float64]


class NumbersNeeded(Exception):
    """What an operator does depends on numbers, which a walk through shapes does not have."""


MOST_ELEMENTS = 1 << 34
"""More than any step has in one value: a shape that asks for more is damaged."""


def ghost(shape: Sequence[int], dtype: Any = np.float64) -> Array:
    """Zeros of a shape that take no memory. Raises ModelError for one that no step has."""
    dims = tuple(map(int, shape))
    if any(dim < 0 for dim in dims) or prod(dims) > MOST_ELEMENTS:
        raise ModelError(f"it asks for a value of the shape {list(dims)!r:.60}, which no step has")
    return np.broadcast_to(np.zeros((), dtype), dims)


@dataclass(slots=True)
class Call:
    """One operator at work. `known` says of each input whether its numbers are what they are in a real launch."""

    node: Node
    inputs: Sequence[Array | None]
    known: Sequence[bool]
    origins: Sequence[tuple[Origin, ...]]
    tally: Tally
    numbers: bool

    def has(self, index: int) -> bool:
        """Whether an optional input is given."""
        return index < len(self.inputs) and self.inputs[index] is not None

    def get(self, index: int) -> Array:
        """An input as it is. Raises ModelError where it is missing."""
        value = self.inputs[index] if index < len(self.inputs) else None
        if value is None:
            raise ModelError(f"{self.node.title} lacks input {index}")
        return value

    def need(self, index: int) -> Array:
        """An input whose numbers decide what happens. Raises NumbersNeeded."""
        value = self.get(index)
        if not self.known[index]:
            raise NumbersNeeded(self.node.title)
        return value

    def wide(self, index: int) -> F64:
        """An input of real numbers as float64."""
        return widened(self.get(index))

    def attribute(self, name: str, default: Any = None) -> Any:
        """An attribute. Raises ModelError where it is missing and has no default."""
        value = self.node.attributes.get(name, default)
        if value is None:
            raise ModelError(f"{self.node.title} lacks the attribute {name}")
        return value

    def whole(self, name: str, default: int | None = None) -> int:
        """An attribute that is a whole number. Raises ModelError."""
        value = self.attribute(name, default)
        if not isinstance(value, int):
            raise ModelError(f"{self.node.title} has {name}={value!r:.40}, which is no whole number")
        return value

    def refuse(self, told: str) -> ModelError:
        """The error that says what of this operator is not supported."""
        return ModelError(f"{self.node.title} {told}")


Compute = Callable[[Call], Sequence[Array | None]]
Reads = Callable[[Call], None]


def whole(call: Call) -> None:
    """Every tensor of the file that it takes is read whole."""
    for origins in call.origins:
        call.tally.read(origins)


def whole_with_scales(*indices: int) -> Reads:
    """As `whole`; the inputs at these places are scales and zero points."""

    def reads(call: Call) -> None:
        for index, origins in enumerate(call.origins):
            call.tally.read([one.as_scale() for one in origins] if index in indices else origins)

    return reads


def nothing(call: Call) -> None:
    """It reads nothing of the file, or counts by itself."""


def unknown(call: Call) -> None:
    """What it reads of a tensor cannot be told. Raises ModelError where there is one."""
    for origins in call.origins:
        for origin in origins:
            if origin.stored.is_weight:
                raise call.refuse(
                    f"reads the tensor {origin.stored.name!r:.60}, and how many of its bytes cannot be counted"
                )


@dataclass(frozen=True, slots=True)
class Operator:
    """How one is computed and what it reads. `through`: its output is its inputs' numbers in another form or order.

    `by_shape`: its output follows from the shapes of its inputs alone. `pointwise`: its output has the shape to which its inputs
    broadcast. `lazy`: in a walk through shapes it takes no memory and no time, however large its inputs are.
    """

    compute: Compute
    reads: Reads = whole
    through: bool = False
    by_shape: bool = False
    pointwise: bool = False
    lazy: bool = False


def widened(value: Array) -> F64:
    """Real numbers as float64, whole ones too."""
    return np.asarray(value, np.float64)
