"""A model packed for whole decode steps: matrices, caches and buffers for step.py.

>>> packed = PackedModel(inputs, threads=2)
>>> packed.run()
>>> packed.logits.shape        # [batch, vocab]

Matrices that share their input are packed as one: q, k, v; gate, up. All of a model's matrices lie in one
byte arena, so that one compilation serves every layer of every model with heads of the same shape.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from membound.kernels.cpu.attention.decode import flat_cache
from membound.kernels.cpu.matmul.grouping import grouping
from membound.kernels.cpu.matmul.pack import aligned_bytes, pack_rows
from membound.kernels.cpu.matmul.recipe import Recipe, choose
from membound.kernels.cpu.step.step import Buffers, Caches, Gains, Sizes, step_kernel
from membound.kernels.inputs import ModelInputs
from membound.kernels.model import Model
from membound.kernels.reference import rope_frequencies
from membound.kernels.weights.formats import F32, KVCache, Weight
from membound.kernels.weights.layers import LayerWeights
from membound.kernels.work import Step


@dataclass(frozen=True, slots=True)
class _Matrix:
    """Weights of one input that are packed as one matrix."""

    n: int
    k: int
    names: tuple[str, ...]


def _layer_matrices(model: Model) -> tuple[_Matrix, ...]:
    gate_up = ("gate", "up") if model.gated else ("up",)
    return (
        _Matrix(model.q_dim + 2 * model.kv_dim, model.hidden, ("q", "k", "v")),
        _Matrix(model.hidden, model.q_dim, ("o",)),
        _Matrix(len(gate_up) * model.intermediate, model.hidden, gate_up),
        _Matrix(model.hidden, model.intermediate, ("down",)),
    )


class PackedModel:
    """A model's weights, caches and buffers, ready to run."""

    def __init__(self, inputs: ModelInputs, threads: int) -> None:
        work, model = inputs.work, inputs.model
        if not isinstance(work, Step):
            raise AssertionError(f"{type(work).__name__} is no Step")
        self._work, self._model = work, model
        self._recipe = choose(work.weight, work.act, work.batch)
        self._matrices = _layer_matrices(model)
        self._x = np.ascontiguousarray(inputs.x.reshape(-1))
        self._pack(inputs)
        self._caches = _caches(inputs)
        self._buffers = _buffers(work.batch, model, self._recipe, self._matrices)
        group = model.q_heads // model.kv_heads
        self._sizes = Sizes(
            model.hidden, model.layers, model.kv_heads, group, model.head_dim,
            model.intermediate, model.vocab, model.gated,
            work.context, work.context + 1, model.norm_eps, threads,
        )  # fmt: skip
        shape = grouping(work.kv, group, model.head_dim)
        self._kernel = step_kernel(work.weight, work.act, work.batch, work.kv, shape.heads, shape.method)

    def run(self) -> None:
        """One step. The new token's row of the cache is written anew each time."""
        self._kernel(
            self._x, self._arena, self._starts, self._gains, self._caches, self._buffers, self._sizes
        )

    @property
    def logits(self) -> F32:
        """[batch, vocab] float32, a copy."""
        rows = self._buffers.logits.reshape(self._recipe.rows, -1)
        return rows[: self._work.batch, : self._model.vocab].copy()

    @property
    def matrix_bytes(self) -> int:
        """Packed bytes of all matrices."""
        return int(self._starts[-1])

    def _pack(self, inputs: ModelInputs) -> None:
        model, recipe = self._model, self._recipe
        sizes = [recipe.matrix_bytes(m.n, m.k) for m in self._matrices] * model.layers
        sizes.append(recipe.matrix_bytes(model.vocab, model.hidden))
        aligned = [-(-size // 64) * 64 for size in sizes]
        self._starts = np.concatenate([[0], np.cumsum(aligned)]).astype(np.int64)
        self._arena = aligned_bytes(self.matrix_bytes)
        small = _SmallWeights(inputs)
        for place, weights in enumerate(self._groups(inputs, small)):
            start, end = self._starts[place], self._starts[place + 1]
            pack_rows(weights, recipe, self._arena[start:end])
        self._gains = small.gains()

    def _groups(self, inputs: ModelInputs, small: _SmallWeights) -> Iterator[list[Weight]]:
        """Matrices in the order of the arena; a layer's weights are dropped when it is done."""
        for index in range(self._model.layers):
            layer = inputs.layer(index)
            small.add(layer)
            for matrix in self._matrices:
                yield [layer.matrices[name] for name in matrix.names]
        yield [inputs.lm_head()]


class _SmallWeights:
    """Collects norms and biases layer by layer."""

    def __init__(self, inputs: ModelInputs) -> None:
        self._inputs = inputs
        self._rows: list[LayerWeights] = []

    def add(self, layer: LayerWeights) -> None:
        without_matrices = LayerWeights(
            {}, layer.attention_norm, layer.mlp_norm, layer.q_norm, layer.k_norm,
            layer.q_bias, layer.k_bias, layer.v_bias,
        )  # fmt: skip
        self._rows.append(without_matrices)

    def gains(self) -> Gains:
        work = self._inputs.work
        if not isinstance(work, Step):
            raise AssertionError(f"{type(work).__name__} is no Step")
        angles = work.context * rope_frequencies(self._inputs.model)
        return Gains(
            _stack([r.attention_norm for r in self._rows]),
            _stack([r.mlp_norm for r in self._rows]),
            _stack([_joined(r.q_bias, r.k_bias, r.v_bias) for r in self._rows]),
            _stack([_joined(r.q_norm) for r in self._rows]),
            _stack([_joined(r.k_norm) for r in self._rows]),
            np.ascontiguousarray(self._inputs.final_norm(), np.float32),
            np.cos(angles).astype(np.float32),
            np.sin(angles).astype(np.float32),
        )


def _stack(rows: list[F32]) -> F32:
    return np.ascontiguousarray(np.stack(rows), np.float32)


def _joined(*parts: F32 | None) -> F32:
    return np.concatenate([np.zeros(0, np.float32), *(p for p in parts if p is not None)])


def _caches(inputs: ModelInputs) -> Caches:
    work, model = inputs.work, inputs.model
    if not isinstance(work, Step):
        raise AssertionError(f"{type(work).__name__} is no Step")
    rows = (model.layers, work.batch, model.kv_heads, work.context + 1)
    first = inputs.cache(0)
    k = np.zeros((*rows, model.head_dim), first.k.dtype)
    v = np.zeros_like(k)
    k_scales, v_scales = (np.ones(rows, np.float32) if work.kv == "int8" else None for _ in range(2))
    for index in range(model.layers):
        cache = inputs.cache(index)
        k[index, :, :, : work.context], v[index, :, :, : work.context] = cache.k, cache.v
        for held, scales in ((k_scales, cache.k_scales), (v_scales, cache.v_scales)):
            if held is not None and scales is not None:
                held[index, :, :, : work.context] = scales
    return Caches(*flat_cache(KVCache(work.kv, k, v, k_scales, v_scales)))


def _buffers(batch: int, model: Model, recipe: Recipe, matrices: tuple[_Matrix, ...]) -> Buffers:
    def out(n: int) -> F32:
        return np.zeros(recipe.rows * recipe.padded_n(n), np.float32)

    def rows(width: int) -> F32:
        return np.zeros(batch * width, np.float32)

    qkv, o, wide, _down = matrices
    widest = max(recipe.scratch_bytes(m.k) for m in matrices)
    return Buffers(
        rows(model.hidden), rows(model.hidden), out(qkv.n), rows(model.q_dim), out(wide.n),
        rows(model.intermediate), out(o.n), out(model.vocab), aligned_bytes(widest),
    )  # fmt: skip
