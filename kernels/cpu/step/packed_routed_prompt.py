"""A model that goes beyond Llama packed for whole prompts: matrices, empty caches and buffers for routed_prompt.py.

>>> packed = PackedRoutedPrompt(inputs, threads=2)
>>> packed.run()
>>> packed.logits.shape, packed.choice.shape        # [batch, vocab]; [layers with experts, batch·tokens, chosen]
"""

from __future__ import annotations

import numpy as np

from membound.kernels.cpu.attention.decode import flat_cache
from membound.kernels.cpu.attention.several import new_method
from membound.kernels.cpu.step.packed_model import gains_of, sizes_of
from membound.kernels.cpu.step.packed_prompt import MOST_ROWS, ROW_STEP
from membound.kernels.cpu.step.packed_routed import RoutedWeights
from membound.kernels.cpu.step.routed_prompt import Prompt, routed_prompt_kernel
from membound.kernels.cpu.step.routed_step import Plain, Routed
from membound.kernels.cpu.step.step import Caches
from membound.kernels.features import bounded
from membound.kernels.inputs import ModelInputs
from membound.kernels.parts import Experts, Latent
from membound.kernels.routing import I64
from membound.kernels.weights.formats import F32, KVCache, cache_layout
from membound.kernels.work import Prefill

BLOCKS = "4+16"
"""Rows of an expert that a kernel takes at once: a chunk gives each of 128 experts four on average, each of 64 six."""


class PackedRoutedPrompt:
    """A model's weights, empty caches and buffers, ready to read a prompt."""

    def __init__(self, inputs: ModelInputs, threads: int) -> None:
        work, model = inputs.work, inputs.model
        if not isinstance(work, Prefill):
            raise AssertionError(f"{type(work).__name__} is no Prefill")
        rows = min(MOST_ROWS, -(-max(work.tokens, work.batch) // ROW_STEP) * ROW_STEP)
        blocks = BLOCKS if model.decoder.experts else ""
        held = self._held = RoutedWeights(inputs, rows, work.batch, blocks, threads)
        places = range(-(-work.tokens // rows) * rows)
        layers = model.decoder.layers
        self._chosen = max(
            (layer.mlp.chosen for layer in layers if isinstance(layer.mlp, Experts)), default=0
        )
        self._places = [index for index, layer in enumerate(layers) if isinstance(layer.mlp, Experts)]
        routed = held.routed() if blocks else Plain(held.widths)
        self._prompt = Prompt(
            work.tokens,
            np.zeros(work.rows * model.hidden, np.float32),
            np.zeros((model.layers, work.rows * self._chosen), np.int64),
            routed.ids if isinstance(routed, Routed) else np.zeros((model.layers, 0), np.int64),
        )
        sizes = sizes_of(model, work.batch, places, threads)
        arguments = (
            np.ascontiguousarray(inputs.x.reshape(-1)), held.arena, held.starts,
            gains_of(inputs, held.small, held.orders, places), empty_caches(inputs, len(places)),
            held.buffers, sizes._replace(queries=rows), routed, self._prompt,
        )  # fmt: skip
        latent = held.latent
        self._arguments = arguments if latent is None else (*arguments, latent.arguments)
        method = latent.grouping.method if latent else new_method(work.kv, model.head_dim, bounded(work))
        self._kernel = routed_prompt_kernel(
            held.recipe.format,
            held.recipe.act,
            rows,
            work.batch,
            work.kv,
            method,
            held.up_format,
            blocks,
        )

    def run(self) -> None:
        """Read the prompt. The cache is written anew each time."""
        self._kernel(*self._arguments)

    @property
    def logits(self) -> F32:
        """[batch, vocab] float32, a copy."""
        return self._held.logits

    @property
    def choice(self) -> I64:
        """The experts of each token [layers with experts, batch·tokens, chosen], the most probable first."""
        return self._prompt.ids[self._places].reshape(len(self._places), -1, self._chosen).copy()

    @property
    def matrix_bytes(self) -> int:
        """Packed bytes of all matrices that are read at least once: of experts those of the plan."""
        return self._held.matrix_bytes


def empty_caches(inputs: ModelInputs, capacity: int) -> Caches:
    """Room for all layers; of latent attention values lie within keys, as one array."""
    model, work = inputs.model, inputs.work
    shape = (model.layers * work.batch, model.kv_heads, capacity, model.head_dim)
    k, v, *scales = (np.zeros(s, kind) for s, kind in cache_layout(work.kv, shape))
    if isinstance(model.decoder.layers[0].mixer, Latent):
        v, scales = k, [one for one in scales[:1] for _ in range(2)]
    return Caches(*flat_cache(KVCache(work.kv, k, v, *scales)))
