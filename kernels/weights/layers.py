"""The weights of a model, a layer at a time, whatever they come from.

>>> layer = inputs.layer(0)                         # made or read when it is asked for
>>> layer.matrices["q"].format, layer.attention_norm.shape
('bf16', (256,))
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from membound.kernels.weights.formats import F32, Weight

I64 = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class LayerWeights:
    """One layer. Matrices by the names of `Model.layer_matrices`; the rest float32.

    attention_norm, mlp_norm [hidden]; q_norm, k_norm [head_dim] or None; q_bias [q_dim], k_bias,
    v_bias [kv_dim] or None.
    """

    matrices: dict[str, Weight]
    attention_norm: F32
    mlp_norm: F32
    q_norm: F32 | None = None
    k_norm: F32 | None = None
    q_bias: F32 | None = None
    k_bias: F32 | None = None
    v_bias: F32 | None = None


class WeightSource(Protocol):
    """Where a model's numbers come from: a generator, or a checkpoint."""

    def layer(self, index: int) -> LayerWeights:
        """Weights of layer `index`."""
        ...

    def final_norm(self) -> F32:
        """Weight [hidden] of the last norm."""
        ...

    def lm_head(self) -> Weight:
        """The output matrix [vocab, hidden]."""
        ...

    def hidden_states(self, rows: int) -> F32:
        """What the first layer of a step sees, [rows, hidden]."""
        ...

    def embedding(self, tokens: I64) -> F32:
        """Rows of the embedding table, [tokens, hidden]."""
        ...

    def embedding_table(self) -> Weight:
        """All of it, [vocab, hidden]."""
        ...
