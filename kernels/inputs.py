"""Seeded inputs, the same bits for every backend, made on demand so that only what is used takes memory.

>>> from membound.kernels.work import parse
>>> inputs = make_inputs(parse("linear:n=8,k=32,m=2,weight=int8"), seed=1, slots=3)
>>> inputs.x.shape, inputs.weight(slot=2).values.dtype
((2, 32), dtype('int8'))

Values come from a counter-based generator (splitmix64), straight in the stored format and at memory
speed: sign and mantissa uniform, exponent geometric, which is close to a uniform distribution with
variance 1/k. Every slot and every layer has different bits. Checkpoint weights have the same types.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from math import ceil, log2, sqrt
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt

from membound.kernels.models import Model
from membound.kernels.weights.generate import fill_bf16, fill_bytes, fill_f16, fill_f32, fill_fp8
from membound.kernels.work import (
    FORMATS,
    LATENT_DIM,
    LATENT_VALUE_DIM,
    DecodeAttention,
    LatentAttention,
    Linear,
    Prefill,
    Step,
    Work,
    pages_of,
)

F32 = npt.NDArray[np.float32]
I64 = npt.NDArray[np.int64]

# Queries of a step are this much longer, so that attention over random caches is peaked as in trained
# models. With flat attention a thousand values average out, and logits hardly change when a head or a
# token is wrong. A prompt's keys are longer by themselves: the same gain there makes the depth chaotic.
STEP_QUERY_GAIN = 4
# A cache's last key is 2² times as long, so that in some heads nearly all attention is on it and a
# context that is one token short shows at any length.
LAST_KEY_DOUBLINGS = 2


@dataclass(frozen=True, slots=True)
class Weight:
    """A matrix W[n, k] as stored, row-major.

    values: f32 float32 [n, k]; bf16 uint16 bits [n, k]; f16 float16 [n, k]; int8 int8 [n, k];
    int4 uint8 [n, k/2], low nibble = even k, stored as q+8.
    scales: int8 float32 [n]; int4 float16 [n, k/group]; else None. W = values · scales.
    """

    format: str
    n: int
    k: int
    values: npt.NDArray[np.generic]
    scales: npt.NDArray[np.generic] | None = None


@dataclass(frozen=True, slots=True)
class KVCache:
    """Keys and values of one layer, [batch, kv_heads, tokens, head_dim] in `format` as in `Weight`.

    fp8 values are uint8 codes of e4m3 (membound.kernels.weights.fp8), without a scale. int8 caches carry
    float32 scales [batch, kv_heads, tokens]; otherwise the scales are None. Of a latent cache, v is a
    view of the first 512 columns of k and the two scales are the same array.
    """

    format: str
    k: npt.NDArray[np.generic]
    v: npt.NDArray[np.generic]
    k_scales: F32 | None = None
    v_scales: F32 | None = None


@dataclass(frozen=True, slots=True)
class LayerWeights:
    """One layer. Matrices by the names of `Model.layer_matrices`; the rest float32.

    attention_norm, mlp_norm [hidden]; q_norm, k_norm [head_dim] or None; q_bias [q_dim], k_bias,
    v_bias [kv_dim] or None.
    """

    matrices: dict[str, Weight]
    attention_norm: F32
    mlp_norm: F32
    q_norm: F32 | None = None
    k_norm: F32 | None = None
    q_bias: F32 | None = None
    k_bias: F32 | None = None
    v_bias: F32 | None = None


class WeightSource(Protocol):
    """Where a model's numbers come from: the generator here, or a checkpoint."""

    def layer(self, index: int) -> LayerWeights:
        """Weights of layer `index`."""
        ...

    def final_norm(self) -> F32:
        """Weight [hidden] of the last norm."""
        ...

    def lm_head(self) -> Weight:
        """The output matrix [vocab, hidden]."""
        ...

    def hidden_states(self, rows: int) -> F32:
        """What the first layer of a step sees, [rows, hidden]."""
        ...

    def embedding(self, tokens: I64) -> F32:
        """Rows of the embedding table, [tokens, hidden]."""
        ...

    def embedding_table(self) -> Weight:
        """All of it, [vocab, hidden]."""
        ...


