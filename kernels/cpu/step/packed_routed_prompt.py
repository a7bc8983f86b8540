"""A model that goes beyond Llama packed for whole prompts: matrices, empty caches and buffers for routed_prompt.py.

>>> packed = PackedRoutedPrompt(inputs, threads=2)
>>> packed.run()
>>> packed.logits.shape, packed.choice.shape        # [batch, vocab]; [layers with experts, batch·tokens, chosen]
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from membound.kernels.cpu.attention.decode import flat_cache
from membound.kernels.cpu.attention.several import new_method
from membound.kernels.cpu.step.packed import Packed
from membound.kernels.cpu.step.packed_model import gains_of, sizes_of
from membound.kernels.cpu.step.packed_prompt import MOST_ROWS, ROW_STEP
from membound.kernels.cpu.step.packed_routed import RoutedWeights
from membound.kernels.cpu.step.routed_prompt import Prompt, routed_prompt_kernel
from membound.kernels.cpu.step.routed_step import Plain, Routed
from membound.kernels.cpu.step.step import Caches
from membound.kernels.features import bounded
from membound.kernels.inputs import ModelInputs
from membound.kernels.layer_tensors import routed_part
from membound.kernels.parts import Experts, Latent
from membound.kernels.routing import I64
from membound.kernels.weights.formats import KVCache, cache_layout
from membound.kernels.work import Prefill

BLOCKS = "4+16"
"""Rows of an expert that a kernel takes at once: a chunk gives each of 128 experts four on average, each of 64 six."""


class PackedLayersPrompt(Packed):
    """Weights of a model whose layers differ in kind, and what a prompt leaves in each. Subclasses add caches or states."""

    def __init__(self, inputs: ModelInputs, rows: int, padded_rows: int, threads: int) -> None:
        """In chunks of `rows`; `padded_rows`: of all chunks."""
        work, model, part = inputs.work, inputs.model, routed_part(inputs.model.decoder)
        if not isinstance(work, Prefill):
            raise AssertionError(f"{type(work).__name__} is no Prefill")
        self._work, self._blocks = work, BLOCKS if part else ""
        held = self._held = RoutedWeights(inputs, rows, work.batch, self._blocks, threads)
        self._chosen = part.chosen if part else 0
        layers = enumerate(model.decoder.layers)
        self._places = [index for index, layer in layers if isinstance(layer.mlp, Experts)]
        self._routed = held.routed() if part else Plain(held.widths)
        self._prompt = Prompt(
            work.tokens,
            np.zeros(padded_rows * model.hidden, np.float32),
            np.zeros((model.layers, work.rows * self._chosen), np.int64),
            self._routed.ids if isinstance(self._routed, Routed) else np.zeros((model.layers, 0), np.int64),
        )

    @property
    def choice(self) -> I64:
        """The experts of each token [layers with experts, batch·tokens, chosen], the most probable first; of a dense model no layers."""
        return self._prompt.ids[self._places].reshape(len(self._places), self._work.rows, self._chosen).copy()


class PackedRoutedPrompt(PackedLayersPrompt):
    """A model's weights, empty caches and buffers, ready to read a prompt."""

    def __init__(self, inputs: ModelInputs, threads: int) -> None:
        work, model = inputs.work, inputs.model
        if not isinstance(work, Prefill):
            raise AssertionError(f"{type(work).__name__} is no Prefill")
        rows = min(MOST_ROWS, -(-max(work.tokens, work.batch) // ROW_STEP) * ROW_STEP)
        super().__init__(inputs, rows, work.rows, threads)
        held, places = self._held, range(-(-work.tokens // rows) * rows)
        arguments = (
            np.ascontiguousarray(inputs.x.reshape(-1)), held.arena, held.starts,
            gains_of(inputs, held.small, held.orders, places), empty_caches(inputs, len(places)),
            held.buffers, sizes_of(model, work.batch, places, threads)._replace(queries=rows), self._routed, self._prompt,
        )  # fmt: skip
        latent = held.latent
        method = latent.grouping.method if latent else new_method(work.kv, model.head_dim, bounded(work))
        kernel = routed_prompt_kernel(
            held.recipe.format, held.recipe.act, rows, work.kv, method, held.up_format,
            latent.index_method if latent else "", held.expert_format, self._blocks, held.head.format, held.head.act, work.batch,
        )  # fmt: skip
        more = (latent.arguments,) if latent else ()
        self._ready(kernel, (*arguments, *more), held.logits, held.matrix_bytes)

    @property
    def selection(self) -> npt.NDArray[np.int32]:
        """What the last chunk's tokens selected, [layers, chunk · chosen]; -1 in a layer without an index of its own. Raises AssertionError without any."""
        latent = self._held.latent
        if latent is None or latent.index is None:
            raise AssertionError("no layer has an index")
        return np.array(latent.index.arguments.ids, np.int32)


def empty_caches(inputs: ModelInputs, capacity: int) -> Caches:
    """Room for all layers; of latent attention values lie within keys, as one array."""
    model, work = inputs.model, inputs.work
    shape = (model.layers * work.batch, model.kv_heads, capacity, model.head_dim)
    k, v, *scales = (np.zeros(s, kind) for s, kind in cache_layout(work.kv, shape))
    if isinstance(model.decoder.layers[0].mixer, Latent):
        v, scales = k, [one for one in scales[:1] for _ in range(2)]
    return Caches(*flat_cache(KVCache(work.kv, k, v, *scales)))
