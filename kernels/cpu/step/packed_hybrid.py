"""A dense model some of whose layers hold states, packed for whole decode steps: the arguments of hybrid_step.py.

>>> packed = PackedHybrid(inputs, threads=2)
>>> packed.run()
>>> packed.logits.shape        # [batch, vocab]
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from membound.kernels.cpu.matmul.grouping import grouping
from membound.kernels.cpu.matmul.pack import aligned_bytes, pack_rows
from membound.kernels.cpu.matmul.recipe import choose
from membound.kernels.cpu.step.delta import States
from membound.kernels.cpu.step.hybrid_step import SLOTS, hybrid_step_kernel
from membound.kernels.cpu.step.packed_model import caches_of, gains_of, positions_of, sizes_of
from membound.kernels.cpu.step.step import Buffers
from membound.kernels.inputs import ModelInputs
from membound.kernels.layer_tensors import matrices_of
from membound.kernels.mixers import GatedDelta
from membound.kernels.parts import Layer
from membound.kernels.weights.formats import F32
from membound.kernels.work import Step

LINE = 64
"""Bytes to which matrices are aligned."""


def slots_of(layer: Layer) -> tuple[tuple[str, ...], ...]:
    """Which matrices of a layer are packed as one, in the order of `starts`."""
    state = isinstance(layer.mixer, GatedDelta)
    into = ("q", "k", "v", "b", "a", "z") if state else ("q", "k", "v", "out_gate")
    return into, ("o",), ("gate", "up"), ("down",)


class PackedHybrid:
    """A model's weights, caches, states and buffers, ready to run."""

    def __init__(self, inputs: ModelInputs, threads: int) -> None:
        work = inputs.work
        if not isinstance(work, Step):
            raise AssertionError(f"{type(work).__name__} is no Step")
        self._work, self._inputs, model = work, inputs, inputs.model
        self._recipe = choose(work.weight, work.act, work.batch)
        self._shapes = [self._slot_shapes(layer) for layer in model.decoder.layers]
        self._lay_out()
        self._arena = aligned_bytes(self.matrix_bytes)
        small = self._pack()
        self._buffers = self._make_buffers()
        self._x = np.ascontiguousarray(inputs.x.reshape(-1))
        self._states = states_of(inputs, small)
        self._arguments = (
            self._x, self._arena, self._starts,
            gains_of(inputs, small, np.zeros((0, 1), np.int32), positions_of(work)), caches_of(inputs),
            self._buffers, sizes_of(model, work.batch, positions_of(work), threads), self._states,
        )  # fmt: skip
        shape = grouping(work.kv, model.q_heads // model.kv_heads, model.head_dim)
        self._kernel = hybrid_step_kernel(
            self._recipe.format, self._recipe.act, work.batch, work.kv, shape.heads, shape.method
        )

    def run(self) -> None:
        """One step. The new token's row of the cache and the states behind it are written anew each time."""
        self._kernel(*self._arguments)

    @property
    def logits(self) -> F32:
        """[batch, vocab] float32, a copy."""
        rows = self._buffers.logits.reshape(self._recipe.rows, -1)
        return rows[: self._work.batch, : self._inputs.model.vocab].copy()

    @property
    def matrix_bytes(self) -> int:
        """Packed bytes of all matrices."""
        return self._end

    @property
    def states(self) -> States:
        """Those before the last step, and behind it."""
        return self._states

    def _slot_shapes(self, layer: Layer) -> list[tuple[int, int]]:
        shapes = matrices_of(layer, self._inputs.model.hidden)
        return [(sum(shapes[name][0] for name in names), shapes[names[0]][1]) for names in slots_of(layer)]

    def _lay_out(self) -> None:
        """Where each matrix begins, [layers + 1, SLOTS], and where the last of them ends."""
        model, recipe, at = self._inputs.model, self._recipe, 0
        self._starts = np.zeros((model.layers + 1, SLOTS), np.int64)
        for index, shapes in enumerate(self._shapes):
            for slot, (n, k) in enumerate(shapes):
                self._starts[index, slot] = at
                at += -(-recipe.matrix_bytes(n, k) // LINE) * LINE
        self._starts[model.layers] = at
        self._end = at + -(-recipe.matrix_bytes(model.vocab, model.hidden) // LINE) * LINE

    def _pack(self) -> list[Mapping[str, F32]]:
        """Every matrix into the arena, a layer at a time; the vectors of all layers."""
        small: list[Mapping[str, F32]] = []
        for index, layer in enumerate(self._inputs.model.decoder.layers):
            weights = self._inputs.layer(index)
            small.append(weights.vectors)
            for slot, names in enumerate(slots_of(layer)):
                at, (n, k) = self._starts[index, slot], self._shapes[index][slot]
                into = self._arena[at : at + self._recipe.matrix_bytes(n, k)]
                pack_rows([weights.matrices[name] for name in names], self._recipe, into)
        head = self._starts[-1, 0]
        pack_rows([self._inputs.lm_head()], self._recipe, self._arena[head : self._end])
        return small

    def _make_buffers(self) -> Buffers:
        model, batch, recipe = self._inputs.model, self._work.batch, self._recipe

        def out(n: int) -> F32:
            return np.zeros(recipe.rows * recipe.padded_n(n), np.float32)

        def rows(width: int) -> F32:
            return np.zeros(batch * width, np.float32)

        into, attended, wide, hidden = (
            max(shapes[slot][axis] for shapes in self._shapes)
            for slot, axis in ((0, 0), (1, 1), (2, 0), (3, 1))
        )
        widest = max(recipe.scratch_bytes(k) for shapes in self._shapes for _, k in shapes)
        return Buffers(
            rows(model.hidden), rows(model.hidden), out(into), rows(attended), out(wide), rows(hidden), out(model.hidden),
            out(model.vocab), rows(0), aligned_bytes(max(widest, recipe.scratch_bytes(model.hidden))),
        )  # fmt: skip


def states_of(inputs: ModelInputs, small: list[Mapping[str, F32]]) -> States:
    """States of all layers that have one; all of a model are alike."""
    layers = inputs.model.decoder.layers
    places = [index for index, layer in enumerate(layers) if isinstance(layer.mixer, GatedDelta)]
    mixer = layers[places[0]].mixer
    if not isinstance(mixer, GatedDelta):
        raise AssertionError("no state")
    held = [inputs.state(index) for index in places]
    tails = np.stack([one.tail for one in held]).astype(np.float32).reshape(-1)
    matrices = np.stack([one.matrices for one in held]).astype(np.float32).reshape(-1)
    place = np.full(len(layers), -1, np.int64)
    place[places] = np.arange(len(places))

    def rows(name: str) -> F32:
        return np.stack([small[index][name] for index in places])

    conv = rows("conv").reshape(len(places), mixer.channels, mixer.kernel)
    return States(
        place, tails, np.zeros_like(tails), matrices, np.zeros_like(matrices),
        np.ascontiguousarray(conv.transpose(0, 2, 1)).reshape(len(places), -1),
        -np.exp(rows("log_decay")), rows("dt_bias"), rows("state_norm"),
        mixer.key_heads, mixer.value_heads, mixer.key_dim, mixer.value_dim, mixer.kernel,
    )  # fmt: skip
