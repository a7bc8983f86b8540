"""Attention over a preallocated cache in torch: RoPE, append, and the forms a decode step can take.

>>> attend = CachedAttention(model, make_cache(cache, 1), table, FORMS["grouped"])
>>> out = attend(heads)        # [B, Hq + 2·Hkv, D] before RoPE -> [B, Hq·D]

Imported only where torch is.
"""

from __future__ import annotations

from collections.abc import Callable
from math import sqrt

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.attention import SDPBackend, sdpa_kernel

from membound.backends.pytorch.linear import as_tensor
from membound.backends.pytorch.variants import KERNELS
from membound.kernels.model import Model
from membound.kernels.reference import rope_frequencies
from membound.kernels.weights.formats import KVCache

DecodeForm = Callable[[Tensor, Tensor, Tensor], Tensor]


def grouped(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """SDPA with the query heads of one KV head as its rows, so that K and V are never expanded.

    q [B, Hkv, G, D], k and v [B, Hkv, T, D] -> [B, Hkv, G, D]. A single query token sees the whole
    cache, so it needs no mask.
    """
    return functional.scaled_dot_product_attention(q, k, v)


def sdpa_gqa(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """SDPA with enable_gqa, the documented way; shapes as in `grouped`."""
    out = functional.scaled_dot_product_attention(q.flatten(1, 2).unsqueeze(2), k, v, enable_gqa=True)
    return out.view(q.shape)


def matmul(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Two batched matmuls around a softmax; shapes as in `grouped`."""
    scores = torch.matmul(q, k.transpose(-1, -2)) * (1 / sqrt(q.shape[-1]))
    return torch.matmul(torch.softmax(scores, -1), v)


def _through(kernel: SDPBackend) -> DecodeForm:
    """`grouped` through one of SDPA's implementations; raises RuntimeError if it does not take these tensors."""

    def named(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        with sdpa_kernel(kernel):
            return grouped(q, k, v)

    return named


FORMS: dict[str, DecodeForm] = {"grouped": grouped, "sdpa-gqa": sdpa_gqa, "matmul": matmul} | {
    name: _through(getattr(SDPBackend, kernel)) for name, kernel in KERNELS.items()
}


class RopeTable(nn.Module):
    """Angles of `positions`, for heads [rows, H, D]: cos and signed sin, each [positions, 1, D] float32."""

    cos: Tensor
    sin: Tensor

    def __init__(self, model: Model, positions: range) -> None:
        super().__init__()
        angles = np.arange(positions.start, positions.stop)[:, None] * rope_frequencies(model)
        cos, sin = np.cos(angles), np.sin(angles)
        for name, halves in (("cos", (cos, cos)), ("sin", (-sin, sin))):
            table = np.concatenate(halves, -1).astype(np.float32)[:, None]
            self.register_buffer(name, torch.from_numpy(table))

    def forward(self, x: Tensor) -> Tensor:
        """Rotate x [..., positions or 1, H, D] to float32; element i pairs with i + D/2 (NeoX layout)."""
        x = x.float()
        first, second = x.chunk(2, -1)
        return torch.addcmul(x * self.cos, torch.cat((second, first), -1), self.sin)


class CachedAttention(nn.Module):
    """One new token for each sequence at the last position of the cache, which every call writes anew.

    `cache` is (k, v), each [B, Hkv, context + 1, D] in the stored dtype.
    """

    k: Tensor
    v: Tensor

    def __init__(self, model: Model, cache: tuple[Tensor, Tensor], rope: RopeTable, form: DecodeForm) -> None:
        super().__init__()
        self.q_heads, self.kv_heads, self.head_dim = model.q_heads, model.kv_heads, model.head_dim
        self.register_buffer("k", cache[0])
        self.register_buffer("v", cache[1])
        self.rope, self.form = rope, form

    def forward(self, heads: Tensor) -> Tensor:
        """Heads [B, Hq + 2·Hkv, D] (q, k, v before RoPE) -> [B, Hq·D] in the cache's dtype."""
        rotated = self.rope(heads[:, : self.q_heads + self.kv_heads])
        self.k[:, :, -1] = rotated[:, self.q_heads :]
        self.v[:, :, -1] = heads[:, self.q_heads + self.kv_heads :]
        q = rotated[:, : self.q_heads].to(self.k.dtype)
        q = q.reshape(-1, self.kv_heads, self.q_heads // self.kv_heads, self.head_dim)
        return self.form(q, self.k, self.v).reshape(len(heads), -1)


class CausalAttention(nn.Module):
    """All tokens of a prompt: writes the cache [B, Hkv, tokens, D], then reads it causally."""

    k: Tensor
    v: Tensor

    def __init__(self, model: Model, cache: tuple[Tensor, Tensor], rope: RopeTable) -> None:
        super().__init__()
        self.q_heads, self.kv_heads, self.head_dim = model.q_heads, model.kv_heads, model.head_dim
        self.register_buffer("k", cache[0])
        self.register_buffer("v", cache[1])
        self.rope = rope

    def forward(self, heads: Tensor) -> Tensor:
        """Heads [B·tokens, Hq + 2·Hkv, D], sequence by sequence -> [B·tokens, Hq·D] in the cache's dtype."""
        batch, _, tokens, _ = self.k.shape
        heads = heads.view(batch, tokens, -1, self.head_dim)
        rotated = self.rope(heads[:, :, : self.q_heads + self.kv_heads]).transpose(1, 2)
        self.k.copy_(rotated[:, self.q_heads :])
        self.v.copy_(heads[:, :, self.q_heads + self.kv_heads :].transpose(1, 2))
        q = rotated[:, : self.q_heads].to(self.k.dtype)
        out = functional.scaled_dot_product_attention(
            q, self.k, self.v, is_causal=True, enable_gqa=self.q_heads != self.kv_heads
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
