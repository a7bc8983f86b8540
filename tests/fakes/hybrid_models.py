"""Small models whose layers hold states, with widths that no vector divides: dense, and with experts."""

from __future__ import annotations

from dataclasses import replace

import pytest

from membound.kernels import models
from membound.kernels.mixers import GatedDelta, Indexer, Mamba2
from membound.kernels.parts import Attention, Decoder, Experts, Latent, Layer, Mlp, Router
from membound.kernels.rope import Rope

DELTA = GatedDelta(key_heads=2, value_heads=6, key_dim=24, value_dim=20, kernel=3)
FULL = Attention(6, 2, 32, head_norm="head", gated=True, rope=Rope(1e4, dim=8))
MIXTURE = Experts(8, 3, Mlp(40), Mlp(24), shared_gate=True)


def hybrid(name: str, mlp: Mlp | Experts) -> Decoder:
    state, full = Layer(DELTA, mlp), Layer(FULL, mlp)
    return Decoder(name, 96, 301, (state, state, full, state), eps=1e-6)


MAMBA = Mamba2(heads=6, head_dim=20, state_dim=24, groups=2, kernel=4)
PLAIN = Mlp(72, gated=False, activation="relu2")


PART = replace(PLAIN, width=40)
UNGATED = Experts(8, 3, PART, PLAIN, router=Router("sigmoid", correction=True, factor=2.5))


def nemotron(name: str, mlp: Mlp | Experts, mamba: Mamba2) -> Decoder:
    """A mixer without an MLP among layers that have one."""
    state, full = Layer(mamba, mlp), Layer(Attention(6, 2, 32, rope=None), mlp)
    alone = Layer(mamba, Mlp(0, gated=False, activation="relu2"), "half")
    return Decoder(name, 96, 301, (state, alone, full, state))


def granite(name: str, mlp: Mlp | Experts) -> Decoder:
    """Gated halves behind states, what comes out of each multiplied by less than one."""
    state = Layer(MAMBA, mlp, residual=0.22)
    full = Layer(Attention(6, 2, 32, rope=None, scale=0.1), mlp, residual=0.22)
    return Decoder(name, 96, 301, (state, full, state), embedding_gain=12.0, logit_gain=1 / 6)


def indexed(name: str, mlp: Mlp | Experts) -> Decoder:
    """The third layer takes the tokens that the second one selects."""
    latent = Latent(3, 28, 40, nope_dim=20, rope_dim=12, value_dim=18, index=Indexer(5, 20, 9))
    shared = replace(latent, index=Indexer(5, 20, 9, shared=True))
    layers = (Layer(latent, Mlp(72)), Layer(latent, mlp), Layer(shared, mlp), Layer(latent, mlp))
    return Decoder(name, 96, 301, layers, eps=1e-6)


ROUTED = Experts(8, 3, Mlp(40), Mlp(24), router=Router("sigmoid", correction=True, groups=2, groups_chosen=1))
INDEXED = {"tiny-index": indexed("tiny-index", Mlp(72)), "tiny-index-moe": indexed("tiny-index-moe", ROUTED)}
MAMBAS = {
    "tiny-mamba": nemotron("tiny-mamba", PLAIN, MAMBA),
    "tiny-mamba-moe": nemotron("tiny-mamba-moe", UNGATED, replace(MAMBA, bias=True, least_step=0.3)),
    "tiny-granite-h": granite("tiny-granite-h", Mlp(72)),
    "tiny-granite-h-moe": granite("tiny-granite-h-moe", Experts(8, 3, Mlp(40), Mlp(72))),
}
HYBRID = {"tiny-delta": hybrid("tiny-delta", Mlp(72)), "tiny-delta-moe": hybrid("tiny-delta-moe", MIXTURE)}


@pytest.fixture
def hybrid_models(monkeypatch: pytest.MonkeyPatch) -> None:
    """These models by their names."""
    for name, one in (HYBRID | MAMBAS | INDEXED).items():
        monkeypatch.setitem(models.SHAPES, name, one)
