"""Attention over a preallocated cache in torch: RoPE, append, and the forms a decode step can take.

>>> attend = CachedAttention(mixer, make_cache(cache, 1), table, FORMS["grouped"])
>>> out = attend(heads)        # [B, Hq + 2·Hkv, D] before RoPE -> [B, Hq·D]

Imported only where torch is.
"""

from __future__ import annotations

from collections.abc import Callable
from math import inf, sqrt

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.attention import SDPBackend, sdpa_kernel

from membound.backends.pytorch.linear import as_tensor
from membound.backends.pytorch.variants import KERNELS
from membound.kernels.forward import hidden_pairs, temperatures
from membound.kernels.operations import LATENT_HEAD_DIM, LATENT_VALUE_DIM
from membound.kernels.parts import Attention
from membound.kernels.rope import Rope
from membound.kernels.weights.formats import F32, KVCache

DecodeForm = Callable[..., Tensor]
"""form(q, k, v, scale, mask): see `grouped`."""


def grouped(
    q: Tensor, k: Tensor, v: Tensor, scale: float | None = None, mask: Tensor | None = None
) -> Tensor:
    """SDPA with the query heads of one KV head as its rows, so that K and V are never expanded.

    q [B, Hkv, G, D], k and v [B, Hkv, T, D] -> [B, Hkv, G, D]. A single query token sees the whole
    cache, so it needs no mask; of several, G = heads · queries, mask [G, T] says who sees what. scale: 1/sqrt(D) unless given.
    """
    return functional.scaled_dot_product_attention(q, k, v, mask, scale=scale)


def sdpa_gqa(
    q: Tensor, k: Tensor, v: Tensor, scale: float | None = None, mask: Tensor | None = None
) -> Tensor:
    """SDPA with enable_gqa, the documented way; shapes as in `grouped`, every row of which is a head of its own."""
    heads = q.flatten(1, 2).unsqueeze(2)
    if mask is not None:
        mask = mask.repeat(q.shape[1], 1).unsqueeze(1)
    out = functional.scaled_dot_product_attention(heads, k, v, mask, scale=scale, enable_gqa=True)
    return out.view(q.shape)


def matmul(q: Tensor, k: Tensor, v: Tensor, scale: float | None = None, mask: Tensor | None = None) -> Tensor:
    """Two batched matmuls around a softmax; shapes as in `grouped`."""
    scores = torch.matmul(q, k.transpose(-1, -2)) * (scale or 1 / sqrt(q.shape[-1]))
    if mask is not None:
        scores = scores.masked_fill(~mask, -torch.inf)
    return torch.matmul(torch.softmax(scores, -1), v)


def _through(kernel: SDPBackend) -> DecodeForm:
    """`grouped` through one of SDPA's implementations; raises RuntimeError if it does not take these tensors."""

    def named(
        q: Tensor, k: Tensor, v: Tensor, scale: float | None = None, mask: Tensor | None = None
    ) -> Tensor:
        with sdpa_kernel(kernel):
            return grouped(q, k, v, scale, mask)

    return named


FORMS: dict[str, DecodeForm] = {"grouped": grouped, "sdpa-gqa": sdpa_gqa, "matmul": matmul} | {
    name: _through(getattr(SDPBackend, kernel)) for name, kernel in KERNELS.items()
}


def latent(
    form: str, scale: float = LATENT_HEAD_DIM**-0.5, value_dim: int = LATENT_VALUE_DIM
) -> Callable[..., Tensor]:
    """Latent attention of q [B, 1, Hq, D] over one array k [B, 1, T, D] -> [B, 1, Hq, value_dim], in a form of `FORMS`.

    Of several queries the rows of q are those of every head; mask [rows, T] as in `grouped`.

    SDPA's fast implementations want values as wide as keys. They get the keys, and the columns that are no values are dropped;
    narrower values would take the plain one, a tenth as fast on CPUs.
    """
    attend = FORMS[form]

    def narrow(q: Tensor, k: Tensor, mask: Tensor | None = None) -> Tensor:
        return attend(q, k, k[..., :value_dim], scale, mask)

    def wide(q: Tensor, k: Tensor, mask: Tensor | None = None) -> Tensor:
        return attend(q, k, k, scale, mask)[..., :value_dim]

    return narrow if form == "matmul" else wide


