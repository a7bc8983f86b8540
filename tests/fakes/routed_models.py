"""Small models with experts and with latent attention, one for each way to route: `add` makes them known by name."""

from __future__ import annotations

from dataclasses import replace
from math import log

import pytest

from membound.kernels import models
from membound.kernels.parts import ROPE_OF_NEIGHBOURS, Attention, Decoder, Experts, Latent, Layer, Mlp, Router
from membound.kernels.rope import Rope, YarnScaling

HIDDEN, VOCAB = 128, 300


def decoder(name: str, *layers: Layer, **more: float) -> Decoder:
    return Decoder(name, HIDDEN, VOCAB, layers, **more)  # type: ignore[arg-type]


def _qwen() -> Decoder:
    layer = Layer(Attention(4, 2, 32, head_norm="head", rope=Rope(1e6)), Experts(8, 2, Mlp(64)))
    return decoder("qwen", layer, layer)


def _shared() -> Decoder:
    """Qwen2-MoE: what every token takes has a gate, and shares of the chosen do not add up to 1."""
    experts = Experts(8, 2, Mlp(64), Mlp(96), shared_gate=True, router=Router(normalised=False))
    layer = Layer(Attention(4, 2, 32, biases="qkv"), experts)
    return decoder("shared", layer, layer)


def _gpt_oss() -> Decoder:
    """Sinks, windows, YaRN, biases everywhere, clamped gates."""
    rope = Rope(150000.0, scaling=YarnScaling(32.0, 16.0, gain=0.1 * log(32) + 1, truncate=False))
    full = Attention(4, 2, 32, biases="qkvo", sinks=True, rope=rope)
    experts = Experts(8, 2, Mlp(64, bias=True, activation="clamped"), router=Router(bias=True))
    layer = Layer(full, experts)
    return decoder("gpt-oss", replace(layer, mixer=replace(full, window=9)), layer)


def _granite() -> Decoder:
    layer = Layer(Attention(4, 2, 32, scale=1 / 64), Experts(8, 3, Mlp(64)), residual=0.22)
    return decoder("granite", layer, layer, embedding_gain=12.0, logit_gain=1 / 6)


def _glm() -> Decoder:
    """A dense layer first; sigmoids, corrections, a factor, one expert for every token."""
    router = Router("sigmoid", correction=True, factor=2.5)
    experts = Experts(8, 2, Mlp(64), Mlp(64), router=router)
    dense = Layer(Attention(4, 2, 32, biases="qkv", rope=Rope(dim=16)), Mlp(160))
    return decoder("glm", dense, replace(dense, mlp=experts))


def _on_input() -> Decoder:
    """Llama 4: one expert a token, whose share multiplies what goes in; chunks, L2 norms, temperatures, a layer without RoPE."""
    router = Router("sigmoid", normalised=False, on_input=True)
    chunked = Attention(4, 2, 32, chunk=8, head_norm="l2", rope=ROPE_OF_NEIGHBOURS)
    full = Attention(4, 2, 32, rope=None, temperature=(4.0, 0.1))
    layer = Layer(chunked, Experts(8, 1, Mlp(64), Mlp(64), router=router))
    return decoder("on-input", layer, replace(layer, mixer=full))


def _lite() -> Decoder:
    """DeepSeek-V2-lite: queries straight from the hidden state."""
    latent = Latent(
        4, 0, 64, 32, 16, 32, rope=Rope(neighbours=True, scaling=YarnScaling(40.0, 16.0)), scale=0.2
    )
    router = Router(normalised=False, group_best=1)
    dense = Layer(latent, Mlp(160))
    return decoder("lite", dense, replace(dense, mlp=Experts(8, 3, Mlp(64), Mlp(128), router=router)))


def _deepseek() -> Decoder:
    """DeepSeek-V3: queries through a rank, 2 of 4 groups of experts."""
    latent = Latent(8, 48, 64, 32, 16, 32, biases=True)
    router = Router("sigmoid", correction=True, groups=4, groups_chosen=2, factor=2.5)
    dense = Layer(latent, Mlp(160))
    return decoder("deepseek", dense, replace(dense, mlp=Experts(16, 4, Mlp(64), Mlp(64), router=router)))


ROUTED = {
    f"tiny-{one.name}": one for one in (_qwen(), _shared(), _gpt_oss(), _granite(), _glm(), _on_input())
}
LATENT = {f"tiny-{one.name}": one for one in (_lite(), _deepseek())}
EVERY = ROUTED | LATENT


@pytest.fixture
def routed_models(monkeypatch: pytest.MonkeyPatch) -> None:
    """All of them as built-in models."""
    for name, one in EVERY.items():
        monkeypatch.setitem(models.SHAPES, name, replace(one, name=name))
