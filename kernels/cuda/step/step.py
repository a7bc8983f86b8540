"""A whole decode step on a GPU: one list of launches in one stream, with nothing to wait for in between.

>>> prepared = prepare_step(gpu, inputs)
>>> gpu.capture(prepared.launches).start()      # as one graph; or each launch's start(), in order
>>> logits = prepared.logits.read().reshape(batch, vocab)

A launch list may run any number of times: it starts from its own copy of the hidden states and writes the new
token to the same place of the cache. Residuals are added by the products themselves, which do norms and activations as well
where they can (products.py). What a step is:
membound.kernels.work.Step; what it computes: membound.kernels.reference.step.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from membound.kernels.cuda.attention import cache_tiles
from membound.kernels.cuda.attention.cache_append import Append, append_kernel
from membound.kernels.cuda.attention.cache_layout import DeviceCache
from membound.kernels.cuda.attention.cache_layout import upload as upload_cache
from membound.kernels.cuda.attention.cache_tiles import Tiles
from membound.kernels.cuda.attention.plan import AttentionBinder
from membound.kernels.cuda.compile import Kernel
from membound.kernels.cuda.device.gpu import Array, Gpu, Launch
from membound.kernels.cuda.matmul import linear
from membound.kernels.cuda.matmul.pack import COLUMNS, alternating
from membound.kernels.cuda.step.elementwise import (
    NORM_THREADS,
    activation_grid,
    activation_kernel,
    copy_kernel,
    norm_kernel,
)
from membound.kernels.cuda.step.products import fuses, plan_of, products_of
from membound.kernels.inputs import ModelInputs
from membound.kernels.reference import rope_frequencies
from membound.kernels.weights.formats import Weight
from membound.kernels.weights.layers import LayerWeights
from membound.kernels.work import Step

F32 = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class PreparedStep:
    """The launches of a step in order, where they leave the logits [B, vocab], and what they stream.

    `weights_bytes`: matrices as they lie on the GPU, padding included.
    """

    launches: tuple[Launch, ...]
    logits: Array
    weights_bytes: int


def unsupported_step(work: Step) -> str | None:
    """Why this step cannot run on CUDA, or None."""
    model = work.shape
    reason = linear.unsupported(work.weight, work.act) or cache_tiles.unsupported(work.kv, model.head_dim, 0)
    if reason:
        return reason
    for name in ("hidden", "intermediate", "q_dim"):
        if getattr(model, name) % COLUMNS:
            return f"the CUDA step takes widths of multiples of {COLUMNS}, not {name}={getattr(model, name)}"
    return None


def prepare_step(gpu: Gpu, inputs: ModelInputs) -> PreparedStep:
    """Copy weights and caches to the GPU, a layer at a time, and ready all launches."""
    return _Builder(gpu, inputs).prepared()


class _Builder:
    """Memory that all layers share, and the launches so far."""

    def __init__(self, gpu: Gpu, inputs: ModelInputs) -> None:
        if not isinstance(inputs.work, Step):
            raise AssertionError(f"{type(inputs.work).__name__} is no Step")
        self._gpu, self._inputs, self._work, model = gpu, inputs, inputs.work, inputs.model
        self._model, rows = model, inputs.work.batch
        self._launches: list[Launch] = []
        self._weights_bytes = 0
        self._tiles = Tiles(self._work.kv, model.head_dim, model.q_heads // model.kv_heads)
        self._attention = AttentionBinder(
            gpu, self._tiles, rows, model.q_heads, model.kv_heads, self._work.context + 1
        )
        self._products = {product.name: product for product in products_of(self._work)}
        self._fused = fuses(self._work)
        self._up_width = model.intermediate * (2 if model.gated and not self._fused else 1)
        self._input = gpu.array(inputs.x)
        self._x, self._normed = (self._floats(model.hidden) for _ in range(2))
        self._heads = self._floats(model.q_dim + 2 * model.kv_dim)
        self._q, self._attended = (self._floats(model.q_dim) for _ in range(2))
        self._up, self._hidden = self._floats(self._up_width), self._floats(model.intermediate)
        self._logits = self._floats(model.vocab)
        widest = max(model.hidden, model.intermediate, model.q_dim)
        self._scratch = gpu.zeros(rows * widest // 2, np.uint32)
        self._turns = gpu.array(_turns(inputs))
        self._none = gpu.zeros(4, np.float32)

    def _floats(self, width: int) -> Array:
        return self._gpu.zeros(self._work.batch * width, np.float32)

    def prepared(self) -> PreparedStep:
        """All launches, from the copy of the input to the logits."""
        count = self._work.batch * self._model.hidden
        self._add(copy_kernel(), -(-count // NORM_THREADS), (self._input, self._x, count))
        for index in range(self._model.layers):
            self._layer(index)
        self._multiply_normed("head", [self._inputs.lm_head()], self._inputs.final_norm(), self._logits)
        return PreparedStep(tuple(self._launches), self._logits, self._weights_bytes)

    def _layer(self, index: int) -> None:
        layer = self._inputs.layer(index)
        matrices = layer.matrices
        self._multiply_normed("qkv", [matrices[name] for name in "qkv"], layer.attention_norm, self._heads)
        no_table = np.zeros((1, 0), np.int32)
        held = self._inputs.cache(index)
        cache = upload_cache(self._gpu, held, self._tiles, no_table, self._work.context + 1)
        self._append(layer, cache)
        self._launches += self._attention.bind(self._q, cache, self._attended)
        self._multiply("o", [matrices["o"]], self._attended, self._x)
        self._mlp(layer)
        self._multiply("down", [matrices["down"]], self._hidden, self._x)

    def _mlp(self, layer: LayerWeights) -> None:
        """`_hidden` = the activation of the first half of the MLP."""
        matrices, columns, gated = layer.matrices, self._model.intermediate, self._model.gated
        into = [matrices[name] for name in ("gate", "up") if name in matrices]
        if self._fused:
            rows = [alternating(*into)] if gated else into
            self._multiply_normed("up", rows, layer.mlp_norm, self._hidden, columns)
            return
        self._multiply_normed("up", into, layer.mlp_norm, self._up)
        grid = activation_grid(self._work.batch, columns)
        self._add(activation_kernel(gated), grid, (self._up, self._hidden, columns))

    def _multiply_normed(
        self, name: str, weights: Sequence[Weight], gain: F32, y: Array, stride: int = 0
    ) -> None:
        """y = the product of the norm of `_x`."""
        hidden, eps = self._model.hidden, self._model.norm_eps
        if self._fused:
            gains = self._gpu.array(np.append(gain, np.float32(eps)).astype(np.float32))
            self._multiply(name, weights, self._x, y, gains, stride)
            return
        arguments = (self._x, self._gpu.array(gain), self._normed, hidden, eps)
        self._add(norm_kernel(), self._work.batch, arguments)
        self._multiply(name, weights, self._normed, y)

    def _multiply(
        self,
        name: str,
        weights: Sequence[Weight],
        x: Array,
        y: Array,
        gains: Array | None = None,
        stride: int = 0,
    ) -> None:
        """Y = x · Wᵀ, or added to it; several matrices are set below each other and multiplied at once."""
        matrix = linear.upload(self._gpu, weights)
        self._weights_bytes += matrix.stored_bytes
        plan = plan_of(self._products[name], self._work, self._gpu.multiprocessors)
        if gains is not None:
            matrix = replace(matrix, scales=gains)
        self._launches += linear.bind_linear(self._gpu, plan, matrix, x, y, self._scratch, stride)

    def _append(self, layer: LayerWeights, cache: DeviceCache) -> None:
        """Rotated queries, and the new token behind the `context` of the cache."""
        model, work = self._model, self._work
        bias = _joined([layer.q_bias, layer.k_bias, layer.v_bias])
        gains = _joined([layer.q_norm, layer.k_norm])
        variant = Append(work.kv, model.head_dim, bias is not None, gains is not None)
        self._add(
            append_kernel(variant),
            work.batch * (model.q_heads + 2 * model.kv_heads),
            (
                self._heads,
                *(self._none if a is None else self._gpu.array(a) for a in (bias, gains)),
                *(self._turns, self._q, cache.k, cache.v, cache.k_scales, cache.v_scales),
                *(model.q_heads, model.kv_heads, work.context, cache.room, model.norm_eps),
            ),
        )

    def _add(self, kernel: Kernel, grid: int | tuple[int, ...], arguments: Sequence[object]) -> None:
        self._launches.append(self._gpu.bind(kernel, grid, arguments))


def _turns(inputs: ModelInputs) -> F32:
    """Cos, then sin, of the angles at position `context`, [2, D / 2]."""
    if not isinstance(inputs.work, Step):
        raise AssertionError(f"{type(inputs.work).__name__} is no Step")
    angles = inputs.work.context * rope_frequencies(inputs.model)
    return np.stack([np.cos(angles), np.sin(angles)]).astype(np.float32)


def _joined(parts: Sequence[F32 | None]) -> F32 | None:
    """One behind the other; None where the model has none."""
    present = [part for part in parts if part is not None]
    return np.concatenate(present) if present else None