def several(form: DecodeForm) -> Callable[..., Tensor]:
    """Attention of several queries a sequence behind the cache, whose keys and values every call writes anew.

    run(q [B, s, Hq, D], k, v [B, Hkv, T, D], new_k, new_v [B, Hkv, s, D], mask of `causal_mask`) -> [B, s, Hq, D].
    """

    def run(q: Tensor, k: Tensor, v: Tensor, new_k: Tensor, new_v: Tensor, mask: Tensor) -> Tensor:
        batch, queries, heads, dim = q.shape
        kv_heads, tokens = k.shape[1], k.shape[2]
        k[:, :, tokens - queries :] = new_k
        v[:, :, tokens - queries :] = new_v
        rows = q.view(batch, queries, kv_heads, -1, dim).transpose(1, 2).reshape(batch, kv_heads, -1, dim)
        out = form(rows, k, v, None, mask).view(batch, kv_heads, queries, -1, dim)
        return out.transpose(1, 2).reshape(batch, queries, heads, dim)

    return run


def causal_mask(queries: int, group: int, tokens: int) -> Tensor:
    """[queries · group, tokens]: query i, at place tokens − queries + i, sees the tokens up to its own."""
    last = torch.arange(tokens - queries, tokens).repeat_interleave(group)
    return torch.arange(tokens) <= last[:, None]


class RopeTable(nn.Module):
    """Angles of `positions`, for heads [rows, H, D]: cos and signed sin, each [positions, 1, turning columns] float32."""

    cos: Tensor
    sin: Tensor

    def __init__(self, rope: Rope | None, head_dim: int, positions: range) -> None:
        """Without a RoPE, heads pass as they are."""
        super().__init__()
        self.width = 0 if rope is None else rope.dim or head_dim
        self.neighbours = rope is not None and rope.neighbours
        if rope is None:
            return
        cos, sin = rope.table(np.arange(positions.start, positions.stop), head_dim, positions.stop)
        for name, pair in (("cos", (cos, cos)), ("sin", (-sin, sin))):
            joined = np.stack(pair, -1).reshape(len(cos), -1) if rope.neighbours else np.concatenate(pair, -1)
            self.register_buffer(name, torch.from_numpy(joined.astype(np.float32)[:, None]))

    def forward(self, x: Tensor) -> Tensor:
        """Rotate x [..., positions or 1, H, D] to float32, as `membound.kernels.rope.turn` does."""
        x = x.float()
        if not self.width:
            return x
        moving = x if self.width == x.shape[-1] else x[..., : self.width]
        if self.neighbours:
            swapped = moving.reshape(*moving.shape[:-1], -1, 2).flip(-1).flatten(-2)
        else:
            first, second = moving.chunk(2, -1)
            swapped = torch.cat((second, first), -1)
        turned = torch.addcmul(moving * self.cos, swapped, self.sin)
        return turned if moving is x else torch.cat((turned, x[..., self.width :]), -1)


