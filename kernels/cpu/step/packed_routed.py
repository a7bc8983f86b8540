"""A model of experts or latent attention packed for whole decode steps: matrices, caches and buffers for routed_step.py.

>>> packed = PackedRouted(inputs, threads=2)
>>> packed.run()
>>> packed.logits.shape, packed.choice.shape        # [batch·queries, vocab]; the experts of each layer, [layers, batch·queries, chosen]
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from membound.errors import Unsupported
from membound.kernels.cpu.experts.packed_layers import RoutedLayers, blocks_of
from membound.kernels.cpu.matmul.pack import aligned_bytes, pack_rows
from membound.kernels.cpu.matmul.recipe import Recipe
from membound.kernels.cpu.step.packed import Packed
from membound.kernels.cpu.step.packed_latent import PackedLatent
from membound.kernels.cpu.step.packed_model import (
    Orders,
    attention_of,
    caches_of,
    gains_of,
    positions_of,
    recipes_of,
    sizes_of,
    stored_bytes,
)
from membound.kernels.cpu.step.routed_step import FIXED, Plain, Routed, routed_step_kernel
from membound.kernels.cpu.step.step import Buffers
from membound.kernels.inputs import ModelInputs
from membound.kernels.layer_tensors import matrices_of
from membound.kernels.mixers import GatedDelta, Mamba2
from membound.kernels.parts import Attention, Latent, Layer, Mlp
from membound.kernels.routing import I64
from membound.kernels.weights.formats import F32
from membound.kernels.work import Step

ORDERED = (0, 1, 3, 4)
"""The slots whose columns may lie in an order of their own, as `Gains.orders` has them."""
LINE = 64
"""Bytes to which matrices are aligned."""
Slots = tuple[tuple[str, ...], ...]
MAMBA = ("x", "b", "c", "dt", "z")
"""What goes into a layer of Mamba-2, in the order in which it is packed; `Mamba2.matrices` begins with z."""


def slots_of(layer: Layer) -> Slots:
    """Which matrices of a layer are packed as one, in the order of `starts`: two or three of attention, the MLP's two."""
    mixer = layer.mixer
    if isinstance(mixer, GatedDelta):
        attention: Slots = (("q", "k", "v", "b", "a", "z"), ("o",), ())
    elif isinstance(mixer, Mamba2):
        attention = (MAMBA, ("o",), ())
    elif isinstance(mixer, Latent):
        first, ranked = ("q_down", ("q_up",)) if mixer.q_rank else ("q", ())
        low: tuple[str, ...] = ()
        if mixer.index is not None and not mixer.index.shared:
            low, ranked = ("index_k", "index_weights"), (*ranked, "index_q")
        attention = ((first, "kv_down", *low), ranked, ("o",))
    else:
        values, gate = () if mixer.keys_are_values else ("v",), ("out_gate",) if mixer.gated else ()
        attention = (("q", "k", *values, *gate), ("o",), ())
    if isinstance(layer.mlp, Mlp) and not layer.mlp.width:
        return (*attention, (), ())
    if isinstance(layer.mlp, Mlp):
        into = ("gate", "up") if layer.mlp.gated else ("up",)
        return (*attention, into, ("down",))
    shared = layer.mlp.shared
    if shared is None:
        return (*attention, (), ())
    names = ("shared.gate", "shared.up") if shared.gated else ("shared.up",)
    return (*attention, names, ("shared.down",))


