"""States that do not grow over a whole prompt, in torch: the gated delta rule and Mamba-2 of tokens that follow each other.

>>> from membound.backends.pytorch.state_layer import DeltaHalf
>>> half = DeltaHalf(mixer, weights, make_linear, rows=512, eps=1e-6)
>>> y = half(normed, PromptDelta(mixer, weights.vectors, batch=1))                  # [512, hidden] float32 -> the same

Tokens are taken in chunks of `CHUNK`: within a chunk each token meets the ones before it in products of matrices, and the state goes
from chunk to chunk. It begins empty, and what the last token leaves behind is kept, as a cache is. Sources: arXiv 2412.06464 (section
3.3) and 2405.21060 (section 6); the arithmetic is that of `membound.kernels.recurrence`, all of it float32.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import inf, sqrt

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from membound.backends.pytorch.linear import as_tensor
from membound.kernels.mixers import GatedDelta, Mamba2, Recurrent
from membound.kernels.recurrence import LENGTH_EPS
from membound.kernels.weights.formats import F32
from membound.kernels.weights.states import matrix_shape

CHUNK = 64
"""Tokens of a chunk: within it products grow with their square, and each chunk waits for the one before."""


class _Prompt(nn.Module):
    """The convolution, and the states that it and the rule leave behind."""

    tail_after: Tensor
    state_after: Tensor
    conv: Tensor
    conv_bias: Tensor
    decay: Tensor
    dt_bias: Tensor

    def __init__(self, mixer: Recurrent, vectors: Mapping[str, F32], batch: int) -> None:
        super().__init__()
        self.batch, self.kernel, self.channels = batch, mixer.kernel, mixer.channels
        self.register_buffer("tail_after", torch.zeros(batch, mixer.kernel - 1, mixer.channels))
        self.register_buffer("state_after", torch.zeros(batch, *matrix_shape(mixer)))
        conv = as_tensor(vectors["conv"], "f32").view(mixer.channels, mixer.kernel)
        self.register_buffer("conv", conv.T.contiguous())
        bias = vectors.get("conv_bias", np.zeros(mixer.channels, np.float32))
        self.register_buffer("conv_bias", as_tensor(bias, "f32"))
        self.register_buffer("decay", -as_tensor(vectors["log_decay"], "f32").exp())
        self.register_buffer("dt_bias", as_tensor(vectors["dt_bias"], "f32"))

    def _convolved(self, columns: Tensor) -> Tensor:
        """The causal convolution of [B, T, channels] under SiLU, behind nothing; the last tokens are kept."""
        padded = functional.pad(columns, (0, 0, self.kernel - 1, 0))
        tokens = columns.shape[1]
        self.tail_after.copy_(padded[:, tokens:])
        y = self.conv_bias + padded[:, :tokens] * self.conv[0]
        for i in range(1, self.kernel):
            y = torch.addcmul(y, padded[:, i : i + tokens], self.conv[i])
        return functional.silu(y)


class PromptDelta(_Prompt):
    """The gated delta rule; what each token corrects within its chunk comes from a triangular system, all chunks at once."""

    def __init__(self, mixer: GatedDelta, vectors: Mapping[str, F32], batch: int) -> None:
        super().__init__(mixer, vectors, batch)
        self.mixer = mixer

    def forward(self, flat: Tensor) -> Tensor:
        """Columns of q, k, v, then b and a of each head [B·T, channels + 2 · heads] -> [B·T, heads, value_dim], all float32."""
        mixer, heads = self.mixer, self.mixer.value_heads
        each = torch.unflatten(flat, 0, (self.batch, flat.shape[0] // self.batch))
        columns, share, step = torch.split(each, [mixer.channels, heads, heads], 2)
        width = mixer.key_heads * mixer.key_dim
        mixed = self._convolved(columns)
        q, k, v = torch.split(mixed, [width, width, mixed.shape[2] - 2 * width], 2)
        q, k = (_chunked(self._unit(a)) for a in (q, k))
        v = _chunked(torch.unflatten(v, 2, (heads, mixer.value_dim)))
        share = _chunked(torch.sigmoid(share)[..., None])
        kept = _chunked((self.decay * functional.softplus(step + self.dt_bias))[..., None])[..., 0].cumsum(-1)
        between, last = _decays(kept), kept[..., -1:]
        # Corrections u of a chunk: u + share · (decayed k·k below the diagonal) u = share · (v - what k recalls of the state before).
        system = (share * (k @ k.transpose(-1, -2)) * between).tril(-1)
        recalls = k * kept.exp()[..., None]
        solved = torch.linalg.solve_triangular(
            system, share * torch.cat((v, recalls), -1), upper=False, unitriangular=True
        )
        wanted, recalled = torch.split(solved, [mixer.value_dim, mixer.key_dim], -1)
        seen = (q @ k.transpose(-1, -2)) * between
        asked, left = q * kept.exp()[..., None], (k * (last - kept).exp()[..., None]).transpose(-1, -2)
        state, answers = torch.zeros_like(self.state_after), []
        for i in range(kept.shape[2]):
            corrected = wanted[:, :, i] - recalled[:, :, i] @ state
            answers.append(asked[:, :, i] @ state + seen[:, :, i] @ corrected)
            state = state * last[:, :, i, :, None].exp() + left[:, :, i] @ corrected
        self.state_after.copy_(state)
        return _unchunked(answers, each.shape[1]).flatten(0, 1) / sqrt(mixer.key_dim)

    def _unit(self, x: Tensor) -> Tensor:
        """Of unit length, one for each value head."""
        heads = torch.unflatten(x, 2, (self.mixer.key_heads, self.mixer.key_dim))
        heads = heads * torch.rsqrt((heads * heads).sum(-1, keepdim=True) + LENGTH_EPS)
        return heads.repeat_interleave(self.mixer.value_heads // self.mixer.key_heads, 2)


class PromptMamba(_Prompt):
    """Mamba-2; heads of a group share the products of B and C."""

    skip: Tensor

    def __init__(self, mixer: Mamba2, vectors: Mapping[str, F32], batch: int) -> None:
        super().__init__(mixer, vectors, batch)
        self.mixer = mixer
        self.register_buffer("skip", as_tensor(vectors["skip"], "f32"))

    def forward(self, flat: Tensor) -> Tensor:
        """Columns of x, B and C, then the time step of each head [B·T, channels + heads] -> [B·T, width], all float32."""
        mixer, shared = self.mixer, self.mixer.groups * self.mixer.state_dim
        each = torch.unflatten(flat, 0, (self.batch, flat.shape[0] // self.batch))
        columns, steps = torch.split(each, [mixer.channels, mixer.heads], 2)
        x, b, c = torch.split(self._convolved(columns), [mixer.width, shared, shared], 2)
        x = torch.unflatten(x, 2, (mixer.heads, mixer.head_dim))
        b, c = (_chunked(torch.unflatten(a, 2, (mixer.groups, mixer.state_dim))) for a in (b, c))
        dt = functional.softplus(steps + self.dt_bias).clamp(min=mixer.least_step)[..., None]
        kept = _chunked(self.decay[:, None] * dt)[..., 0].cumsum(-1)
        added, last = _chunked(dt * x), kept[..., -1:]
        seen = self._each_head(c @ b.transpose(-1, -2)) * _decays(kept)
        within = seen @ added
        asked, b = self._each_head(c) * kept.exp()[..., None], self._each_head(b)
        left = (added * (last - kept).exp()[..., None]).transpose(-1, -2)
        state, answers = torch.zeros_like(self.state_after), []
        for i in range(kept.shape[2]):
            answers.append(asked[:, :, i] @ state.transpose(-1, -2) + within[:, :, i])
            state = state * last[:, :, i, :, None].exp() + left[:, :, i] @ b[:, :, i]
        self.state_after.copy_(state)
        y = _unchunked(answers, each.shape[1]) + self.skip[:, None] * x
        return y.flatten(2).flatten(0, 1)

    def _each_head(self, x: Tensor) -> Tensor:
        """Of [B, groups, chunks, …] one for each head of a group."""
        return x.repeat_interleave(self.mixer.heads // self.mixer.groups, 1)


def _chunked(x: Tensor) -> Tensor:
    """[B, T, heads, columns] -> [B, heads, chunks, tokens of a chunk, columns]; what the last chunk lacks is zeros, which change nothing."""
    tokens = x.shape[1]
    size = min(CHUNK, tokens)
    padded = functional.pad(x, (0, 0, 0, 0, 0, -tokens % size))
    return torch.unflatten(padded, 1, (padded.shape[1] // size, size)).permute(0, 3, 1, 2, 4).contiguous()


def _unchunked(chunks: list[Tensor], tokens: int) -> Tensor:
    """[B, heads, tokens of a chunk, columns] each -> [B, T, heads, columns]."""
    return torch.cat(chunks, 2)[:, :, :tokens].transpose(1, 2)


def _decays(kept: Tensor) -> Tensor:
    """How much of what a token adds is left at another of its chunk, [.., at, of]; nothing at those before it. `kept`: sums of logarithms."""
    between = kept[..., :, None] - kept[..., None, :]
    later = torch.ones(between.shape[-2:], dtype=torch.bool, device=kept.device).triu(1)
    return between.masked_fill(later, -inf).exp()
