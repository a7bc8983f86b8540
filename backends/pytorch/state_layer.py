"""Layers whose mixer has a state that does not grow, in torch: the gated delta rule of one new token a sequence.

>>> half = DeltaHalf(mixer, weights, make_linear, rows=1, eps=1e-6)
>>> y = half(normed, CachedDelta(mixer, inputs.state(0), weights.vectors))          # [rows, hidden] float32 -> the same

The state behind the step is written beside the one before it: however often a step is launched, it is the same one. The arithmetic is
that of `membound.kernels.recurrence`; the state is float32.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from math import sqrt

import torch
from torch import Tensor, nn
from torch.nn import functional

from membound.backends.pytorch.linear import FormatLinear, as_tensor
from membound.kernels.mixers import GatedDelta
from membound.kernels.recurrence import LENGTH_EPS
from membound.kernels.weights.formats import F32, Weight
from membound.kernels.weights.layers import LayerWeights
from membound.kernels.weights.states import State

MakeLinear = Callable[[Sequence[Weight], F32 | None, int], FormatLinear]


class DeltaHalf(nn.Module):
    """What goes into a state and comes out of it: products, the norm of each head, and its gate."""

    gain: Tensor

    def __init__(
        self, mixer: GatedDelta, weights: LayerWeights, make_linear: MakeLinear, rows: int, eps: float
    ) -> None:
        super().__init__()
        m = weights.matrices
        self.mixer, self.eps = mixer, eps
        self.into = make_linear([m[name] for name in ("q", "k", "v", "b", "a", "z")], None, rows)
        self.o = make_linear([m["o"]], None, rows)
        self.register_buffer("gain", as_tensor(weights.vectors["state_norm"], "f32"))

    def forward(self, x: Tensor, attend: Callable[[Tensor], Tensor]) -> Tensor:
        """X [rows, hidden] float32 -> the same; `attend` turns what goes into the state to what it answers, [rows, heads, value_dim]."""
        flat = self.into(x.to(self.into.activation)).float()
        width = self.mixer.value_heads * self.mixer.value_dim
        answer = attend(flat[:, :-width])
        gate = functional.silu(torch.unflatten(flat[:, -width:], 1, answer.shape[1:]))
        y = functional.rms_norm(answer, self.gain.shape, self.gain, self.eps) * gate
        out: Tensor = self.o(y.flatten(1).to(self.o.activation))
        return out


class CachedDelta(nn.Module):
    """The state of each sequence [B, heads, key_dim, value_dim], the tokens before for the convolution, and both behind the step."""

    tail: Tensor
    tail_after: Tensor
    state: Tensor
    state_after: Tensor
    conv: Tensor
    decay: Tensor
    dt_bias: Tensor

    def __init__(self, mixer: GatedDelta, state: State, vectors: Mapping[str, F32]) -> None:
        super().__init__()
        self.mixer = mixer
        tail, matrices = torch.from_numpy(state.tail), torch.from_numpy(state.matrices)
        self.register_buffer("tail", tail)
        self.register_buffer("tail_after", torch.zeros_like(tail))
        self.register_buffer("state", matrices)
        self.register_buffer("state_after", torch.zeros_like(matrices))
        conv = as_tensor(vectors["conv"], "f32").view(mixer.channels, mixer.kernel)
        self.register_buffer("conv", conv.T.contiguous())
        self.register_buffer("decay", -as_tensor(vectors["log_decay"], "f32").exp())
        self.register_buffer("dt_bias", as_tensor(vectors["dt_bias"], "f32"))

    def forward(self, flat: Tensor) -> Tensor:
        """Columns of q, k, v, then b and a of each head [B, channels + 2 · heads] -> [B, heads, value_dim], all float32."""
        mixer = self.mixer
        columns, share, kept = torch.split(flat, [mixer.channels, mixer.value_heads, mixer.value_heads], 1)
        window = torch.cat((self.tail, columns[:, None]), 1)
        self.tail_after.copy_(window[:, 1:])
        mixed = functional.silu((window * self.conv).sum(1))
        width = mixer.key_heads * mixer.key_dim
        q, k, v = torch.split(mixed, [width, width, mixed.shape[1] - 2 * width], 1)
        q, k = (self._heads(a) for a in (q, k))
        v = torch.unflatten(v, 1, (mixer.value_heads, mixer.value_dim))
        kept = torch.exp(self.decay * functional.softplus(kept + self.dt_bias))[..., None]
        # Queries and keys meet the state in one pass; what the token adds to the answer needs no other.
        recalled = kept[..., None] * torch.matmul(torch.stack((q, k), 2), self.state)
        correction = torch.sigmoid(share)[..., None] * (v - recalled[:, :, 1])
        torch.mul(self.state, kept[..., None], out=self.state_after)
        self.state_after.addcmul_(k[..., None], correction[:, :, None])
        answer: Tensor = recalled[:, :, 0] + (q * k).sum(-1, keepdim=True) * correction
        scaled: Tensor = answer / sqrt(mixer.key_dim)
        return scaled

    def _heads(self, x: Tensor) -> Tensor:
        """Of unit length, one for each value head."""
        heads = torch.unflatten(x, 1, (self.mixer.key_heads, self.mixer.key_dim))
        heads = heads * torch.rsqrt((heads * heads).sum(-1, keepdim=True) + LENGTH_EPS)
        repeated: Tensor = heads.repeat_interleave(self.mixer.value_heads // self.mixer.key_heads, 1)
        return repeated
