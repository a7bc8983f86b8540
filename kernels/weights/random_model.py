"""A model whose every number comes from the generator: no download, no file, the same bits for the same seed.

>>> from membound.kernels.models import get_model
>>> RandomSource(get_model("tiny"), "bf16", seed=1).layer(0).matrices["q"].values.shape
(256, 256)
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from membound.kernels.model import Model
from membound.kernels.weights.formats import F32, Weight, dequantize
from membound.kernels.weights.generate import normal, random_weight, stream_of
from membound.kernels.weights.layers import I64, LayerWeights
from membound.kernels.weights.making import Take, make_here


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
        m = self.model
        rng = np.random.default_rng((self.seed, index))
        matrices = {
            name: self._matrix(n, k, 100 * (index + 1) + i, self.query_gain if name == "q" else 1)
            for i, (name, (n, k)) in enumerate(m.layer_matrices.items())
        }
        widths = m.decoder.vector_widths(m.decoder.layers[index])
        return LayerWeights(matrices, {name: _vector(rng, name, width) for name, width in widths.items()})

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
    """A norm's gain, a bias, or the logits of sinks, which are as large as scores."""
    if name == "sinks":
        return normal(rng, size)
    return np.float32(0.1) * normal(rng, size) if name.endswith("_bias") else _gain(rng, size)


def _gain(rng: np.random.Generator, size: int) -> F32:
    """A norm's weight: near one, as trained ones are."""
    return np.float32(1) + np.float32(0.1) * normal(rng, size)
