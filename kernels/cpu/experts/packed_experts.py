"""A router's experts packed for the kernel: matrices of every set in one arena, routers in another, buffers.

>>> packed = PackedExperts(inputs, threads=2)
>>> packed.run(slot=0)
>>> packed.output.shape, packed.choice.shape        # [batch, hidden], and the experts of each row, [batch, chosen]
"""

from __future__ import annotations

import numpy as np

from membound.kernels.cpu.experts.blocks import block_recipes, sizes_of
from membound.kernels.cpu.experts.experts import ExpertBuffers, ExpertSizes, experts_kernel
from membound.kernels.cpu.experts.routes import I64, empty_blocks
from membound.kernels.cpu.matmul.pack import aligned_bytes, pack, pack_rows
from membound.kernels.cpu.matmul.recipe import Recipe, choose
from membound.kernels.inputs import ExpertInputs
from membound.kernels.routed_experts import RoutedExperts
from membound.kernels.weights.formats import F32, Weight

LINE = 64
"""Bytes to which matrices and the parts of blocks are aligned."""


class PackedExperts:
    """The experts and routers of all slots, ready to run."""

    def __init__(self, inputs: ExpertInputs, threads: int) -> None:
        work = inputs.work
        self._work, self._inputs = work, inputs
        blocks = block_sizes(inputs)
        self._recipes = block_recipes(work.weight, work.act, blocks)
        self._router_recipe = choose("f32", "float", work.batch)
        self._x = np.ascontiguousarray(inputs.x.reshape(-1))
        self._pack_experts(inputs)
        self._pack_routers(inputs)
        self._buffers, self._sizes = _buffers(work, self._recipes, self._router_recipe, blocks, threads)
        self._kernel = experts_kernel(work.weight, work.act, work.batch, blocks)

    def run(self, slot: int) -> None:
        """One launch on the experts and with the router of that slot."""
        starts = self._starts[self._inputs.set_of(slot)]
        self._kernel(
            self._x,
            self._routers,
            slot * self._router_size,
            self._arena,
            starts,
            self._buffers,
            self._sizes,
        )

    @property
    def output(self) -> F32:
        """[batch, hidden] float32, a copy."""
        return self._buffers.out.reshape(self._work.batch, self._work.hidden).copy()

    @property
    def choice(self) -> I64:
        """The experts of each row in the last launch [batch, chosen], the most probable first."""
        return self._buffers.ids.reshape(self._work.batch, self._work.chosen).copy()

    @property
    def launch_bytes(self) -> int:
        """Packed bytes of the experts that a launch reads, and of its router."""
        work = self._work
        return work.distinct * sum(self._expert_sizes()) + self._router_size

    def _expert_sizes(self) -> tuple[int, int]:
        """Bytes of gate and up, packed as one, and of down."""
        work, recipe = self._work, self._recipes[0]
        gate_up = recipe.matrix_bytes(2 * work.width, work.hidden)
        return _aligned(gate_up), _aligned(recipe.matrix_bytes(work.hidden, work.width))

    def _pack_experts(self, inputs: ExpertInputs) -> None:
        work, recipe = self._work, self._recipes[0]
        gate_up, down = self._expert_sizes()
        whole = (inputs.weight_sets, work.count)
        first = np.arange(whole[0] * whole[1], dtype=np.int64).reshape(whole) * (gate_up + down)
        self._starts = np.stack([first, first + gate_up], axis=-1)
        self._arena = aligned_bytes(first.size * (gate_up + down))
        for weight_set, number in np.ndindex(whole):
            at = int(first[weight_set, number])
            gate, up, narrow = inputs.expert(weight_set, number)
            pack_rows([gate, up], recipe, self._arena[at : at + gate_up])
            pack_rows([narrow], recipe, self._arena[at + gate_up : at + gate_up + down])

    def _pack_routers(self, inputs: ExpertInputs) -> None:
        work, recipe = self._work, self._router_recipe
        self._router_size = _aligned(recipe.matrix_bytes(work.count, work.hidden))
        self._routers = aligned_bytes(inputs.slots * self._router_size)
        for slot in range(inputs.slots):
            weight = Weight("f32", work.count, work.hidden, inputs.router(slot))
            pack(weight, recipe, self._routers[slot * self._router_size :][: self._router_size])


def block_sizes(inputs: ExpertInputs) -> str:
    """The numbers of rows that experts have in the plan, as `block_kernels` takes them: ``1+2``. They are alike in all slots.

    A router that chose otherwise would be served as well, some blocks not full.
    """
    _, rows = np.unique(inputs.plan(0), return_counts=True)
    return "+".join(str(size) for size in np.unique(rows).tolist())


def _aligned(size: int) -> int:
    return -(-size // LINE) * LINE


def _buffers(
    work: RoutedExperts, recipes: tuple[Recipe, ...], router: Recipe, blocks: str, threads: int
) -> tuple[ExpertBuffers, ExpertSizes]:
    """Room for every block that there may be."""
    sizes, lines = sizes_of(blocks), max(recipe.rows for recipe in recipes)
    held = empty_blocks(work.batch, work.chosen, work.count, sizes[-1])
    most, pairs = held.expert.size, work.batch * work.chosen
    row_stride = sizes[-1] * max(work.hidden, work.width)
    wide, narrow = (lines * recipes[0].padded_n(n) for n in (2 * work.width, work.hidden))
    scratch = _aligned(max(r.scratch_bytes(k) for r in recipes for k in (work.hidden, work.width)))
    buffers = ExpertBuffers(
        logits=_zeros(router.rows * router.padded_n(work.count)),
        ids=np.zeros(pairs, np.int64),
        shares=_zeros(pairs),
        blocks=held,
        kernel_rows=np.array(sizes, np.int64),
        gathered=_zeros(most * row_stride),
        wide=_zeros(most * wide),
        narrow=_zeros(most * narrow),
        scratch=aligned_bytes(max(most * scratch, router.scratch_bytes(work.hidden))),
        lines=np.zeros(pairs, np.int64),
        out=_zeros(work.batch * work.hidden),
    )
    shape = (work.batch, work.hidden, work.width, work.count, work.chosen)
    return buffers, ExpertSizes(*shape, row_stride, wide, narrow, scratch, threads)


def _zeros(count: int) -> F32:
    return np.zeros(count, np.float32)
