"""What a work runs on, the same bits for every backend, made on demand so that only what is used takes memory.

>>> from membound.kernels.seeded import make_inputs
>>> from membound.kernels.work import parse
>>> inputs = make_inputs(parse("linear:n=8,k=32,m=2,weight=int8"), seed=1, slots=3)
>>> inputs.x.shape, inputs.weight(slot=2).values.dtype
((2, 32), dtype('int8'))

Every slot and every layer has bits of its own. All that a plugin needs to read inputs can be imported from here.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from math import sqrt
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from membound.kernels.mixers import GatedDelta, Mamba2
from membound.kernels.model import Model
from membound.kernels.onnx_step import OnnxStep
from membound.kernels.operations import (
    LATENT_DIM,
    LATENT_VALUE_DIM,
    DecodeAttention,
    LatentAttention,
    Linear,
    pages_of,
)
from membound.kernels.parts import Latent
from membound.kernels.route_plan import RoutePlan
from membound.kernels.routed_experts import RoutedExperts
from membound.kernels.routing import planned_routes, plant_router
from membound.kernels.steps import Prefill, Step
from membound.kernels.weights.formats import F32, IndexedCache, KVCache, Weight, dequantize
from membound.kernels.weights.generate import normal, random_cache, random_weight, stream_of
from membound.kernels.weights.layers import I64, LayerWeights, WeightSource
from membound.kernels.weights.making import Take, make_here
from membound.kernels.weights.states import State, random_state

if TYPE_CHECKING:  # every process imports this module, few open a file
    from membound.kernels.onnx_file.decoder import OnnxDecoder
    from membound.kernels.onnx_file.numbers import Array

__all__ = [
    "AttentionInputs",
    "ExpertInputs",
    "Inputs",
    "KVCache",
    "LayerWeights",
    "LinearInputs",
    "ModelInputs",
    "OnnxInputs",
    "Weight",
    "dequantize",
]


INDEX_KEYS = 3_000_000
"""Streams of the keys of indexes are counted from here."""
NEW_TOKENS = 2_000_000
"""Streams of the tokens that several queries bring along are counted from here: caches have those below."""


@dataclass(frozen=True, slots=True)
class LinearInputs:
    """x [m, k] float32 and `slots` different weights. `take`: whoever has drawn one."""

    work: Linear
    seed: int
    slots: int
    x: F32
    take: Take = field(default=make_here, repr=False)

    def weight(self, slot: int) -> Weight:
        """The weight of that input set, made anew at each call."""
        w = self.work
        return random_weight(w.weight, w.n, w.k, stream_of(self.seed, slot), take=self.take)


@dataclass(frozen=True, slots=True)
class AttentionInputs:
    """q [batch, q_heads, head_dim] (576 for latent attention) float32 and `slots` different caches.

    With several queries q is [batch, queries, q_heads, head_dim]. `take`: whoever has drawn a cache.
    """

    work: DecodeAttention | LatentAttention
    seed: int
    slots: int
    q: F32
    take: Take = field(default=make_here, repr=False)

    def cache(self, slot: int) -> KVCache:
        """The cache of that input set, made anew at each call."""
        w, stream = self.work, stream_of(self.seed, slot)
        if isinstance(w, LatentAttention):
            cache = random_cache(w.kv, (w.batch, 1, w.context, LATENT_DIM), stream, self.take)
            return _within_keys(cache, LATENT_VALUE_DIM)
        return random_cache(w.kv, (w.batch, w.kv_heads, w.context, w.head_dim), stream, self.take)

    def new_tokens(self, slot: int) -> tuple[F32, F32]:
        """Keys and values [batch, kv_heads, queries, head_dim] of the queries' own tokens, float32, of that input set."""
        w = self.work
        if not isinstance(w, DecodeAttention):
            raise AssertionError(f"{type(w).__name__} is no DecodeAttention")
        stream = stream_of(self.seed, NEW_TOKENS + slot)
        new = random_cache("f32", (w.batch, w.kv_heads, w.queries, w.head_dim), stream, self.take)
        return new.k, new.v  # type: ignore[return-value]

    def page_table(self, slot: int) -> npt.NDArray[np.int32]:
        """Where the pages of each sequence lie, [batch, pages of a sequence]: all pages shuffled.

        Empty without `page`. `membound.kernels.weights.pages` lays a cache out accordingly.
        """
        shape = (self.work.batch, pages_of(self.work))
        rng = np.random.default_rng((self.seed, slot, 1 << 22))
        return rng.permutation(shape[0] * shape[1]).astype(np.int32).reshape(shape)


