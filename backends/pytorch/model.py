"""A decoder in torch, for a decode step and for a prompt, with linears and attention that can be swapped.

>>> decoder = build_decoder(inputs, make_linear, make_attention)
>>> logits = decoder(x)        # [rows, hidden] -> float32 [batch, vocab], of a step all rows

`make_linear(weights, bias, rows)` gives the module for matrices that share their input, stacked row on
row: q, k, v; o; gate, up; down; the LM head. It states the dtype of its input as `activation`.
`make_attention(index)` gives the module of a layer that takes heads [rows, Hq + 2·Hkv, D] before RoPE
and returns [rows, Hq·D]: RoPE, the append and the cache belong to it. An exporter with the cache as
graph input calls the layers itself, each with its own attention:

    for index, layer in enumerate(decoder.layers):
        x = layer(x, lambda heads: attend(index, heads))
    logits = decoder.head(x)

Imported only where torch is.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from membound.backends.pytorch.attention import (
    FORMS,
    CachedAttention,
    CausalAttention,
    RopeTable,
    make_cache,
)
from membound.backends.pytorch.latent_layer import CachedLatent, CausalLatent, LatentHalf, make_indexed
from membound.backends.pytorch.linear import FLOATS, FormatLinear, as_tensor
from membound.backends.pytorch.mamba_layer import CachedMamba, MambaHalf
from membound.backends.pytorch.routed_layer import RoutedHalf
from membound.backends.pytorch.state_layer import CachedDelta, DeltaHalf
from membound.backends.pytorch.state_prompt import PromptDelta, PromptMamba
from membound.kernels.inputs import ModelInputs
from membound.kernels.mixers import GatedDelta, Mamba2
from membound.kernels.model import Model
from membound.kernels.parts import NORMS, Attention, Experts, Latent, Layer, Mlp
from membound.kernels.routing import OWN_ROUTES, experts_read
from membound.kernels.weights.formats import F32, Weight
from membound.kernels.weights.layers import LayerWeights
from membound.kernels.work import Step

MakeLinear = Callable[[Sequence[Weight], F32 | None, int], FormatLinear]
MakeAttention = Callable[[int], nn.Module]
LayerRouted = Callable[[Experts, LayerWeights], RoutedHalf]
MakeRouted = Callable[[int, Experts, LayerWeights], RoutedHalf]
"""Given the index of the layer first."""


class RmsNorm(nn.Module):
    """RMSNorm in float32: x [..., hidden] of any float dtype -> float32."""

    gain: Tensor

    def __init__(self, gain: F32, eps: float) -> None:
        super().__init__()
        self.register_buffer("gain", as_tensor(gain, "f32"))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        """X / rms(x) · gain."""
        return functional.rms_norm(x.float(), self.gain.shape[-1:], None, self.eps) * self.gain


class LayerNorm(nn.Module):
    """LayerNorm in float32, with a bias or without."""

    gain: Tensor
    bias: Tensor | None

    def __init__(self, gain: F32, bias: F32 | None, eps: float) -> None:
        super().__init__()
        self.register_buffer("gain", as_tensor(gain, "f32"))
        self.register_buffer("bias", None if bias is None else as_tensor(bias, "f32"))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        """X less its mean, over its deviation, times gain, plus bias."""
        return functional.layer_norm(x.float(), self.gain.shape, self.gain, self.bias, self.eps)


def make_norm(model: Model, gain: F32, bias: F32 | None) -> RmsNorm | LayerNorm:
    """A norm of the model's kind."""
    if model.decoder.norm == "layer":
        return LayerNorm(gain, bias, model.decoder.eps)
    return RmsNorm(gain, model.decoder.eps)


