"""Mixers with a state that does not grow, in float64: the gated delta rule and Mamba-2, token by token.

>>> from membound.kernels.reference import linear
>>> y, after = mix(normed, mixer, before, lambda name, x: linear(x, weights.matrices[name], "float"), weights.vectors, eps)

A state [B, heads, rows, columns] and the tokens before that the convolution goes over are all that a sequence leaves behind. Sources:
arXiv 2412.06464 (equation 10) and 2405.21060, with norms and gates as Transformers has them (models/qwen3_next, models/nemotron_h).
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from membound.kernels.forward import F64, Product, Vectors, rms_norm, sigmoid, silu
from membound.kernels.mixers import GatedDelta, Mamba2, Recurrent
from membound.kernels.weights.states import State

Floats = npt.NDArray[np.floating[Any]]
LENGTH_EPS = 1e-6
"""What is added to squared lengths of queries and keys before the root (`l2norm` of Transformers' qwen3_next)."""


def mix(
    x: F64, mixer: Recurrent, before: State, product: Product, vectors: Vectors, eps: float
) -> tuple[F64, State]:
    """What comes out for normed x [B·T, hidden], sequence by sequence, and the state behind the last token."""
    batch = len(before.matrices)
    made = {name: product(name, x) for name in mixer.matrices(x.shape[-1]) if name != "o"}
    if "into_bias" in vectors:
        widths = np.cumsum([y.shape[-1] for y in made.values()])[:-1]
        biases = np.split(vectors["into_bias"], widths)
        made = {name: y + bias for (name, y), bias in zip(made.items(), biases, strict=True)}
    each = {name: y.reshape(batch, -1, y.shape[-1]) for name, y in made.items()}
    names = ("q", "k", "v") if isinstance(mixer, GatedDelta) else ("x", "b", "c")
    columns = np.concatenate([each[name] for name in names], -1)
    mixed, tail = convolve(columns, before.tail, mixer.kernel, vectors)
    if isinstance(mixer, GatedDelta):
        y, matrices = _delta(mixed, each, mixer, before.matrices, vectors)
        y = rms_norm(y, vectors["state_norm"], eps).reshape(batch, y.shape[1], -1) * silu(each["z"])
    else:
        y, matrices = _mamba(mixed, each, mixer, before.matrices, vectors)
        gated = (y * silu(each["z"])).reshape(*y.shape[:2], mixer.groups, -1)
        gain = vectors["state_norm"].reshape(mixer.groups, -1)
        y = rms_norm(gated, gain, eps).reshape(y.shape)
    out = product("o", y.reshape(len(x), -1))
    return out + vectors["o_bias"] if "o_bias" in vectors else out, State(tail, matrices)


def convolve(columns: F64, tail: Floats, kernel: int, vectors: Vectors) -> tuple[F64, F64]:
    """The causal convolution over each column of [B, T, channels] under SiLU, and the last tokens for the next."""
    whole = np.concatenate([tail.astype(np.float64), columns], 1)
    weights = vectors["conv"].reshape(-1, kernel)
    tokens = columns.shape[1]
    y = np.zeros_like(columns) + vectors.get("conv_bias", 0.0)
    for i in range(kernel):
        y += whole[:, i : i + tokens] * weights[:, i]
    return silu(y), whole[:, tokens:]


def softplus(x: F64) -> F64:
    """ln(1 + e^x)."""
    y: F64 = np.logaddexp(0, x)
    return y


def _delta(
    mixed: F64,
    each: dict[str, F64],
    mixer: GatedDelta,
    matrices: Floats,
    vectors: Vectors,
) -> tuple[F64, F64]:
    """[B, T, heads, value_dim]: what queries recall once each token has decayed the state and corrected what its key recalls."""
    batch, tokens, _ = mixed.shape
    width = mixer.key_heads * mixer.key_dim
    q, k, v = np.split(mixed, (width, 2 * width), -1)
    q, k = (_unit(a.reshape(batch, tokens, mixer.key_heads, mixer.key_dim)) for a in (q, k))
    q, k = (np.repeat(a, mixer.value_heads // mixer.key_heads, 2) for a in (q / mixer.key_dim**0.5, k))
    v = v.reshape(batch, tokens, mixer.value_heads, mixer.value_dim)
    share = sigmoid(each["b"])
    kept = np.exp(-np.exp(vectors["log_decay"]) * softplus(each["a"] + vectors["dt_bias"]))
    state, y = matrices.astype(np.float64), np.empty_like(v)
    for t in range(tokens):
        state = state * kept[:, t, :, None, None]
        wrong = v[:, t] - np.einsum("bhk,bhkv->bhv", k[:, t], state)
        state = state + k[:, t, :, :, None] * (share[:, t, :, None] * wrong)[:, :, None]
        y[:, t] = np.einsum("bhk,bhkv->bhv", q[:, t], state)
    return y, state


def _unit(x: F64) -> F64:
    y: F64 = x / np.sqrt((x * x).sum(-1, keepdims=True) + LENGTH_EPS)
    return y


def _mamba(
    mixed: F64,
    each: dict[str, F64],
    mixer: Mamba2,
    matrices: Floats,
    vectors: Vectors,
) -> tuple[F64, F64]:
    """[B, T, width]: what C reads of the state once each token has decayed it and added its x times B, and x past it."""
    batch, tokens, _ = mixed.shape
    shared = mixer.groups * mixer.state_dim
    x, b, c = np.split(mixed, (mixer.width, mixer.width + shared), -1)
    x = x.reshape(batch, tokens, mixer.heads, mixer.head_dim)
    b, c = (
        np.repeat(a.reshape(batch, tokens, mixer.groups, -1), mixer.heads // mixer.groups, 2) for a in (b, c)
    )
    dt = np.maximum(softplus(each["dt"] + vectors["dt_bias"]), mixer.least_step)
    kept = np.exp(-np.exp(vectors["log_decay"]) * dt)
    state, y = matrices.astype(np.float64), np.empty_like(x)
    for t in range(tokens):
        added = (dt[:, t, :, None] * x[:, t])[..., None] * b[:, t, :, None, :]
        state = state * kept[:, t, :, None, None] + added
        y[:, t] = np.einsum("bhpn,bhn->bhp", state, c[:, t]) + vectors["skip"][:, None] * x[:, t]
    return y.reshape(batch, tokens, -1), state