@dataclass(frozen=True, slots=True)
class ExpertInputs:
    """x [batch, hidden] float32 with a code in each row, routers that lead it to other experts in each slot, and the experts.

    Slots share sets of `work.count` experts, of which each slot takes others: no two slots read the same memory.
    `take`: whoever has drawn an expert's matrix.
    """

    work: RoutedExperts
    seed: int
    slots: int
    x: F32
    take: Take = field(default=make_here, repr=False)

    @property
    def weight_sets(self) -> int:
        """Sets of experts that there are."""
        return -(-self.slots // self.work.slots_a_set)

    def set_of(self, slot: int) -> int:
        """The set of experts that a slot uses."""
        return slot // self.work.slots_a_set

    def expert(self, weight_set: int, number: int) -> tuple[Weight, Weight, Weight]:
        """gate and up [width, hidden] and down [hidden, width] of an expert, made anew at each call."""
        w = self.work
        first = 3 * (weight_set * w.count + number)
        gate, up, down = (
            random_weight(w.weight, n, k, stream_of(self.seed, first + i), take=self.take)
            for i, (n, k) in enumerate(((w.width, w.hidden), (w.width, w.hidden), (w.hidden, w.width)))
        )
        return gate, up, down

    def plan(self, slot: int) -> I64:
        """The experts that each row takes, [batch, chosen]: `routing.planned_routes`."""
        w = self.work
        order = np.random.default_rng((self.seed, self.set_of(slot), 1 << 23)).permutation(w.count)
        first = slot % w.slots_a_set * w.distinct
        return planned_routes(order[first : first + w.distinct], w.batch, w.chosen)

    def router(self, slot: int) -> F32:
        """The router of a slot [count, hidden], made anew at each call: random but for the columns of the codes."""
        w = self.work
        router = normal(np.random.default_rng((self.seed, slot, 1 << 24)), w.count, w.hidden)
        router /= np.float32(sqrt(w.hidden))
        plant_router(router, self.plan(slot)[: w.codes])
        return router


@dataclass(frozen=True, slots=True)
class ModelInputs:
    """A step's or a prompt's inputs: x [batch·queries, hidden] or [batch·tokens, hidden] float32, weights, caches.

    One input set: a model's weights are larger than the caches that rotation defeats, or the row says so.
    tokens [batch, n]: the prompt behind x, and for a step with cache=prompt [batch, context + queries], the last
    of them the step's own; None where x and cache are random. `folder`: where caches and states behind a prompt, which
    take a whole float64 prompt to compute, are kept for other workers; None keeps them in this object alone.
    `prompt_caches` computes them, all layers at once. `take`: whoever has drawn a cache. `plan`: which experts rows take, where
    that is planted; `own_routes` computes what a folder's own router chooses, `index_choice` which tokens indexes select, both kept likewise.
    """

    work: Step | Prefill
    model: Model
    seed: int
    x: F32
    source: WeightSource
    slots: int = 1
    tokens: I64 | None = None
    folder: Path | None = None
    prompt_caches: Callable[[ModelInputs], Sequence[KVCache | IndexedCache | State]] | None = None
    held: list[KVCache | IndexedCache | State] = field(default_factory=list, repr=False)
    take: Take = field(default=make_here, repr=False)
    plan: RoutePlan | None = None
    own_routes: Callable[[ModelInputs], Sequence[I64]] | None = None
    held_routes: list[I64] = field(default_factory=list, repr=False)
    index_choice: Callable[[ModelInputs], Sequence[npt.NDArray[Any]]] | None = None
    held_choice: list[npt.NDArray[Any]] = field(default_factory=list, repr=False)

    def routes(self, index: int) -> I64:
        """The experts of each row in layer `index`, [rows, chosen]: as planned, or as the model's own router chooses them."""
        if self.plan is not None:
            return self.plan.routes(index)
        if self.own_routes is None:
            raise AssertionError("neither planned routes nor a router of its own")
        return self.own_routes(self)[index]

    def layer(self, index: int) -> LayerWeights:
        """Weights of layer `index`, made anew at each call."""
        return self.source.layer(index)

    def embedded(self, tokens: I64) -> F32:
        """What the first layer sees of tokens [batch, n]: rows of the embedding times its gain, [batch·n, hidden]."""
        rows, gain = self.source.embedding(tokens.reshape(-1)), self.model.decoder.embedding_gain
        return rows if gain == 1 else np.float32(gain) * rows

    def final_norm(self) -> F32:
        """Weight [hidden] of the last norm."""
        return self.source.final_norm()

    def lm_head(self) -> Weight:
        """The output matrix [vocab, hidden]."""
        return self.source.lm_head()

    def cache(self, index: int) -> KVCache:
        """The `context` tokens that layer `index` holds before the step."""
        if not isinstance(self.work, Step):
            raise AssertionError(f"{type(self.work).__name__} is no Step")
        if self.prompt_caches is not None:
            held = self.prompt_caches(self)[index]
            if isinstance(held, State):
                raise AssertionError(f"layer {index} has a state, no cache")
            return held.rows if isinstance(held, IndexedCache) else held
        w, mixer = self.work, self.model.decoder.layers[index].attention
        heads = (1, mixer.token_numbers) if isinstance(mixer, Latent) else (mixer.kv_heads, mixer.head_dim)
        shape = (w.batch, heads[0], w.context, heads[1])
        cache = random_cache(w.kv, shape, stream_of(self.seed, 1_000_000 + index), self.take)
        return _within_keys(cache, mixer.kv_rank) if isinstance(mixer, Latent) else cache

    def index_keys(self, index: int) -> KVCache:
        """Keys [batch, 1, context, head_dim] of the index of layer `index`, which are its values too."""
        mixer, w = self.model.decoder.layers[index].mixer, self.work
        if not isinstance(mixer, Latent) or mixer.index is None or not isinstance(w, Step):
            raise AssertionError(f"layer {index} has no index")
        if self.prompt_caches is not None:
            held = self.prompt_caches(self)[index]
            if not isinstance(held, IndexedCache):
                raise AssertionError(f"layer {index} has no index of its own")
            return held.keys
        shape = (w.batch, 1, w.context, mixer.index.head_dim)
        return _within_keys(
            random_cache(w.kv, shape, stream_of(self.seed, INDEX_KEYS + index), self.take), shape[-1]
        )

    def selection(self, index: int) -> I64:
        """The cached tokens that layer `index` of a step sees by an index, [batch, chosen] in their order; the new one has number `context`."""
        if self.index_choice is None or not isinstance(self.work, Step):
            raise AssertionError("no layer has an index")
        return self.index_choice(self)[index]

    def seen(self, index: int) -> npt.NDArray[np.bool_]:
        """Which tokens of a prompt each one sees by an index in layer `index`, [batch, tokens, tokens]."""
        if self.index_choice is None or isinstance(self.work, Step):
            raise AssertionError("no layer has an index")
        packed = self.index_choice(self)[index]
        return np.unpackbits(packed, axis=-1, count=self.work.tokens).view(np.bool_)

    def state(self, index: int) -> State:
        """What layer `index`, whose mixer has a state, holds of all sequences before the step."""
        mixer = self.model.decoder.layers[index].mixer
        if not isinstance(mixer, GatedDelta | Mamba2):
            raise AssertionError(f"layer {index} has no state")
        if self.prompt_caches is not None:
            held = self.prompt_caches(self)[index]
            if not isinstance(held, State):
                raise AssertionError(f"layer {index} has a cache, no state")
            return held
        return random_state(mixer, self.work.batch, stream_of(self.seed, 1_000_000 + index))


def _within_keys(cache: KVCache, value_dim: int) -> KVCache:
    """A latent cache: its values are the first columns of its keys."""
    return replace(cache, v=cache.k[..., :value_dim], v_scales=cache.k_scales)


@dataclass(frozen=True, slots=True)
class OnnxInputs:
    """The inputs of an exported decoder: one set, as a model's weights are larger than the caches that rotation defeats.

    `decoder` is the file, read and checked. Where bytes depend on a router, `seed` is the one that they were counted with.
    """

    work: OnnxStep
    decoder: OnnxDecoder
    seed: int
    slots: int = 1

    def small(self) -> dict[str, Array]:
        """Tokens, masks and positions by the names of the file's inputs, in the types that it declares."""
        from membound.kernels.onnx_file.feeds import small_feeds

        return small_feeds(self.decoder, self.work.batch, self.work.context, self.seed)

    def cache(self, index: int) -> Array:
        """What `decoder.caches[index]` holds before the step, bfloat16 as its bits; made anew at each call."""
        from membound.kernels.onnx_file.feeds import cache_values

        return cache_values(self.decoder.caches[index], self.work.batch, self.work.context, self.seed)


Inputs = LinearInputs | AttentionInputs | ExpertInputs | ModelInputs | OnnxInputs
