"""Shapes of the models that are served: what their parts hold, for those run here and for those that are only predicted.

>>> round(shape_of("deepseek-v3").stored_weights / 1e9), round(shape_of("deepseek-v3").token_weights / 1e9, 1)
(671, 36.6)
"""

from __future__ import annotations

import difflib
import os
from dataclasses import dataclass, replace

from membound.kernels.model import Model
from membound.kernels.models import MODELS, get_model
from membound.kernels.operations import LATENT_DIM, LATENT_VALUE_DIM, SpecError

ALIASES = {
    "deepseek-r1": "deepseek-v3",
    "deepseek-v3.1": "deepseek-v3",
    "llama-3.1-8b": "llama-3-8b",
    "llama-3.1-70b": "llama-3-70b",
    "llama-3.3-70b": "llama-3-70b",
    "llama-3-405b": "llama-3.1-405b",
    "llama-7b": "llama-2-7b",
    "llama-2-70b": "llama-3-70b",
    "deepseek-r1-distill-14b": "qwen2.5-14b",
}
"""Names of models that share a shape with another. Llama-2-70B differs in its vocabulary alone (1 % of its weights)."""


@dataclass(frozen=True, slots=True)
class Shape:
    """A decoder by what its parts hold: numbers of weights and of cache, and FLOPs of attention.

    attention_weights: of one layer. kv_numbers: cached a token and layer. pair_flops: for one query token and one
    attended token in a layer. Dense MLPs of `dense_width` stand in `dense_layers`; the others route each token to
    `chosen` of `experts` with `expert_width`, besides `shared_width`. `matrices` is 3 for gated MLPs, else 2.
    """

    name: str
    layers: int
    hidden: int
    vocab: int
    attention_weights: int
    kv_numbers: int
    pair_flops: int
    dense_width: int = 0
    dense_layers: int = 0
    experts: int = 0
    chosen: int = 0
    expert_width: int = 0
    shared_width: int = 0
    matrices: int = 3
    tied: bool = False

    def streamed_weights(self, tokens: int) -> float:
        """Weights that one pass over `tokens` tokens reads: every matrix once, of experts those that are expected.

        With uniform routing E(1 − (1 − k/E)^T) of a layer's experts are read (docs/prediction.md).
        """
        routed = self.layers - self.dense_layers
        distinct = self.experts * (1 - (1 - self.chosen / self.experts) ** tokens) if self.experts else 0.0
        expert = self.matrices * self.hidden
        return (
            self.layers * self.attention_weights
            + expert * self.dense_width * self.dense_layers
            + expert * routed * (self.shared_width + distinct * self.expert_width)
            + routed * self.hidden * self.experts
            + self.vocab * self.hidden
        )

    @property
    def token_weights(self) -> float:
        """Weights that one token is multiplied by."""
        return self.streamed_weights(1)

    @property
    def stored_weights(self) -> float:
        """All weights, with the embedding table."""
        every = replace(self, chosen=self.experts).streamed_weights(1)
        return every + (0 if self.tied else self.vocab * self.hidden)


def shape_of_model(model: Model) -> Shape:
    """The shape of a dense model that is run here."""
    h, q, kv = model.hidden, model.q_dim, model.kv_dim
    return Shape(
        name=model.name,
        layers=model.layers,
        hidden=h,
        vocab=model.vocab,
        attention_weights=2 * h * q + 2 * h * kv,
        kv_numbers=2 * kv,
        pair_flops=4 * q,
        dense_width=model.intermediate,
        dense_layers=model.layers,
        matrices=3 if model.gated else 2,
        tied=model.tied,
    )


def _dense(name: str, hidden: int, layers: int, q: int, kv: int, dim: int, mlp: int, vocab: int) -> Shape:
    return shape_of_model(Model(name, hidden, layers, q, kv, dim, mlp, vocab))


def _grouped(
    name: str, hidden: int, layers: int, heads: tuple[int, int, int], vocab: int, routed: tuple[int, int, int]
) -> Shape:
    """Grouped-query attention and an expert MLP in every layer; routed is (experts, chosen, width)."""
    q, kv, dim = heads
    attention = 2 * hidden * q * dim + 2 * hidden * kv * dim
    experts, chosen, width = routed
    return Shape(
        name, layers, hidden, vocab, attention, 2 * kv * dim, 4 * q * dim,
        experts=experts, chosen=chosen, expert_width=width,
    )  # fmt: skip


