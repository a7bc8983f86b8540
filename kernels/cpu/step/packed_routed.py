"""A model of experts or latent attention packed for whole decode steps: matrices, caches and buffers for routed_step.py.

>>> packed = PackedRouted(inputs, threads=2)
>>> packed.run()
>>> packed.logits.shape, packed.choice.shape        # [batch, vocab]; the experts of each layer, [layers, batch, chosen]
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from membound.kernels.cpu.experts.packed_layers import RoutedLayers, blocks_of
from membound.kernels.cpu.matmul.grouping import grouping
from membound.kernels.cpu.matmul.pack import aligned_bytes, pack_rows
from membound.kernels.cpu.matmul.recipe import choose
from membound.kernels.cpu.step.packed_latent import PackedLatent
from membound.kernels.cpu.step.packed_model import caches_of, gains_of, sizes_of
from membound.kernels.cpu.step.routed_step import FIXED, Routed, routed_step_kernel
from membound.kernels.cpu.step.step import Buffers
from membound.kernels.inputs import ModelInputs
from membound.kernels.layer_tensors import matrices_of
from membound.kernels.parts import Latent, Layer, Mlp
from membound.kernels.routing import I64
from membound.kernels.weights.formats import F32
from membound.kernels.work import Step

LINE = 64
"""Bytes to which matrices are aligned."""
Slots = tuple[tuple[str, ...], ...]


def slots_of(layer: Layer) -> Slots:
    """Which matrices of a layer are packed as one, in the order of `starts`: two or three of attention, the MLP's two."""
    mixer = layer.mixer
    if isinstance(mixer, Latent):
        first, ranked = ("q_down", ("q_up",)) if mixer.q_rank else ("q", ())
        attention: Slots = ((first, "kv_down"), ranked, ("o",))
    else:
        attention = (("q", "k", "v"), ("o",), ())
    if isinstance(layer.mlp, Mlp):
        into = ("gate", "up") if layer.mlp.gated else ("up",)
        return (*attention, into, ("down",))
    shared = layer.mlp.shared is not None
    return (*attention, ("shared.gate", "shared.up") if shared else (), ("shared.down",) if shared else ())


