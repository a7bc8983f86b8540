"""Real weights: a local Hugging Face folder (config.json and safetensors) as a source of a model's numbers.

>>> from membound.kernels.models import get_model
>>> model = get_model("/models/Llama-3.2-1B")
>>> Checkpoint(model, "int8", seed=1).layer(0).matrices["q"].scales.shape
(2048,)

Headers are checked when the checkpoint is opened; numbers are read when they are asked for, a few
thousand rows at a time, and stored in the format of the work. Nothing is downloaded.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError, safe_open

from membound.kernels.models import Model
from membound.kernels.weights.formats import F32, Weight, from_bf16, quantize
from membound.kernels.weights.generate import prompt_tokens
from membound.kernels.weights.layers import I64, LayerWeights

DTYPES = ("BF16", "F16", "F32")
CHUNK_ELEMENTS = 1 << 22
LARGEST_WEIGHT = 65504
"""float16's largest number: formats store scales in it, and trained weights are a thousand times smaller."""

EMBEDDING = "model.embed_tokens.weight"
FINAL_NORM = "model.norm.weight"
LM_HEAD = "lm_head.weight"
MATRICES = {
    "q": "self_attn.q_proj",
    "k": "self_attn.k_proj",
    "v": "self_attn.v_proj",
    "o": "self_attn.o_proj",
    "gate": "mlp.gate_proj",
    "up": "mlp.up_proj",
    "down": "mlp.down_proj",
}


