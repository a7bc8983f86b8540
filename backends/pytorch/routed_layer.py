"""The half of a layer that routes rows to experts, in torch: router, choice by the model's rule, experts, shared MLP.

>>> half = RoutedHalf(part, weights, make_linear, 8, "float", distinct=52, background=background)
>>> y = half(normed)           # [rows, hidden] float32 -> the same

Of `experts` it takes the products; the arithmetic of routers is that of `membound.kernels.forward`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from math import sqrt

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional

from membound.backends.background import Background
from membound.backends.pytorch.experts import Kind, make_mix, takes_floats
from membound.backends.pytorch.linear import FormatLinear, as_tensor
from membound.kernels.layer_tensors import ROUTER
from membound.kernels.parts import Experts, Router
from membound.kernels.weights.formats import F32, Weight
from membound.kernels.weights.layers import LayerWeights

MakeLinear = Callable[[Sequence[Weight], F32 | None, int], FormatLinear]
BESIDE = ("router_norm", "experts_norm", "experts_out_norm", "shared_out_norm")
"""Gains of norms where experts stand beside an MLP."""


class RoutedHalf(nn.Module):
    """Experts and what every row takes besides. `form`: how experts run; `ids` [rows, chosen]: the last choice.

    `given` [rows, chosen]: the choice where it is made already; the router's product and shares are computed all the same.
    """

    router: Tensor

    def __init__(
        self,
        part: Experts,
        weights: LayerWeights,
        make_linear: MakeLinear,
        rows: int,
        act: str,
        distinct: int,
        background: Background,
        given: npt.NDArray[np.int64] | None = None,
        eps: float = 0.0,
    ) -> None:
        super().__init__()
        matrices, vectors = weights.matrices, weights.vectors
        self.part, self.ids = part, torch.zeros(0, dtype=torch.int64)
        self.register_buffer("router", as_tensor(matrices[ROUTER].values, "f32"))
        self.router_bias: Tensor | None
        self.correction: Tensor | None
        self.shared_gate: Tensor | None
        self.given: Tensor | None
        self.expert_gain: Tensor | None
        self.eps = eps
        self.register_buffer("given", None if given is None else torch.from_numpy(given))
        for name in ("router_bias", "correction", "shared_gate", "expert_gain", *BESIDE):
            self.register_buffer(name, as_tensor(vectors[name], "f32") if name in vectors else None)
        first = matrices["expert0.up"]
        grouped = takes_floats(first.format, (first.k, first.n))
        self.form = "grouped_mm" if grouped else "loop"
        most = -(-rows * part.chosen // distinct)
        self._mix, size = make_mix(
            lambda number: _expert(matrices, number, part.expert.gated),
            _kind(part, vectors),
            act,
            most,
            grouped,
            background,
        )
        self.stored_bytes = distinct * size + self.router.nbytes
        self.up = self.down = None
        self._shared = Kind(1)
        if part.shared is not None:
            self._shared = Kind(1, part.shared.activation, gated=part.shared.gated)
            into = ("gate", "up") if part.shared.gated else ("up",)
            biases = [vectors[f"shared.{name}_bias"] for name in into if part.shared.bias]
            bias = np.concatenate(biases) if biases else None
            self.up = make_linear([matrices[f"shared.{name}"] for name in into], bias, rows)
            self.down = make_linear([matrices["shared.down"]], vectors.get("shared.down_bias"), rows)

    @property
    def choice(self) -> npt.NDArray[np.int64]:
        """The experts of each row in the last launch [rows, chosen]."""
        ids: npt.NDArray[np.int64] = self.ids.numpy()
        return ids

    def forward(self, x: Tensor) -> Tensor:
        """X [rows, hidden] float32 -> the same."""
        y, common = self._chosen(x, x), self._common(x)
        return y if common is None else y + common

    def with_mlp(self, x: Tensor, normed: Tensor) -> Tensor:
        """The MLP of normed x and experts of x, each under norms of their own, as `forward.beside` has it."""
        common, y = self._common(normed), self._chosen(self._norm("experts_norm", x), self._seen(x))
        if common is None:
            raise AssertionError("no MLP beside the experts")
        return self._norm("shared_out_norm", common) + self._norm("experts_out_norm", y)

    def _seen(self, x: Tensor) -> Tensor:
        """What a router with a norm of its own meets."""
        return self._norm("router_norm", x) / sqrt(x.shape[-1])

    def _norm(self, name: str, x: Tensor) -> Tensor:
        gain: Tensor = getattr(self, name)
        return functional.rms_norm(x, gain.shape, gain, self.eps)

    def _chosen(self, x: Tensor, seen: Tensor) -> Tensor:
        """The experts of x that the router chooses by `seen`."""
        self.ids, shares = choose_by_rule(
            functional.linear(seen, self.router), self.part.router, self.part.chosen,
            self.router_bias, self.correction, self.given, self.expert_gain,
        )  # fmt: skip
        return self._mix(x, self.ids, shares)

    def _common(self, x: Tensor) -> Tensor | None:
        """What every row takes; None where there is nothing."""
        if self.up is None or self.down is None:
            return None
        hidden = self._shared.activate(self.up(x.to(self.up.activation)), self.ids)
        common: Tensor = self.down(hidden.to(self.down.activation)).float()
        if self.shared_gate is not None:
            common = common * torch.sigmoid(x @ self.shared_gate)[:, None]
        return common


def choose_by_rule(
    logits: Tensor,
    router: Router,
    chosen: int,
    bias: Tensor | None,
    correction: Tensor | None,
    given: Tensor | None = None,
    gains: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """ids and shares [rows, chosen] of logits [rows, count]; ids are those that are given, if any are. gains [count]: of shares."""
    logits = logits if bias is None else logits + bias
    score = logits.softmax(-1) if router.score == "softmax" else torch.sigmoid(logits)
    wish = score if correction is None else score + correction
    if router.groups > 1:
        grouped = torch.unflatten(wish, -1, (router.groups, -1))
        best = grouped.topk(router.group_best, -1).values.sum(-1)
        away = torch.ones_like(best, dtype=torch.bool).scatter(
            -1, best.topk(router.groups_chosen, -1).indices, False
        )
        wish = grouped.masked_fill(away[..., None], -torch.inf).flatten(-2)
    ids = wish.topk(chosen, -1).indices if given is None else given
    shares = score.gather(-1, ids)
    if router.normalised:
        shares = shares / shares.sum(-1, keepdim=True)
    shares = shares * router.factor
    return ids, shares if gains is None else shares * gains[ids]


def _expert(matrices: Mapping[str, Weight], number: int, gated: bool) -> tuple[Weight, ...]:
    names = ("gate", "up", "down") if gated else ("up", "down")
    return tuple(matrices[f"expert{number}.{name}"] for name in names)


def _kind(part: Experts, vectors: Mapping[str, F32]) -> Kind:
    def biases(*names: str) -> Tensor | None:
        if not part.expert.bias:
            return None
        each = [
            np.concatenate([vectors[f"expert{number}.{name}_bias"] for name in names])
            for number in range(part.count)
        ]
        return torch.from_numpy(np.stack(each))

    gated = part.expert.gated
    into = biases("gate", "up") if gated else biases("up")
    return Kind(part.count, part.expert.activation, part.router.on_input, into, biases("down"), gated)
