"""What other families do in a layer, in float64: LayerNorm, activations, latent attention, experts and their routers.

`reference` runs whole models and calls this; products come in as functions, so that a matrix may be stored in any format:

>>> from membound.kernels.reference import linear
>>> y = mixture(x, layer.mlp, lambda name, x: linear(x, weights.matrices[name], "float"), weights.vectors)
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from math import erf, inf, pi, sqrt
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from membound.kernels.parts import Attention, Experts, Latent, Mlp, Router
from membound.kernels.rope import turn

F64 = npt.NDArray[np.float64]
Real = TypeVar("Real", bound=np.floating[Any])
Vectors = Mapping[str, npt.NDArray[np.floating[Any]]]
Product = Callable[[str, F64], F64]
"""(name of a matrix, x [rows, k]) -> x times it, [rows, n]."""

LATENT_EPS = 1e-6
"""Of the norms within latent attention, whatever the model's own is (`DeepseekV3Attention` of Transformers)."""
CLAMP, CLAMP_SLOPE = 7.0, 1.702
"""Limits of gpt-oss' activation, and the slope of its sigmoid (openai/gpt-oss gpt_oss/torch/model.py)."""


# Norms and activations


def rms_norm(x: F64, gain: npt.NDArray[np.floating[Any]] | float, eps: float) -> F64:
    """x / sqrt(mean(x²) + eps) · gain over the last axis (arXiv 1910.07467)."""
    normed: F64 = x / np.sqrt(np.mean(x * x, axis=-1, keepdims=True) + eps) * gain
    return normed


def layer_norm(x: F64, gain: npt.NDArray[Any], bias: npt.NDArray[Any] | None, eps: float) -> F64:
    """(x − mean) / sqrt(variance + eps) · gain + bias over the last axis (arXiv 1607.06450)."""
    centred = x - x.mean(-1, keepdims=True)
    normed = rms_norm(centred, gain, eps)
    return normed if bias is None else normed + bias


def silu(x: npt.NDArray[Real]) -> npt.NDArray[Real]:
    """x · sigmoid(x), written with tanh so that no exponent overflows."""
    y: npt.NDArray[Real] = x * (1 + np.tanh(x / 2)) / 2
    return y


def sigmoid(x: F64) -> F64:
    """1 / (1 + e^−x), likewise."""
    y: F64 = (1 + np.tanh(x / 2)) / 2
    return y


def gelu(x: F64) -> F64:
    """The tanh approximation of GELU (arXiv 1606.08415)."""
    y: F64 = x * (1 + np.tanh(sqrt(2 / pi) * (x + 0.044715 * x**3))) / 2
    return y


def exact_gelu(x: F64) -> F64:
    """x times the normal distribution's share below it."""
    y: F64 = x * (1 + np.vectorize(erf, otypes=[np.float64])(x / sqrt(2))) / 2
    return y


def squared_relu(x: F64) -> F64:
    """x² where it is positive."""
    y: F64 = np.maximum(x, 0) ** 2
    return y


ACTIVATIONS: Mapping[str, Callable[[F64], F64]] = {
    "silu": silu,
    "gelu": exact_gelu,
    "gelu_tanh": gelu,
    "relu2": squared_relu,
}


def softcapped(x: F64, cap: float) -> F64:
    """cap · tanh(x / cap); x itself where cap is 0."""
    y: F64 = cap * np.tanh(x / cap) if cap else x
    return y


def temperatures(mixer: Attention, positions: npt.NDArray[Any]) -> F64:
    """What Llama 4 multiplies queries by at each position."""
    floor, slope = mixer.temperature or (1.0, 0.0)
    warmth: F64 = np.log1p(np.floor((positions + 1) / floor)) * slope + 1
    return warmth


