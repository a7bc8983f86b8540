"""Latent attention packed for steps: absorbed matrices of every head, the vectors of what goes down, and buffers.

>>> latent = PackedLatent(inputs, recipe, vectors, rows=1, threads=2)
>>> latent.format, latent.size_bytes

The absorbed matrix of a head's queries is a transposed part of `kv_up`: the same numbers in the formats of floats. Of others, whose
scales do not follow the columns, the numbers that they mean are held as float32, and the row's stored bytes say so.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import sqrt

import numpy as np

from membound.kernels.cpu.attention.rows import rows_grouping
from membound.kernels.cpu.experts.blocks import block_recipes
from membound.kernels.cpu.matmul.pack import aligned_bytes, pack
from membound.kernels.cpu.matmul.recipe import Recipe
from membound.kernels.cpu.step.index import Index, NoIndex
from membound.kernels.cpu.step.latent import Absorbed, LatentBuffers, LatentGains, LatentShape, head_blocks
from membound.kernels.cpu.step.packed_index import PackedIndex
from membound.kernels.cpu.step.prompt_index import PromptIndex
from membound.kernels.inputs import ModelInputs
from membound.kernels.parts import Latent
from membound.kernels.weights.formats import F32, Weight, dequantize

FLOATS = ("f32", "bf16", "f16")
LINE = 64


class PackedLatent:
    """Absorbed matrices of all layers, for `rows` tokens at once. `format`: that in which they are held; `arguments`: what `latent_half` takes.

    `index`: what selects the tokens that are seen, or None.
    """

    def __init__(
        self, inputs: ModelInputs, recipe: Recipe, small: list[Mapping[str, F32]], rows: int, threads: int
    ) -> None:
        mixer = inputs.model.decoder.layers[0].mixer
        if not isinstance(mixer, Latent):
            raise AssertionError("no latent attention")
        self._mixer, self._rows = mixer, rows
        self.format = recipe.format if recipe.format in FLOATS else "f32"
        (self._recipe,) = block_recipes(self.format, "float", str(rows))
        self.grouping = rows_grouping(inputs.work.kv, mixer.token_numbers, mixer.kv_rank)
        self._pack(inputs)
        self.index = None if mixer.index is None else PackedIndex(inputs, small, rows, threads)
        index: Index | PromptIndex | NoIndex = NoIndex(0) if self.index is None else self.index.arguments
        self.arguments = (_gains(small), self._buffers(), self._absorbed(), self._shape(), index)

    @property
    def index_method(self) -> str:
        """Of the products with keys of an index; '' without one."""
        return "" if self.index is None else self.index.method

    @property
    def size_bytes(self) -> int:
        """Packed bytes of the absorbed matrices of all layers."""
        return self._arena.size

    def _pack(self, inputs: ModelInputs) -> None:
        mixer, layers = self._mixer, inputs.model.layers
        queries = _aligned(self._recipe.matrix_bytes(mixer.kv_rank, mixer.nope_dim))
        values = _aligned(self._recipe.matrix_bytes(mixer.value_dim, mixer.kv_rank))
        first = np.arange(layers * mixer.q_heads, dtype=np.int64).reshape(layers, -1) * (queries + values)
        self._starts = np.stack([first, first + queries], -1)
        self._arena = aligned_bytes(first.size * (queries + values))
        for index in range(layers):
            parts = absorbed(inputs.layer(index).matrices["kv_up"], mixer, self.format)
            for (into, out), (at, behind) in zip(parts, self._starts[index], strict=True):
                pack(into, self._recipe, self._arena[at : at + queries])
                pack(out, self._recipe, self._arena[behind : behind + values])

    def _absorbed(self) -> Absorbed:
        mixer, recipe, heads = self._mixer, self._recipe, self._mixer.q_heads
        widest = max(mixer.nope_dim, mixer.kv_rank)
        row_stride = self._rows * widest
        product = recipe.rows * recipe.padded_n(max(mixer.kv_rank, mixer.value_dim))
        scratch = _aligned(max(recipe.scratch_bytes(k) for k in (mixer.nope_dim, mixer.kv_rank)))
        return Absorbed(
            self._arena, self._starts, head_blocks(self._rows, heads),
            _zeros(self._rows * heads * mixer.nope_dim), _zeros(heads * row_stride), _zeros(heads * product),
            aligned_bytes(heads * scratch), np.zeros(self._rows * heads, np.int64), row_stride, product, scratch,
        )  # fmt: skip

    def _buffers(self) -> LatentBuffers:
        mixer, heads = self._mixer, self._rows * self._mixer.q_heads
        return LatentBuffers(
            _zeros(self._rows * mixer.q_rank),
            _zeros(heads * (mixer.nope_dim + mixer.rope_dim)),
            _zeros(heads * mixer.token_numbers),
            _zeros(heads * mixer.kv_rank),
        )

    def _shape(self) -> LatentShape:
        m = self._mixer
        scale = m.scale or 1 / sqrt(m.nope_dim + m.rope_dim)
        return LatentShape(m.q_heads, m.q_rank, m.kv_rank, m.nope_dim, m.rope_dim, m.value_dim, scale)


def absorbed(kv_up: Weight, mixer: Latent, fmt: str) -> list[tuple[Weight, Weight]]:
    """Of each head the matrix for queries [rank, nope] and the one for values [value, rank], in that format of floats."""
    values = kv_up.values if kv_up.format == fmt else dequantize(kv_up)
    found = []
    for part in values.reshape(mixer.q_heads, mixer.nope_dim + mixer.value_dim, mixer.kv_rank):
        keys = np.ascontiguousarray(part[: mixer.nope_dim].T)
        into = Weight(fmt, mixer.kv_rank, mixer.nope_dim, keys)
        found.append((into, Weight(fmt, mixer.value_dim, mixer.kv_rank, part[mixer.nope_dim :])))
    return found


def _gains(small: list[Mapping[str, F32]]) -> LatentGains:
    def rows(*names: str) -> F32:
        nothing = np.zeros(0, np.float32)
        return np.stack([np.concatenate([nothing, *(one[n] for n in names if n in one)]) for one in small])

    return LatentGains(rows("q_down_bias", "kv_down_bias"), rows("q_norm"), rows("kv_norm"))


def _aligned(size: int) -> int:
    return -(-size // LINE) * LINE


def _zeros(count: int) -> F32:
    return np.zeros(count, np.float32)
