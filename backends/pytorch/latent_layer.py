"""Latent attention in torch: the products of a layer with the matrices of its cached rows absorbed, and its cache.

>>> half = LatentHalf(mixer, weights, make_linear, rows=1)
>>> y = half(normed, CachedLatent(mixer, cache, table, "grouped"))          # [rows, hidden] float32 -> the same

What makes keys of cached rows multiplies queries instead, what makes values multiplies what attention gives; both are as large as they
are stored. The arithmetic is that of `membound.kernels.forward.latent_heads`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from math import sqrt

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from membound.backends.pytorch.attention import RopeTable, causal_mask, latent
from membound.backends.pytorch.linear import FLOATS, FormatLinear, as_tensor
from membound.kernels.forward import LATENT_EPS
from membound.kernels.parts import Latent
from membound.kernels.weights.formats import F32, Weight, dequantize
from membound.kernels.weights.layers import LayerWeights

MakeLinear = Callable[[Sequence[Weight], F32 | None, int], FormatLinear]


class LatentHalf(nn.Module):
    """Queries, the new cached row, and the output of a layer."""

    k_up: Tensor
    v_up: Tensor
    q_norm: Tensor | None
    kv_norm: Tensor

    def __init__(self, mixer: Latent, weights: LayerWeights, make_linear: MakeLinear, rows: int) -> None:
        super().__init__()
        m, vectors = weights.matrices, weights.vectors
        self.mixer = mixer
        first = "q_down" if mixer.q_rank else "q"
        self.down = make_linear([m[first], m["kv_down"]], _bias(mixer, vectors), rows)
        self.widths = [m[first].n, mixer.kv_rank, mixer.rope_dim]
        self.q_up = make_linear([m["q_up"]], None, rows) if mixer.q_rank else None
        self.o = make_linear([m["o"]], vectors.get("o_bias"), rows)
        self.register_buffer("q_norm", as_tensor(vectors["q_norm"], "f32") if mixer.q_rank else None)
        self.register_buffer("kv_norm", as_tensor(vectors["kv_norm"], "f32"))
        up = _floats(m["kv_up"]).view(mixer.q_heads, -1, mixer.kv_rank)
        self.register_buffer("k_up", up[:, : mixer.nope_dim].contiguous())
        self.register_buffer("v_up", up[:, mixer.nope_dim :].contiguous())
        self.stored_bytes = up.nbytes

    def forward(self, x: Tensor, attend: Callable[[Tensor], Tensor]) -> Tensor:
        """Normed x [rows, hidden] -> [rows, hidden] float32; `attend` takes [rows, heads + 1, width], the row to be cached last."""
        mixer = self.mixer
        queries, content, key = self.down(x.to(self.down.activation)).split(self.widths, -1)
        if self.q_up is not None and self.q_norm is not None:
            normed = functional.rms_norm(queries.float(), self.q_norm.shape, self.q_norm, LATENT_EPS)
            queries = self.q_up(normed.to(self.q_up.activation))
        heads = torch.unflatten(queries, -1, (mixer.q_heads, -1))
        still, turning = torch.split(heads, [mixer.nope_dim, mixer.rope_dim], -1)
        absorbed = torch.bmm(still.transpose(0, 1).to(self.k_up.dtype), self.k_up).transpose(0, 1)
        row = functional.rms_norm(content.float(), self.kv_norm.shape, self.kv_norm, LATENT_EPS)
        new = torch.cat((row, key.float()), -1)
        both = torch.cat((torch.cat((absorbed.float(), turning.float()), -1), new[:, None]), 1)
        attended = torch.unflatten(attend(both), -1, (mixer.q_heads, -1))
        values = torch.bmm(attended.transpose(0, 1).to(self.v_up.dtype), self.v_up.transpose(1, 2))
        y: Tensor = self.o(values.transpose(0, 1).flatten(1).to(self.o.activation))
        return y.float()


class CachedLatent(nn.Module):
    """The new tokens of each sequence at the last places of the cache [B, 1, context + queries, width], which every call writes anew."""

    cache: Tensor
    mask: Tensor | None

    def __init__(self, mixer: Latent, cache: Tensor, rope: RopeTable, form: str, queries: int = 1) -> None:
        super().__init__()
        self.register_buffer("cache", cache)
        self.mixer, self.rope, self.queries = mixer, rope, queries
        self.form = latent(form, scale_of(mixer), mixer.kv_rank)
        mask = causal_mask(queries, mixer.q_heads, cache.shape[2]) if queries > 1 else None
        self.register_buffer("mask", mask)

    def forward(self, heads: Tensor) -> Tensor:
        """Heads [B·queries, Hq + 1, width] before RoPE -> [B·queries, Hq · rank] in the cache's dtype."""
        if self.queries > 1:
            split = heads.view(len(self.cache), self.queries, *heads.shape[1:])
            turned = _turned(self.rope, split, self.mixer)
            self.cache[:, 0, -self.queries :] = turned[:, :, -1]
            rows = turned[:, :, :-1].flatten(1, 2).unsqueeze(1).to(self.cache.dtype)
            return self.form(rows, self.cache, self.mask).reshape(len(heads), -1)
        turned = _turned(self.rope, heads, self.mixer)
        self.cache[:, 0, -1] = turned[:, -1]
        q = turned[:, None, :-1].to(self.cache.dtype)
        return self.form(q, self.cache).flatten(1)


