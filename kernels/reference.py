"""The definition of every operation in NumPy float64: what a backend's output is compared with.

>>> from membound.kernels.seeded import make_inputs
>>> from membound.kernels.work import parse
>>> inputs = make_inputs(parse("linear:n=8,k=32,m=2,weight=int8"), seed=1)
>>> y = compute(inputs, slot=0)
>>> relative_error(y.astype(np.float32), y) < tolerance(inputs.work)
True

Weights are widened a few thousand rows at a time, so that memory stays near that of the stored weights.
"""

from __future__ import annotations

from math import inf, pi, sqrt
from typing import Any

import numpy as np
import numpy.typing as npt

from membound.kernels.inputs import AttentionInputs, Inputs, LinearInputs, ModelInputs
from membound.kernels.model import Model
from membound.kernels.weights import fp8
from membound.kernels.weights.formats import KVCache, Weight, dequantize, from_bf16, to_bf16
from membound.kernels.weights.layers import LayerWeights
from membound.kernels.work import DecodeAttention, LatentAttention, Linear, Prefill, Step, Work

F64 = npt.NDArray[np.float64]
Floats = npt.NDArray[np.floating[Any]]

CHUNK_ELEMENTS = 1 << 20  # 8 MiB of float64: widened weights stay in the last-level cache
QUERY_BLOCK = 256
LATENT_HEAD_DIM = 192
FEW_OUTPUTS = 64


def compute(inputs: Inputs, slot: int) -> F64:
    """The output of `inputs.work` on input set `slot`, in the shape of `Backend.output`."""
    if isinstance(inputs, LinearInputs):
        return linear(inputs.x, inputs.weight(slot), inputs.work.act)
    if isinstance(inputs, AttentionInputs):
        attend = latent_attention if isinstance(inputs.work, LatentAttention) else decode_attention
        return attend(inputs.q, inputs.cache(slot))
    return step(inputs) if isinstance(inputs.work, Step) else prefill(inputs)


def typical_size(inputs: Inputs, slot: int) -> float:
    """The norm that outputs would have if the terms of each sum had random signs; 0 for whole models.

    One output, or a few, can come out near zero by chance: rounding of its terms is then no smaller, but many times
    the output. Of `FEW_OUTPUTS` together the norm is this one's within a third.
    """
    if isinstance(inputs, LinearInputs):
        squares = linear(inputs.x, inputs.weight(slot), inputs.work.act, 2)
    elif isinstance(inputs, AttentionInputs) and isinstance(inputs.work, DecodeAttention):
        squares = decode_attention(inputs.q, inputs.cache(slot), 2)
    else:
        return 0.0
    return sqrt(float(squares.sum()))


def relative_error(y: npt.NDArray[Any], reference: F64, least: float = 0.0) -> float:
    """rms(y - reference) / rms(reference); inf if `y` has another shape, or either a value that is not finite.

    `least` is the norm that the reference counts for at least: `typical_size` of few outputs.
    """
    if y.shape != reference.shape or not (np.isfinite(y).all() and np.isfinite(reference).all()):
        return inf
    error = float(np.linalg.norm(y.astype(np.float64) - reference))
    size = max(float(np.linalg.norm(reference)), least)
    if size == 0:
        return inf if error else 0.0
    return error / size


def quantize_rows(x: F64) -> tuple[F64, F64]:
    """Dynamic int8 a row: (q [m, k] whole numbers within ±127, s [m, 1]) with x ≈ q·s; a zero row is zeros."""
    scales = np.abs(x).max(1, keepdims=True) / 127
    return np.rint(x / np.where(scales > 0, scales, 1)), scales


