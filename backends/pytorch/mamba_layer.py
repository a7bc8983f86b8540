"""Layers with the state of Mamba-2 in torch, of one new token a sequence.

>>> half = MambaHalf(mixer, weights, make_linear, rows=1, eps=1e-5)
>>> y = half(normed, CachedMamba(mixer, inputs.state(0), weights.vectors))          # [rows, hidden] float32 -> the same

As in `state_layer`, the state behind the step is written beside the one before it. The arithmetic is that of
`membound.kernels.recurrence`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from membound.backends.pytorch.linear import as_tensor
from membound.backends.pytorch.state_layer import MakeLinear
from membound.kernels.mixers import Mamba2
from membound.kernels.weights.formats import F32
from membound.kernels.weights.layers import LayerWeights
from membound.kernels.weights.states import State


class MambaHalf(nn.Module):
    """What goes into a state and comes out of it: products, the gate, and a norm over each group of heads."""

    gain: Tensor

    def __init__(
        self, mixer: Mamba2, weights: LayerWeights, make_linear: MakeLinear, rows: int, eps: float
    ) -> None:
        super().__init__()
        m, vectors = weights.matrices, weights.vectors
        self.mixer, self.eps = mixer, eps
        names = ("z", "x", "b", "c", "dt")
        self.into = make_linear([m[name] for name in names], vectors.get("into_bias"), rows)
        self.o = make_linear([m["o"]], vectors.get("o_bias"), rows)
        self.register_buffer("gain", as_tensor(vectors["state_norm"], "f32").view(mixer.groups, -1))

    def forward(self, x: Tensor, attend: Callable[[Tensor], Tensor]) -> Tensor:
        """X [rows, hidden] float32 -> the same; `attend` turns what goes into the state to what it answers, [rows, width]."""
        flat = self.into(x.to(self.into.activation)).float()
        gated: Tensor = attend(flat[:, self.mixer.width :]) * functional.silu(flat[:, : self.mixer.width])
        groups = torch.unflatten(gated, 1, self.gain.shape)
        y = functional.rms_norm(groups, groups.shape[-1:], None, self.eps) * self.gain
        out: Tensor = self.o(y.flatten(1).to(self.o.activation))
        return out


class CachedMamba(nn.Module):
    """The state of each sequence [B, heads, head_dim, state_dim], the tokens before for the convolution, and both behind the step."""

    tail: Tensor
    tail_after: Tensor
    state: Tensor
    state_after: Tensor
    conv: Tensor
    conv_bias: Tensor
    decay: Tensor
    dt_bias: Tensor
    skip: Tensor

    def __init__(self, mixer: Mamba2, state: State, vectors: Mapping[str, F32]) -> None:
        super().__init__()
        self.mixer = mixer
        tail, matrices = torch.from_numpy(state.tail), torch.from_numpy(state.matrices)
        self.register_buffer("tail", tail)
        self.register_buffer("tail_after", torch.zeros_like(tail))
        self.register_buffer("state", matrices)
        self.register_buffer("state_after", torch.zeros_like(matrices))
        conv = as_tensor(vectors["conv"], "f32").view(mixer.channels, mixer.kernel)
        self.register_buffer("conv", conv.T.contiguous())
        bias = vectors.get("conv_bias", np.zeros(mixer.channels, np.float32))
        self.register_buffer("conv_bias", as_tensor(bias, "f32"))
        self.register_buffer("decay", -as_tensor(vectors["log_decay"], "f32").exp())
        for name in ("dt_bias", "skip"):
            self.register_buffer(name, as_tensor(vectors[name], "f32"))

    def forward(self, flat: Tensor) -> Tensor:
        """Columns of x, B and C, then the time step of each head [B, channels + heads] -> [B, width], all float32."""
        mixer = self.mixer
        columns, steps = torch.split(flat, [mixer.channels, mixer.heads], 1)
        window = torch.cat((self.tail, columns[:, None]), 1)
        self.tail_after.copy_(window[:, 1:])
        mixed = functional.silu((window * self.conv).sum(1) + self.conv_bias)
        shared = mixer.groups * mixer.state_dim
        x, b, c = torch.split(mixed, [mixer.width, shared, shared], 1)
        x = torch.unflatten(x, 1, (mixer.heads, mixer.head_dim))
        b, c = (self._heads(a) for a in (b, c))
        dt = functional.softplus(steps + self.dt_bias).clamp(min=mixer.least_step)[..., None]
        kept, added = torch.exp(self.decay[:, None] * dt), dt * x
        torch.mul(self.state, kept[..., None], out=self.state_after)
        self.state_after.addcmul_(added[..., None], b[:, :, None])
        held = kept * torch.matmul(self.state, c[..., None])[..., 0]
        answer = held + added * (b * c).sum(-1, keepdim=True) + self.skip[:, None] * x
        flattened: Tensor = answer.flatten(1)
        return flattened

    def _heads(self, x: Tensor) -> Tensor:
        """One for each head of a group."""
        groups = torch.unflatten(x, 1, (self.mixer.groups, self.mixer.state_dim))
        repeated: Tensor = groups.repeat_interleave(self.mixer.heads // self.mixer.groups, 1)
        return repeated
