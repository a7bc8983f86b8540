"""A decoder in torch, for a decode step and for a prompt, with linears and attention that can be swapped.

>>> decoder = build_decoder(inputs, make_linear, make_attention)
>>> logits = decoder(x)        # [rows, hidden] -> float32 [batch, vocab]

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

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from membound.backends.pytorch.attention import (
    CachedAttention,
    CausalAttention,
    DecodeForm,
    RopeTable,
    make_cache,
)
from membound.backends.pytorch.linear import FLOATS, FormatLinear, as_tensor
from membound.kernels.inputs import ModelInputs
from membound.kernels.model import Model
from membound.kernels.weights.formats import F32, Weight
from membound.kernels.weights.layers import LayerWeights
from membound.kernels.work import Step

MakeLinear = Callable[[Sequence[Weight], F32 | None, int], FormatLinear]
MakeAttention = Callable[[int], nn.Module]


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


class DecoderLayer(nn.Module):
    """Pre-norm attention and MLP. The residual stream is float32; each matmul has its own dtype."""

    def __init__(self, model: Model, weights: LayerWeights, make_linear: MakeLinear, rows: int) -> None:
        super().__init__()
        m = weights.matrices
        self.heads = (model.q_heads + 2 * model.kv_heads, model.head_dim)
        self.attention_norm = RmsNorm(weights.attention_norm, model.norm_eps)
        self.mlp_norm = RmsNorm(weights.mlp_norm, model.norm_eps)
        self.head_norm = _head_norm(model, weights)
        self.qkv = make_linear([m["q"], m["k"], m["v"]], _qkv_bias(weights), rows)
        self.o = make_linear([m["o"]], None, rows)
        self.gated = model.gated
        self.up = make_linear([m["gate"], m["up"]] if model.gated else [m["up"]], None, rows)
        self.down = make_linear([m["down"]], None, rows)

    def forward(self, x: Tensor, attend: Callable[[Tensor], Tensor]) -> Tensor:
        """X [rows, hidden] float32 -> the same; `attend` as `make_attention` of the module's docstring."""
        heads = self.qkv(self.attention_norm(x).to(self.qkv.activation)).view(-1, *self.heads)
        if self.head_norm is not None:
            normed = self.head_norm(heads[:, : len(self.head_norm.gain)])
            heads = torch.cat((normed, heads[:, len(self.head_norm.gain) :].float()), 1)
        x = x + self.o(attend(heads).to(self.o.activation))
        hidden = self.up(self.mlp_norm(x).to(self.up.activation))
        if self.gated:
            gate, up = hidden.chunk(2, -1)
            hidden = functional.silu(gate) * up
        else:
            hidden = functional.gelu(hidden, approximate="tanh")
        y: Tensor = x + self.down(hidden)
        return y


class Head(nn.Module):
    """Final norm and LM head on the last of each sequence's `tokens`."""

    def __init__(self, final_norm: RmsNorm, lm_head: FormatLinear, tokens: int) -> None:
        super().__init__()
        self.final_norm, self.lm_head, self.tokens = final_norm, lm_head, tokens

    def forward(self, x: Tensor) -> Tensor:
        """X [batch·tokens, hidden] float32 -> logits [batch, vocab] float32."""
        last = x[self.tokens - 1 :: self.tokens]
        y: Tensor = self.lm_head(self.final_norm(last).to(self.lm_head.activation))
        return y.float()


class Decoder(nn.Module):
    """All layers, each with its attention, and the head."""

    def __init__(self, layers: list[DecoderLayer], attentions: list[nn.Module], head: Head) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers)
        self.attentions = nn.ModuleList(attentions)
        self.head = head

    def forward(self, x: Tensor) -> Tensor:
        """X [batch·tokens, hidden] float32 -> logits [batch, vocab] float32."""
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
        norms = [m.gain for m in self.modules() if isinstance(m, RmsNorm)]
        return sum(m.stored_bytes for m in linears) + sum(g.nbytes for g in norms)


def build_decoder(
    inputs: ModelInputs,
    make_linear: MakeLinear,
    make_attention: MakeAttention,
    device: str = "cpu",
    home: str | None = None,
) -> Decoder:
    """The decoder for the inputs of a step or a prompt, made and moved one layer at a time.

    Caches go to `device`, weights to `home`, which is the same unless they should stay in host memory.
    """
    home = device if home is None else home
    model, work = inputs.model, inputs.work
    rows = len(inputs.x)
    final_norm = RmsNorm(inputs.final_norm(), model.norm_eps)
    # The largest matrix first: where matrices are packed in the background, all others go beside it.
    head = Head(final_norm, make_linear([inputs.lm_head()], None, work.batch), rows // work.batch)
    layers, attentions = [], []
    for index in range(model.layers):
        layers.append(DecoderLayer(model, inputs.layer(index), make_linear, rows).to(home))
        attentions.append(make_attention(index).to(device))
    return Decoder(layers, attentions, head.to(home)).eval()


def attention_maker(inputs: ModelInputs, form: DecodeForm) -> MakeAttention:
    """The attention of each layer, with its cache: `form` over context + 1 tokens, or causal."""
    work, model = inputs.work, inputs.model
    if isinstance(work, Step):
        table = RopeTable(model, range(work.context, work.context + 1))
        return lambda index: CachedAttention(model, make_cache(inputs.cache(index), 1), table, form)
    table = RopeTable(model, range(work.tokens))
    shape = (work.batch, model.kv_heads, work.tokens, model.head_dim)

    def causal(index: int) -> nn.Module:
        empty = (torch.zeros(shape, dtype=FLOATS[work.kv]), torch.zeros(shape, dtype=FLOATS[work.kv]))
        return CausalAttention(model, empty, table)

    return causal


def _qkv_bias(weights: LayerWeights) -> F32 | None:
    parts = [b for b in (weights.q_bias, weights.k_bias, weights.v_bias) if b is not None]
    return np.concatenate(parts) if parts else None


def _head_norm(model: Model, weights: LayerWeights) -> RmsNorm | None:
    """One norm over query and key heads together, its gain [Hq + Hkv, D]."""
    if weights.q_norm is None or weights.k_norm is None:
        return None
    gains = [weights.q_norm] * model.q_heads + [weights.k_norm] * model.kv_heads
    return RmsNorm(np.stack(gains), model.norm_eps)