def linear(x: Floats, weight: Weight, act: str, power: int = 1) -> F64:
    """y [m, n] = x [m, k] · W[n, k]ᵀ; with act=int8 each row of x is quantised first. Power 2 sums the squares of the terms."""
    x64 = x.astype(np.float64)
    scales: F64 | None = None
    if act == "int8":
        x64, scales = quantize_rows(x64)
    y = np.empty((len(x64), weight.n))
    rows = max(1, CHUNK_ELEMENTS // weight.k)
    for start in range(0, weight.n, rows):
        chunk = slice(start, min(start + rows, weight.n))
        y[:, chunk] = x64**power @ (_widen(weight, chunk) ** power).T
    if weight.format == "int8":
        if weight.scales is None:
            raise AssertionError("no weight.scales")
        y *= weight.scales.astype(np.float64) ** power
    return y if scales is None else y * scales**power


def _widen(weight: Weight, rows: slice) -> F64:
    """Rows of W in float64, exact; for int8 without the row's scale, which `linear` applies to its sum."""
    if weight.format == "int8":
        return weight.values[rows].astype(np.float64)
    return dequantize(weight, rows).astype(np.float64)


def rms_norm(x: F64, gain: Floats, eps: float) -> F64:
    """x / sqrt(mean(x²) + eps) · gain over the last axis (arXiv 1910.07467)."""
    normed: F64 = x / np.sqrt(np.mean(x * x, axis=-1, keepdims=True) + eps) * gain
    return normed


def rope_frequencies(model: Model) -> F64:
    """Angle per position of each pair, [head_dim / 2]: theta^(-2i/d), scaled as Llama 3 does where set.

    Source: arXiv 2104.09864; the scaling is `_compute_llama3_parameters` of Hugging Face Transformers:
    wavelengths above original/low are stretched by `factor`, those below original/high kept, those
    between interpolated.
    """
    frequencies: F64 = model.rope_theta ** (-np.arange(0, model.head_dim, 2) / model.head_dim)
    if not model.rope_scaling:
        return frequencies
    factor, low, high, original = model.rope_scaling
    turns = original * frequencies / (2 * pi)
    keep = np.clip((turns - low) / (high - low), 0, 1)
    return frequencies * (keep + (1 - keep) / factor)


def rope(x: F64, positions: npt.NDArray[Any], frequencies: F64) -> F64:
    """Rotate x [..., T, D] by its position [T]; element i pairs with i + D/2 (the NeoX layout)."""
    angles = positions[:, None] * frequencies
    cos, sin = np.cos(angles), np.sin(angles)
    first, second = np.split(x, 2, axis=-1)
    return np.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1)


def store_cache(k: F64, v: F64, kv: str) -> KVCache:
    """Keys and values [B, Hkv, T, D] as the cache keeps them: rounded to nearest even, or int8 a token and head."""
    (ks, k_scales), (vs, v_scales) = _store(k.astype(np.float32), kv), _store(v.astype(np.float32), kv)
    return KVCache(kv, ks, vs, k_scales, v_scales)


def _store(
    values: npt.NDArray[np.float32], kv: str
) -> tuple[npt.NDArray[np.generic], npt.NDArray[np.float32] | None]:
    if kv == "f32":
        return values, None
    if kv == "bf16":
        return to_bf16(values), None
    if kv == "f16":
        return values.astype(np.float16), None
    if kv == "fp8":
        return fp8.encode(values), None
    scales = np.abs(values).max(-1) / np.float32(127)
    q = np.rint(values / np.where(scales > 0, scales, np.float32(1))[..., None])
    return q.astype(np.int8), scales


def append(cache: KVCache, new: KVCache) -> KVCache:
    """The cache with the tokens of `new` behind its own."""

    def join(old: Any, more: Any) -> Any:
        return None if old is None else np.concatenate([old, more], axis=2)

    return KVCache(
        cache.format,
        join(cache.k, new.k),
        join(cache.v, new.v),
        join(cache.k_scales, new.k_scales),
        join(cache.v_scales, new.v_scales),
    )


def _head(cache: KVCache, batch: int, head: int) -> tuple[F64, F64]:
    """K and V [T, D] of one sequence and KV head."""

    def widen(values: Any, scales: Any) -> F64:
        one = values[batch, head]
        if cache.format == "bf16":
            one = from_bf16(one)
        elif cache.format == "fp8":
            one = fp8.decode(one)
        wide: F64 = one.astype(np.float64)
        return wide if scales is None else wide * scales[batch, head, :, None].astype(np.float64)

    return widen(cache.k, cache.k_scales), widen(cache.v, cache.v_scales)


def _softmax(scores: F64) -> F64:
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    normed: F64 = weights / weights.sum(-1, keepdims=True)
    return normed