class DecoderLayer(nn.Module):
    """Attention and MLP or experts with the norms of `kind`. The residual stream is float32; each matmul has its own dtype."""

    def __init__(
        self,
        model: Model,
        kind: Layer,
        weights: LayerWeights,
        make_linear: MakeLinear,
        rows: int,
        make_routed: LayerRouted | None = None,
    ) -> None:
        super().__init__()
        vectors = weights.vectors
        norms = {
            name: make_norm(model, vectors[name], vectors.get(f"{name}_bias")) if name in vectors else None
            for name in NORMS["both"]
        }
        self.attention_norm, self.mlp_norm = norms["attention_norm"], norms["mlp_norm"]
        self.attention_out_norm, self.mlp_out_norm = norms["attention_out_norm"], norms["mlp_out_norm"]
        self.residual = kind.residual
        self.gain = float(vectors["layer_gain"][0]) if kind.gain else 1.0
        self.latent: LatentHalf | DeltaHalf | MambaHalf | None = None
        if isinstance(kind.mixer, GatedDelta):
            self.latent = DeltaHalf(kind.mixer, weights, make_linear, rows, model.decoder.eps)
        elif isinstance(kind.mixer, Mamba2):
            self.latent = MambaHalf(kind.mixer, weights, make_linear, rows, model.decoder.eps)
        elif isinstance(kind.mixer, Latent):
            self.latent = LatentHalf(kind.mixer, weights, make_linear, rows)
        else:
            self._make_attention(model, kind.mixer, weights, make_linear, rows)
        self.routed: RoutedHalf | None = None
        self.beside = kind.norms == "both_beside"
        self.without_mlp = kind.norms == "half"
        if self.without_mlp:
            return
        if isinstance(kind.mlp, Mlp):
            self._make_mlp(kind.mlp, weights, make_linear, rows)
        elif make_routed is not None:
            self.routed = make_routed(kind.mlp, weights)

    def _make_attention(
        self, model: Model, mixer: Attention, weights: LayerWeights, make_linear: MakeLinear, rows: int
    ) -> None:
        m, vectors = weights.matrices, weights.vectors
        self.q_heads, self.head_dim, self.doubled = mixer.q_heads, mixer.head_dim, mixer.keys_are_values
        self.widths = [heads * mixer.head_dim for heads in (mixer.q_heads, mixer.kv_heads, mixer.kv_heads)]
        wide = mixer.head_norm == "all"
        self.head_norm = None if wide else _head_norm(mixer, weights, model.norm_eps)
        self.q_norm = RmsNorm(vectors["q_norm"], model.norm_eps) if wide else None
        self.k_norm = RmsNorm(vectors["k_norm"], model.norm_eps) if wide else None
        gate = [m["out_gate"]] if mixer.gated else []
        self.gate_width = self.widths[0] if mixer.gated else 0
        into = ("q", "k") if mixer.keys_are_values else ("q", "k", "v")
        self.qkv = make_linear([*(m[name] for name in into), *gate], _bias(vectors, *into), rows)
        self.o = make_linear([m["o"]], _bias(vectors, "o"), rows)

    def _make_mlp(self, mlp: Mlp, weights: LayerWeights, make_linear: MakeLinear, rows: int) -> None:
        m, vectors = weights.matrices, weights.vectors
        self.gated, self.smooth, self.squared = (
            mlp.gated,
            mlp.activation == "gelu_tanh",
            mlp.activation == "relu2",
        )
        into = ("gate", "up") if mlp.gated else ("up",)
        self.up = make_linear([m[name] for name in into], _bias(vectors, *into), rows)
        self.down = make_linear([m["down"]], _bias(vectors, "down"), rows)

    def forward(self, x: Tensor, attend: Callable[[Tensor], Tensor]) -> Tensor:
        """X [rows, hidden] float32 -> the same; `attend` as `make_attention` of the module's docstring."""
        normed = x if self.attention_norm is None else self.attention_norm(x)
        if self.latent is not None:
            y = self.latent(normed, attend)
        else:
            flat, gate = self._gated(normed)
            attended = attend(self._heads(flat))
            y = self.o((attended if gate is None else gate * attended).to(self.o.activation))
        x = self._add(x, y, self.attention_out_norm)
        if self.without_mlp:
            return x
        normed = x if self.mlp_norm is None else self.mlp_norm(x)
        if self.routed is None:
            y = self._mlp(normed)
        else:
            y = self.routed.with_mlp(x, normed) if self.beside else self.routed(normed)
        x = self._add(x, y, self.mlp_out_norm)
        return x if self.gain == 1 else x * self.gain

    def _mlp(self, normed: Tensor) -> Tensor:
        hidden = self.up(normed.to(self.up.activation))
        if self.gated:
            gate, up = hidden.chunk(2, -1)
            hidden = (
                functional.gelu(gate, approximate="tanh") if self.smooth else functional.silu(gate)
            ) * up
        elif self.squared:
            hidden = functional.relu(hidden).square()
        else:
            hidden = functional.gelu(hidden, approximate="tanh")
        y: Tensor = self.down(hidden)
        return y

    def _gated(self, normed: Tensor) -> tuple[Tensor, Tensor | None]:
        """Normed x -> q, k and v, or what makes both, next to each other, and what attention's output is multiplied by, where the model has that."""
        flat: Tensor = self.qkv(normed.to(self.qkv.activation))
        if not self.gate_width:
            return flat, None
        return flat[:, : -self.gate_width], torch.sigmoid(flat[:, -self.gate_width :].float())

    def _heads(self, flat: Tensor) -> Tensor:
        """Heads [rows, Hq + 2·Hkv, D] before RoPE, with their norms."""
        if self.q_norm is not None and self.k_norm is not None:
            q, k, v = torch.split(flat, self.widths, -1)
            flat = torch.cat((self.q_norm(q), self.k_norm(k), v.float()), -1)
        heads: Tensor = flat.reshape(len(flat), -1, self.head_dim)
        if self.doubled:
            heads = torch.cat((heads, heads[:, self.q_heads :]), 1)
        if self.head_norm is None:
            return heads
        normed = self.head_norm(heads[:, : len(self.head_norm.gain)])
        return torch.cat((normed, heads[:, len(self.head_norm.gain) :].float()), 1)

    def _add(self, x: Tensor, y: Tensor, norm: RmsNorm | LayerNorm | None) -> Tensor:
        """What comes out of a half of the layer, to x."""
        y = y if norm is None else norm(y)
        return x + y if self.residual == 1 else x + self.residual * y


