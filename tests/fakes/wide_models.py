"""Small models as Gemma 4 has them: wider heads where a layer sees all, keys that are values, experts beside an MLP; and plainer ones."""

from __future__ import annotations

from dataclasses import replace

import pytest

from membound.kernels import models
from membound.kernels.parts import Attention, Decoder, Experts, Layer, Mlp, Router
from membound.kernels.rope import ProportionalScaling, Rope

NEAR = Attention(6, 3, 32, window=9, head_norm="head", scale=1.0, rope=Rope(1e4), value_norm=True)
FULL = Attention(
    6, 2, 64, head_norm="head", scale=1.0, rope=Rope(1e6, scaling=ProportionalScaling(8)),
    keys_are_values=True, value_norm=True,
)  # fmt: skip
MLP = Mlp(72, activation="gelu_tanh")
EXPERTS = Experts(8, 3, Mlp(40, activation="gelu_tanh"), MLP, router=Router(gains=True))


def wide(name: str, near: Attention, full: Attention, mlp: Mlp | Experts) -> Decoder:
    norms = "both_beside" if isinstance(mlp, Experts) else "both"
    first, last = (Layer(mixer, mlp, norms, gain=True) for mixer in (near, full))
    return Decoder(
        name, 96, 301, (first, first, last, first), eps=1e-6, embedding_gain=9.8, logit_softcap=3.0
    )


ODD = {"q_heads": 3, "kv_heads": 1}
WIDE = {
    one.name: one
    for one in (
        wide("tiny-wide", NEAR, FULL, MLP),
        wide("tiny-wide-moe", NEAR, FULL, EXPERTS),
        wide("tiny-wide-odd", replace(NEAR, head_dim=20, **ODD), replace(FULL, head_dim=34, biases="qkvo", **ODD), MLP),
        wide("tiny-wide-512", NEAR, replace(FULL, head_dim=512, rope=Rope(1e6, scaling=ProportionalScaling(64))), MLP),
        wide("tiny-one-width", NEAR, replace(NEAR, window=0), MLP),
    )
}  # fmt: skip


@pytest.fixture
def wide_models(monkeypatch: pytest.MonkeyPatch) -> None:
    """These models by their names."""
    for name, one in WIDE.items():
        monkeypatch.setitem(models.SHAPES, name, one)