class PackedRouted:
    """A model's weights, caches and buffers, ready to run."""

    def __init__(self, inputs: ModelInputs, threads: int) -> None:
        work = inputs.work
        if not isinstance(work, Step):
            raise AssertionError(f"{type(work).__name__} is no Step")
        self._work, self._inputs = work, inputs
        self._recipe = choose(work.weight, work.act, work.batch)
        self._shapes = [self._slot_shapes(layer) for layer in inputs.model.decoder.layers]
        self._lay_out()
        experts = RoutedLayers(inputs, self._end, threads)
        self._arena = aligned_bytes(self._end + experts.arena_bytes)
        small = self._pack(experts)
        self._experts = experts
        latent = PackedLatent(inputs, self._recipe, small) if self._latent else None
        self._buffers = self._make_buffers()
        self._x = np.ascontiguousarray(inputs.x.reshape(-1))
        arguments = (
            self._x, self._arena, self._starts,
            gains_of(inputs, small, np.zeros((0, 1), np.int32), work.context), caches_of(inputs),
            self._buffers, sizes_of(work, inputs.model, threads), self._routed(experts, small),
        )  # fmt: skip
        self._arguments = arguments if latent is None else (*arguments, latent.arguments)
        self._absorbed_bytes = 0 if latent is None else latent.size_bytes
        self._kernel = self._compiled(latent)

    @property
    def _latent(self) -> bool:
        return isinstance(self._inputs.model.decoder.layers[0].mixer, Latent)

    def run(self) -> None:
        """One step. The new token's row of the cache is written anew each time."""
        self._kernel(*self._arguments)

    @property
    def logits(self) -> F32:
        """[batch, vocab] float32, a copy."""
        rows = self._buffers.logits.reshape(self._recipe.rows, -1)
        return rows[: self._work.batch, : self._inputs.model.vocab].copy()

    @property
    def choice(self) -> I64:
        """The experts of each row in the last step [layers with experts, batch, chosen], the most probable first."""
        return self._experts.choice

    @property
    def matrix_bytes(self) -> int:
        """Packed bytes of all matrices that a step reads: of experts those of the plan."""
        return self._end + self._absorbed_bytes + self._experts.read_bytes

    def _compiled(self, latent: PackedLatent | None) -> Any:
        work, model = self._work, self._inputs.model
        blocks = blocks_of(self._inputs)
        if latent is not None:
            shape, heads = latent.grouping, 0
        else:
            shape = grouping(work.kv, model.q_heads // model.kv_heads, model.head_dim)
            heads = shape.heads
        return routed_step_kernel(
            self._recipe.format, self._recipe.act, work.batch, work.kv, heads, shape.method,
            "" if latent is None else latent.format, blocks,
        )  # fmt: skip

    def _slot_shapes(self, layer: Layer) -> list[tuple[int, int]]:
        """(n, k) of each slot; (0, 0) of an empty one."""
        shapes = matrices_of(layer, self._inputs.model.hidden)
        return [
            (sum(shapes[name][0] for name in names), shapes[names[0]][1]) if names else (0, 0)
            for names in slots_of(layer)
        ]

    def _lay_out(self) -> None:
        """Where each matrix begins, [layers + 1, FIXED], and where the last of them ends."""
        model, at = self._inputs.model, 0
        self._starts = np.zeros((model.layers + 1, FIXED), np.int64)
        for index, shapes in enumerate(self._shapes):
            for slot, (n, k) in enumerate(shapes):
                self._starts[index, slot] = at
                at += -(-self._recipe.matrix_bytes(n, k) // LINE) * LINE if n else 0
        self._starts[model.layers] = at
        self._end = at + -(-self._recipe.matrix_bytes(model.vocab, model.hidden) // LINE) * LINE

    def _pack(self, experts: RoutedLayers) -> list[Mapping[str, F32]]:
        """Every matrix into the arena, a layer at a time; the vectors of all layers."""
        small: list[Mapping[str, F32]] = []
        layers = self._inputs.model.decoder.layers
        for index, layer in enumerate(layers):
            weights = self._inputs.layer(index)
            small.append(weights.vectors)
            for slot, names in enumerate(slots_of(layer)):
                if names:
                    at, (n, k) = self._starts[index, slot], self._shapes[index][slot]
                    into = self._arena[at : at + self._recipe.matrix_bytes(n, k)]
                    pack_rows([weights.matrices[name] for name in names], self._recipe, into)
            experts.pack(index, weights.matrices, self._arena)
        head = self._starts[len(layers), 0]
        pack_rows([self._inputs.lm_head()], self._recipe, self._arena[head : self._end])
        return small

    def _routed(self, experts: RoutedLayers, small: list[Mapping[str, F32]]) -> Routed:
        layers = self._inputs.model.decoder.layers
        widths = [shapes[4][1] for shapes in self._shapes]
        chooses = [not isinstance(layer.mlp, Mlp) for layer in layers]
        return experts.routed(small, np.array(widths, np.int64), np.array(chooses, np.bool_))

    def _make_buffers(self) -> Buffers:
        model, batch, recipe = self._inputs.model, self._work.batch, self._recipe

        def out(n: int) -> F32:
            return np.zeros(recipe.rows * recipe.padded_n(n), np.float32)

        def rows(width: int) -> F32:
            return np.zeros(batch * width, np.float32)

        every = [shape for shapes in self._shapes for shape in shapes if shape[0]]
        attended = max(shapes[2 if self._latent else 1][1] for shapes in self._shapes)
        wide = max(n for shapes in self._shapes for n, _ in (shapes[1], shapes[3]))
        scratch = max(recipe.scratch_bytes(k) for _, k in (*every, (0, model.hidden)))
        return Buffers(
            rows(model.hidden), rows(model.hidden), out(max(shapes[0][0] for shapes in self._shapes)), rows(attended),
            out(wide), rows(max(1, *(shapes[4][1] for shapes in self._shapes))), out(model.hidden),
            out(model.vocab), rows(0), aligned_bytes(scratch),
        )  # fmt: skip