class Checkpoint:
    """A `WeightSource` over the tensors of `model.folder`, quantised to `format` as they are read."""

    def __init__(self, model: Model, format: str, seed: int) -> None:
        """Open the folder's safetensors.

        Raises ValueError with one line that names the file and the tensor: no safetensors, a damaged
        file, a missing tensor, a shape that is not config.json's, a dtype or bias that is not supported.
        """
        self._model = model
        self._format = format
        self._seed = seed
        self._tensors = _Tensors(Path(model.folder))
        self._head = EMBEDDING if model.tied else LM_HEAD
        for name, shape in self._expected():
            self._tensors.check(name, shape)
        self._refuse_other_biases()

    def _expected(self) -> Iterator[tuple[str, tuple[int, ...]]]:
        """Every tensor that the model reads, with its shape."""
        m = self._model
        table = (m.vocab, m.hidden)
        yield from ((EMBEDDING, table), (FINAL_NORM, (m.hidden,)), (self._head, table))
        for index in range(m.layers):
            for name, shape in m.layer_matrices.items():
                yield tensor_name(index, MATRICES[name]), shape
            for norm in ("input_layernorm", "post_attention_layernorm"):
                yield tensor_name(index, norm), (m.hidden,)
            if m.qk_norm:
                for norm in ("q_norm", "k_norm"):
                    yield tensor_name(index, f"self_attn.{norm}"), (m.head_dim,)
            if m.qkv_bias:
                for name, width in (("q", m.q_dim), ("k", m.kv_dim), ("v", m.kv_dim)):
                    yield tensor_name(index, MATRICES[name], "bias"), (width,)

    def _refuse_other_biases(self) -> None:
        """A bias that this model shape has no place for would be dropped in silence."""
        expected = {name for name, _ in self._expected()}
        for name in self._tensors.names():
            if name.endswith(".bias") and name not in expected:
                raise ValueError(f"{self._tensors.file(name)}: {name} is a bias that is not supported")

    def layer(self, index: int) -> LayerWeights:
        """Weights of layer `index`."""
        m = self._model

        def vector(part: str, kind: str = "weight", present: bool = True) -> F32 | None:
            return self._tensors.float32(tensor_name(index, part, kind)) if present else None

        return LayerWeights(
            {name: self._matrix(tensor_name(index, MATRICES[name])) for name in m.layer_matrices},
            self._tensors.float32(tensor_name(index, "input_layernorm")),
            self._tensors.float32(tensor_name(index, "post_attention_layernorm")),
            vector("self_attn.q_norm", present=m.qk_norm),
            vector("self_attn.k_norm", present=m.qk_norm),
            *(vector(MATRICES[name], "bias", m.qkv_bias) for name in "qkv"),
        )

    def final_norm(self) -> F32:
        """Weight [hidden] of the last norm."""
        return self._tensors.float32(FINAL_NORM)

    def lm_head(self) -> Weight:
        """The output matrix [vocab, hidden]; the embedding table where the two are tied."""
        return self._matrix(self._head)

    def embedding_table(self) -> Weight:
        """The embedding table [vocab, hidden] in the work's format."""
        return self._matrix(EMBEDDING)

    def hidden_states(self, rows: int) -> F32:
        """Embeddings [rows, hidden] of random token ids, the same for the same seed."""
        return self.embedding(prompt_tokens(self._seed, rows, 1, self._model.vocab)[:, 0])

    def embedding(self, tokens: I64) -> F32:
        """Rows of the embedding table."""
        return np.concatenate([self._tensors.float32(EMBEDDING, slice(i, i + 1)) for i in tokens.tolist()])

    def _matrix(self, name: str) -> Weight:
        """A matrix in the work's format. Every format's scales lie within a row, so rows go in chunks."""
        n, k = self._tensors.shape(name)
        rows = max(1, CHUNK_ELEMENTS // k)
        chunks = (slice(start, min(start + rows, n)) for start in range(0, n, rows))
        parts = [quantize(self._tensors.sane(name, chunk), self._format) for chunk in chunks]
        scales = [part.scales for part in parts if part.scales is not None]
        values = np.concatenate([part.values for part in parts])
        return Weight(self._format, n, k, values, np.concatenate(scales) if scales else None)


def tensor_name(index: int, part: str, kind: str = "weight") -> str:
    """A tensor of layer `index` as Hugging Face's checkpoints name it."""
    return f"model.layers.{index}.{part}.{kind}"


class _Tensors:
    """The tensors of a folder by name, over one file or the shards of an index."""

    def __init__(self, folder: Path) -> None:
        self._files: dict[str, Path] = {}
        self._handles: dict[Path, Any] = {}
        index, single = folder / "model.safetensors.index.json", folder / "model.safetensors"
        if index.is_file():
            self._files = {name: folder / file for name, file in _weight_map(index).items()}
            self._listing = index
        elif single.is_file():
            self._files = dict.fromkeys(self._open(single).keys(), single)
            self._listing = single
        else:
            raise ValueError(f"model folder {folder} has no model.safetensors and no {index.name}")

    def names(self) -> tuple[str, ...]:
        """Names of all tensors."""
        return tuple(self._files)

    def file(self, name: str) -> Path:
        """The file that holds a tensor. Raises ValueError if none does."""
        if name not in self._files:
            raise ValueError(f"{self._listing} has no tensor {name}")
        return self._files[name]

    def check(self, name: str, shape: tuple[int, ...]) -> None:
        """Raise ValueError unless the tensor is there with this shape and a dtype that can be read."""
        found, dtype = self.shape(name), self._slice(name).get_dtype()
        if found != shape:
            raise ValueError(
                f"{self.file(name)}: {name} has shape {list(found)}, config.json says {list(shape)}"
            )
        if dtype not in DTYPES:
            raise ValueError(
                f"{self.file(name)}: {name} is stored as {dtype}; supported: {', '.join(DTYPES)}"
            )

    def shape(self, name: str) -> tuple[int, ...]:
        """A tensor's shape."""
        return tuple(self._slice(name).get_shape())

    def float32(self, name: str, rows: slice = slice(None)) -> F32:
        """Rows of a tensor as float32, exact."""
        part = self._slice(name)
        if part.get_dtype() == "BF16":
            return from_bf16(np.array(self._bf16(name)[rows]))
        values: F32 = part[rows].astype(np.float32)
        return values

    def sane(self, name: str, rows: slice) -> F32:
        """The same of weights. Raises ValueError where one is no number, or larger than any model has."""
        values = self.float32(name, rows)
        if not max(values.max(initial=0), -values.min(initial=0)) <= LARGEST_WEIGHT:
            raise ValueError(
                f"{self.file(name)}: {name} holds values that are no weights: NaN, or above {LARGEST_WEIGHT}"
            )
        return values

    def _slice(self, name: str) -> Any:
        path = self.file(name)
        try:
            return self._open(path).get_slice(name)
        except SafetensorError as error:
            raise ValueError(f"{path} has no tensor {name}: {error}") from None

    def _open(self, path: Path) -> Any:
        if path not in self._handles:
            try:
                self._handles[path] = safe_open(path, framework="numpy")
            except (OSError, SafetensorError) as error:
                raise ValueError(f"{path} cannot be read: {error}") from None
        return self._handles[path]

    def _bf16(self, name: str) -> npt.NDArray[np.uint16]:
        """A bfloat16 tensor's bits, mapped. NumPy has no such dtype, so safetensors cannot hand it over.

        Layout (github.com/safetensors/safetensors, README): 8 bytes with the header's length, the
        header as JSON, the data; offsets count from the data's start. `safe_open` has checked them.
        """
        path = self.file(name)
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            entry = json.loads(file.read(length))[name]
        offset = 8 + length + entry["data_offsets"][0]
        return np.memmap(path, np.dtype("<u2"), "r", offset, tuple(entry["shape"]))


def _weight_map(index: Path) -> dict[str, str]:
    """Tensor to shard. Raises ValueError that names the file."""
    try:
        table = json.loads(index.read_text())["weight_map"]
        return {str(name): str(file) for name, file in table.items()}
    except KeyError:
        raise ValueError(f"{index} has no weight_map") from None
    except (OSError, ValueError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError(f"{index} cannot be read: {error}") from None
