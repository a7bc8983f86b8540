"""Real weights: a local Hugging Face folder (config.json and safetensors) as a source of a model's numbers.

>>> from membound.kernels.models import get_model
>>> model = get_model("/models/Llama-3.2-1B")
>>> Checkpoint(model, "int8", seed=1).layer(0).matrices["q"].scales.shape
(2048,)

Headers are checked when the checkpoint is opened; numbers are read when they are asked for, a few
thousand rows at a time, and stored in the format of the work. Nothing is downloaded.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from functools import lru_cache, partial
from math import isfinite, nan, prod
from pathlib import Path

import numpy as np

from membound.kernels.layer_tensors import ROUTER, expert_matrices, matrices_of
from membound.kernels.model import Model, ModelError
from membound.kernels.parts import Experts
from membound.kernels.weights.expert_tensors import SCALES, ExpertTensors
from membound.kernels.weights.formats import (
    F32,
    FORMATS,
    STORED,
    Array,
    Weight,
    dequantize,
    quantize,
    rows_of,
    weight_layout,
)
from membound.kernels.weights.generate import prompt_tokens
from membound.kernels.weights.hybrid_names import vector_shape
from membound.kernels.weights.layers import I64, LayerWeights, MadeMatrices
from membound.kernels.weights.making import Take, make_here
from membound.kernels.weights.stored.gguf import Gguf, GgufMatrices, GgufTensors
from membound.kernels.weights.stored.matrices import Stored, StoredMatrices, StoredMatrix
from membound.kernels.weights.stored.scheme import Scheme
from membound.kernels.weights.tensor_files import TensorFiles
from membound.kernels.weights.tensor_names import PREDICTED, Place, TensorNames

CHUNK_ELEMENTS = 1 << 22

BUFFERS = (".rotary_emb.inv_freq", ".self_attn.masked_bias")
"""Ends of names that old versions of Transformers stored and that follow from config.json."""
SHARED_GATE = "shared_gate"
SHARING = (
    ("q", "k", "v", "out_gate"),
    ("q_down", "kv_down"),
    ("gate", "up"),
    ("shared.gate", "shared.up"),
)
"""Matrices that read the same input, for which its columns are put in one order."""
NO_EXPONENT = 255
"""The exponent of MXFP4 that is no number."""
WIDE_EXPONENT = 253
"""From this one on the larger numbers of a group are beyond float32, in which they are computed with."""
LARGEST_F16, LARGEST_BF16 = 65504.0, (2 - 2**-7) * 2.0**127
LARGEST_STORED = {
    "f16": LARGEST_F16,
    "bf16": LARGEST_BF16,
    "int4g32": 8 * LARGEST_F16,
    "int4g128": 8 * LARGEST_F16,
    "int4g32z": 15 * LARGEST_F16,
    "int4g128z": 15 * LARGEST_F16,
    "q8_0": 127 * LARGEST_F16,
    "q4_0": 8 * LARGEST_F16,
    "q4_k": 63 * LARGEST_F16,
    "mxfp4": 6 * 2.0**127,
}
"""The largest weight that a format holds, by its float16 scale where it has one; the others hold all of float32."""


class Checkpoint:
    """A `WeightSource` over the tensors of `model.folder`, quantised to `format` as they are read."""

    def __init__(self, model: Model, format: str, seed: int, take: Take = make_here) -> None:
        """Open the folder's safetensors. `take`: whoever has quantised a matrix.

        Raises ModelError with one line that names the file and the tensor: no safetensors, a damaged
        file, a missing tensor, a shape that is not config.json's, a dtype or a tensor that is not supported.
        """
        self._model = model
        self._format = format
        self._seed = seed
        self._take = take
        self._tensors, self._names, self._stored = _opened(model)
        self._experts = ExpertTensors(model, self._tensors, self._names, self._stored)
        self._head, self._embedding = self._tables()
        assumed = [text for text in model.assumed if "window" not in text]
        for name, shape in self._expected():
            if self._experts.is_packed(name):
                self._experts.check(name, shape, assumed)
            else:
                self._stored.check(name, shape, assumed)
        self._refuse_others()

    def _tables(self) -> tuple[str, str]:
        """Tensors of the LM head and of the embedding: one where they are tied, under either of its names.

        A matrix that two modules share is stored once, and safetensors' `save_model` keeps the first name by alphabet.
        """
        names, lm_head, embedding = self._tensors.names(), self._names.lm_head, self._names.embedding
        if not self._model.tied:
            if embedding in names and not self._stored.has(lm_head):
                raise ModelError(
                    f"{self._tensors.listing} has no tensor {lm_head}, and tie_word_embeddings is not true in config.json: "
                    "set it if the LM head is the embedding"
                )
            return lm_head, embedding
        only = lm_head if lm_head in names and embedding not in names else embedding
        return only, only

    def _expected(self) -> Iterator[tuple[str, tuple[int, ...]]]:
        """Every tensor that the model reads, with its shape."""
        m = self._model
        table = (m.vocab, m.hidden)
        yield from ((self._embedding, table), (self._names.final_norm, (m.hidden,)), (self._head, table))
        if m.decoder.norm_vectors > 1:
            yield self._names.final_bias, (m.hidden,)
        for index in range(m.layers):
            for name, (_, k) in matrices_of(m.decoder.layers[index], m.hidden).items():
                place = self._names.matrix(index, name)
                if not place.first:
                    yield place.tensor, (place.stored, k)
            for name, tensor, width in self._names.vectors(index):
                yield tensor, vector_shape(m.decoder.layers[index].mixer, name, width)
            yield from self._experts.expected(index)

    def _refuse_others(self) -> None:
        """A tensor that this model has no place for would be dropped in silence. Layers that are not run do not matter."""
        expected = {
            tensor for name, shape in self._expected() for tensor in self._stored.tensors_of(name, shape)
        }
        for name in self._tensors.names():
            layer = self._names.layer_of(name)
            if name in expected or name.endswith(BUFFERS) or (layer or 0) >= self._model.layers:
                continue
            if name.startswith(PREDICTED):
                continue
            if self._model.decoder.left_out and not self._names.writes(name):
                continue
            if self._model.tied and name == self._names.lm_head:
                continue  # `check_numbers` compares it with the embedding
            if self._stored.spare(name):
                continue
            what = "a bias" if name.endswith(".bias") else "a tensor"
            raise ModelError(f"{self._tensors.file(name)}: {name} is {what} that is not supported")

    def check_numbers(self) -> None:
        """Read every number once. Raises ModelError that names the file and the tensor.

        NaN or infinity, a number that the work's format does not hold, or an LM head that config.json ties to the embedding
        and that differs from it. What was read before and has not changed since is not read again.
        """
        _check_numbers(self._model, self._format, self._tensors.stamps())

    def _refuse_numbers(self) -> None:
        most = LARGEST_STORED.get(self._format, np.inf)
        for name, shape in dict(self._expected()).items():
            if len(shape) == 2 and self._stored.quantised(name):
                where, largest = f"{self._tensors.listing}: {name} holds", self._largest_stored(name, *shape)
            else:
                where = f"{self._tensors.file(name)}: {name} holds"
                largest = self._tensors.largest(name, _rows_at_once(shape))
                if largest >= WIDE_EXPONENT and self._experts.is_packed(name, SCALES):
                    largest = nan if largest == NO_EXPONENT else self._experts.largest(name)
            if not isfinite(largest):
                kind = "NaN (not a number)" if largest != largest else "infinity"
                raise ModelError(f"{where} {kind}: the file is damaged, or the model was when it was saved")
            if len(shape) > 1 and largest > most and not self._experts.is_packed(name):
                raise self._too_large(where, largest, most)
        if self._model.tied and {self._names.lm_head, self._names.embedding} <= set(self._tensors.names()):
            self._refuse_untied()

    def _largest_stored(self, name: str, n: int, k: int) -> float:
        """The magnitude of the largest number of a matrix that is stored quantised; NaN or infinity if it holds one."""
        with np.errstate(over="ignore", invalid="ignore"):  # a damaged scale, which is what is looked for
            return float(np.abs(dequantize(self._stored.read(name, n, k))).max())

    def _too_large(self, where: str, largest: float, most: float) -> ModelError:
        return ModelError(
            f"{where} {largest:.6g}, which weight={self._format} cannot store (up to {most:.6g})"
        )

    def _refuse_untied(self) -> None:
        n, k = self._model.vocab, self._model.hidden
        lm_head, embedding = self._names.lm_head, self._names.embedding
        self._stored.check(lm_head, (n, k))
        rows = _rows_at_once((n, k))
        for start in range(0, n, rows):
            part = slice(start, min(start + rows, n))
            if not np.array_equal(
                self._tensors.float32(lm_head, part), self._tensors.float32(embedding, part)
            ):
                raise ModelError(
                    f"{self._tensors.file(lm_head)}: {lm_head} differs from {embedding}, and config.json ties them: set "
                    "tie_word_embeddings to false, or remove the one that is left over"
                )

    def stored(self) -> Stored:
        """Format and bytes of every matrix that a step streams, as the files hold them."""
        m = self._model
        layers = tuple(self._stored_layer(index) for index in range(m.layers))
        experts = tuple(self._experts.describe(index) for index in range(m.layers))
        title = "floats" if m.scheme is None else m.scheme.title
        return Stored(title, layers, experts, self._stored.describe(self._head, m.vocab, m.hidden))

    def _stored_layer(self, index: int) -> dict[str, StoredMatrix]:
        """The matrices of layer `index` that every token meets; of several in one tensor each has its rows' part of the bytes.

        Raises ModelError for orders of columns that differ below one input.
        """
        found, before = {}, Counter[str]()
        for name, (n, k) in matrices_of(self._model.decoder.layers[index], self._model.hidden).items():
            place = self._names.matrix(index, name)
            whole, begin = self._stored.describe(place.tensor, place.stored, k), before[place.tensor]
            before[place.tensor] += n
            found[name] = whole.part(begin, begin + n, place.stored)
        for sharing in SHARING:
            self._stored.refuse_orders(
                [self._names.matrix(index, one).tensor for one in sharing if one in found]
            )
        return found

    def layer(self, index: int) -> LayerWeights:
        """Weights of layer `index`."""
        kind, hidden = self._model.decoder.layers[index], self._model.hidden
        makers = {
            name: partial(self._matrix, self._names.matrix(index, name), n, k)
            for name, (n, k) in matrices_of(kind, hidden).items()
        }
        vectors = {name: self._vector(name, tensor) for name, tensor, _ in self._names.vectors(index)}
        if not isinstance(kind.mlp, Experts):
            return LayerWeights({name: make() for name, make in makers.items()}, vectors)
        makers[ROUTER] = partial(self._router, index)
        for number in range(kind.mlp.count):
            for name, (n, k) in expert_matrices(kind.mlp, hidden).items():
                makers[f"expert{number}.{name}"] = partial(self._expert, index, number, name, n, k)
        return LayerWeights(MadeMatrices(makers), vectors | self._experts.biases(index))

    def _router(self, index: int) -> Weight:
        """The router of layer `index`, float32 in every format."""
        values = self._experts.router(index)
        count, hidden = values.shape
        return Weight("f32", count, hidden, values)

    def _expert(self, index: int, number: int, name: str, n: int, k: int) -> Weight:
        """A matrix of an expert in the work's format."""
        if self._experts.apart(index):
            return self._matrix(Place(self._experts.tensor(index, number, name), 0, n), n, k)
        if self._format == STORED:
            return self._experts.weight(index, number, name)
        layout = weight_layout(self._format, n, k)
        of_file = f"{self._tensors.stamps()} layer {index} expert {number} {name} {self._format}"
        make = partial(self._quantised_expert, index, number, name)
        arrays = self._take(of_file, layout, make, share=True)
        return Weight(self._format, n, k, *arrays)

    def _quantised_expert(self, index: int, number: int, name: str) -> list[Array]:
        made = quantize(self._experts.numbers(index, number, name), self._format)
        return [array for array in (made.values, made.scales, made.zeros) if array is not None]

    def _vector(self, name: str, tensor: str) -> F32:
        """A vector as it is computed with: a norm's gain may be stored less one."""
        values, added = self._tensors.float32(tensor).reshape(-1), self._names.added(name)
        return values + np.float32(added) if added else values

    def final_norm(self) -> F32:
        """Weight [hidden] of the last norm."""
        return self._vector("final_norm", self._names.final_norm)

    def final_bias(self) -> F32 | None:
        """Bias [hidden] of the last norm, where it has one."""
        return self._tensors.float32(self._names.final_bias) if self._model.decoder.norm_vectors > 1 else None

    def lm_head(self) -> Weight:
        """The output matrix [vocab, hidden]; the embedding table where the two are tied."""
        return self._table(self._head)

    def embedding_table(self) -> Weight:
        """The embedding table [vocab, hidden] in the work's format."""
        return self._table(self._embedding)

    def hidden_states(self, rows: int) -> F32:
        """Embeddings [rows, hidden] of random token ids, the same for the same seed."""
        rows_of_table = self.embedding(prompt_tokens(self._seed, rows, 1, self._model.vocab)[:, 0])
        gain = self._model.decoder.embedding_gain
        return rows_of_table if gain == 1 else np.float32(gain) * rows_of_table

    def embedding(self, tokens: I64) -> F32:
        """Rows of the embedding table."""
        return np.concatenate(
            [self._tensors.float32(self._embedding, slice(i, i + 1)) for i in tokens.tolist()]
        )

    def _table(self, name: str) -> Weight:
        """The embedding or the LM head."""
        return self._matrix(Place(name, 0, self._model.vocab), self._model.vocab, self._model.hidden)

    def _matrix(self, place: Place, n: int, k: int) -> Weight:
        """A matrix in the work's format, read and quantised by whoever needs it first.

        That takes ten times as long as reading what came of it, in every format.
        """
        if self._format == STORED:
            held = self._stored.read(place.tensor, place.stored, k)
            return held if place.stored == n else rows_of(held, place.slices(0, n))
        part = f" from {place.first}" if place.stored != n else ""
        part += f" by {place.run} of {place.period}" if place.run else ""
        of_file = f"{self._tensors.stamps()} {place.tensor}{part} {self._format}"
        layout = weight_layout(self._format, n, k)
        arrays = self._take(of_file, layout, lambda: self._quantised(place, n, k), share=True)
        return Weight(self._format, n, k, *arrays)

    def _quantised(self, place: Place, n: int, k: int) -> list[Array]:
        """The arrays of a `Weight`. Rows that share scales are quantised together, others in chunks."""
        together = FORMATS[self._format].rows
        rows = -(-_rows_at_once((n, k)) // together) * together
        quantised = self._stored.quantised(place.tensor)
        held = self._stored.read(place.tensor, place.stored, k) if quantised else None

        def floats(part: slice) -> F32:
            return self._tensors.float32(place.tensor, part) if held is None else dequantize(held, part)

        parts = [
            quantize(
                np.concatenate([floats(part) for part in place.slices(start, min(start + rows, n))]),
                self._format,
            )
            for start in range(0, n, rows)
        ]
        columns = [[part.values, part.scales, part.zeros] for part in parts]
        return [
            np.concatenate([array for array in arrays if array is not None])
            for arrays in zip(*columns, strict=True)
            if arrays[0] is not None
        ]


def _opened(
    model: Model,
) -> tuple[TensorFiles | GgufTensors, TensorNames, StoredMatrices | GgufMatrices]:
    """The tensors of a model's folder or file, their names, and the matrices among them."""
    if isinstance(model.scheme, Gguf):
        tensors = GgufTensors(Path(model.folder), model)
        return tensors, TensorNames(model, tensors.names()), GgufMatrices(tensors)
    files = TensorFiles(Path(model.folder))
    if model.scheme is not None and not isinstance(model.scheme, Scheme):
        raise AssertionError(f"{model.scheme.title} is no way to store a folder's matrices")
    names = TensorNames(model, files.names())
    gates = []
    for index, layer in enumerate(model.decoder.layers):
        if isinstance(layer.mlp, Experts):
            gates.append(names.router(index))
            gates += [names.vector(index, SHARED_GATE)] if layer.mlp.shared_gate else []
    return files, names, StoredMatrices(files, model.scheme, names.embedding, gates)


def _rows_at_once(shape: tuple[int, ...]) -> int:
    """Rows of a tensor that are read together."""
    return max(1, CHUNK_ELEMENTS // prod(shape[1:]))


@lru_cache(maxsize=32)
def _check_numbers(model: Model, format: str, stamps: tuple[tuple[str, int, int], ...]) -> None:
    """`Checkpoint.check_numbers`, once for files as `stamps` has them."""
    Checkpoint(model, format, seed=0)._refuse_numbers()
