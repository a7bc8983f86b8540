"""A random model with routes planted in it: in what its layers write, in its routers, and in what its tokens are embedded as.

>>> source = PlantedSource(RandomSource(model, "bf16", seed=1), RoutePlan(model.decoder, 4, 14, seed=1))
>>> source.layer(0).matrices["expert3.down"]        # the rows of codes are zero
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from math import log2, sqrt

import numpy as np

from membound.kernels.layer_tensors import ROUTER, writes_residual
from membound.kernels.route_plan import RoutePlan
from membound.kernels.routing import CODE, plant_rows
from membound.kernels.weights.formats import F32, Weight, dequantize, to_bf16
from membound.kernels.weights.generate import random_weight, stream_of
from membound.kernels.weights.layers import I64, LayerWeights, MadeMatrices
from membound.kernels.weights.random_model import RandomSource

EMBEDDING_STREAM = 9
FLOATS = ("f32", "bf16", "f16")
ZERO_NIBBLES = 0x88
"""Two of int4's that mean 0."""


@dataclass(frozen=True, slots=True)
class PlantedSource:
    """A `WeightSource`: the numbers of `random`, and the routes of `plan` in them.

    The embedding is a table of its own even where the model ties it to the LM head: its rows have the size of hidden states, and
    codes in them. It is stored in the model's format if that is a float, else in bfloat16.
    """

    random: RandomSource
    plan: RoutePlan

    def layer(self, index: int) -> LayerWeights:
        """Weights of layer `index`."""
        made = self.random.layer(index)
        makers = {name: partial(self._matrix, index, name, made.matrices) for name in made.matrices}
        vectors = {
            name: _without_last(values, self.plan.codes) if writes_residual(name) else values
            for name, values in made.vectors.items()
        }
        return LayerWeights(MadeMatrices(makers), vectors)

    def _matrix(self, index: int, name: str, made: Mapping[str, Weight]) -> Weight:
        if name == ROUTER:
            router = self.plan.router(index)
            return Weight("f32", len(router), router.shape[1], router)
        return blanked(made[name], self.plan.codes) if writes_residual(name) else made[name]

    def final_norm(self) -> F32:
        """Weight of the last norm."""
        return self.random.final_norm()

    def final_bias(self) -> F32 | None:
        """Bias of the last norm, where it has one."""
        return self.random.final_bias()

    def lm_head(self) -> Weight:
        """The output matrix."""
        return self.random.lm_head()

    def hidden_states(self, rows: int) -> F32:
        """Unit-normal hidden states [rows, hidden] with the code of each row."""
        x = self.random.hidden_states(rows)
        plant_rows(x, self.plan.codes)
        return x

    def embedding_table(self) -> Weight:
        """The table [vocab, hidden], each row with the code of its token."""
        table = self._table()
        values = dequantize(table)
        self._plant(values, np.arange(len(values)))
        return replace(table, values=_stored(values, table.format))

    def embedding(self, tokens: I64) -> F32:
        """Rows of the embedding table."""
        rows = dequantize(self._table(), tokens)
        self._plant(rows, tokens)
        return rows

    def _table(self) -> Weight:
        """Rows of unit variance, as yet without codes."""
        source, model = self.random, self.random.model
        fmt = source.format if source.format in FLOATS else "bf16"
        gain = 1 << round(log2(sqrt(model.hidden)))
        stream = stream_of(source.seed, EMBEDDING_STREAM)
        return random_weight(fmt, model.vocab, model.hidden, stream, gain, source.take)

    def _plant(self, rows: F32, tokens: I64) -> None:
        first = rows.shape[1] - self.plan.codes
        rows[:, first:] = 0
        rows[np.arange(len(rows)), first + tokens % self.plan.codes] = CODE


def blanked(weight: Weight, rows: int) -> Weight:
    """The matrix with zeros, exact in its format, in its last `rows` rows."""
    values = weight.values.copy()
    last = values[len(values) - rows :]
    last[:] = ZERO_NIBBLES if weight.format in ("int4g32", "int4g128", "q4_0") else 0
    if weight.zeros is None:
        return replace(weight, values=values)
    zeros = weight.zeros.copy()
    zeros[len(zeros) - rows :] = 0
    return replace(weight, values=values, zeros=zeros)


def _without_last(vector: F32, count: int) -> F32:
    """A bias that is zero for codes."""
    kept = vector.copy()
    kept[len(kept) - count :] = 0
    return kept


def _stored(values: F32, fmt: str) -> np.ndarray[tuple[int, ...], np.dtype[np.generic]]:
    if fmt == "bf16":
        return to_bf16(values)
    return values.astype(np.float16) if fmt == "f16" else values
