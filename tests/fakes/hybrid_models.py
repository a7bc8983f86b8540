"""Small models whose layers hold states, with widths that no vector divides: dense, and with experts."""

from __future__ import annotations

import pytest

from membound.kernels import models
from membound.kernels.mixers import GatedDelta, Mamba2
from membound.kernels.parts import Attention, Decoder, Experts, Layer, Mlp
from membound.kernels.rope import Rope

DELTA = GatedDelta(key_heads=2, value_heads=6, key_dim=24, value_dim=20, kernel=3)
FULL = Attention(6, 2, 32, head_norm="head", gated=True, rope=Rope(1e4, dim=8))
MIXTURE = Experts(8, 3, Mlp(40), Mlp(24), shared_gate=True)


def hybrid(name: str, mlp: Mlp | Experts) -> Decoder:
    state, full = Layer(DELTA, mlp), Layer(FULL, mlp)
    return Decoder(name, 96, 301, (state, state, full, state), eps=1e-6)


MAMBA = Mamba2(heads=6, head_dim=20, state_dim=24, groups=2, kernel=4)
PLAIN = Mlp(72, gated=False, activation="relu2")


def nemotron() -> Decoder:
    """A mixer without an MLP among layers that have one."""
    state, full = Layer(MAMBA, PLAIN), Layer(Attention(6, 2, 32, rope=None), PLAIN)
    alone = Layer(MAMBA, Mlp(0, gated=False, activation="relu2"), "half")
    return Decoder("tiny-mamba", 96, 301, (state, alone, full, state))


MAMBAS = {"tiny-mamba": nemotron()}
HYBRID = {"tiny-delta": hybrid("tiny-delta", Mlp(72)), "tiny-delta-moe": hybrid("tiny-delta-moe", MIXTURE)}


@pytest.fixture
def hybrid_models(monkeypatch: pytest.MonkeyPatch) -> None:
    """These models by their names."""
    for name, one in (HYBRID | MAMBAS).items():
        monkeypatch.setitem(models.SHAPES, name, one)