class _Scores(nn.Module):
    """What a layer's attention does with scores besides softmax: a scale of their own, temperatures, a cap, sinks; and norms
    behind RoPE.

    `positions`: those of the queries. Temperatures are [positions, 1, 1].
    """

    sinks: Tensor | None
    warmth: Tensor | None

    def __init__(self, mixer: Attention, sinks: F32 | None, positions: range, eps: float) -> None:
        super().__init__()
        self.gain = mixer.scale * sqrt(mixer.head_dim) if mixer.scale else 1.0
        self.softcap, self.turned_norm, self.eps = mixer.softcap, mixer.head_norm == "l2", eps
        warmth = (
            temperatures(mixer, np.arange(positions.start, positions.stop)) if mixer.temperature else None
        )
        held = None if warmth is None else torch.from_numpy(warmth.astype(np.float32)[:, None, None])
        self.register_buffer("warmth", held)
        grouped = None if sinks is None else torch.from_numpy(sinks.reshape(1, mixer.kv_heads, -1, 1, 1))
        self.register_buffer("sinks", grouped)

    @property
    def plain(self) -> bool:
        """SDPA has an argument for all of it, or needs none."""
        return not self.softcap and self.sinks is None

    def normed(self, heads: Tensor) -> Tensor:
        """Turned queries and keys under the layer's norm without gains, if it has one."""
        return functional.rms_norm(heads, heads.shape[-1:], None, self.eps) if self.turned_norm else heads

    def scaled(self, q: Tensor) -> Tensor:
        """Queries [..., positions, H, D] that make scores of the layer's scale when they are divided by the root of their width."""
        q = q if self.gain == 1 else q * self.gain
        return q if self.warmth is None else q * self.warmth

    def attend(self, q: Tensor, k: Tensor, v: Tensor, hidden: Tensor | None = None) -> Tensor:
        """Two products in float32 around what bends the scores: q [B, Hkv, G, T, D], k and v [B, Hkv, S, D], hidden [T, S]."""
        scores = q.float() @ k.float().unsqueeze(2).transpose(-1, -2) / sqrt(q.shape[-1])
        if self.softcap:
            scores = self.softcap * torch.tanh(scores / self.softcap)
        if hidden is not None:
            scores = scores.masked_fill(hidden, -inf)
        if self.sinks is not None:
            sinks = self.sinks.expand(*scores.shape[:-1], 1)
            weights = torch.softmax(torch.cat((scores, sinks), -1), -1)[..., :-1]
        else:
            weights = torch.softmax(scores, -1)
        return (weights @ v.float().unsqueeze(2)).to(q.dtype)


