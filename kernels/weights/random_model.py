"""A model whose every number comes from the generator: no download, no file, the same bits for the same seed.

>>> from membound.kernels.models import get_model
>>> RandomSource(get_model("tiny"), "bf16", seed=1).layer(0).matrices["q"].values.shape
(256, 256)
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from math import sqrt

import numpy as np

from membound.kernels.layer_tensors import ROUTER, expert_matrices, matrices_of, vectors_of
from membound.kernels.model import Model
from membound.kernels.parts import Experts
from membound.kernels.weights.formats import F32, Weight, dequantize
from membound.kernels.weights.generate import normal, random_weight, stream_of
from membound.kernels.weights.layers import I64, LayerWeights, MadeMatrices
from membound.kernels.weights.making import Take, make_here

QUERIES = ("q", "q_up")
"""Matrices that make queries."""
EXPERT_STREAMS, EXPERT_MATRICES, MOST_EXPERTS = 1 << 32, 3, 1 << 16
"""Streams of experts are counted from here, that many matrices each and that many experts a layer at most: those of other matrices
and of caches lie below."""


@dataclass(frozen=True, slots=True)
class RandomSource:
    """A model's weights from the generator. `query_gain` is a power of two; `take`: whoever has drawn a matrix."""

    model: Model
    format: str
    seed: int
    query_gain: int = 1
    take: Take = make_here

    def layer(self, index: int) -> LayerWeights:
        """Weights of layer `index`."""
        decoder = self.model.decoder
        kind, rng = decoder.layers[index], np.random.default_rng((self.seed, index))
        makers = {
            name: partial(
                self._matrix, n, k, 100 * (index + 1) + i, self.query_gain if name in QUERIES else 1
            )
            for i, (name, (n, k)) in enumerate(matrices_of(kind, decoder.hidden).items())
        }
        vectors = {name: _vector(rng, name, width) for name, width in vectors_of(decoder, kind).items()}
        if not isinstance(kind.mlp, Experts):
            return LayerWeights({name: make() for name, make in makers.items()}, vectors)
        for number in range(kind.mlp.count):
            first = EXPERT_STREAMS + EXPERT_MATRICES * (MOST_EXPERTS * index + number)
            for i, (name, (n, k)) in enumerate(expert_matrices(kind.mlp, decoder.hidden).items()):
                makers[f"expert{number}.{name}"] = partial(self._matrix, n, k, first + i)
        makers[ROUTER] = partial(self._router, index, kind.mlp.count)
        return LayerWeights(MadeMatrices(makers), vectors)

    def _router(self, index: int, count: int) -> Weight:
        """A router's logits of a normed row have unit variance."""
        hidden = self.model.hidden
        values = normal(np.random.default_rng((self.seed, index, 1 << 24)), count, hidden)
        part = self.model.decoder.layers[index].mlp
        gained = isinstance(part, Experts) and part.router.gains  # divides by the root of the width itself
        return Weight("f32", count, hidden, values if gained else values / np.float32(sqrt(hidden)))

    def final_norm(self) -> F32:
        """Weight of the last norm."""
        return _gain(np.random.default_rng((self.seed, 1 << 20)), self.model.hidden)

    def final_bias(self) -> F32 | None:
        """Bias of the last norm, where it has one."""
        if self.model.decoder.norm_vectors < 2:
            return None
        rng = np.random.default_rng((self.seed, (1 << 20) + 1))
        return _vector(rng, "final_norm_bias", self.model.hidden)

    def lm_head(self) -> Weight:
        """The output matrix."""
        return self._matrix(self.model.vocab, self.model.hidden, 7)

    def hidden_states(self, rows: int) -> F32:
        """Unit-normal hidden states [rows, hidden]."""
        return normal(np.random.default_rng((self.seed, 1 << 21)), rows, self.model.hidden)

    def embedding_table(self) -> Weight:
        """The table [vocab, hidden]: the output matrix if the model ties the two, else a separate one."""
        if self.model.tied:
            return self.lm_head()
        return self._matrix(self.model.vocab, self.model.hidden, 8)

    def embedding(self, tokens: I64) -> F32:
        """Rows of the embedding table."""
        return dequantize(self.embedding_table(), tokens)

    def _matrix(self, n: int, k: int, index: int, gain: int = 1) -> Weight:
        return random_weight(self.format, n, k, stream_of(self.seed, index), gain, self.take)


def _vector(rng: np.random.Generator, name: str, size: int) -> F32:
    """A norm's gain, a bias, the logits of sinks, which are as large as scores, or what an expert's choice is corrected by."""
    if name == "sinks":
        return normal(rng, size)
    if name == "conv":
        return np.float32(0.5) * normal(rng, size)
    if name == "log_decay":  # a state keeps most of itself, or what it held would not matter
        decays: F32 = np.log(np.float32(0.05) + np.float32(0.45) * rng.random(size, np.float32))
        return decays
    if name == "shared_gate":
        return normal(rng, size) / np.float32(sqrt(size))
    if name == "correction":
        return np.float32(0.01) * (2 * rng.random(size, np.float32) - 1)
    return np.float32(0.1) * normal(rng, size) if name.endswith("_bias") else _gain(rng, size)


def _gain(rng: np.random.Generator, size: int) -> F32:
    """A norm's weight: near one, as trained ones are."""
    return np.float32(1) + np.float32(0.1) * normal(rng, size)