@dataclass(frozen=True, slots=True)
class LinearInputs:
    """x [m, k] float32 and `slots` different weights."""

    work: Linear
    seed: int
    slots: int
    x: F32

    def weight(self, slot: int) -> Weight:
        """The weight of that input set, made anew at each call."""
        w = self.work
        return random_weight(w.weight, w.n, w.k, stream_of(self.seed, slot))


@dataclass(frozen=True, slots=True)
class AttentionInputs:
    """q [batch, q_heads, head_dim] (576 for latent attention) float32 and `slots` different caches."""

    work: DecodeAttention | LatentAttention
    seed: int
    slots: int
    q: F32

    def cache(self, slot: int) -> KVCache:
        """The cache of that input set, made anew at each call."""
        w, stream = self.work, stream_of(self.seed, slot)
        if isinstance(w, LatentAttention):
            cache = random_cache(w.kv, (w.batch, 1, w.context, LATENT_DIM), stream)
            return replace(cache, v=cache.k[..., :LATENT_VALUE_DIM], v_scales=cache.k_scales)
        return random_cache(w.kv, (w.batch, w.kv_heads, w.context, w.head_dim), stream)

    def page_table(self, slot: int) -> npt.NDArray[np.int32]:
        """Where the pages of each sequence lie, [batch, pages of a sequence]: all pages shuffled.

        Empty without `page`. `membound.kernels.weights.pages` lays a cache out accordingly.
        """
        shape = (self.work.batch, pages_of(self.work))
        rng = np.random.default_rng((self.seed, slot, 1 << 22))
        return rng.permutation(shape[0] * shape[1]).astype(np.int32).reshape(shape)


@dataclass(frozen=True, slots=True)
class ModelInputs:
    """A step's or a prompt's inputs: x [batch, hidden] or [batch·tokens, hidden] float32, weights, caches.

    One input set: a model's weights are larger than the caches that rotation defeats, or the row says so.
    tokens [batch, n]: the prompt behind x, and for a step with cache=prompt [batch, context + 1], the last
    of them the step's own; None where x and cache are random. `folder`: where the cache of a prompt, which
    takes a whole float64 prompt to compute, is kept for other workers; None keeps it in this object alone.
    """

    work: Step | Prefill
    model: Model
    seed: int
    x: F32
    source: WeightSource
    slots: int = 1
    tokens: I64 | None = None
    folder: Path | None = None
    held: list[KVCache] = field(default_factory=list, repr=False)

    def layer(self, index: int) -> LayerWeights:
        """Weights of layer `index`, made anew at each call."""
        return self.source.layer(index)

    def final_norm(self) -> F32:
        """Weight [hidden] of the last norm."""
        return self.source.final_norm()

    def lm_head(self) -> Weight:
        """The output matrix [vocab, hidden]."""
        return self.source.lm_head()

    def cache(self, index: int) -> KVCache:
        """The `context` tokens that layer `index` holds before the step."""
        assert isinstance(self.work, Step)
        if self.tokens is not None:
            from membound.kernels.prompt import held_caches

            return held_caches(self)[index]
        m, w = self.model, self.work
        shape = (w.batch, m.kv_heads, w.context, m.head_dim)
        return random_cache(w.kv, shape, stream_of(self.seed, 1_000_000 + index))


Inputs = LinearInputs | AttentionInputs | ModelInputs


def make_inputs(work: Work, seed: int, slots: int = 1, folder: Path | None = None) -> Inputs:
    """The inputs of a work. `slots` input sets for linear and attention, one for a model.

    `folder` as in `ModelInputs`.
    """
    rng = np.random.default_rng(seed)
    if isinstance(work, Linear):
        return LinearInputs(work, seed, slots, normal(rng, work.m, work.k))
    if isinstance(work, DecodeAttention | LatentAttention):
        # Three times a unit normal: scores spread enough that softmax is neither flat nor one-hot. Latent
        # attention divides by sqrt(192) for 576 columns: as much spread comes of a third of the variance.
        dim, gain = (LATENT_DIM, sqrt(3)) if isinstance(work, LatentAttention) else (work.head_dim, 3)
        q = np.float32(gain) * normal(rng, work.batch, work.q_heads, dim)
        return AttentionInputs(work, seed, slots, q)
    return _model_inputs(work, seed, folder)


