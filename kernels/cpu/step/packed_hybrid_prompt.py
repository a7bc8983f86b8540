"""A model some of whose layers hold states, packed for whole prompts: the arguments of hybrid_prompt.py.

>>> packed = PackedHybridPrompt(inputs, threads=2)
>>> packed.run()
>>> packed.logits.shape        # [batch, vocab], of each sequence's last token
"""

from __future__ import annotations

import numpy as np

from membound.kernels.cpu.attention.rows import rows_grouping
from membound.kernels.cpu.matmul.recipe import MOST_TILE_ROWS, choose
from membound.kernels.cpu.step.delta import States
from membound.kernels.cpu.step.hybrid_prompt import hybrid_prompt_kernel
from membound.kernels.cpu.step.mamba import MambaStates
from membound.kernels.cpu.step.packed_hybrid import states_of
from membound.kernels.cpu.step.packed_model import gains_of, sizes_of
from membound.kernels.cpu.step.packed_prompt import MOST_ROWS, ROW_STEP
from membound.kernels.cpu.step.packed_routed import RoutedWeights
from membound.kernels.cpu.step.packed_routed_prompt import BLOCKS, empty_caches
from membound.kernels.cpu.step.routed_prompt import Prompt
from membound.kernels.cpu.step.routed_step import Plain, Routed
from membound.kernels.inputs import ModelInputs
from membound.kernels.layer_tensors import routed_part
from membound.kernels.parts import Experts
from membound.kernels.routing import I64
from membound.kernels.weights.formats import F32
from membound.kernels.work import Prefill


class PackedHybridPrompt:
    """A model's weights, empty caches and states, and buffers, ready to read a prompt."""

    def __init__(self, inputs: ModelInputs, threads: int) -> None:
        work, model = inputs.work, inputs.model
        if not isinstance(work, Prefill):
            raise AssertionError(f"{type(work).__name__} is no Prefill")
        part = routed_part(model.decoder)
        rows, blocks = _chunk_rows(work, part is not None), BLOCKS if part else ""
        held = self._held = RoutedWeights(inputs, rows, work.batch, blocks, threads)
        self._chosen, self._rows = part.chosen if part else 0, work.rows
        layers = enumerate(model.decoder.layers)
        self._places = [index for index, layer in layers if isinstance(layer.mlp, Experts)]
        self._states, places = states_of(inputs, held.small), range(work.tokens)
        routed = held.routed() if part else Plain(held.widths)
        self._prompt = Prompt(
            work.tokens,
            np.zeros(-(-work.rows // rows) * rows * model.hidden, np.float32),
            np.zeros((model.layers, work.rows * self._chosen), np.int64),
            routed.ids if isinstance(routed, Routed) else np.zeros((model.layers, 0), np.int64),
        )
        self._arguments = (
            np.ascontiguousarray(inputs.x.reshape(-1)), held.arena, held.starts,
            gains_of(inputs, held.small, held.orders, places), empty_caches(inputs, work.tokens),
            held.buffers, sizes_of(model, work.batch, places, threads), self._states,
            routed, self._prompt,
        )  # fmt: skip
        method = rows_grouping(work.kv, model.head_dim, model.head_dim).method
        self._kernel = hybrid_prompt_kernel(
            held.recipe.format, held.recipe.act, rows, work.batch, work.kv, method, blocks
        )

    def run(self) -> None:
        """Read the prompt. Caches and states are written anew each time."""
        self._kernel(*self._arguments)

    @property
    def logits(self) -> F32:
        """[batch, vocab] float32, a copy."""
        return self._held.logits

    @property
    def choice(self) -> I64:
        """The experts of each token [layers with experts, batch·tokens, chosen]; of a dense model no layers."""
        return self._prompt.ids[self._places].reshape(len(self._places), self._rows, self._chosen).copy()

    @property
    def matrix_bytes(self) -> int:
        """Packed bytes of all matrices that are read at least once: of experts those of the plan."""
        return self._held.matrix_bytes

    @property
    def states(self) -> States | MambaStates:
        """What the prompt leaves behind."""
        return self._states


def _chunk_rows(work: Prefill, routed: bool) -> int:
    """Rows of a chunk: as many as in prompts of dense models, or of models with experts; fewer where the prompt has no more."""
    tiles = not routed and choose(work.weight, work.act, MOST_TILE_ROWS).method == "tile"
    return min(MOST_TILE_ROWS if tiles else MOST_ROWS, -(-work.rows // ROW_STEP) * ROW_STEP)
