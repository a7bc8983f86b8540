"""The experts of a model folder: the tensors that hold them, and the numbers of each.

>>> experts = ExpertTensors(model, tensors, names)
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

import numpy as np

from membound.kernels.layer_tensors import expert_matrices
from membound.kernels.model import Model
from membound.kernels.parts import Experts
from membound.kernels.weights.formats import F32
from membound.kernels.weights.grouped import E2M1_VALUES, EXPONENT_BIAS, MX_GROUP
from membound.kernels.weights.stored.gguf import GgufTensors
from membound.kernels.weights.tensor_files import TensorFiles
from membound.kernels.weights.tensor_names import TensorNames

NAMES = ("gate", "up", "down")
BLOCKS, SCALES = "_blocks", "_scales"
BYTES = ("U8",)


class ExpertTensors:
    """Where the experts of a folder's layers stand, and their numbers as float32."""

    def __init__(self, model: Model, tensors: TensorFiles | GgufTensors, names: TensorNames) -> None:
        self._model, self._opened, self._names = model, tensors, names
        self._there = frozenset(tensors.names())

    @property
    def _tensors(self) -> TensorFiles:
        if not isinstance(self._opened, TensorFiles):
            raise AssertionError("files in GGUF hold dense models alone")
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

    def is_packed(self, tensor: str) -> bool:
        """Whether a tensor holds blocks of MXFP4 or their exponents, which are bytes."""
        return tensor.endswith((BLOCKS, SCALES))

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
                yield tensor, (mlp.count, *((k, n) if self._names.routed.columns else (n, k)))
            if mlp.expert.bias:
                yield f"{tensor}_bias", (mlp.count, n)

    def router(self, index: int) -> F32:
        """The router's matrix [count, hidden]."""
        return self._tensors.float32(self._names.router(index))

    def numbers(self, index: int, number: int, name: str) -> F32:
        """A matrix [n, k] of a stacked expert."""
        first, second = self.stacked(index)
        tensor = second if name == "down" else first
        if self._in_blocks(tensor):
            matrix = self._from_blocks(tensor, number)
        else:
            held = self._tensors.float32(tensor, slice(number, number + 1))[0]
            matrix = held.T if self._names.routed.columns else held
        whole = name == "down" or not self.part(index).expert.gated
        return np.ascontiguousarray(matrix if whole else self._half(matrix, name))

    def _from_blocks(self, tensor: str, number: int) -> F32:
        """A matrix [n, k] of an expert that is stored as MXFP4."""
        blocks = self._tensors.mapped(f"{tensor}{BLOCKS}")[number]
        exponents = self._tensors.mapped(f"{tensor}{SCALES}")[number].astype(np.int32) - EXPONENT_BIAS
        values = E2M1_VALUES[np.stack([blocks & 15, blocks >> 4], -1).reshape(*blocks.shape[:2], MX_GROUP)]
        matrix: F32 = np.ldexp(values, exponents[..., None]).reshape(len(blocks), -1)
        return matrix

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

    def _half(self, both: F32, name: str) -> F32:
        """The rows of gate or of up among those of both."""
        if self._names.routed.in_turns:
            return both[NAMES.index(name) :: 2]
        gate, up = np.split(both, 2)
        return gate if name == "gate" else up
