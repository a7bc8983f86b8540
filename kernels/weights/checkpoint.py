"""Real weights: a local Hugging Face folder (config.json and safetensors) as a source of a model's numbers.

>>> from membound.kernels.models import get_model
>>> model = get_model("/models/Llama-3.2-1B")
>>> Checkpoint(model, "int8", seed=1).layer(0).matrices["q"].scales.shape
(2048,)

Headers are checked when the checkpoint is opened; numbers are read when they are asked for, a few
thousand rows at a time, and stored in the format of the work. Nothing is downloaded.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import lru_cache
from math import isfinite
from pathlib import Path

import numpy as np

from membound.kernels.model import Model, ModelError
from membound.kernels.weights.formats import F32, Array, Weight, quantize, weight_layout
from membound.kernels.weights.generate import prompt_tokens
from membound.kernels.weights.layers import I64, LayerWeights
from membound.kernels.weights.making import Take, make_here
from membound.kernels.weights.tensor_files import TensorFiles

CHUNK_ELEMENTS = 1 << 22

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
LAYER = re.compile(r"model\.layers\.(\d+)\.")
BUFFERS = (".rotary_emb.inv_freq", ".self_attn.masked_bias")
"""Ends of names that old versions of Transformers stored and that follow from config.json."""
LARGEST_F16, LARGEST_BF16 = 65504.0, (2 - 2**-7) * 2.0**127
LARGEST_STORED = {
    "f16": LARGEST_F16,
    "bf16": LARGEST_BF16,
    "int4g32": 8 * LARGEST_F16,
    "int4g128": 8 * LARGEST_F16,
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
        self._tensors = TensorFiles(Path(model.folder))
        self._head, self._embedding = self._tables()
        assumed = [text for text in model.assumed if "window" not in text]
        for name, shape in self._expected():
            self._tensors.check(name, shape, assumed)
        self._refuse_others()

    def _tables(self) -> tuple[str, str]:
        """Tensors of the LM head and of the embedding: one where they are tied, under either of its names.

        A matrix that two modules share is stored once, and safetensors' `save_model` keeps the first name by alphabet.
        """
        names = self._tensors.names()
        if not self._model.tied:
            if LM_HEAD not in names and EMBEDDING in names:
                raise ModelError(
                    f"{self._tensors.listing} has no tensor {LM_HEAD}, and tie_word_embeddings is not true in config.json: "
                    "set it if the LM head is the embedding"
                )
            return LM_HEAD, EMBEDDING
        only = LM_HEAD if LM_HEAD in names and EMBEDDING not in names else EMBEDDING
        return only, only

    def _expected(self) -> Iterator[tuple[str, tuple[int, ...]]]:
        """Every tensor that the model reads, with its shape."""
        m = self._model
        table = (m.vocab, m.hidden)
        yield from ((self._embedding, table), (FINAL_NORM, (m.hidden,)), (self._head, table))
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

    def _refuse_others(self) -> None:
        """A tensor that this model has no place for would be dropped in silence. Layers that are not run do not matter."""
        expected = {name for name, _ in self._expected()}
        for name in self._tensors.names():
            layer = LAYER.match(name)
            if name in expected or name.endswith(BUFFERS) or (layer and int(layer[1]) >= self._model.layers):
                continue
            if self._model.tied and name == LM_HEAD:
                continue  # `check_numbers` compares it with the embedding
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
            largest = self._tensors.largest(name, _rows_at_once(shape))
            where = f"{self._tensors.file(name)}: {name} holds"
            if not isfinite(largest):
                kind = "NaN (not a number)" if largest != largest else "infinity"
                raise ModelError(f"{where} {kind}: the file is damaged, or the model was when it was saved")
            if len(shape) == 2 and largest > most:
                raise ModelError(
                    f"{where} {largest:.6g}, which weight={self._format} cannot store (up to {most:.6g})"
                )
        if self._model.tied and {LM_HEAD, EMBEDDING} <= set(self._tensors.names()):
            self._refuse_untied()

    def _refuse_untied(self) -> None:
        n, k = self._model.vocab, self._model.hidden
        self._tensors.check(LM_HEAD, (n, k))
        rows = _rows_at_once((n, k))
        for start in range(0, n, rows):
            part = slice(start, min(start + rows, n))
            if not np.array_equal(
                self._tensors.float32(LM_HEAD, part), self._tensors.float32(EMBEDDING, part)
            ):
                raise ModelError(
                    f"{self._tensors.file(LM_HEAD)}: {LM_HEAD} differs from {EMBEDDING}, and config.json ties them: set "
                    "tie_word_embeddings to false, or remove the one that is left over"
                )

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
        return self._matrix(self._embedding)

    def hidden_states(self, rows: int) -> F32:
        """Embeddings [rows, hidden] of random token ids, the same for the same seed."""
        return self.embedding(prompt_tokens(self._seed, rows, 1, self._model.vocab)[:, 0])

    def embedding(self, tokens: I64) -> F32:
        """Rows of the embedding table."""
        return np.concatenate(
            [self._tensors.float32(self._embedding, slice(i, i + 1)) for i in tokens.tolist()]
        )

    def _matrix(self, name: str) -> Weight:
        """A matrix in the work's format, read and quantised by whoever needs it first.

        That takes ten times as long as reading what came of it, in every format.
        """
        n, k = self._tensors.shape(name)
        of_file = f"{self._tensors.stamps()} {name} {self._format}"
        layout = weight_layout(self._format, n, k)
        arrays = self._take(of_file, layout, lambda: self._quantised(name, n, k), share=True)
        return Weight(self._format, n, k, *arrays)

    def _quantised(self, name: str, n: int, k: int) -> list[Array]:
        """Values, and scales where the format has them. Every format's scales lie within a row, so rows go in chunks."""
        rows = _rows_at_once((n, k))
        parts = [
            quantize(self._tensors.float32(name, slice(start, min(start + rows, n))), self._format)
            for start in range(0, n, rows)
        ]
        scales = [part.scales for part in parts if part.scales is not None]
        values = np.concatenate([part.values for part in parts])
        return [values, np.concatenate(scales)] if scales else [values]


def tensor_name(index: int, part: str, kind: str = "weight") -> str:
    """A tensor of layer `index` as Hugging Face's checkpoints name it."""
    return f"model.layers.{index}.{part}.{kind}"


def _rows_at_once(shape: tuple[int, ...]) -> int:
    """Rows of a tensor that are read together."""
    return max(1, CHUNK_ELEMENTS // (shape[1] if len(shape) > 1 else 1))


@lru_cache(maxsize=32)
def _check_numbers(model: Model, format: str, stamps: tuple[tuple[str, int, int], ...]) -> None:
    """`Checkpoint.check_numbers`, once for files as `stamps` has them."""
    Checkpoint(model, format, seed=0)._refuse_numbers()
