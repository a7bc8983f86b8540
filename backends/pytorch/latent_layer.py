"""Latent attention in torch: the products of a layer with the matrices of its cached rows absorbed, and its cache.

>>> half = LatentHalf(mixer, weights, make_linear, rows=1)
>>> y = half(normed, CachedLatent(mixer, cache, table, "grouped"))          # [rows, hidden] float32 -> the same

What makes keys of cached rows multiplies queries instead, what makes values multiplies what attention gives; both are as large as they
are stored. The arithmetic is that of `membound.kernels.forward.latent_heads`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from math import inf, sqrt

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from membound.backends.pytorch.attention import RopeTable, causal_mask, latent, make_cache
from membound.backends.pytorch.linear import FLOATS, FormatLinear, as_tensor
from membound.kernels.forward import LATENT_EPS
from membound.kernels.inputs import ModelInputs
from membound.kernels.parts import Latent
from membound.kernels.weights.formats import F32, Weight, dequantize
from membound.kernels.weights.layers import LayerWeights
from membound.kernels.work import Step

MakeLinear = Callable[[Sequence[Weight], F32 | None, int], FormatLinear]
BLOCK_NUMBERS = 1 << 24
"""Products of queries and keys of an index that are held at once: 64 MB."""


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
        both = _index_turned(self.index_rope, q, k, self.mixer).to(keys.dtype)
        keys[:, 0, -1] = both[:, -1]
        near = torch.relu(both[:, :-1] @ keys[:, 0].transpose(1, 2)).float()
        scores = (weight[:, None] @ near)[:, 0]
        return scores.topk(self.chosen.shape[-1], -1).indices


class CausalIndexed(nn.Module):
    """All tokens of a prompt, each of which sees those that an index selects: writes the cache [B, 1, tokens, width], then reads it.

    Scores and their order are computed; who sees whom says `seen` [B, tokens, tokens], which the reference selected: None where that
    is every earlier token. Without `keys` [B, 1, tokens, D] the layer takes another's choice. Pairs that are not seen are masked.
    """

    cache: Tensor
    keys: Tensor | None
    mask: Tensor | None
    places: Tensor

    def __init__(
        self, mixer: Latent, cache: Tensor, keys: Tensor | None, seen: Tensor | None, ropes: tuple[RopeTable, RopeTable]
    ) -> None:  # fmt: skip
        super().__init__()
        if mixer.index is None:
            raise AssertionError("no index")
        self.register_buffer("cache", cache)
        self.register_buffer("keys", keys)
        self.register_buffer("mask", None if seen is None else seen[:, None])
        self.register_buffer("places", torch.arange(cache.shape[2]))
        self.mixer, self.index, (self.rope, self.index_rope) = mixer, mixer.index, ropes
        self.block = max(1, BLOCK_NUMBERS // (cache.shape[0] * mixer.index.heads * cache.shape[2]))

    def forward(self, heads: Tensor, *made: Tensor) -> Tensor:
        """Heads [B · tokens, Hq + 1, width] before RoPE, and what `IndexProducts` makes -> [B · tokens, Hq · rank] in the cache's dtype."""
        if self.keys is not None:
            self.select(self.keys, *made)
        return _causal(self.rope, heads, self.mixer, self.cache, self.mask)

    def select(self, keys: Tensor, q: Tensor, k: Tensor, weight: Tensor) -> list[Tensor]:
        """The tokens of the largest scores, [B, rows, n] of one block of rows after the other; a row's own are first if it sees fewer."""
        batch, _, tokens, _ = self.cache.shape
        q, k, weight = (each.view(batch, tokens, -1) for each in (q, k, weight))
        both = _index_turned(self.index_rope, q, k, self.mixer).to(keys.dtype)
        keys.copy_(both[:, None, :, -1])
        chosen = []
        for start in range(0, tokens, self.block):
            end = min(start + self.block, tokens)
            rows = both[:, start:end, :-1].flatten(1, 2) @ keys[:, 0, :end].transpose(1, 2)
            near = torch.relu(torch.unflatten(rows, 1, (end - start, -1))).float()
            scores = (weight[:, start:end, None] @ near)[:, :, 0]
            later = self.places[:end] > self.places[start:end, None]
            chosen.append(scores.masked_fill(later, -inf).topk(min(self.index.chosen, end), -1).indices)
        return chosen


def make_indexed(
    inputs: ModelInputs, index: int, table: RopeTable, form: str
) -> IndexedLatent | CausalIndexed:
    """Attention of a layer that sees selected tokens, by an index of its own or another's choice, over a step or a prompt."""
    work, mixer = inputs.work, inputs.model.decoder.layers[index].mixer
    if not isinstance(mixer, Latent) or mixer.index is None:
        raise AssertionError("no index")
    own = mixer.index
    places = range(work.context, work.context + 1) if isinstance(work, Step) else range(work.tokens)
    ropes = table, RopeTable(replace(mixer.rope, neighbours=own.neighbours), mixer.rope_dim, places)
    if isinstance(work, Step):
        keys = None if own.shared else make_cache(inputs.index_keys(index), 1)[0]
        chosen = torch.from_numpy(inputs.selection(index))
        return IndexedLatent(mixer, make_cache(inputs.cache(index), 1)[0], keys, chosen, ropes, form)
    cache, keys = (
        torch.zeros(work.batch, 1, work.tokens, n, dtype=FLOATS[work.kv])
        for n in (mixer.token_numbers, own.head_dim)
    )
    seen = torch.from_numpy(inputs.seen(index)) if work.tokens > own.chosen else None
    return CausalIndexed(mixer, cache, None if own.shared else keys, seen, ropes)


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
        return _causal(self.rope, heads, self.mixer, self.cache)


def scale_of(mixer: Latent) -> float:
    """What scores are multiplied by."""
    return mixer.scale or 1 / sqrt(mixer.nope_dim + mixer.rope_dim)


def _causal(
    rope: RopeTable, heads: Tensor, mixer: Latent, cache: Tensor, seen: Tensor | None = None
) -> Tensor:
    """Writes the cache of a prompt and reads it: each token up to its own place, or those of `seen` [B, 1, tokens, tokens]."""
    batch, _, tokens, width = cache.shape
    turned = _turned(rope, heads.view(batch, tokens, -1, width), mixer).transpose(1, 2)
    cache.copy_(turned[:, -1:])
    q = turned[:, :-1].to(cache.dtype)
    k = cache.expand(-1, q.shape[1], -1, -1)
    y = functional.scaled_dot_product_attention(q, k, k, seen, is_causal=seen is None, scale=scale_of(mixer))
    return y[..., : mixer.kv_rank].transpose(1, 2).reshape(batch * tokens, -1)


def _index_turned(rope: RopeTable, q: Tensor, k: Tensor, mixer: Latent) -> Tensor:
    """Queries [..., heads · D] and keys [..., D] of an index as heads [..., heads + 1, D], whose first columns turn, float32."""
    both = torch.unflatten(torch.cat((q, k), -1), -1, (-1, k.shape[-1]))
    turning, still = torch.split(both, [mixer.rope_dim, k.shape[-1] - mixer.rope_dim], -1)
    return torch.cat((rope(turning), still), -1)


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
