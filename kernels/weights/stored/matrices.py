"""The matrices of a folder as its files hold them: which are quantised, their bytes, their numbers.

>>> stored = StoredMatrices(TensorFiles(folder), scheme, "model.embed_tokens.weight")
>>> stored.describe("model.layers.0.self_attn.q_proj.weight", 4096, 4096)
StoredMatrix(format='int4g128z', values_bytes=8388608, scales_bytes=344064)
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from membound.kernels.model import ModelError
from membound.kernels.weights.formats import F32, Weight
from membound.kernels.weights.stored.scheme import BYTES, FLOATS, Part, Scheme
from membound.kernels.weights.tensor_files import TensorFiles

PLAIN = {"F32": "f32", "BF16": "bf16", "F16": "f16"}
"""The weight format of a matrix of floats, by its dtype."""
ORDERS = ("g_idx", "weight_g_idx")
"""The tensors that say which group each column is in."""


@dataclass(frozen=True, slots=True)
class StoredMatrix:
    """A matrix as a file holds it: the format it is multiplied in, bytes of its numbers, and of all that goes with them."""

    format: str
    values_bytes: int
    scales_bytes: int = 0

    def part(self, begin: int, end: int, rows: int) -> StoredMatrix:
        """Rows from begin to end of as many; parts that follow each other add up to the whole."""
        values, scales = (
            size * end // rows - size * begin // rows for size in (self.values_bytes, self.scales_bytes)
        )
        return StoredMatrix(self.format, values, scales)


@dataclass(frozen=True, slots=True)
class StoredExperts:
    """A layer's router, and the matrices of one of its experts by their names; all of them are alike."""

    router: StoredMatrix
    one: tuple[tuple[str, StoredMatrix], ...]

    @property
    def expert_bytes(self) -> tuple[int, int]:
        """Bytes of an expert: (values, scales)."""
        return sum(m.values_bytes for _, m in self.one), sum(m.scales_bytes for _, m in self.one)


@dataclass(frozen=True, slots=True)
class Stored:
    """A model as its files hold it: what every token meets in each layer by its name, experts, and the LM head."""

    title: str
    layers: tuple[dict[str, StoredMatrix], ...]
    experts: tuple[StoredExperts | None, ...]
    head: StoredMatrix

    @property
    def formats(self) -> tuple[str, ...]:
        """The formats of the matrices in layers that every token meets."""
        return tuple(dict.fromkeys(one.format for layer in self.layers for one in layer.values()))

    @property
    def expert_formats(self) -> tuple[str, ...]:
        """The formats of experts; none of a dense model."""
        return tuple(dict.fromkeys(one.format for each in self.experts if each for _, one in each.one))

    @property
    def all_formats(self) -> tuple[str, ...]:
        """The formats of layers, of experts and of the LM head."""
        return tuple(dict.fromkeys((*self.formats, *self.expert_formats, self.head.format)))

    def of_one_format(self) -> str | None:
        """None where layers have one format and experts another one at most; else what is stored otherwise."""
        for formats, what in ((self.formats, "the matrices of a layer"), (self.expert_formats, "experts")):
            if len(formats) > 1:
                return f"{what} are stored in {', '.join(formats)}: the kernels take one format"
        return None