class CausalLatent(nn.Module):
    """All tokens of a prompt: writes the cache [B, 1, tokens, width], then reads it causally."""

    cache: Tensor

    def __init__(self, mixer: Latent, cache: Tensor, rope: RopeTable) -> None:
        super().__init__()
        self.register_buffer("cache", cache)
        self.mixer, self.rope = mixer, rope

    def forward(self, heads: Tensor) -> Tensor:
        """Heads [B · tokens, Hq + 1, width], sequence by sequence -> [B · tokens, Hq · rank] in the cache's dtype."""
        batch, _, tokens, width = self.cache.shape
        turned = _turned(self.rope, heads.view(batch, tokens, -1, width), self.mixer).transpose(1, 2)
        self.cache.copy_(turned[:, -1:])
        q = turned[:, :-1].to(self.cache.dtype)
        k = self.cache.expand(-1, q.shape[1], -1, -1)
        y = functional.scaled_dot_product_attention(q, k, k, is_causal=True, scale=scale_of(self.mixer))
        return y[..., : self.mixer.kv_rank].transpose(1, 2).reshape(batch * tokens, -1)


def scale_of(mixer: Latent) -> float:
    """What scores are multiplied by."""
    return mixer.scale or 1 / sqrt(mixer.nope_dim + mixer.rope_dim)


def _turned(rope: RopeTable, heads: Tensor, mixer: Latent) -> Tensor:
    """The last columns of every head turned, float32."""
    content, key = torch.split(heads, [mixer.kv_rank, mixer.rope_dim], -1)
    return torch.cat((content.float(), rope(key)), -1)


def _floats(weight: Weight) -> Tensor:
    """A matrix in its own format of floats, or as the float32 numbers that it means."""
    if weight.format in FLOATS:
        return as_tensor(weight.values, weight.format)
    return torch.from_numpy(dequantize(weight))


def _bias(mixer: Latent, vectors: Mapping[str, F32]) -> F32 | None:
    """Biases of what goes down; zeros for queries that come straight from the hidden state."""
    if "kv_down_bias" not in vectors:
        return None
    width = mixer.q_heads * (mixer.nope_dim + mixer.rope_dim)
    queries = vectors["q_down_bias"] if mixer.q_rank else np.zeros(width, np.float32)
    return np.concatenate([queries, vectors["kv_down_bias"]])
