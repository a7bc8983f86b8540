"""The experts of a model folder: the tensors that hold them, and the numbers of each.

>>> experts = ExpertTensors(model, tensors, names, stored)
>>> list(experts.expected(0))[0]
('model.layers.0.mlp.experts.0.gate_proj.weight', (768, 2048))
>>> experts.numbers(0, 3, "gate").shape
(768, 2048)

Published files have a tensor for each matrix of each expert, or one for all of them, rows or columns first (`tensor_names.Routed`).
Those of gpt-oss are MXFP4: blocks of 16 bytes, two numbers each, the first in the lower half, and an exponent for each (openai/gpt-oss,
gpt_oss/torch/weights.py).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

from membound.kernels.layer_tensors import expert_matrices
from membound.kernels.model import Model, ModelError
from membound.kernels.parts import Experts
from membound.kernels.weights.formats import F32, FORMATS, Weight, dequantize, quantize
from membound.kernels.weights.grouped import E2M1_VALUES, EXPONENT_BIAS, MX_GROUP
from membound.kernels.weights.stored.gguf import GgufMatrices, GgufTensors
from membound.kernels.weights.stored.matrices import PLAIN, StoredExperts, StoredMatrices, StoredMatrix
from membound.kernels.weights.tensor_files import TensorFiles
from membound.kernels.weights.tensor_names import TensorNames

NAMES = ("gate", "up", "down")
BLOCKS, SCALES = "_blocks", "_scales"
BYTES = ("U8",)


class ExpertTensors:
    """Where the experts of a folder's layers stand, and their numbers as float32."""

    def __init__(
        self,
        model: Model,
        tensors: TensorFiles | GgufTensors,
        names: TensorNames,
        stored: StoredMatrices | GgufMatrices,
    ) -> None:
        self._model, self._opened, self._names, self._stored = model, tensors, names, stored
        self._there = frozenset(tensors.names())

    @property
    def _tensors(self) -> TensorFiles:
        if not isinstance(self._opened, TensorFiles):
            raise AssertionError("files in GGUF have each matrix of each expert apart")
        return self._opened

    def part(self, index: int) -> Experts:
        """The experts of a layer that has them."""
        mlp = self._model.decoder.layers[index].mlp
        if not isinstance(mlp, Experts):
            raise AssertionError(f"layer {index} is dense")
        return mlp

    def apart(self, index: int) -> bool:
        """Whether each matrix of each expert is a tensor of its own. Where neither form is there, what the published files have."""
        routed = self._names.routed
        return self.tensor(index, 0, "up") in self._there or (
            not routed.columns and self._stacked_pair(index, found=False) is None
        )

    def tensor(self, index: int, number: int, name: str) -> str:
        """A matrix of an expert where it is a tensor of its own."""
        module = self._names.routed.apart[NAMES.index(name)]
        return self._names.in_block(index, f"experts.{number}.{module}.weight")

    def _stacked_pair(self, index: int, found: bool = True) -> tuple[str, str] | None:
        """The tensors of gate and up and of down of all experts; the first known names, or None, where none are there."""
        pairs = [
            (self._names.in_block(index, first), self._names.in_block(index, second))
            for first, second in self._names.routed.stacked
        ]
        return next(
            (pair for pair in pairs if pair[0] in self._there or self._in_blocks(pair[0])),
            pairs[0] if found else None,
        )

    def stacked(self, index: int) -> tuple[str, str]:
        """The tensors of gate and up, and of down, of all experts."""
        pair = self._stacked_pair(index)
        if pair is None:
            raise AssertionError("no names of stacked experts")
        return pair

    def _in_blocks(self, tensor: str) -> bool:
        """Whether a stacked tensor is stored as MXFP4."""
        return f"{tensor}{BLOCKS}" in self._there

    def is_packed(self, tensor: str, *ends: str) -> bool:
        """Whether a tensor holds blocks of MXFP4 or their exponents, which are bytes, or of these what `ends` say."""
        return tensor.endswith(ends or (BLOCKS, SCALES))

    def check(self, tensor: str, shape: tuple[int, ...], assumed: Sequence[str]) -> None:
        """Raises ModelError unless such a tensor is there with its shape."""
        self._tensors.check(tensor, shape, assumed, BYTES)

    def expected(self, index: int) -> Iterator[tuple[str, tuple[int, ...]]]:
        """Every tensor of the layer's experts and of its router, with its shape; nothing of a dense layer."""
        mlp, hidden = self._model.decoder.layers[index].mlp, self._model.hidden
        if not isinstance(mlp, Experts):
            return
        yield self._names.router(index), (mlp.count, hidden)
        shapes = expert_matrices(mlp, hidden)
        if self.apart(index):
            for number in range(mlp.count):
                yield from ((self.tensor(index, number, name), shape) for name, shape in shapes.items())
            return
        width, wide = mlp.expert.width, (len(shapes) - 1) * mlp.expert.width
        for tensor, (n, k) in zip(self.stacked(index), ((wide, hidden), (hidden, width)), strict=True):
            if self._in_blocks(tensor):
                yield f"{tensor}{BLOCKS}", (mlp.count, n, k // MX_GROUP, MX_GROUP // 2)
                yield f"{tensor}{SCALES}", (mlp.count, n, k // MX_GROUP)
            else:
                yield tensor, (mlp.count, *((k, n) if self._by_columns(index) else (n, k)))
            if mlp.expert.bias:
                yield f"{tensor}_bias", (mlp.count, n)

    def _by_columns(self, index: int) -> bool:
        """Whether a layer's stacked experts are [count, k, n].

        Qwen3-VL's published files have them so, those that Transformers 5 writes of its modules rows first: the shape of one of the two tells
        them apart.
        """
        if self._names.routed.columns:
            return True
        mlp, hidden = self.part(index), self._model.hidden
        wide = (len(expert_matrices(mlp, hidden)) - 1) * mlp.expert.width
        shapes = ((hidden, wide), (mlp.expert.width, hidden))
        return all(
            tensor in self._there and self._opened.shape(tensor) == (mlp.count, *shape)
            for tensor, shape in zip(self.stacked(index), shapes, strict=True)
        )

    def router(self, index: int) -> F32:
        """The router's matrix [count, hidden]."""
        name, part = self._names.router(index), self.part(index)
        if self._stored.quantised(name):
            return dequantize(self._stored.read(name, part.count, self._model.hidden))
        return self._opened.float32(name)

    def describe(self, index: int) -> StoredExperts | None:
        """What the files hold of a layer's router and of one of its experts; None of a dense layer.

        Raises ModelError where experts are not alike: which are read is known only once a router has chosen.
        """
        part, hidden = self._model.decoder.layers[index].mlp, self._model.hidden
        if not isinstance(part, Experts):
            return None
        shapes = expert_matrices(part, hidden)
        first = None
        for number in range(part.count if self.apart(index) else 1):
            one = tuple((name, self._describe(index, number, name, *shape)) for name, shape in shapes.items())
            first = first or one
            if one != first:
                raise ModelError(
                    f"{self._opened.listing}: experts 0 and {number} of layer {index} are stored in different formats or sizes, and "
                    "which are read is known only once the router has chosen: ask for another weight than stored"
                )
            if self.apart(index):
                pair = [self.tensor(index, number, name) for name in shapes if name != "down"]
                self._stored.refuse_orders(pair)
        return StoredExperts(
            self._stored.describe(self._names.router(index), part.count, hidden), first or ()
        )

    def _describe(self, index: int, number: int, name: str, n: int, k: int) -> StoredMatrix:
        """A matrix of an expert."""
        if self.apart(index):
            return self._stored.describe(self.tensor(index, number, name), n, k)
        tensor = self._stacked_tensor(index, name)
        if self._in_blocks(tensor):
            return StoredMatrix("mxfp4", *FORMATS["mxfp4"].matrix_bytes(n, k))
        fmt = PLAIN[self._tensors.dtype(tensor)]
        return StoredMatrix(fmt, *FORMATS[fmt].matrix_bytes(n, k))

    def weight(self, index: int, number: int, name: str) -> Weight:
        """A matrix of a stacked expert as it is stored."""
        tensor = self._stacked_tensor(index, name)
        if not self._in_blocks(tensor):
            return quantize(self.numbers(index, number, name), PLAIN[self._tensors.dtype(tensor)])
        codes, exponents = (
            self._of_pair(index, name, self._tensors.mapped(f"{tensor}{part}")[number])
            for part in (BLOCKS, SCALES)
        )
        n, groups = exponents.shape
        return Weight("mxfp4", n, groups * MX_GROUP, codes.reshape(n, -1), exponents)

    def _stacked_tensor(self, index: int, name: str) -> str:
        """The tensor of all experts that holds a matrix of theirs."""
        first, second = self.stacked(index)
        return second if name == "down" else first

    def numbers(self, index: int, number: int, name: str) -> F32:
        """A matrix [n, k] of a stacked expert."""
        tensor = self._stacked_tensor(index, name)
        if self._in_blocks(tensor):
            matrix = self._from_blocks(tensor, number)
        else:
            held = self._tensors.float32(tensor, slice(number, number + 1))[0]
            matrix = held.T if self._by_columns(index) else held
        return self._of_pair(index, name, matrix)

    def _of_pair(self, index: int, name: str, rows: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """Down's rows, or those of gate or up among the rows of both."""
        whole = name == "down" or not self.part(index).expert.gated
        return np.ascontiguousarray(rows if whole else self._half(rows, name))

    def _from_blocks(self, tensor: str, number: int) -> F32:
        """A matrix [n, k] of an expert that is stored as MXFP4."""
        blocks = self._tensors.mapped(f"{tensor}{BLOCKS}")[number]
        exponents = self._tensors.mapped(f"{tensor}{SCALES}")[number].astype(np.int32) - EXPONENT_BIAS
        values = E2M1_VALUES[np.stack([blocks & 15, blocks >> 4], -1).reshape(*blocks.shape[:2], MX_GROUP)]
        matrix: F32 = np.ldexp(values, exponents[..., None]).reshape(len(blocks), -1)
        return matrix

    def largest(self, scales: str) -> float:
        """The magnitude of the largest number whose exponent a tensor of MXFP4 holds; infinity beyond float32."""
        tensor = scales.removesuffix(SCALES)
        count = self._tensors.shape(scales)[0]
        with np.errstate(over="ignore"):
            return max(float(np.abs(self._from_blocks(tensor, number)).max()) for number in range(count))

    def biases(self, index: int) -> dict[str, F32]:
        """The biases of all experts of a layer by name: expert3.gate_bias and so on."""
        part = self._model.decoder.layers[index].mlp
        if not isinstance(part, Experts) or not part.expert.bias:
            return {}
        first, second = (self._tensors.float32(f"{tensor}_bias") for tensor in self.stacked(index))
        found: dict[str, F32] = {}
        for number in range(part.count):
            half = partial(self._half, first[number])
            own = {"gate": half("gate"), "up": half("up"), "down": second[number]}
            found |= {f"expert{number}.{name}_bias": np.ascontiguousarray(own[name]) for name in NAMES}
        return found

    def _half(self, both: npt.NDArray[Any], name: str) -> npt.NDArray[Any]:
        """The rows of gate or of up among those of both."""
        if self._names.routed.in_turns:
            return both[NAMES.index(name) :: 2]
        return np.split(both, 2)[NAMES.index(name)]