class StoredMatrices:
    """Matrices by the name of their `.weight`, which a quantised one need not have.

    Of gates, which are routers and those of shared experts, config.json often says what quantisers do not mean: whether one is quantised the
    file says alone.
    """

    def __init__(
        self, tensors: TensorFiles, scheme: Scheme | None, embedding: str, gates: Collection[str] = ()
    ) -> None:
        self._tensors, self._scheme, self._embedding = tensors, scheme, embedding
        self._gates = frozenset(gates)
        self._names = frozenset(tensors.names())

    def quantised(self, name: str) -> bool:
        """Whether a matrix is stored as the scheme says. Raises ModelError where file and config.json contradict each other."""
        scheme, module = self._scheme, _module(name)
        if scheme is None or name == self._embedding:
            return False
        marked = f"{module}.{scheme.mark}" in self._names
        said = None if name in self._gates else scheme.covers(module)
        if said is not None and said != marked:
            has = f"has {module}.{scheme.mark}" if marked else f"has no {module}.{scheme.mark}"
            raise ModelError(
                f"{self._tensors.listing} {has}, and quantization_config in config.json ({scheme.title}) says that "
                f"{module} is {'stored so' if said else 'not stored so'}"
            )
        return marked

    def has(self, name: str) -> bool:
        """Whether a matrix is there, in whatever form."""
        return name in self._names or self.quantised(name)

    def check(self, name: str, shape: tuple[int, ...], assumed: Sequence[str] = ()) -> None:
        """Raises ModelError unless the tensors of a matrix, or a tensor of floats, are there with their shapes and dtypes."""
        if len(shape) != 2 or not self.quantised(name):
            self._tensors.check(name, shape, assumed)
            return
        for tensor, part in self._parts(name, *shape).items():
            self._tensors.check(tensor, part.shape, assumed, part.dtypes)
        self.describe(name, *shape)

    def tensors_of(self, name: str, shape: tuple[int, ...]) -> tuple[str, ...]:
        """The names of the tensors that hold a matrix or a vector."""
        if len(shape) != 2 or not self.quantised(name):
            return (name,)
        return tuple(self._parts(name, *shape))

    def spare(self, name: str) -> bool:
        """Whether a tensor is a bias of zeros, which writers of GPTQ give every matrix."""
        scheme, module = self._scheme, _module(name)
        if scheme is None or not name.endswith(".bias") or f"{module}.{scheme.mark}" not in self._names:
            return False
        return not self._tensors.float32(name).any()

    def describe(self, name: str, n: int, k: int) -> StoredMatrix:
        """The format and the bytes of a matrix. Raises ModelError where there is no format for it."""
        if self._scheme is None or not self.quantised(name):
            dtype = self._tensors.dtype(name)
            return StoredMatrix(PLAIN[dtype], n * k * BYTES[dtype])
        sizes = {tensor: self._tensors.nbytes(tensor) for tensor in self._parts(name, n, k)}
        values = sizes.pop(f"{_module(name)}.{self._scheme.values}")
        try:
            return StoredMatrix(self._scheme.format(k), values, sum(sizes.values()))
        except ModelError as error:
            raise ModelError(f"{self._tensors.listing}: {_module(name)}: {error}") from None

    def refuse_orders(self, names: Sequence[str]) -> None:
        """Raises ModelError where matrices of the same input, of which only x in one order of columns is read, have them in orders that differ."""
        held = [self._groups(name) for name in names]
        if any(not np.array_equal(one, held[0]) for one in held):
            shown = " and ".join(dict.fromkeys(map(_module, names)))
            raise ModelError(
                f"{self._tensors.listing}: {shown} have the same input and their columns in orders that differ, which no kernel "
                "takes: ask for another weight than stored"
            )

    def _groups(self, name: str) -> npt.NDArray[Any]:
        """The group of each column, where columns lie in another order than that of their groups; else nothing."""
        module = _module(name)
        tensor = next((found for one in ORDERS if (found := f"{module}.{one}") in self._names), "")
        if not tensor or not self.quantised(name):
            return np.zeros(0, np.int32)
        groups = np.asarray(self._tensors.mapped(tensor))
        return groups if (np.diff(groups) < 0).any() else groups[:0]

    def read(self, name: str, n: int, k: int) -> Weight:
        """A matrix as it is stored. Raises ModelError that names the file, the module and what is wrong with its numbers."""
        if self._scheme is None or not self.quantised(name):
            fmt = PLAIN[self._tensors.dtype(name)]
            return Weight(fmt, n, k, np.array(self._tensors.mapped(name)))
        module = _module(name)
        arrays = {
            tensor.removeprefix(f"{module}."): self._array(tensor) for tensor in self._parts(name, n, k)
        }
        try:
            return self._scheme.read(arrays, n, k)
        except ModelError as error:
            file = self._tensors.file(f"{module}.{self._scheme.mark}")
            raise ModelError(f"{file}: {module}: {error}") from None

    def _array(self, tensor: str) -> npt.NDArray[Any]:
        if self._tensors.dtype(tensor) not in FLOATS:
            return self._tensors.mapped(tensor)
        floats: F32 = self._tensors.float32(tensor)
        if not np.isfinite(floats).all():
            raise ModelError(
                f"{self._tensors.file(tensor)}: {tensor} holds a number that is not finite: the file is damaged, or the model "
                "was when it was saved"
            )
        return floats

    def _parts(self, name: str, n: int, k: int) -> dict[str, Part]:
        if self._scheme is None:
            raise AssertionError("no scheme")
        module, scheme = _module(name), self._scheme
        more = {s: part for s, part in scheme.more(n, k).items() if f"{module}.{s}" in self._names}
        try:
            return {f"{module}.{suffix}": part for suffix, part in (scheme.parts(n, k) | more).items()}
        except ModelError as error:
            raise ModelError(f"{self._tensors.listing}: {module}: {error}") from None


def _module(name: str) -> str:
    return name.rpartition(".")[0]