class Head(nn.Module):
    """Final norm and LM head on the last of each `tokens` rows, of a step on all of them; logits times `gain`, within `softcap`."""

    def __init__(
        self,
        final_norm: RmsNorm | LayerNorm,
        lm_head: FormatLinear,
        tokens: int,
        gain: float = 1.0,
        softcap: float = 0.0,
    ) -> None:
        super().__init__()
        self.final_norm, self.lm_head, self.tokens = final_norm, lm_head, tokens
        self.gain, self.softcap = gain, softcap

    def forward(self, x: Tensor) -> Tensor:
        """X [batch·tokens, hidden] float32 -> logits [batch, vocab] float32."""
        last = x[self.tokens - 1 :: self.tokens]
        y: Tensor = self.lm_head(self.final_norm(last).to(self.lm_head.activation)).float()
        if self.gain != 1:
            y = y * self.gain
        return self.softcap * torch.tanh(y / self.softcap) if self.softcap else y


class Decoder(nn.Module):
    """All layers, each with its attention, and the head."""

    def __init__(self, layers: list[DecoderLayer], attentions: list[nn.Module], head: Head) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers)
        self.attentions = nn.ModuleList(attentions)
        self.head = head

    def forward(self, x: Tensor) -> Tensor:
        """X [batch·tokens, hidden] float32 -> logits [rows of the head, vocab] float32."""
        for layer, attend in zip(self.layers, self.attentions, strict=True):
            x = layer(x, attend)
        logits: Tensor = self.head(x)
        return logits

    def compile_parts(self) -> None:
        """Compile a layer and the head, each as one graph. The layers share one, so depth costs no time."""
        for part in (*self.layers, self.head):
            part.compile(fullgraph=True, dynamic=False)

    @property
    def stored_bytes(self) -> int:
        """Bytes of weights that one call streams, as torch stores them."""
        linears = [m for m in self.modules() if isinstance(m, FormatLinear)]
        norms = [m.gain for m in self.modules() if isinstance(m, RmsNorm | LayerNorm)]
        others = [m for m in self.modules() if isinstance(m, LatentHalf | RoutedHalf)]
        return sum(m.stored_bytes for m in (*linears, *others)) + sum(g.nbytes for g in norms)

    def settings(self) -> dict[str, Any]:
        """Of layers with experts: how these run, and how many different ones the last launch took in each."""
        halves = [m for m in self.modules() if isinstance(m, RoutedHalf)]
        if not halves:
            return {}
        own = {} if halves[0].given is None else OWN_ROUTES
        return {
            "experts": halves[0].form,
            "experts_read": experts_read([half.choice for half in halves]),
        } | own


