"""A model some of whose layers hold states, packed for whole prompts: the arguments of hybrid_prompt.py.

>>> packed = PackedHybridPrompt(inputs, threads=2)
>>> packed.run()
>>> packed.logits.shape        # [batch, vocab], of each sequence's last token
"""

from __future__ import annotations

import numpy as np

from membound.kernels.cpu.attention.rows import rows_grouping
from membound.kernels.cpu.matmul.recipe import MOST_TILE_ROWS
from membound.kernels.cpu.step.delta import States
from membound.kernels.cpu.step.hybrid_prompt import hybrid_prompt_kernel
from membound.kernels.cpu.step.mamba import MambaStates
from membound.kernels.cpu.step.packed_hybrid import states_of
from membound.kernels.cpu.step.packed_model import gains_of, sizes_of
from membound.kernels.cpu.step.packed_prompt import MOST_ROWS, chunk_rows
from membound.kernels.cpu.step.packed_routed_prompt import PackedLayersPrompt, empty_caches
from membound.kernels.inputs import ModelInputs
from membound.kernels.work import Prefill


class PackedHybridPrompt(PackedLayersPrompt):
    """A model's weights, empty caches and states, and buffers, ready to read a prompt."""

    def __init__(self, inputs: ModelInputs, threads: int) -> None:
        work, model = inputs.work, inputs.model
        if not isinstance(work, Prefill):
            raise AssertionError(f"{type(work).__name__} is no Prefill")
        rows = min(chunk_rows(work), MOST_ROWS if model.decoder.experts else MOST_TILE_ROWS)
        super().__init__(inputs, rows, -(-work.rows // rows) * rows, threads)
        held, places = self._held, range(work.tokens)
        self._states = states_of(inputs, held.small)
        arguments = (
            np.ascontiguousarray(inputs.x.reshape(-1)), held.arena, held.starts,
            gains_of(inputs, held.small, held.orders, places), empty_caches(inputs, work.tokens),
            held.buffers, sizes_of(model, work.batch, places, threads), self._states,
            self._routed, self._prompt,
        )  # fmt: skip
        method = rows_grouping(work.kv, model.head_dim, model.head_dim).method
        kernel = hybrid_prompt_kernel(
            held.recipe.format, held.recipe.act, rows, work.kv, method,
            held.expert_format, self._blocks, held.head.format, held.head.act, work.batch,
        )  # fmt: skip
        self._ready(kernel, arguments, held.logits, held.matrix_bytes)

    @property
    def states(self) -> States | MambaStates:
        """What the prompt leaves behind."""
        return self._states