def decode_attention(q: Floats, cache: KVCache, power: int = 1) -> F64:
    """softmax(q · Kᵀ / sqrt(D)) · V for q [B, Hq, D]; query head h reads KV head h // (Hq / Hkv). Power as in `linear`."""
    batch, q_heads, head_dim = q.shape
    kv_heads = cache.k.shape[1]
    grouped = q.astype(np.float64).reshape(batch, kv_heads, q_heads // kv_heads, head_dim)
    out = np.empty_like(grouped)
    for b, h in np.ndindex(batch, kv_heads):
        k, v = _head(cache, b, h)
        out[b, h] = _softmax(grouped[b, h] @ k.T / sqrt(head_dim)) ** power @ v**power
    return out.reshape(q.shape)


def latent_attention(q: Floats, cache: KVCache) -> F64:
    """softmax(q · Kᵀ / sqrt(192)) · V for q [B, Hq, 576] over a latent cache: y [B, Hq, 512].

    192 is the width of a head before the up-projections are absorbed into q: 128 and 64 of RoPE
    (arXiv 2405.04434, equation 19).
    """
    y = np.empty((*q.shape[:2], cache.v.shape[-1]))
    for b in range(len(q)):
        k, v = _head(cache, b, 0)
        y[b] = _softmax(q[b].astype(np.float64) @ k.T / sqrt(LATENT_HEAD_DIM)) @ v
    return y


def causal_attention(q: F64, cache: KVCache, first: int = 0) -> F64:
    """Attention of q [B, Hq, T, D] where token t, at position first + t, sees cached tokens up to its own."""
    batch, q_heads, tokens, head_dim = q.shape
    kv_heads = cache.k.shape[1]
    grouped = q.reshape(batch, kv_heads, q_heads // kv_heads, tokens, head_dim)
    out = np.empty_like(grouped)
    for b, h in np.ndindex(batch, kv_heads):
        k, v = _head(cache, b, h)
        for start in range(0, tokens, QUERY_BLOCK):
            end = min(start + QUERY_BLOCK, tokens)
            seen = first + end
            scores = grouped[b, h, :, start:end] @ k[:seen].T / sqrt(head_dim)
            scores[:, np.arange(seen) > first + np.arange(start, end)[:, None]] = -inf
            out[b, h, :, start:end] = _softmax(scores) @ v[:seen]
    return out.reshape(q.shape)


def step(inputs: ModelInputs) -> F64:
    """Logits [batch, vocab] of a whole decode step; every sequence's new token stands at position `context`."""
    work, x = inputs.work, inputs.x.astype(np.float64)
    if not isinstance(work, Step):
        raise AssertionError(f"{type(work).__name__} is no Step")
    positions = np.array([work.context])
    for index in range(inputs.model.layers):
        layer = inputs.layer(index)
        q, k, v = project(inputs, layer, x, positions)
        cache = append(inputs.cache(index), store_cache(k, v, work.kv))
        x = finish_layer(inputs, layer, x, decode_attention(q[:, :, 0], cache)[:, :, None])
    return logits(inputs, x)


def prefill(inputs: ModelInputs) -> F64:
    """Logits [batch, vocab] of each sequence's last token; x is [batch·tokens, hidden], sequence by sequence."""
    work, x = inputs.work, inputs.x.astype(np.float64)
    if not isinstance(work, Prefill):
        raise AssertionError(f"{type(work).__name__} is no Prefill")
    positions = np.arange(work.tokens)
    for index in range(inputs.model.layers):
        layer = inputs.layer(index)
        q, k, v = project(inputs, layer, x, positions)
        x = finish_layer(inputs, layer, x, causal_attention(q, store_cache(k, v, work.kv)))
    return logits(inputs, x[work.tokens - 1 :: work.tokens])


def project(
    inputs: ModelInputs, layer: LayerWeights, x: F64, positions: npt.NDArray[Any]
) -> tuple[F64, F64, F64]:
    """q [B, Hq, T, D], k and v [B, Hkv, T, D] of x [B·T, hidden]: norm, matmul, bias, head norm, RoPE."""
    model, act = inputs.model, inputs.work.act
    normed = rms_norm(x, layer.attention_norm, model.norm_eps)
    frequencies = rope_frequencies(model)

    def heads(name: str, bias: Floats | None, gain: Floats | None, rotate: bool) -> F64:
        y = linear(normed, layer.matrices[name], act)
        if bias is not None:
            y += bias
        y = y.reshape(-1, len(positions), y.shape[1] // model.head_dim, model.head_dim)
        if gain is not None:
            y = rms_norm(y, gain, model.norm_eps)
        y = y.transpose(0, 2, 1, 3)
        return rope(y, positions, frequencies) if rotate else y

    return (
        heads("q", layer.q_bias, layer.q_norm, True),
        heads("k", layer.k_bias, layer.k_norm, True),
        heads("v", layer.v_bias, None, False),
    )


def finish_layer(inputs: ModelInputs, layer: LayerWeights, x: F64, attention: F64) -> F64:
    """Output projection, residual, norm, MLP, residual; attention is [B, Hq, T, D]."""
    model, act, matrices = inputs.model, inputs.work.act, layer.matrices
    merged = attention.transpose(0, 2, 1, 3).reshape(len(x), model.q_dim)
    x = x + linear(merged, matrices["o"], act)
    normed = rms_norm(x, layer.mlp_norm, model.norm_eps)
    up = linear(normed, matrices["up"], act)
    if model.gated:
        hidden = silu(linear(normed, matrices["gate"], act)) * up
    else:
        hidden = gelu(up)
    return x + linear(hidden, matrices["down"], act)


def logits(inputs: ModelInputs, x: F64) -> F64:
    """[rows, vocab] of hidden states [rows, hidden]: the final norm and the LM head."""
    normed = rms_norm(x, inputs.final_norm(), inputs.model.norm_eps)
    return linear(normed, inputs.lm_head(), inputs.work.act)


def silu(x: F64) -> F64:
    """x · sigmoid(x), written with tanh so that no exponent overflows."""
    y: F64 = x * (1 + np.tanh(x / 2)) / 2
    return y


def gelu(x: F64) -> F64:
    """The tanh approximation of GELU (arXiv 1606.08415)."""
    y: F64 = x * (1 + np.tanh(sqrt(2 / pi) * (x + 0.044715 * x**3))) / 2
    return y


# Largest relative errors of correct arithmetic. Measured: this module against itself with activations
# rounded as a runtime may round them (every intermediate, the worst case), on random inputs.
LINEAR_TOLERANCE = {
    "f32": 1e-4,  # float32 sums: 1e-6 at k = 16k; TF32-like shortcuts (5e-4) must fail
    "f16": 2e-3,  # x and y rounded to float16: 3e-4
    "bf16": 8e-3,  # x and y rounded to bfloat16: 2.4e-3
    "int8": 8e-3,  # weight only: runtimes compute these in bfloat16 too
    "int4g32": 8e-3,
    "int4g128": 8e-3,
}
INT8_ACT_TOLERANCE = 0.03  # x quantised by block 0.010, asymmetric a row 0.012, to seven bits 0.020
ATTENTION_TOLERANCE = {
    "f32": 1e-4,
    "f16": 2e-3,  # the same in float16
    "bf16": 0.01,  # q, probabilities and output rounded to bfloat16: 0.002 to 0.008
    "fp8": 0.01,  # the same: only the cache is fp8. With q and probabilities in e4m3 too: 0.01 to 0.11
    "int8": 0.03,  # q quantised to int8 a head for integer products: 0.003 to 0.019
}
LONG_CONTEXT, LONG_ROOM = 16 << 10, 1.3
"""Probabilities in bfloat16 over more tokens than that: torch on a processor without bfloat16 reached 0.0102 at 32k."""
LATENT_ROOM = (
    2  # one row for all heads: q rounded to bfloat16 alone gives 0.003, in one of fifty cases 0.0095
)
INT8_ACT_STEP_TOLERANCE = (
    0.055  # gated activations have long tails: seven bits give 0.04 to 0.05·sqrt(1 + layers)
)


def tolerance(work: Work) -> float:
    """The largest relative error that a correct backend may have on this work.

    Errors of layers are independent and add up in squares: a step and a prompt may have sqrt(1 + layers)
    times the error of their worst operation. Measured on Llama-3.2-1B with 16 layers, as a fraction of
    this bound: bfloat16 everywhere 0.5, int8 activations by block 0.35, to seven bits 0.8 to 0.9.
    """
    if isinstance(work, Linear):
        return INT8_ACT_TOLERANCE if work.act == "int8" else LINEAR_TOLERANCE[work.weight]
    if isinstance(work, LatentAttention):
        return LATENT_ROOM * ATTENTION_TOLERANCE[work.kv]
    if isinstance(work, DecodeAttention):
        room = LONG_ROOM if work.kv == "bf16" and work.context > LONG_CONTEXT else 1.0
        return room * ATTENTION_TOLERANCE[work.kv]
    linears = INT8_ACT_STEP_TOLERANCE if work.act == "int8" else LINEAR_TOLERANCE[work.weight]
    return max(linears, ATTENTION_TOLERANCE[work.kv]) * sqrt(1 + work.shape.layers)