class RoutedWeights:
    """A model's matrices in one arena, its small vectors, and buffers for `rows` tokens at once, `head_rows` of which meet the LM head.

    `latent`: what latent attention takes besides, or None. `experts`: None in a dense model.
    """

    def __init__(self, inputs: ModelInputs, rows: int, head_rows: int, blocks: str, threads: int) -> None:
        self._inputs, self._rows = inputs, rows
        self.recipe, self.head = recipes_of(inputs.work, rows, head_rows)
        self._shapes = [self._slot_shapes(layer) for layer in inputs.model.decoder.layers]
        self._lay_out()
        routed = inputs.model.decoder.experts
        self.experts = RoutedLayers(inputs, self._end, rows, blocks, threads) if routed else None
        self.arena = aligned_bytes(self._end + (self.experts.arena_bytes if self.experts else 0))
        orders = Orders(max(k for shapes in self._shapes for _, k in shapes))
        self.small = self._pack(orders)
        self.orders = orders.rows()
        self.latent = (
            PackedLatent(inputs, self.recipe, self.small, rows, threads) if self._is_latent else None
        )
        self.buffers = self._make_buffers()

    @property
    def _is_latent(self) -> bool:
        return isinstance(self._inputs.model.decoder.layers[0].mixer, Latent)

    @property
    def expert_format(self) -> str:
        """The format of experts; that of all else in a dense model."""
        return self.recipe.format if self.experts is None else self.experts.format

    @property
    def up_format(self) -> str:
        """The format of absorbed matrices; '' without latent attention."""
        return "" if self.latent is None else self.latent.format

    @property
    def matrix_bytes(self) -> int:
        """Packed bytes of all matrices that are read: of experts those of the plan."""
        absorbed = 0 if self.latent is None else self.latent.size_bytes
        return self._end + absorbed + (self.experts.read_bytes if self.experts else 0)

    @property
    def logits(self) -> F32:
        """[rows of the head, vocab] float32, a view."""
        rows = self.buffers.logits.reshape(self.head.rows, -1)
        return rows[: self.head.m, : self._inputs.model.vocab]

    @property
    def widths(self) -> I64:
        """Of each layer's MLP that every row takes, alone or beside experts; 0: there is none."""
        return np.array([shapes[4][1] for shapes in self._shapes], np.int64)

    @property
    def choice(self) -> I64:
        """The experts of each row in the last launch, [layers with experts, rows, chosen]. Raises AssertionError for a dense model."""
        return self._chosen.choice

    @property
    def _chosen(self) -> RoutedLayers:
        if self.experts is None:
            raise AssertionError(f"{self._inputs.model.name} has no experts")
        return self.experts

    def routed(self) -> Routed:
        """What the second halves of layers go by. Raises AssertionError for a dense model."""
        chooses = [not isinstance(layer.mlp, Mlp) for layer in self._inputs.model.decoder.layers]
        return self._chosen.routed(self.small, self.widths, np.array(chooses, np.bool_))

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
        self.starts = np.zeros((model.layers + 1, FIXED), np.int64)
        self._sizes = np.zeros_like(self.starts)
        for index, shapes in enumerate(self._shapes):
            for slot, (n, k) in enumerate(shapes):
                self.starts[index, slot] = at
                self._sizes[index, slot] = self._slot_bytes(index, slot, k) if n else 0
                at += -(-int(self._sizes[index, slot]) // LINE) * LINE
        self.starts[model.layers] = at
        self._end = at + -(-self.head.matrix_bytes(model.vocab, model.hidden) // LINE) * LINE

    def _slot_bytes(self, index: int, slot: int, k: int) -> int:
        """Packed bytes of a slot that has matrices."""
        layer, work = self._inputs.model.decoder.layers[index], self._inputs.work
        shapes = matrices_of(layer, self._inputs.model.hidden)
        named = [(name, shapes[name][0]) for name in slots_of(layer)[slot]]
        return stored_bytes(work, self.recipe, index, named, k)

    def _pack(self, orders: Orders) -> list[Mapping[str, F32]]:
        """Every matrix into the arena, a layer at a time; the vectors of all layers, and to `orders` four rows for each.

        Raises Unsupported for columns in an order of their own beside another mixer than attention.
        """
        small: list[Mapping[str, F32]] = []
        layers = self._inputs.model.decoder.layers
        for index, layer in enumerate(layers):
            weights = self._inputs.layer(index)
            small.append(weights.vectors)
            groups = [[weights.matrices[name] for name in names] for names in slots_of(layer)]
            for slot, matrices in enumerate(groups):
                if matrices:
                    at = self.starts[index, slot]
                    pack_rows(matrices, self.recipe, self.arena[at : at + self._sizes[index, slot]])
            ordered = isinstance(layer.mixer, Attention) and not layer.mixer.gated
            if not ordered and any(weight.order is not None for group in groups[:3] for weight in group):
                raise Unsupported(
                    "columns in an order of their own go with attention that has no gate, no latent rows and no state"
                )
            for slot in ORDERED:
                orders.add(groups[slot])
            if self.experts is not None:
                self.experts.pack(index, weights.matrices, self.arena)
        head = self.starts[len(layers), 0]
        pack_rows([self._inputs.lm_head()], self.head, self.arena[head : self._end])
        return small

    def _make_buffers(self) -> Buffers:
        model, tokens, recipe = self._inputs.model, self._rows, self.recipe

        def out(n: int, of: Recipe = recipe) -> F32:
            return np.zeros(of.rows * of.padded_n(n), np.float32)

        def rows(width: int) -> F32:
            return np.zeros(tokens * width, np.float32)

        every = [shape for shapes in self._shapes for shape in shapes if shape[0]]
        attended = max(shapes[2 if self._is_latent else 1][1] for shapes in self._shapes)
        wide = max(n for shapes in self._shapes for n, _ in (shapes[1], shapes[3]))
        scratch = max(self.head.scratch_bytes(model.hidden), *(recipe.scratch_bytes(k) for _, k in every))
        return Buffers(
            rows(model.hidden), rows(model.hidden), out(max(shapes[0][0] for shapes in self._shapes)), rows(attended),
            out(wide), rows(max(1, *(shapes[4][1] for shapes in self._shapes))), out(model.hidden),
            out(model.vocab, self.head), rows(self.orders.shape[1] if len(self.orders) else 0), aligned_bytes(scratch),
        )  # fmt: skip


class PackedRouted(Packed):
    """A model's weights, caches and buffers, ready to run."""

    def __init__(self, inputs: ModelInputs, threads: int) -> None:
        work = inputs.work
        if not isinstance(work, Step):
            raise AssertionError(f"{type(work).__name__} is no Step")
        blocks, self._batch = blocks_of(inputs), work.batch
        held = self._held = RoutedWeights(inputs, work.rows, work.rows, blocks, threads)
        positions = positions_of(work)
        arguments = (
            np.ascontiguousarray(inputs.x.reshape(-1)), held.arena, held.starts,
            gains_of(inputs, held.small, held.orders, positions), caches_of(inputs),
            held.buffers, sizes_of(inputs.model, work.batch, positions, threads),
            held.routed() if blocks else Plain(held.widths),
        )  # fmt: skip
        latent = held.latent
        more = () if latent is None else (latent.arguments,)
        heads, method = attention_of(work) if latent is None else (0, latent.grouping.method)
        kernel = routed_step_kernel(
            held.recipe.format, held.recipe.act, work.rows, work.kv, heads, method, held.up_format,
            "" if latent is None else latent.index_method, held.expert_format, blocks, held.head.format, held.head.act,
        )  # fmt: skip
        self._ready(kernel, (*arguments, *more), held.logits, held.matrix_bytes)

    @property
    def choice(self) -> I64:
        """The experts of each row in the last step [layers with experts, batch·queries, chosen], the most probable first.

        Raises AssertionError for a dense model.
        """
        return self._held.choice

    @property
    def selection(self) -> I64:
        """The tokens that each layer's own index selected in the last step, [layers, batch, chosen]; -1 in a layer without one. Raises AssertionError without any."""
        latent = self._held.latent
        if latent is None or latent.index is None:
            raise AssertionError("no layer has an index")
        ids = latent.index.arguments.ids
        return ids.reshape(len(ids), self._batch, -1).astype(np.int64)
