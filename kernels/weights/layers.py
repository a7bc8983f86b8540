"""The weights of a model, a layer at a time, whatever they come from.

>>> layer = inputs.layer(0)                         # made or read when it is asked for
>>> layer.matrices["q"].format, layer.attention_norm.shape
('bf16', (256,))
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from membound.kernels.weights.formats import F32, Weight

I64 = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class LayerWeights:
    """One layer. Matrices by the names of `layer_tensors.matrices_of`, of experts ``expert3.gate`` and a float32 ``router`` besides;
    vectors, float32, by those of `layer_tensors.vectors_of`.

    What a model does not have is missing among the vectors, and None here: attention_norm, mlp_norm [hidden]; q_norm, k_norm
    [head_dim]; q_bias [q_dim], k_bias, v_bias [kv_dim].
    """

    matrices: Mapping[str, Weight]
    vectors: Mapping[str, F32]

    @property
    def attention_norm(self) -> F32:
        """Gain of the norm before attention; raises KeyError in a model without one."""
        return self.vectors["attention_norm"]

    @property
    def mlp_norm(self) -> F32:
        """Gain of the norm before the MLP; raises KeyError in a model without one."""
        return self.vectors["mlp_norm"]

    @property
    def q_norm(self) -> F32 | None:
        """Gain of the queries' norm."""
        return self.vectors.get("q_norm")

    @property
    def k_norm(self) -> F32 | None:
        """Gain of the keys' norm."""
        return self.vectors.get("k_norm")

    @property
    def q_bias(self) -> F32 | None:
        """What is added to queries."""
        return self.vectors.get("q_bias")

    @property
    def k_bias(self) -> F32 | None:
        """What is added to keys."""
        return self.vectors.get("k_bias")

    @property
    def v_bias(self) -> F32 | None:
        """What is added to values."""
        return self.vectors.get("v_bias")


class MadeMatrices(Mapping[str, Weight]):
    """Matrices by name, each made anew when it is asked for: all experts of a layer may take gigabytes."""

    def __init__(self, makers: Mapping[str, Callable[[], Weight]]) -> None:
        self._makers = makers

    def __getitem__(self, name: str) -> Weight:
        return self._makers[name]()

    def __iter__(self) -> Iterator[str]:
        return iter(self._makers)

    def __len__(self) -> int:
        return len(self._makers)


class WeightSource(Protocol):
    """Where a model's numbers come from: a generator, or a checkpoint."""

    def layer(self, index: int) -> LayerWeights:
        """Weights of layer `index`."""
        ...

    def final_norm(self) -> F32:
        """Weight [hidden] of the last norm."""
        ...

    def final_bias(self) -> F32 | None:
        """Bias [hidden] of the last norm, where it has one."""
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
