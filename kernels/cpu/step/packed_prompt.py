"""A model packed for whole prompts: matrices, caches and buffers for prefill.py.

>>> packed = PackedPrompt(inputs, threads=2)
>>> packed.run()
>>> packed.logits.shape        # [batch, vocab], of each sequence's last token
"""

from __future__ import annotations

import numpy as np

from membound.kernels.cpu.attention.decode import flat_cache
from membound.kernels.cpu.attention.rows import rows_grouping
from membound.kernels.cpu.matmul.pack import aligned_bytes
from membound.kernels.cpu.matmul.recipe import MOST_TILE_ROWS, Recipe
from membound.kernels.cpu.step.packed import Packed
from membound.kernels.cpu.step.packed_model import PackedMatrices, recipes_of
from membound.kernels.cpu.step.prefill import PromptSizes, prefill_kernel
from membound.kernels.cpu.step.step import Buffers, Caches, Gains
from membound.kernels.inputs import ModelInputs
from membound.kernels.model import Model
from membound.kernels.weights.formats import F32, KVCache, cache_layout
from membound.kernels.work import Prefill

MOST_ROWS = 64
"""Rows of a chunk. A bfloat16 weight then does 64 FLOP for each of its bytes that is streamed; on matrix tiles, MOST_TILE_ROWS."""
ROW_STEP = 16
"""Shorter prompts have chunks of a multiple of this, the rows of a tile of AMX, so that few kernels are compiled."""


class PackedPrompt(Packed):
    """A model's weights, empty caches and buffers, ready to read a prompt."""

    def __init__(self, inputs: ModelInputs, threads: int) -> None:
        work, model = inputs.work, inputs.model
        if not isinstance(work, Prefill):
            raise AssertionError(f"{type(work).__name__} is no Prefill")
        rows = chunk_rows(work)
        recipe, last = recipes_of(work, rows, min(work.batch, MOST_ROWS))
        matrices = PackedMatrices(inputs, recipe, last, range(work.tokens - 1, work.tokens))
        buffers = _buffers(work, inputs, recipe, last, matrices)
        sizes = PromptSizes(
            model.hidden, model.layers, model.kv_heads, model.q_heads // model.kv_heads, model.head_dim,
            model.intermediate, model.vocab, model.gated, work.batch, work.tokens, model.norm_eps, threads,
        )  # fmt: skip
        method = rows_grouping(work.kv, model.head_dim, model.head_dim).method
        kernel = prefill_kernel(
            recipe.format, recipe.act, rows, work.kv, method, last.format, last.act, last.m
        )
        arguments = (
            np.ascontiguousarray(inputs.x.reshape(-1)), matrices.arena, matrices.starts,
            _with_all_places(matrices.gains, model, work.tokens), _empty_caches(work, inputs), buffers, sizes,
        )  # fmt: skip
        logits = buffers.logits.reshape(-1, last.padded_n(model.vocab))[: work.batch, : model.vocab]
        self._ready(kernel, arguments, logits, matrices.size_bytes)


def chunk_rows(work: Prefill) -> int:
    """Rows of a chunk where all rows of a prompt pass one after the other; fewer where it has no more."""
    tiles = recipes_of(work, MOST_TILE_ROWS, 1)[0].method == "tile"
    return min(MOST_TILE_ROWS if tiles else MOST_ROWS, -(-work.rows // ROW_STEP) * ROW_STEP)


def _with_all_places(gains: Gains, model: Model, tokens: int) -> Gains:
    """Angles of every place of a prompt, [tokens, pairs], for layers that turn alike."""
    rope = model.decoder.layers[0].mixer.rope
    if rope is None:
        raise AssertionError(f"{model.name} has a layer without RoPE")
    cosines, sines = rope.table(np.arange(tokens), model.head_dim, tokens)
    return gains._replace(
        cosines=np.ascontiguousarray(cosines, np.float32), sines=np.ascontiguousarray(sines, np.float32)
    )


def _empty_caches(work: Prefill, inputs: ModelInputs) -> Caches:
    model = inputs.model
    shape = (model.layers * work.batch, model.kv_heads, work.tokens, model.head_dim)
    k, v, *scales = (np.zeros(s, kind) for s, kind in cache_layout(work.kv, shape))
    return Caches(*flat_cache(KVCache(work.kv, k, v, *scales)))


def _buffers(
    work: Prefill, inputs: ModelInputs, recipe: Recipe, last: Recipe, matrices: PackedMatrices
) -> Buffers:
    model = inputs.model

    def out(one: Recipe, n: int) -> F32:
        return np.zeros(one.rows * one.padded_n(n), np.float32)

    def rows(width: int) -> F32:
        return np.zeros(recipe.m * width, np.float32)

    qkv, o, wide, _down = matrices.shapes
    widest = max(*(recipe.scratch_bytes(m.k) for m in matrices.shapes), last.scratch_bytes(model.hidden))
    chunks = -(-work.batch // last.m)
    return Buffers(
        np.zeros(work.batch * work.tokens * model.hidden, np.float32), rows(model.hidden), out(recipe, qkv.n),
        rows(model.q_dim), out(recipe, wide.n), rows(model.intermediate), out(recipe, o.n),
        np.zeros(chunks * last.rows * last.padded_n(model.vocab), np.float32),
        rows(max(m.k for m in matrices.shapes) if len(matrices.gains.orders) else 0), aligned_bytes(widest),
    )  # fmt: skip
