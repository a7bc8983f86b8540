"""The experts of a model's layers packed for `layer_experts`: matrices in the step's arena, routers beside it, buffers.

>>> layers = RoutedLayers(inputs, first_byte=0, rows=1, blocks=blocks_of(inputs), threads=2)
>>> layers.pack(0, inputs.layer(0).matrices, arena)
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from membound.kernels.cpu.experts.blocks import block_recipes, sizes_of
from membound.kernels.cpu.experts.layer_experts import LayerBuffers, LayerSizes
from membound.kernels.cpu.experts.router import rule_of
from membound.kernels.cpu.experts.routes import I64, empty_blocks
from membound.kernels.cpu.matmul.pack import aligned_bytes, pack, pack_rows, packed_bytes
from membound.kernels.cpu.matmul.recipe import choose, mixed_format
from membound.kernels.cpu.step.routed_step import Routed
from membound.kernels.inputs import ModelInputs
from membound.kernels.layer_tensors import ROUTER, routed_part
from membound.kernels.parts import Experts
from membound.kernels.weights.formats import F32, Weight, common_order
from membound.kernels.work import Prefill, Step

LINE = 64


def blocks_of(inputs: ModelInputs) -> str:
    """The numbers of rows that experts have, as `block_kernels` takes them: ``1+2``. In a plan they are alike in all layers.

    A router that chose otherwise would be served as well, some blocks not full.
    """
    layers = enumerate(inputs.model.decoder.layers)
    routed = [inputs.routes(index) for index, layer in layers if isinstance(layer.mlp, Experts)]
    sizes = {size for routes in routed for size in np.unique(routes, return_counts=True)[1].tolist()}
    return "+".join(str(size) for size in sorted(sizes))


class RoutedLayers:
    """Experts and routers of all layers that have them, for `rows` tokens at once, in blocks as `block_kernels` takes them.

    Its matrices lie in the step's arena from `first_byte` on.
    """

    def __init__(self, inputs: ModelInputs, first_byte: int, rows: int, blocks: str, threads: int) -> None:
        work, decoder, part = inputs.work, inputs.model.decoder, routed_part(inputs.model.decoder)
        if part is None:
            raise AssertionError(f"{decoder.name} has no experts")
        self._work, self._decoder, self._part, self._threads = work, decoder, part, threads
        self._rows, self._blocks = rows, blocks
        self._recipes = block_recipes(_format_of(work), work.act, self._blocks)
        self._router_recipe = choose("f32", "float", rows)
        self._places = [i for i, layer in enumerate(decoder.layers) if isinstance(layer.mlp, Experts)]
        self._ids = np.zeros((len(decoder.layers), rows * part.chosen), np.int64)
        self._given = np.zeros((len(decoder.layers), 0), np.int64)
        if inputs.plan is None:
            self._given = np.zeros_like(self._ids)
            for index in self._places:
                self._given[index] = np.resize(inputs.routes(index), self._given[index].shape)
        self._lay_out(first_byte)
        self._orders = np.zeros((len(decoder.layers), 0, 2, max(decoder.hidden, part.expert.width)), np.int32)

    @property
    def format(self) -> str:
        """The kernels' format of experts."""
        return self._recipes[0].format

    @property
    def choice(self) -> I64:
        """The experts of each row in the last step, [layers with experts, rows, chosen]."""
        return self._ids[self._places].reshape(-1, self._rows, self._part.chosen).copy()

    @property
    def read_bytes(self) -> int:
        """Packed bytes of the experts of the plan and of all routers."""
        experts = sum(sum(self._expert_sizes(index)) for index in self._places)
        if self._orders.shape[1]:
            columns = self._decoder.hidden + self._part.expert.width
            experts += len(self._places) * self._orders.itemsize * columns
        return self._work.distinct * experts + len(self._places) * self._router_size

    def _expert_sizes(self, index: int) -> tuple[int, int]:
        """Bytes of gate and up, packed as one, and of down of an expert of layer `index`."""
        recipe, hidden, width = self._recipes[0], self._decoder.hidden, self._part.expert.width
        stored = None if self._work.stored is None else self._work.stored.experts[index]
        formats = {} if stored is None else {name: one.format for name, one in stored.one}
        into = [(formats.get(name, recipe.format), width) for name in self._into]
        down = [(formats.get("down", recipe.format), hidden)]
        return _aligned(packed_bytes(recipe, into, hidden)), _aligned(packed_bytes(recipe, down, width))

    @property
    def _into(self) -> tuple[str, ...]:
        """The matrices of an expert that are packed as one."""
        return ("gate", "up") if self._part.expert.gated else ("up",)

    def _lay_out(self, first_byte: int) -> None:
        layers, count = len(self._decoder.layers), self._part.count
        self._starts = np.zeros((layers, count, 2), np.int64)
        self.arena_bytes = 0
        for index in self._places:
            gate_up, down = self._expert_sizes(index)
            experts = first_byte + self.arena_bytes + np.arange(count, dtype=np.int64) * (gate_up + down)
            self._starts[index] = np.stack([experts, experts + gate_up], -1)
            self.arena_bytes += count * (gate_up + down)
        self._router_size = _aligned(self._router_recipe.matrix_bytes(count, self._decoder.hidden))
        self._router_starts = np.zeros(layers, np.int64)
        self._router_starts[self._places] = np.arange(len(self._places)) * self._router_size
        self._routers = aligned_bytes(len(self._places) * self._router_size)

    def pack(self, index: int, matrices: Mapping[str, Weight], arena: npt.NDArray[np.uint8]) -> None:
        """The experts and the router of layer `index`; nothing of a layer without any."""
        if index not in self._places:
            return
        gate_up, down = self._expert_sizes(index)
        for number in range(self._part.count):
            first, second = self._starts[index, number]
            pair = [matrices[f"expert{number}.{name}"] for name in self._into]
            pack_rows(pair, self._recipes[0], arena[first : first + gate_up])
            last = matrices[f"expert{number}.down"]
            pack(last, self._recipes[0], arena[second : second + down])
            self._note_order(index, number, 0, common_order(pair))
            self._note_order(index, number, 1, common_order([last]))
        at = self._router_starts[index]
        pack(matrices[ROUTER], self._router_recipe, self._routers[at : at + self._router_size])

    def _note_order(self, index: int, number: int, half: int, order: npt.NDArray[np.int32] | None) -> None:
        """In which order an expert's columns lie; the first that is not their own makes room for all."""
        if order is None:
            return
        layers, count, _, widest = self._orders.shape
        if not count:
            shape = (layers, self._part.count, 2, widest)
            self._orders = np.broadcast_to(np.arange(widest, dtype=np.int32), shape).copy()
        self._orders[index, number, half, : len(order)] = order

    def routed(self, small: list[Mapping[str, F32]], widths: I64, chooses: npt.NDArray[np.bool_]) -> Routed:
        """All of it as the kernel takes it, with the vectors of all layers."""
        count, hidden, part = self._part.count, self._decoder.hidden, self._part
        biased, router = part.expert.bias, part.router

        def rows(name: str, width: int) -> F32:
            held = np.zeros((len(small), width), np.float32)
            for index in self._places if width else ():
                held[index] = small[index][name]
            return held

        def biases(names: tuple[str, ...], width: int) -> F32:
            held = np.zeros((len(small), count, width if biased else 0), np.float32)
            for index, number in np.ndindex(held.shape[:2]) if biased else ():
                if index in self._places:
                    held[index, number] = np.concatenate(
                        [small[index][f"expert{number}.{n}_bias"] for n in names]
                    )
            return held

        return Routed(
            widths,
            chooses,
            self._routers,
            self._router_starts,
            self._starts,
            rows("router_bias", count if router.bias else 0),
            rows("correction", count if router.correction else 0),
            rows("expert_gain", count if router.gains else 0),
            biases(self._into, len(self._into) * part.expert.width),
            biases(("down",), hidden),
            rows("shared_gate", hidden if part.shared_gate else 0),
            self._given,
            self._orders,
            self._ids,
            rule_of(router),
            *self._buffers(),
        )

    @property
    def _placed_width(self) -> int:
        """Of what a pair is multiplied by where that is no row as it is."""
        if self._orders.shape[1]:
            return int(self._orders.shape[3])
        return self._decoder.hidden if self._part.router.on_input else 0

    def _buffers(self) -> tuple[LayerBuffers, LayerSizes]:
        """Room for every block that there may be."""
        part, rows, hidden = self._part, self._rows, self._decoder.hidden
        width, recipes, router = part.expert.width, self._recipes, self._router_recipe
        sizes, lines = sizes_of(self._blocks), max(recipe.rows for recipe in recipes)
        held = empty_blocks(rows, part.chosen, part.count, sizes[-1])
        most, pairs = held.expert.size, rows * part.chosen
        row_stride = sizes[-1] * max(hidden, width)
        wide, narrow = (lines * recipes[0].padded_n(n) for n in (len(self._into) * width, hidden))
        scratch = _aligned(max(r.scratch_bytes(k) for r in recipes for k in (hidden, width)))
        buffers = LayerBuffers(
            logits=_zeros(router.rows * router.padded_n(part.count)),
            score=_zeros(part.count),
            wish=_zeros(part.count),
            ids=np.zeros(pairs, np.int64),
            shares=_zeros(pairs),
            blocks=held,
            kernel_rows=np.array(sizes, np.int64),
            placed=_zeros(self._placed_width * pairs),
            hidden=_zeros(pairs * width),
            gathered=_zeros(most * row_stride),
            wide=_zeros(most * wide),
            narrow=_zeros(most * narrow),
            scratch=aligned_bytes(max(most * scratch, router.scratch_bytes(hidden))),
            lines=np.zeros(pairs, np.int64),
            out=_zeros(rows * hidden),
        )
        does = part.expert.activation
        shape = (rows, hidden, width, part.count, part.chosen)
        kind = (part.expert.gated, does == "clamped", does == "gelu_tanh")
        return buffers, LayerSizes(*shape, *kind, row_stride, wide, narrow, scratch, self._threads)


def _format_of(work: Step | Prefill) -> str:
    """The format of a model's experts."""
    if work.stored is None:
        return work.weight
    return mixed_format(work.stored.expert_formats)


def _aligned(size: int) -> int:
    return -(-size // LINE) * LINE


def _zeros(count: int) -> F32:
    return np.zeros(count, np.float32)