def _model_inputs(work: Step | Prefill, seed: int, folder: Path | None) -> ModelInputs:
    prompted = isinstance(work, Prefill) or work.cache == "prompt"
    source: WeightSource
    if work.shape.folder:
        from membound.kernels.weights.checkpoint import Checkpoint

        source = Checkpoint(work.shape, work.weight, seed)
    else:
        from membound.kernels.weights.random_model import RandomSource

        source = RandomSource(work.shape, work.weight, seed, 1 if prompted else STEP_QUERY_GAIN)
    if not prompted:
        return ModelInputs(work, work.shape, seed, source.hidden_states(work.batch), source)
    count = work.tokens if isinstance(work, Prefill) else work.context + 1
    tokens = prompt_tokens(seed, work.batch, count, work.shape.vocab)
    seen = tokens if isinstance(work, Prefill) else tokens[:, -1]
    return ModelInputs(
        work, work.shape, seed, source.embedding(seen.reshape(-1)), source, tokens=tokens, folder=folder
    )


def prompt_tokens(seed: int, batch: int, count: int, vocab: int) -> I64:
    """Random token ids [batch, count], the same for the same seed."""
    return np.random.default_rng((seed, 1 << 21)).integers(0, vocab, (batch, count))


def slots_to_defeat(work: Work, cache_bytes: int, budget_bytes: int) -> int:
    """Input sets whose bytes reach 4 × the last-level cache, at least 2, within a memory budget."""
    if isinstance(work, Step | Prefill):
        return 1
    size = work.footprint_bytes
    return max(2, min(ceil(4 * cache_bytes / size) + 1, budget_bytes // size))


def random_weight(fmt: str, n: int, k: int, stream: int, gain: int = 1) -> Weight:
    """A random W[n, k] of variance near gain²/k; the gain is a power of two."""
    spread = gain * sqrt(3 / k)  # a uniform distribution on ±spread has variance gain²/k
    if fmt in ("f32", "bf16", "f16"):
        return Weight(fmt, n, k, _random_floats(fmt, (n, k), stream, round(log2(spread))))
    rng = np.random.default_rng(stream)
    group = FORMATS[fmt].group
    if fmt == "int8":
        scales = (rng.random(n, np.float32) * np.float32(0.5) + np.float32(0.75)) * np.float32(spread / 127)
        return Weight(fmt, n, k, random_int8((n, k), stream), scales)
    values = np.empty((n, k // 2), np.uint8)
    fill_bytes(values.reshape(-1), stream)
    scales16 = (rng.random((n, k // group), np.float32) * np.float32(0.5) + np.float32(0.75)) * np.float32(
        spread / 8
    )
    return Weight(fmt, n, k, values, scales16.astype(np.float16))


def random_cache(fmt: str, shape: tuple[int, int, int, int], stream: int) -> KVCache:
    """A random cache of values within ±1 (the last key ±4), shape [batch, kv_heads, tokens, head_dim]."""
    streams = (stream_of(stream, 1), stream_of(stream, 2))
    last = np.s_[:, :, -1]
    if fmt == "int8":
        rng = np.random.default_rng(stream)
        k_scales, v_scales = (
            (rng.random(shape[:3], np.float32) * np.float32(0.5) + np.float32(0.75)) / np.float32(127)
            for _ in streams
        )
        k_scales[last] *= np.float32(1 << LAST_KEY_DOUBLINGS)
        return KVCache(
            fmt, random_int8(shape, streams[0]), random_int8(shape, streams[1]), k_scales, v_scales
        )
    k, v = (_random_floats(fmt, shape, s, 0) for s in streams)
    if fmt == "f32":
        k.view(np.float32)[last] *= np.float32(1 << LAST_KEY_DOUBLINGS)
    else:
        # One more in the exponent doubles a number; codes of fp8 have eight bits, the others sixteen.
        bits = k.view(np.uint8 if fmt == "fp8" else np.uint16)
        bits[last] = bits[last] + (LAST_KEY_DOUBLINGS << {"bf16": 7, "f16": 10, "fp8": 3}[fmt])
    return KVCache(fmt, k, v)


def random_int8(shape: tuple[int, ...], stream: int) -> npt.NDArray[np.int8]:
    """Uniform on -127..127 (−128 is drawn as −127: symmetric formats never hold it)."""
    values = np.empty(shape, np.int8)
    fill_bytes(values.view(np.uint8).reshape(-1), stream)
    return np.maximum(values, np.int8(-127), out=values)


def _random_floats(fmt: str, shape: tuple[int, ...], stream: int, exponent: int) -> npt.NDArray[np.generic]:
    """Values within ±2^exponent."""
    if fmt == "f32":
        out32 = np.empty(shape, np.float32)
        fill_f32(out32.reshape(-1), stream, np.float32(2.0**exponent))
        return out32
    if fmt == "fp8":
        codes = np.empty(shape, np.uint8)
        fill_fp8(codes.reshape(-1), stream, np.int32(exponent))
        return codes
    bits = np.empty(shape, np.uint16)
    fill = fill_bf16 if fmt == "bf16" else fill_f16
    fill(bits.reshape(-1), stream, np.int32(exponent))
    return bits if fmt == "bf16" else bits.view(np.float16)


def quantize(w: F32, fmt: str) -> Weight:
    """Store a float32 matrix [n, k] in a format: round to nearest even, symmetric scales from the largest value."""
    n, k = w.shape
    if fmt == "f32":
        return Weight(fmt, n, k, np.ascontiguousarray(w, np.float32))
    if fmt == "bf16":
        return Weight(fmt, n, k, to_bf16(w))
    if fmt == "f16":
        return Weight(fmt, n, k, w.astype(np.float16))
    if fmt == "int8":
        scales = np.maximum(np.abs(w).max(1), np.float32(1e-12)) / np.float32(127)
        return Weight(fmt, n, k, np.rint(w / scales[:, None]).astype(np.int8), scales)
    group = FORMATS[fmt].group
    grouped = w.reshape(n, k // group, group)
    scales16 = (np.maximum(np.abs(grouped).max(2), np.float32(1e-6)) / np.float32(8)).astype(np.float16)
    q = np.clip(np.rint(grouped / scales16.astype(np.float32)[:, :, None]) + 8, 0, 15).astype(np.uint8)
    q = q.reshape(n, k)
    return Weight(fmt, n, k, q[:, 0::2] | (q[:, 1::2] << 4), scales16)


def to_bf16(values: F32) -> npt.NDArray[np.uint16]:
    """bfloat16 bits, rounded to nearest even."""
    bits = np.ascontiguousarray(values, np.float32).view(np.uint32)
    rounded: npt.NDArray[np.uint16] = ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)
    return rounded


def from_bf16(bits: npt.NDArray[np.uint16]) -> F32:
    """float32 values of bfloat16 bits, exact."""
    return (bits.astype(np.uint32) << 16).view(np.float32)


def dequantize(weight: Weight, rows: slice = slice(None)) -> F32:
    """Rows of a weight as float32 [rows, k], exact for every format but for the product with its scale."""
    values = weight.values[rows]
    if weight.format == "bf16":
        return from_bf16(values.view(np.uint16))
    if weight.format in ("f32", "f16"):
        return values.astype(np.float32)
    assert weight.scales is not None
    scales = weight.scales[rows].astype(np.float32)
    if weight.format == "int8":
        return values.astype(np.float32) * scales[:, None]
    q = unpack_int4(values.view(np.uint8)).astype(np.float32) - 8
    grouped = q.reshape(len(q), -1, FORMATS[weight.format].group) * scales[:, :, None]
    return grouped.reshape(len(q), weight.k)


def unpack_int4(packed: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """Nibbles [n, k/2] to bytes 0..15 [n, k]."""
    out = np.empty((packed.shape[0], 2 * packed.shape[1]), np.uint8)
    out[:, 0::2] = packed & 15
    out[:, 1::2] = packed >> 4
    return out


def normal(rng: np.random.Generator, *shape: int) -> F32:
    """Unit-normal float32."""
    return rng.standard_normal(shape, np.float32)


def stream_of(seed: int, index: int) -> int:
    """A 63-bit stream number for (seed, index)."""
    return int(np.random.SeedSequence((seed, index)).generate_state(1, np.uint64)[0] >> np.uint64(1))
