"""A model whose layers have heads of two widths, packed for whole decode steps: the arguments of wide_step.py.

>>> packed = PackedWide(inputs, threads=2)
>>> packed.run()
>>> packed.logits.shape        # [batch, vocab]
"""

from __future__ import annotations

from collections.abc import Mapping
from math import sqrt
from typing import Any

import numpy as np

from membound.errors import Unsupported
from membound.kernels.cpu.attention.decode import flat_cache
from membound.kernels.cpu.experts.packed_layers import blocks_of
from membound.kernels.cpu.step.packed_model import attention_of, gains_of, positions_of, sizes_of
from membound.kernels.cpu.step.packed_routed import RoutedWeights
from membound.kernels.cpu.step.routed_step import Beside, Plain, Routed
from membound.kernels.cpu.step.step import Caches, Norms, Sizes
from membound.kernels.cpu.step.wide_step import Heads, Layers, wide_step_kernel
from membound.kernels.inputs import ModelInputs
from membound.kernels.parts import Attention
from membound.kernels.routing import I64
from membound.kernels.weights.formats import F32, KVCache, cache_layout
from membound.kernels.work import Step

WIDTHS = ("q_heads", "kv_heads", "head_dim", "keys_are_values", "value_norm")
"""What makes heads of one width."""


class PackedWide:
    """A model's weights, caches and buffers, ready to run."""

    def __init__(self, inputs: ModelInputs, threads: int) -> None:
        work = inputs.work
        if not isinstance(work, Step):
            raise AssertionError(f"{type(work).__name__} is no Step")
        blocks = blocks_of(inputs)
        held = self._held = RoutedWeights(inputs, work.rows, work.rows, blocks, threads)
        widths = _Widths(inputs)
        self._arguments = (
            *_common(inputs, held), *widths.heads(held, positions_of(work), work.queries, threads),
            widths.layers(held.small), held.buffers, _second(inputs, held, work.rows),
        )  # fmt: skip
        self._kernel = wide_step_kernel(
            held.recipe.format, held.recipe.act, work.rows, work.kv, *(attention_of(work, one) for one in widths.kinds),
            held.expert_format, blocks, held.head.format, held.head.act,
        )  # fmt: skip

    def run(self) -> None:
        """One step. The new tokens' rows of the cache are written anew each time."""
        self._kernel(*self._arguments)

    @property
    def logits(self) -> F32:
        """[batch, vocab] float32, a copy."""
        return self._held.logits

    @property
    def choice(self) -> I64:
        """The experts of each row in the last step [layers with experts, rows, chosen]. Raises AssertionError for a dense model."""
        return self._held.choice

    @property
    def matrix_bytes(self) -> int:
        """Packed bytes of all matrices that are read: of experts those of the plan."""
        return self._held.matrix_bytes


class _Widths:
    """The two kinds of attention of a model, or the same one twice, and which layers have which."""

    def __init__(self, inputs: ModelInputs) -> None:
        mixers = [layer.mixer for layer in inputs.model.decoder.layers]
        self._mixers = [mixer for mixer in mixers if isinstance(mixer, Attention)]
        kinds = list(dict.fromkeys(_width_of(mixer) for mixer in self._mixers))
        if len(self._mixers) < len(mixers) or len(kinds) > 2:
            raise AssertionError("other layers than those with heads of two widths")
        self._inputs = inputs
        self._of = [[i for i, mixer in enumerate(self._mixers) if _width_of(mixer) == kind] for kind in kinds]
        self.kinds = [self._mixers[of[0]] for of in (self._of[0], self._of[-1])]

    def layers(self, small: list[Mapping[str, F32]]) -> Layers:
        """Which layers have the second width, and the gains of all."""
        wide = np.zeros(len(self._mixers), np.bool_)
        wide[self._of[-1]] = len(self._of) > 1
        one = np.ones(1, np.float32)
        return Layers(wide, np.concatenate([vectors.get("layer_gain", one) for vectors in small]))

    def heads(self, held: RoutedWeights, places: range, queries: int, threads: int) -> list[Heads]:
        """Of each width, for `queries` tokens at once of those at `places`."""
        inputs, found = self._inputs, []
        for mixer, of in zip(self.kinds, (self._of[0], self._of[-1]), strict=True):
            sizes: Sizes = sizes_of(inputs.model, inputs.work.batch, places, threads)._replace(
                kv_heads=mixer.kv_heads, group=mixer.q_heads // mixer.kv_heads, dim=mixer.head_dim,
                keys_are_values=mixer.keys_are_values, value_norm=mixer.value_norm, queries=queries,
            )  # fmt: skip
            gains = gains_of(inputs, held.small, held.orders, places, of)
            found.append(Heads(gains, _caches(inputs, mixer, of, len(places)), sizes))
        return found


def _width_of(mixer: Attention) -> tuple[Any, ...]:
    return tuple(getattr(mixer, name) for name in WIDTHS)


def _common(inputs: ModelInputs, held: RoutedWeights) -> tuple[Any, ...]:
    return np.ascontiguousarray(inputs.x.reshape(-1)), held.arena, held.starts


def _caches(inputs: ModelInputs, mixer: Attention, of: list[int], capacity: int) -> Caches:
    """Keys and values of the layers `of` with room for new tokens; the places of others are never touched, and take no memory."""
    work, model = inputs.work, inputs.model
    room = work.context + work.queries if isinstance(work, Step) else capacity
    shape = (model.layers * work.batch, mixer.kv_heads, room, mixer.head_dim)
    held = [np.zeros(s, kind) for s, kind in cache_layout(work.kv, shape)]
    if isinstance(work, Step):
        for index in of:
            cache, rows = inputs.cache(index), slice(index * work.batch, (index + 1) * work.batch)
            for into, values in zip(held, (cache.k, cache.v, cache.k_scales, cache.v_scales), strict=False):
                into[rows, :, : work.context] = values
    return Caches(*flat_cache(KVCache(work.kv, *held)))


def _second(inputs: ModelInputs, held: RoutedWeights, rows: int) -> Plain | Routed | Beside:
    """What the second halves of layers go by."""
    decoder = inputs.model.decoder
    if not decoder.experts:
        return Plain(held.widths)
    routed = held.routed()
    if {layer.norms for layer in decoder.layers} != {"both_beside"}:
        raise Unsupported("experts in layers with heads of two widths run beside an MLP, in all of them")
    none = np.zeros((len(held.small), 0), np.float32)

    def norms(name: str, divisor: float = 1.0) -> Norms:
        stacked = np.stack([vectors[name] for vectors in held.small])
        return Norms(np.ascontiguousarray(stacked / np.float32(divisor)), none)

    room = (np.zeros(rows * decoder.hidden, np.float32) for _ in range(2))
    return Beside(
        routed, norms("router_norm", sqrt(decoder.hidden)), norms("experts_norm"), norms("shared_out_norm"),
        norms("experts_out_norm"), *room,
    )  # fmt: skip