def build_decoder(
    inputs: ModelInputs,
    make_linear: MakeLinear,
    make_attention: MakeAttention,
    device: str = "cpu",
    home: str | None = None,
    make_routed: MakeRouted | None = None,
) -> Decoder:
    """The decoder for the inputs of a step or a prompt, made and moved one layer at a time. `make_routed`: for layers with experts.

    Caches go to `device`, weights to `home`, which is the same unless they should stay in host memory.
    """
    home = device if home is None else home
    model, work = inputs.model, inputs.work
    rows = len(inputs.x)
    final_norm = make_norm(model, inputs.final_norm(), inputs.source.final_bias())
    # The largest matrix first: where matrices are packed in the background, all others go beside it.
    decoder = model.decoder
    tokens = 1 if isinstance(work, Step) else work.tokens
    lm_head = make_linear([inputs.lm_head()], None, rows // tokens)
    head = Head(final_norm, lm_head, tokens, decoder.logit_gain, decoder.logit_softcap)
    layers, attentions = [], []
    for index, kind in enumerate(decoder.layers):
        routed = None if make_routed is None else partial(make_routed, index)
        layer = DecoderLayer(model, kind, inputs.layer(index), make_linear, rows, routed)
        layers.append(layer.to(home))
        attentions.append(make_attention(index).to(device))
    return Decoder(layers, attentions, head.to(home)).eval()


def attention_maker(inputs: ModelInputs, form: str) -> MakeAttention:
    """The attention of each layer, with its cache: in a form of `FORMS` over context and new tokens, or causal."""
    work, model = inputs.work, inputs.model
    queries = work.queries if isinstance(work, Step) else 0
    positions = range(work.context, work.context + queries) if isinstance(work, Step) else range(work.tokens)
    tables = {
        (kind.mixer.rope, _turning_width(kind.attention)): RopeTable(
            kind.mixer.rope, _turning_width(kind.attention), positions
        )
        for kind in model.decoder.kinds
        if not isinstance(kind.mixer, GatedDelta | Mamba2)
    }

    def make(index: int) -> nn.Module:
        kind = model.decoder.layers[index]
        if isinstance(kind.mixer, GatedDelta | Mamba2):
            return _with_state(inputs, index, kind.mixer)
        mixer = kind.attention
        table = tables[mixer.rope, _turning_width(mixer)]
        if isinstance(mixer, Latent):
            if mixer.index is not None:
                return make_indexed(inputs, index, table, form)
            if queries:
                cached = make_cache(inputs.cache(index), queries)[0]
                return CachedLatent(mixer, cached, table, form, queries)
            rows = torch.zeros(work.batch, 1, positions.stop, mixer.token_numbers, dtype=FLOATS[work.kv])
            return CausalLatent(mixer, rows, table)
        sinks = inputs.layer(index).vectors["sinks"] if mixer.sinks else None
        if queries:
            cache = make_cache(inputs.cache(index), queries)
            return CachedAttention(mixer, cache, table, FORMS[form], sinks, model.norm_eps, queries)
        shape = (work.batch, mixer.kv_heads, positions.stop, mixer.head_dim)
        empty = (torch.zeros(shape, dtype=FLOATS[work.kv]), torch.zeros(shape, dtype=FLOATS[work.kv]))
        return CausalAttention(mixer, empty, table, sinks, model.norm_eps)

    return make


def _with_state(inputs: ModelInputs, index: int, mixer: GatedDelta | Mamba2) -> nn.Module:
    """What a state answers: to the new token of a step, or to a prompt, before which it is empty."""
    vectors = inputs.layer(index).vectors
    if isinstance(inputs.work, Step):
        state = inputs.state(index)
        if isinstance(mixer, GatedDelta):
            return CachedDelta(mixer, state, vectors)
        return CachedMamba(mixer, state, vectors)
    if isinstance(mixer, GatedDelta):
        return PromptDelta(mixer, vectors, inputs.work.batch)
    return PromptMamba(mixer, vectors, inputs.work.batch)


def _turning_width(mixer: Attention | Latent) -> int:
    """Of what RoPE turns, a head or the part of it that turns."""
    return mixer.rope_dim if isinstance(mixer, Latent) else mixer.head_dim


def _bias(vectors: Mapping[str, F32], *names: str) -> F32 | None:
    """Biases of matrices that are stacked; None where there are none."""
    parts = [vectors[f"{name}_bias"] for name in names if f"{name}_bias" in vectors]
    return np.concatenate(parts) if parts else None


def _head_norm(mixer: Attention, weights: LayerWeights, eps: float) -> RmsNorm | None:
    """One norm over query and key heads together, its gain [Hq + Hkv, D], and over values where they have one."""
    if weights.q_norm is None or weights.k_norm is None:
        return None
    gains = [weights.q_norm] * mixer.q_heads + [weights.k_norm] * mixer.kv_heads
    gains += [np.ones(mixer.head_dim, np.float32)] * (mixer.kv_heads if mixer.value_norm else 0)
    return RmsNorm(np.stack(gains), eps)
