"""A dense model cut among ranks: heads and the width of MLPs by rows, what follows them by columns, the LM head by rows.

>>> part = rank_inputs(inputs, rank=0, ranks=2)
>>> part.model.q_heads, part.layer(0).matrices["o"].n, part.layer(0).matrices["o"].k
(4, 256, 128)

Each rank holds whole heads with their part of the cache. What o and down give is a summand of the whole, so that the ranks add
theirs up (an all-reduce) twice a layer, as in Megatron-LM (arXiv 1909.08053); each has its own rows of the logits, which one gathers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from membound.kernels.inputs import KVCache, ModelInputs
from membound.kernels.model import Model
from membound.kernels.parts import Attention, Layer, Mlp
from membound.kernels.steps import Step
from membound.kernels.weights.formats import F32, Array, Weight
from membound.kernels.weights.layers import I64, LayerWeights, WeightSource

FORMATS = ("f32", "bf16", "f16")
"""Weights that can be cut anywhere: they have no scales."""
BY_ROWS = ("q", "k", "v", "gate", "up")
BY_COLUMNS = ("o", "down")
LOGIT_BYTES = 4
"""Logits are float32."""


@dataclass(frozen=True, slots=True)
class Exchanges:
    """What ranks send each other in a step: `all_reduces` of `all_reduce_bytes` each, and logits, `gather_bytes` from all but one rank."""

    ranks: int
    all_reduces: int
    all_reduce_bytes: int
    gather_bytes: int

    @property
    def ring_bytes(self) -> float:
        """What each rank sends in one all-reduce of a ring: two passes of all parts but its own."""
        return ring_bytes(self.ranks, self.all_reduce_bytes)

    @property
    def link_bytes(self) -> float:
        """What the link of the busiest rank carries away in a step: it sends its logits too."""
        return self.all_reduces * self.ring_bytes + self.gather_bytes / (self.ranks - 1)

    @property
    def total_bytes(self) -> int:
        """What all links carry in a step."""
        return self.all_reduces * 2 * (self.ranks - 1) * self.all_reduce_bytes + self.gather_bytes


def ring_bytes(ranks: int, payload: int) -> float:
    """What each rank sends in an all-reduce of that many bytes, by a ring."""
    return 2 * (ranks - 1) / ranks * payload


def exchanges(work: Step, ranks: int, number_bytes: int) -> Exchanges:
    """Those of a step whose summands are numbers of that many bytes."""
    model, batch = work.shape, work.batch
    gathered = batch * (model.vocab - model.vocab // ranks) * LOGIT_BYTES
    return Exchanges(ranks, 2 * model.layers, batch * model.hidden * number_bytes, gathered)


def refusal(work: Step, ranks: int) -> str | None:
    """Why a step cannot be cut so, or None."""
    model = work.shape
    if not model.dense:
        return (
            "ranks share steps of dense models with heads of one width, without experts and latent attention"
        )
    if any(layer.gain for layer in model.decoder.kinds):
        return "ranks share steps of layers without gains of their own"
    if work.queries > 1:
        return "ranks share steps with one query a sequence"
    if work.weight not in FORMATS or work.act != "float":
        return f"ranks share steps with {', '.join(FORMATS)} weights, which have no scales"
    for layer in model.decoder.kinds:
        if isinstance(layer.mixer, Attention) and layer.mixer.head_norm == "all":
            return "a norm over all heads together would have to be exchanged between ranks"
    for what, count in _divided(model):
        if count % ranks:
            return f"{ranks} ranks do not divide the {count} {what} of {work.model}"
    return None


def _divided(model: Model) -> list[tuple[str, int]]:
    """What ranks must divide, each with its name."""
    found = [("rows of the LM head", model.vocab)]
    for layer in model.decoder.kinds:
        if isinstance(layer.mixer, Attention) and isinstance(layer.mlp, Mlp):
            found += [("query heads", layer.mixer.q_heads), ("KV heads", layer.mixer.kv_heads)]
            found.append(("rows of the MLP", layer.mlp.width))
    return found


def rank_inputs(inputs: ModelInputs, rank: int, ranks: int) -> ModelInputs:
    """The inputs of one rank: as if its part were a model, but for o and down, whose outputs are summands."""
    model = _part_of(inputs.model, ranks)
    source = _Part(inputs.source, rank, ranks)
    return replace(
        inputs, model=model, source=source, prompt_caches=lambda _: _Caches(inputs, rank, ranks), held=[]
    )


def _part_of(model: Model, ranks: int) -> Model:
    decoder = model.decoder
    parts = None
    if model.parts is not None:
        layers = {layer: _part_of_layer(layer, ranks) for layer in decoder.kinds}
        parts = replace(
            decoder, layers=tuple(layers[layer] for layer in decoder.layers), vocab=decoder.vocab // ranks
        )
    return replace(
        model,
        q_heads=model.q_heads // ranks,
        kv_heads=model.kv_heads // ranks,
        intermediate=model.intermediate // ranks,
        vocab=model.vocab // ranks,
        parts=parts,
    )


def _part_of_layer(layer: Layer, ranks: int) -> Layer:
    mixer, mlp = layer.mixer, layer.mlp
    if not isinstance(mixer, Attention) or not isinstance(mlp, Mlp):
        raise AssertionError(f"{type(mixer).__name__} and {type(mlp).__name__} are not cut")
    heads = replace(mixer, q_heads=mixer.q_heads // ranks, kv_heads=mixer.kv_heads // ranks)
    return replace(layer, mixer=heads, mlp=replace(mlp, width=mlp.width // ranks))


@dataclass(frozen=True, slots=True)
class _Part:
    """The weights of a rank. Biases of o and down are the first rank's, as the summands are added up."""

    whole: WeightSource
    rank: int
    ranks: int

    def layer(self, index: int) -> LayerWeights:
        """Its rows, or columns, of a layer's matrices."""
        whole = self.whole.layer(index)
        matrices = {name: self._cut(name, weight) for name, weight in whole.matrices.items()}
        vectors = {name: self._vector(name, values) for name, values in whole.vectors.items()}
        if self.rank:
            vectors = {n: v for n, v in vectors.items() if n not in {f"{one}_bias" for one in BY_COLUMNS}}
        return LayerWeights(matrices, vectors)

    def final_norm(self) -> F32:
        """The same on each rank."""
        return self.whole.final_norm()

    def final_bias(self) -> F32 | None:
        """The same on each rank."""
        return self.whole.final_bias()

    def lm_head(self) -> Weight:
        """Its rows."""
        return self._rows(self.whole.lm_head())

    def hidden_states(self, rows: int) -> F32:
        """The same on each rank."""
        return self.whole.hidden_states(rows)

    def embedding(self, tokens: I64) -> F32:
        """The same on each rank."""
        return self.whole.embedding(tokens)

    def embedding_table(self) -> Weight:
        """The same on each rank."""
        return self.whole.embedding_table()

    def _cut(self, name: str, weight: Weight) -> Weight:
        if name in BY_ROWS:
            return self._rows(weight)
        if name not in BY_COLUMNS:
            raise AssertionError(f"{name} is cut neither by rows nor by columns")
        values = np.ascontiguousarray(weight.values[:, _own(weight.k, self.rank, self.ranks)])
        return replace(weight, k=values.shape[1], values=values)

    def _rows(self, weight: Weight) -> Weight:
        values = _copied(weight.values, weight.n, self.rank, self.ranks)
        return replace(weight, n=len(values), values=values)

    def _vector(self, name: str, values: F32) -> F32:
        """Biases of what is cut by rows, and sinks, of which each query head has one; norms are whole."""
        if name == "sinks" or name.removesuffix("_bias") in BY_ROWS:
            return values[_own(len(values), self.rank, self.ranks)]
        return values


@dataclass(frozen=True, slots=True)
class _Caches(Sequence[KVCache]):
    """The KV heads of a rank, layer by layer, cut when they are asked for."""

    whole: ModelInputs
    rank: int
    ranks: int

    def __len__(self) -> int:
        return self.whole.model.layers

    def __getitem__(self, index: int) -> KVCache:  # type: ignore[override]
        cache = self.whole.cache(index)
        own = (slice(None), _own(cache.k.shape[1], self.rank, self.ranks))
        scales = [None if s is None else s[own] for s in (cache.k_scales, cache.v_scales)]
        return replace(cache, k=cache.k[own], v=cache.v[own], k_scales=scales[0], v_scales=scales[1])


def _own(count: int, rank: int, ranks: int) -> slice:
    size = count // ranks
    return slice(rank * size, (rank + 1) * size)


def _copied(values: Array, count: int, rank: int, ranks: int) -> Array:
    """Rows of its own memory: the whole is not kept for them."""
    return values[_own(count, rank, ranks)].copy()