def _latent(
    name: str,
    hidden: int,
    layers: int,
    heads: int,
    vocab: int,
    dense: tuple[int, int],
    routed: tuple[int, int, int],
) -> Shape:
    """DeepSeek's latent attention (q rank 1536, KV rank 512, 128 + 64 wide heads) and experts with a shared one."""
    q_rank, kv_rank, head, rope = 1536, LATENT_VALUE_DIM, 128, LATENT_DIM - LATENT_VALUE_DIM
    attention = hidden * q_rank + q_rank * heads * (head + rope) + hidden * LATENT_DIM
    attention += kv_rank * heads * 2 * head + heads * head * hidden
    experts, chosen, width = routed
    return Shape(
        name, layers, hidden, vocab, attention, LATENT_DIM, 2 * heads * (LATENT_DIM + LATENT_VALUE_DIM),
        dense_width=dense[0], dense_layers=dense[1], experts=experts, chosen=chosen, expert_width=width,
        shared_width=width,
    )  # fmt: skip


SHAPES = {
    s.name: s
    for s in (
        _dense("llama-3.2-3b", 3072, 28, 24, 8, 128, 8192, 128256),
        _dense("llama-3.1-405b", 16384, 126, 128, 8, 128, 53248, 128256),
        _dense("qwen2.5-14b", 5120, 48, 40, 8, 128, 13824, 152064),
        _dense("qwen3-8b", 4096, 36, 32, 8, 128, 12288, 151936),
        _dense("qwen3-14b", 5120, 40, 40, 8, 128, 17408, 151936),
        _dense("qwen3-32b", 5120, 64, 64, 8, 128, 25600, 151936),
        _dense("phi-4", 5120, 40, 40, 10, 128, 17920, 100352),
        _grouped("qwen3-30b-a3b", 2048, 48, (32, 4, 128), 151936, (128, 8, 768)),
        _grouped("qwen3-235b-a22b", 4096, 94, (64, 4, 128), 151936, (128, 8, 1536)),
        _grouped("gpt-oss-20b", 2880, 24, (64, 8, 64), 201088, (32, 4, 2880)),
        _grouped("gpt-oss-120b", 2880, 36, (64, 8, 64), 201088, (128, 4, 2880)),
        _latent("deepseek-v3", 7168, 61, 128, 129280, (18432, 3), (256, 8, 2048)),
        _latent("kimi-k2", 7168, 61, 64, 163840, (18432, 1), (384, 8, 2048)),
    )
}
"""Models that are predicted and not run here. Sources: litgpt's config.py (qwen3, phi-4), openai/gpt-oss model.py,
slime's scripts/models (deepseek-v3, kimi-k2), the config.json published with the others."""


def shape_by_size(name: str, weights: float) -> Shape:
    """A dense decoder of that many weights in the proportions of Llama: for rows of models whose shape is not known.

    Layers grow with the power 0.42 of the weights from Llama-3-8B's 32 (80 at 70 billion); 12 h² weights in a layer of width h,
    8 KV heads of 128.
    """
    layers = max(1, round(32 * (weights / 8e9) ** 0.42))
    each = round(weights / layers)
    hidden = round((each / 12) ** 0.5)
    return Shape(name, layers, hidden, 0, each, 2 * 8 * 128, 4 * hidden)


def shape_of(name: str) -> Shape:
    """The shape of a model by name, alias or local folder. Raises SpecError with the nearest names, ModelError for a folder."""
    known = ALIASES.get(name, name)
    if known in SHAPES:
        return SHAPES[known]
    if known in MODELS or os.path.isdir(known):
        return shape_of_model(get_model(known))
    names = [*MODELS, *SHAPES, *ALIASES]
    near = difflib.get_close_matches(name, names, 3) or names
    raise SpecError(f"unknown model {name!r}; nearest: {', '.join(near)}, or a folder with config.json")