def hidden_pairs(mixer: Attention | Latent, first: int, last: int, seen: int) -> npt.NDArray[np.bool_]:
    """Which of `seen` tokens the tokens at positions first to last, the end excluded, do not see, [queries, seen]."""
    token, position = np.arange(seen), np.arange(first, last)[:, None]
    hidden = token > position
    if isinstance(mixer, Attention) and mixer.window:
        hidden |= token <= position - mixer.window
    if isinstance(mixer, Attention) and mixer.chunk:
        hidden |= token < position // mixer.chunk * mixer.chunk
    return hidden


# MLP and experts


def feed_forward(x: F64, mlp: Mlp, product: Product, vectors: Vectors, of: str = "") -> F64:
    """down(activation(gate(x)) · up(x)), or down(activation(up(x))); matrices and biases by name behind `of`."""

    def linear(name: str, x: F64) -> F64:
        y = product(of + name, x)
        return y + vectors[f"{of}{name}_bias"] if mlp.bias else y

    up = linear("up", x)
    if mlp.activation == "clamped":
        gate = np.minimum(linear("gate", x), CLAMP)
        return linear("down", (np.clip(up, -CLAMP, CLAMP) + 1) * gate * sigmoid(CLAMP_SLOPE * gate))
    activate = ACTIVATIONS[mlp.activation]
    return linear("down", activate(linear("gate", x)) * up if mlp.gated else activate(up))


def routes(logits: F64, router: Router, chosen: int, vectors: Vectors) -> tuple[npt.NDArray[np.int64], F64]:
    """The experts of each row of the router's logits [rows, count] and their weights, both [rows, chosen]."""
    if router.bias:
        logits = logits + vectors["router_bias"]
    score = softmax(logits) if router.score == "softmax" else sigmoid(logits)
    wish = score + (vectors["correction"] if router.correction else 0)
    if router.groups > 1:
        grouped = wish.reshape(len(wish), router.groups, -1)
        best = np.sort(grouped, -1)[..., -router.group_best :].sum(-1)
        taken = np.argsort(-best, -1, kind="stable")[:, : router.groups_chosen]
        away = np.ones(best.shape, np.bool_)
        np.put_along_axis(away, taken, False, 1)
        wish = np.where(away[..., None], -inf, grouped).reshape(wish.shape)
    ids = np.argsort(-wish, -1, kind="stable")[:, :chosen]
    weights = np.take_along_axis(score, ids, 1)
    if router.normalised:
        weights = weights / weights.sum(-1, keepdims=True)
    return ids, weights * router.factor * (vectors["expert_gain"][ids] if router.gains else 1)


def mixture(
    x: F64,
    part: Experts,
    product: Product,
    vectors: Vectors,
    told: list[npt.NDArray[np.int64]] | None = None,
) -> F64:
    """The chosen experts of each row, weighted, and what every row takes; matrices by name: router, expert3.up, shared.down.

    The choice is added to `told`.
    """
    y = chosen_experts(x, x, part, product, vectors, told)
    if part.shared is not None:
        common = feed_forward(x, part.shared, product, vectors, "shared.")
        y += common * sigmoid(x @ vectors["shared_gate"])[:, None] if part.shared_gate else common
    return y


def beside(
    x: F64,
    normed: F64,
    part: Experts,
    product: Product,
    vectors: Vectors,
    eps: float,
    told: list[npt.NDArray[np.int64]] | None = None,
) -> F64:
    """Gemma 4's second half, before its last norm: an MLP of normed x and experts of x, each under norms of their own."""
    if part.shared is None or not part.router.gains:
        raise AssertionError("no MLP beside the experts, or no gains of their router")
    common = feed_forward(normed, part.shared, product, vectors, "shared.")
    seen = rms_norm(x, vectors["router_norm"], eps) / sqrt(x.shape[1])
    into = rms_norm(x, vectors["experts_norm"], eps)
    y = chosen_experts(into, seen, part, product, vectors, told)
    return rms_norm(common, vectors["shared_out_norm"], eps) + rms_norm(y, vectors["experts_out_norm"], eps)