class CachedAttention(nn.Module):
    """The new tokens of each sequence at the last positions of the cache, which every call writes anew.

    `cache` is (k, v), each [B, Hkv, context + queries, D] in the stored dtype; a layer with a window reads the end of it.
    """

    k: Tensor
    v: Tensor
    hidden: Tensor | None
    mask: Tensor | None

    def __init__(
        self,
        mixer: Attention,
        cache: tuple[Tensor, Tensor],
        rope: RopeTable,
        form: DecodeForm,
        sinks: F32 | None = None,
        eps: float = 1e-5,
        queries: int = 1,
    ) -> None:
        super().__init__()
        self.q_heads, self.kv_heads, self.head_dim = mixer.q_heads, mixer.kv_heads, mixer.head_dim
        self.register_buffer("k", cache[0])
        self.register_buffer("v", cache[1])
        tokens = cache[0].shape[2]
        context = tokens - queries
        self.rope, self.form, self.queries = rope, form, queries
        self.scores = _Scores(mixer, sinks, range(context, tokens), eps)
        self.first = context - mixer.seen(context)
        hidden = mask = None
        if queries > 1:
            hidden = torch.from_numpy(hidden_pairs(mixer, context, tokens, tokens)[:, self.first :])
            mask = ~hidden.repeat(mixer.q_heads // mixer.kv_heads, 1)
        self.register_buffer("hidden", hidden)
        self.register_buffer("mask", mask)

    def forward(self, heads: Tensor) -> Tensor:
        """Heads [B·queries, Hq + 2·Hkv, D] (q, k, v before RoPE) -> [B·queries, Hq·D] in the cache's dtype."""
        if self.queries > 1:
            return self._several(heads)
        rotated = self.scores.normed(self.rope(heads[:, : self.q_heads + self.kv_heads]))
        self.k[:, :, -1] = rotated[:, self.q_heads :]
        self.v[:, :, -1] = heads[:, self.q_heads + self.kv_heads :]
        q = self.scores.scaled(rotated[:, : self.q_heads]).to(self.k.dtype)
        q = q.reshape(-1, self.kv_heads, self.q_heads // self.kv_heads, self.head_dim)
        k, v = (self.k[:, :, self.first :], self.v[:, :, self.first :]) if self.first else (self.k, self.v)
        if not self.scores.plain:
            return self.scores.attend(q.unsqueeze(3), k, v).reshape(len(heads), -1)
        return self.form(q, k, v).reshape(len(heads), -1)

    def _several(self, heads: Tensor) -> Tensor:
        """Of several queries: rows of a KV head are its query heads, each with all of its queries."""
        batch, kv_heads, _, dim = self.k.shape
        split = heads.view(batch, self.queries, -1, dim)
        rotated = self.scores.normed(self.rope(split[:, :, : self.q_heads + kv_heads]))
        new = self.queries
        self.k[:, :, -new:] = rotated[:, :, self.q_heads :].transpose(1, 2)
        self.v[:, :, -new:] = split[:, :, self.q_heads + kv_heads :].transpose(1, 2)
        q = self.scores.scaled(rotated[:, :, : self.q_heads]).to(self.k.dtype)
        q = q.transpose(1, 2).reshape(batch, kv_heads, -1, new, dim)
        k, v = self.k[:, :, self.first :], self.v[:, :, self.first :]
        if not self.scores.plain:
            out = self.scores.attend(q, k, v, self.hidden)
        else:
            out = self.form(q.flatten(2, 3), k, v, None, self.mask)
        return out.view(batch, self.q_heads, new, dim).transpose(1, 2).reshape(len(heads), -1)


class CausalAttention(nn.Module):
    """All tokens of a prompt: writes the cache [B, Hkv, tokens, D], then reads it causally, within the layer's window."""

    k: Tensor
    v: Tensor
    hidden: Tensor | None

    def __init__(
        self,
        mixer: Attention,
        cache: tuple[Tensor, Tensor],
        rope: RopeTable,
        sinks: F32 | None = None,
        eps: float = 1e-5,
    ) -> None:
        super().__init__()
        self.q_heads, self.kv_heads, self.head_dim = mixer.q_heads, mixer.kv_heads, mixer.head_dim
        self.register_buffer("k", cache[0])
        self.register_buffer("v", cache[1])
        tokens = cache[0].shape[2]
        self.rope, self.scores = rope, _Scores(mixer, sinks, range(tokens), eps)
        windowed = mixer.seen(tokens - 1) + 1 < tokens or mixer.pairs(tokens) < tokens * (tokens + 1) // 2
        hidden = hidden_pairs(mixer, 0, tokens, tokens) if windowed or not self.scores.plain else None
        self.register_buffer("hidden", None if hidden is None else torch.from_numpy(hidden))

    def forward(self, heads: Tensor) -> Tensor:
        """Heads [B·tokens, Hq + 2·Hkv, D], sequence by sequence -> [B·tokens, Hq·D] in the cache's dtype."""
        batch, _, tokens, _ = self.k.shape
        heads = heads.view(batch, tokens, -1, self.head_dim)
        turned = self.scores.normed(self.rope(heads[:, :, : self.q_heads + self.kv_heads]))
        self.k.copy_(turned[:, :, self.q_heads :].transpose(1, 2))
        self.v.copy_(heads[:, :, self.q_heads + self.kv_heads :].transpose(1, 2))
        q = self.scores.scaled(turned[:, :, : self.q_heads]).transpose(1, 2).to(self.k.dtype)
        if not self.scores.plain:
            grouped = q.reshape(batch, self.kv_heads, -1, tokens, self.head_dim)
            out = self.scores.attend(grouped, self.k, self.v, self.hidden).flatten(1, 2)
        else:
            seen = None if self.hidden is None else ~self.hidden
            out = functional.scaled_dot_product_attention(
                q, self.k, self.v, seen, is_causal=seen is None, enable_gqa=self.q_heads != self.kv_heads
            )
        return out.transpose(1, 2).reshape(batch * tokens, -1)


def make_cache(cache: KVCache, room: int) -> tuple[Tensor, Tensor]:
    """K and V as tensors [B, Hkv, tokens + room, D]; the room is left as zeros."""

    def widen(values: Tensor) -> Tensor:
        if not room:
            return values
        batch, heads, tokens, dim = values.shape
        wide = values.new_zeros(batch, heads, tokens + room, dim)
        wide[:, :, :tokens] = values
        return wide

    return widen(as_tensor(cache.k, cache.format)), widen(as_tensor(cache.v, cache.format))
