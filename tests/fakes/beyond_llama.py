"""`tiny` with one thing each that Llama does not compute, and small dense models of families with windows."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from membound.kernels.models import MODELS, SHAPES, Model
from membound.kernels.parts import Attention, Decoder, Layer, Mlp
from membound.kernels.rope import LinearScaling, Rope, YarnScaling


def with_layers(name: str, layer: dict[str, Any], mixer: dict[str, Any], **whole: Any) -> Model:
    """`tiny` as parts, with changes to every layer, to its attention and to the whole."""
    tiny = MODELS["tiny"]
    kind = tiny.decoder.layers[0]
    changed = replace(kind, mixer=replace(kind.mixer, **mixer), **layer)
    return replace(tiny, name=name, parts=replace(tiny.decoder, layers=(changed,) * 2, **whole))


BEYOND = {
    "window": with_layers("variant", {}, {"window": 9}),
    "chunk": with_layers("variant", {}, {"chunk": 16}),
    "softcap": with_layers("variant", {}, {"softcap": 3.0}),
    "sinks": with_layers("variant", {}, {"sinks": True, "window": 9}),
    "scale": with_layers("variant", {}, {"scale": 0.4}),
    "wide norms": with_layers("variant", {}, {"head_norm": "all"}),
    "no RoPE": with_layers("variant", {}, {"rope": None}),
    "neighbours": with_layers("variant", {}, {"rope": Rope(neighbours=True)}),
    "part of a head": with_layers("variant", {}, {"rope": Rope(dim=12, neighbours=True)}),
    "YaRN": with_layers("variant", {}, {"rope": Rope(scaling=YarnScaling(4.0, 16.0, gain=1.3))}),
    "all biases": with_layers("variant", {"mlp": Mlp(512, bias=True)}, {"biases": "qkvo"}),
    "GELU gates": with_layers("variant", {"mlp": Mlp(512, activation="gelu_tanh")}, {}),
    "norms behind": with_layers("variant", {"norms": "after"}, {}),
    "norms on both sides": with_layers("variant", {"norms": "both", "residual": 0.3}, {}),
    "LayerNorm": with_layers("variant", {}, {}, norm="layer", norm_vectors=2),
    "logits": with_layers("variant", {}, {}, logit_gain=0.3, logit_softcap=0.5),
}


def _family(name: str, near: Attention, full: Attention, mlp: Mlp, norms: str, **whole: Any) -> Decoder:
    layers = tuple(Layer(mixer, mlp, norms) for mixer in (near, full, near))
    return Decoder(f"tiny-{name}", 128, 300, layers, **whole)


_GEMMA_2 = Attention(6, 2, 32, scale=0.3, softcap=4.0)
_GEMMA_3 = Attention(3, 1, 64, head_norm="head", rope=Rope(1e6, scaling=LinearScaling(8.0)))
_MISTRAL = Attention(5, 5, 34, window=9)
_GELU = Mlp(160, activation="gelu_tanh")
WINDOWED = {
    one.name: one
    for one in (
        _family(
            "gemma-2",
            replace(_GEMMA_2, window=9),
            _GEMMA_2,
            _GELU,
            "both",
            embedding_gain=11.3,
            logit_softcap=3.0,
        ),
        _family("gemma-3", replace(_GEMMA_3, window=9, rope=Rope(1e4)), _GEMMA_3, _GELU, "both"),
        _family("mistral", _MISTRAL, _MISTRAL, Mlp(160), "before"),
    )
}


@pytest.fixture
def windowed_models(monkeypatch: pytest.MonkeyPatch) -> None:
    """All of them as built-in models."""
    for name, one in WINDOWED.items():
        monkeypatch.setitem(SHAPES, name, one)
