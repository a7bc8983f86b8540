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
        self.index: IndexProducts | None = None
        if mixer.index is not None and not mixer.index.shared:
            self.index = IndexProducts(weights, make_linear, rows)

    def forward(self, x: Tensor, attend: Callable[..., Tensor]) -> Tensor:
        """Normed x [rows, hidden] -> [rows, hidden] float32; `attend` takes [rows, heads + 1, width], the row to be cached last.

        Where the layer has an index, `attend` takes its products behind that.
        """
        mixer = self.mixer
        made: tuple[Tensor, ...] = ()
        queries, content, key = self.down(x.to(self.down.activation)).split(self.widths, -1)
        if self.q_up is not None and self.q_norm is not None:
            low = functional.rms_norm(queries.float(), self.q_norm.shape, self.q_norm, LATENT_EPS)
            queries = self.q_up(low.to(self.q_up.activation))
            made = () if self.index is None else self.index(x, low)
        heads = torch.unflatten(queries, -1, (mixer.q_heads, -1))
        still, turning = torch.split(heads, [mixer.nope_dim, mixer.rope_dim], -1)
        absorbed = torch.bmm(still.transpose(0, 1).to(self.k_up.dtype), self.k_up).transpose(0, 1)
        row = functional.rms_norm(content.float(), self.kv_norm.shape, self.kv_norm, LATENT_EPS)
        new = torch.cat((row, key.float()), -1)
        both = torch.cat((torch.cat((absorbed.float(), turning.float()), -1), new[:, None]), 1)
        attended = torch.unflatten(attend(both, *made), -1, (mixer.q_heads, -1))
        values = torch.bmm(attended.transpose(0, 1).to(self.v_up.dtype), self.v_up.transpose(1, 2))
        y: Tensor = self.o(values.transpose(0, 1).flatten(1).to(self.o.activation))
        return y.float()


class IndexProducts(nn.Module):
    """What an index makes of new tokens: queries from the rank of attention's own, keys under their norm, weights of heads."""

    gain: Tensor
    bias: Tensor

    def __init__(self, weights: LayerWeights, make_linear: MakeLinear, rows: int) -> None:
        super().__init__()
        m, vectors = weights.matrices, weights.vectors
        self.q = make_linear([m["index_q"]], None, rows)
        self.rest = make_linear([m["index_k"], m["index_weights"]], None, rows)
        self.widths = [m["index_k"].n, m["index_weights"].n]
        self.register_buffer("gain", as_tensor(vectors["index_k_norm"], "f32"))
        self.register_buffer("bias", as_tensor(vectors["index_k_norm_bias"], "f32"))

    def forward(self, x: Tensor, low: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries [rows, heads · D], keys [rows, D] before RoPE and weights [rows, heads], float32."""
        key, weight = self.rest(x.to(self.rest.activation)).float().split(self.widths, -1)
        key = functional.layer_norm(key, self.gain.shape, self.gain, self.bias, LATENT_EPS)
        return self.q(low.to(self.q.activation)).float(), key, weight


class IndexedLatent(nn.Module):
    """Attention over the cached rows that an index selects: one new token of each sequence, at the last place of both caches.

    Scores and their order are computed; what is read are the rows of `chosen` [B, n], which the reference selected. Without `keys`
    the layer takes another's choice.
    """

    cache: Tensor
    chosen: Tensor
    keys: Tensor | None

    def __init__(
        self, mixer: Latent, cache: Tensor, keys: Tensor | None, chosen: Tensor, ropes: tuple[RopeTable, RopeTable], form: str
    ) -> None:  # fmt: skip
        super().__init__()
        if mixer.index is None:
            raise AssertionError("no index")
        self.register_buffer("cache", cache)
        self.register_buffer("keys", keys)
        self.register_buffer("chosen", chosen)
        self.mixer, self.index, (self.rope, self.index_rope) = mixer, mixer.index, ropes
        self.form = latent(form, scale_of(mixer), mixer.kv_rank)
        self.ids = torch.zeros(0, dtype=torch.int64)

    def forward(self, heads: Tensor, *made: Tensor) -> Tensor:
        """Heads [B, Hq + 1, width] before RoPE, and what `IndexProducts` makes -> [B, Hq · rank] in the cache's dtype."""
        turned = _turned(self.rope, heads, self.mixer)
        self.cache[:, 0, -1] = turned[:, -1]
        if self.keys is not None:
            self.ids = self._select(self.keys, *made)
        at = self.chosen[:, None, :, None].expand(-1, -1, -1, self.cache.shape[-1])
        q = turned[:, None, :-1].to(self.cache.dtype)
        return self.form(q, self.cache.gather(2, at)).flatten(1)

    def _select(self, keys: Tensor, q: Tensor, k: Tensor, weight: Tensor) -> Tensor:
        """The tokens of the largest scores [B, n]."""
        queries = torch.unflatten(q, -1, (self.index.heads, -1))
        both = torch.cat((queries, k[:, None]), 1)
        turning, still = torch.split(
            both, [self.mixer.rope_dim, self.index.head_dim - self.mixer.rope_dim], -1
        )
        both = torch.cat((self.index_rope(turning), still), -1).to(keys.dtype)
        keys[:, 0, -1] = both[:, -1]
        near = torch.relu(both[:, :-1] @ keys[:, 0].transpose(1, 2)).float()
        scores = (weight[:, None] @ near)[:, 0]
        return scores.topk(self.chosen.shape[-1], -1).indices


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