def chosen_experts(
    x: F64,
    seen: F64,
    part: Experts,
    product: Product,
    vectors: Vectors,
    told: list[npt.NDArray[np.int64]] | None = None,
) -> F64:
    """The experts of x that the router chooses by `seen`, weighted; the choice is added to `told`."""
    ids, weights = routes(product("router", seen), part.router, part.chosen, vectors)
    if told is not None:
        told.append(ids)
    y = np.zeros_like(x)
    for expert in np.unique(ids).tolist():
        rows, places = np.nonzero(ids == expert)
        share, of = weights[rows, places][:, None], f"expert{expert}."
        if part.router.on_input:
            y[rows] += feed_forward(x[rows] * share, part.expert, product, vectors, of)
        else:
            y[rows] += share * feed_forward(x[rows], part.expert, product, vectors, of)
    return y


def softmax(x: F64, sinks: F64 | None = None) -> F64:
    """Weights of the last axis; `sinks` broadcasts to one more logit in the denominator."""
    peak = x.max(-1, keepdims=True)
    if sinks is None:
        weights = np.exp(x - peak)
        normed: F64 = weights / weights.sum(-1, keepdims=True)
        return normed
    peak = np.maximum(peak, sinks)
    weights = np.exp(x - peak)
    shared: F64 = weights / (weights.sum(-1, keepdims=True) + np.exp(sinks - peak))
    return shared


# Latent attention


def latent_heads(
    x: F64, mixer: Latent, positions: npt.NDArray[Any], length: int, product: Product, vectors: Vectors
) -> tuple[F64, F64]:
    """Absorbed queries [B, Hq, T, rank + rope] and the rows that are cached [B, 1, T, rank + rope], of normed x [B·T, hidden].

    The queries are longer by what makes their scores, divided by the root of their width, those of `mixer.scale`.
    """

    def linear(name: str, x: F64) -> F64:
        y = product(name, x)
        return y + vectors[f"{name}_bias"] if f"{name}_bias" in vectors else y

    tokens, heads = len(positions), mixer.q_heads
    cos, sin = mixer.rope.table(positions, mixer.rope_dim, length)
    if mixer.q_rank:
        q = product("q_up", rms_norm(linear("q_down", x), vectors["q_norm"], LATENT_EPS))
    else:
        q = product("q", x)
    q = q.reshape(-1, tokens, heads, mixer.nope_dim + mixer.rope_dim).transpose(0, 2, 1, 3)
    row = linear("kv_down", x).reshape(-1, 1, tokens, mixer.kv_rank + mixer.rope_dim)
    content = rms_norm(row[..., : mixer.kv_rank], vectors["kv_norm"], LATENT_EPS)
    key = turn(row[..., mixer.kv_rank :], cos, sin, mixer.rope.neighbours)
    k_up = _up(mixer, product)[:, : mixer.nope_dim]
    absorbed = np.einsum("bhtn,hnc->bhtc", q[..., : mixer.nope_dim], k_up)
    turned = turn(q[..., mixer.nope_dim :], cos, sin, mixer.rope.neighbours)
    scale = mixer.scale or (mixer.nope_dim + mixer.rope_dim) ** -0.5
    queries = np.concatenate([absorbed, turned], -1) * (scale * sqrt(mixer.token_numbers))
    return queries, np.concatenate([content, key], -1)


def latent_output(attended: F64, mixer: Latent, product: Product, vectors: Vectors) -> F64:
    """What comes out of sums of cached rows [B, Hq, T, rank], [B·T, hidden]."""
    v_up = _up(mixer, product)[:, mixer.nope_dim :]
    values = np.einsum("bhtc,hvc->bthv", attended, v_up)
    y = product("o", values.reshape(-1, mixer.q_heads * mixer.value_dim))
    return y + vectors["o_bias"] if "o_bias" in vectors else y


def _up(mixer: Latent, product: Product) -> F64:
    """The stored matrix that makes keys and values of a cached row, [Hq, nope + value, rank]."""
    width = mixer.nope_dim + mixer.value_dim
    return product("kv_up", np.eye(mixer.kv_rank)).T.reshape(mixer.q_heads, width, mixer.kv_rank)
