"""Shapes of the models that are served: what their parts hold, for those run here and for those that are only predicted.

>>> round(shape_of("deepseek-v3").stored_weights / 1e9), round(shape_of("deepseek-v3").token_weights / 1e9, 1)
(671, 36.6)
"""

from __future__ import annotations

import difflib
import os
from dataclasses import replace
from functools import cache
from pathlib import Path

from membound.kernels.decoder_folder import read_decoder
from membound.kernels.model import Model
from membound.kernels.models import MODELS
from membound.kernels.operations import SpecError
from membound.kernels.parts import Attention, Decoder, Experts, Latent, Layer, Mlp

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


@cache
def shape_of_model(model: Model) -> Decoder:
    """The shape of a dense model that is run here."""
    attention = Attention(
        model.q_heads,
        model.kv_heads,
        model.head_dim,
        biases="qkv" if model.qkv_bias else "",
        head_norm="head" if model.qk_norm else "",
    )
    layer = Layer(attention, Mlp(model.intermediate, model.gated))
    late = replace(layer, mixer=replace(attention, window=model.window))
    layers = tuple(late if index >= model.window_from else layer for index in range(model.layers))
    return Decoder(model.name, model.hidden, model.vocab, layers, model.tied)


def _same(name: str, hidden: int, vocab: int, count: int, layer: Layer, tied: bool = False) -> Decoder:
    """All layers alike."""
    return Decoder(name, hidden, vocab, (layer,) * count, tied)


def _every(count: int, period: int, last: Layer, others: Layer) -> tuple[Layer, ...]:
    """Layers of which every `period`-th is `last`."""
    return tuple(others if (index + 1) % period else last for index in range(count))


def _gemma(
    name: str, hidden: int, count: int, heads: tuple[int, int, int], width: int, windows: tuple[int, int]
) -> Decoder:
    """Gemma 2 and 3; windows is (the period of layers that see all, tokens that the others see)."""
    (period, window), third = windows, windows[0] == 6
    full = Layer(Attention(*heads, head_norm="head" if third else ""), Mlp(width), norms=4)
    vocab = (262144 if hidden == 1152 else 262208) if third else 256000
    others = replace(full, mixer=Attention(*heads, window=window, head_norm="head" if third else ""))
    return Decoder(name, hidden, vocab, _every(count, period, full, others), tied=True)


def _gpt_oss(name: str, count: int, experts: int) -> Decoder:
    attention = Attention(64, 8, 64, biases="qkvo", sinks=True)
    full = Layer(attention, Experts(experts, 4, Mlp(2880, bias=True), router_vectors=1))
    others = replace(full, mixer=replace(attention, window=128))
    return Decoder(name, 2880, 201088, _every(count, 2, full, others))


def _routed(
    name: str,
    size: tuple[int, int, int],
    mixer: Attention | Latent,
    dense: tuple[int, int],
    routed: tuple[int, int, int],
    shared: int = 1,
) -> Decoder:
    """Dense layers first, then routed ones; size is (hidden, layers, vocab), dense (layers, width), routed (experts, chosen, width).

    `shared` experts are taken by every token.
    """
    hidden, count, vocab = size
    experts, chosen, width = routed
    mixture = Experts(experts, chosen, Mlp(width), Mlp(shared * width) if shared else None, router_vectors=1)
    first = (Layer(mixer, Mlp(dense[1])),) * dense[0]
    return Decoder(name, hidden, vocab, first + (Layer(mixer, mixture),) * (count - dense[0]))


def _llama4(name: str, experts: int, period: int) -> Decoder:
    """Every `period`-th layer is routed, the others are dense; every fourth sees all, the others a chunk."""
    full, chunked = Attention(40, 8, 128), Attention(40, 8, 128, chunk=8192)
    mixture = Experts(experts, 1, Mlp(8192), Mlp(8192))
    layers = tuple(
        Layer(chunked if (i + 1) % 4 else full, Mlp(16384) if (i + 1) % period else mixture)
        for i in range(48)
    )
    return Decoder(name, 5120, 202048, layers)


SHAPES = {
    s.name: s
    for s in (
        _same("llama-3.2-3b", 3072, 128256, 28, Layer(Attention(24, 8, 128), Mlp(8192)), tied=True),
        _same("llama-3.1-405b", 16384, 128256, 126, Layer(Attention(128, 8, 128), Mlp(53248))),
        _same("mistral-7b", 4096, 32768, 32, Layer(Attention(32, 8, 128), Mlp(14336))),
        _same("qwen2.5-3b", 2048, 151936, 36, Layer(Attention(16, 2, 128, biases="qkv"), Mlp(11008)), tied=True),
        _same("qwen2.5-14b", 5120, 152064, 48, Layer(Attention(40, 8, 128, biases="qkv"), Mlp(13824))),
        _same("qwen2.5-32b", 5120, 152064, 64, Layer(Attention(40, 8, 128, biases="qkv"), Mlp(27648))),
        _same("qwen2.5-72b", 8192, 152064, 80, Layer(Attention(64, 8, 128, biases="qkv"), Mlp(29568))),
        _same("qwen3-0.6b", 1024, 151936, 28, Layer(Attention(16, 8, 128, head_norm="head"), Mlp(3072)), tied=True),
        _same("qwen3-1.7b", 2048, 151936, 28, Layer(Attention(16, 8, 128, head_norm="head"), Mlp(6144)), tied=True),
        _same("qwen3-4b", 2560, 151936, 36, Layer(Attention(32, 8, 128, head_norm="head"), Mlp(9728)), tied=True),
        _same("qwen3-8b", 4096, 151936, 36, Layer(Attention(32, 8, 128, head_norm="head"), Mlp(12288))),
        _same("qwen3-14b", 5120, 151936, 40, Layer(Attention(40, 8, 128, head_norm="head"), Mlp(17408))),
        _same("qwen3-32b", 5120, 151936, 64, Layer(Attention(64, 8, 128, head_norm="head"), Mlp(25600))),
        _same("phi-3.5-mini", 3072, 32064, 32, Layer(Attention(32, 32, 96), Mlp(8192))),
        _same("phi-4-mini", 3072, 200064, 32, Layer(Attention(24, 8, 128), Mlp(8192)), tied=True),
        _same("phi-4", 5120, 100352, 40, Layer(Attention(40, 10, 128), Mlp(17920))),
        _same("olmo-2-7b", 4096, 100352, 32, Layer(Attention(32, 32, 128, head_norm="all"), Mlp(11008))),
        _same("olmo-2-32b", 5120, 100352, 64, Layer(Attention(40, 8, 128, head_norm="all"), Mlp(27648))),
        _same("glm-4-9b-0414", 4096, 151552, 40, Layer(Attention(32, 2, 128, biases="qkv"), Mlp(13696), norms=4)),
        _same("smollm2-135m", 576, 49152, 30, Layer(Attention(9, 3, 64), Mlp(1536)), tied=True),
        _same("smollm2-1.7b", 2048, 49152, 24, Layer(Attention(32, 32, 64), Mlp(8192)), tied=True),
        _same("smollm3-3b", 2048, 128256, 36, Layer(Attention(16, 4, 128), Mlp(11008)), tied=True),
        _gemma("gemma-2-2b", 2304, 26, (8, 4, 256), 9216, (2, 4096)),
        _gemma("gemma-2-9b", 3584, 42, (16, 8, 256), 14336, (2, 4096)),
        _gemma("gemma-2-27b", 4608, 46, (32, 16, 128), 36864, (2, 4096)),
        _gemma("gemma-3-1b", 1152, 26, (4, 1, 256), 6912, (6, 512)),
        _gemma("gemma-3-4b", 2560, 34, (8, 4, 256), 10240, (6, 1024)),
        _gemma("gemma-3-12b", 3840, 48, (16, 8, 256), 15360, (6, 1024)),
        _gemma("gemma-3-27b", 5376, 62, (32, 16, 128), 21504, (6, 1024)),
        _same("mixtral-8x7b", 4096, 32000, 32, Layer(Attention(32, 8, 128), Experts(8, 2, Mlp(14336)))),
        _same("mixtral-8x22b", 6144, 32768, 56, Layer(Attention(48, 8, 128), Experts(8, 2, Mlp(16384)))),
        _same(
            "qwen3-30b-a3b", 2048, 151936, 48,
            Layer(Attention(32, 4, 128, head_norm="head"), Experts(128, 8, Mlp(768))),
        ),
        _same(
            "qwen3-235b-a22b", 4096, 151936, 94,
            Layer(Attention(64, 4, 128, head_norm="head"), Experts(128, 8, Mlp(1536))),
        ),
        _same(
            "minimax-m2", 3072, 200064, 62,
            Layer(Attention(48, 8, 128, head_norm="all"), Experts(256, 8, Mlp(1536), router_vectors=1)),
        ),
        _gpt_oss("gpt-oss-20b", 24, 32),
        _gpt_oss("gpt-oss-120b", 36, 128),
        _llama4("llama-4-scout", 16, 1),
        _llama4("llama-4-maverick", 128, 2),
        _routed("deepseek-v2-lite", (2048, 27, 102400), Latent(16, 0), (1, 10944), (64, 6, 1408), shared=2),
        _routed("deepseek-v2", (5120, 60, 102400), Latent(128, 1536), (1, 12288), (160, 6, 1536), shared=2),
        _routed("deepseek-v3", (7168, 61, 129280), Latent(128, 1536), (3, 18432), (256, 8, 2048)),
        _routed("kimi-k2", (7168, 61, 163840), Latent(64, 1536), (1, 18432), (384, 8, 2048)),
        _routed(
            "glm-4.7-flash", (2048, 47, 154880), Latent(20, 768, nope_dim=192, value_dim=256), (1, 10240), (64, 4, 1536)
        ),
        _routed(
            "glm-4.5", (5120, 92, 151552), Attention(96, 8, 128, biases="qkv", head_norm="head"), (3, 12288),
            (160, 8, 1536),
        ),
        _routed(
            "glm-4.5-air", (4096, 46, 151552), Attention(96, 8, 128, biases="qkv"), (1, 10944), (128, 8, 1408)
        ),
    )
}  # fmt: skip
"""Models that are predicted and not run here. Sources: litgpt's config.py and mlc-llm's model_preset.py (Gemma, Phi, OLMo, SmolLM2,
Mixtral, Qwen3), slime's scripts/models (DeepSeek-V3, Kimi K2, GLM, MiniMax-M2), openai/gpt-oss model.py, arXiv 2405.04434
(DeepSeek-V2), Transformers' defaults of llama4, glm4_moe, glm4_moe_lite and smollm3, the config.json published with the others."""


def shape_by_size(name: str, weights: float) -> Decoder:
    """A dense decoder of that many weights in the proportions of Llama: for rows of models whose shape is not known.

    Layers grow with the power 0.42 of the weights from Llama-3-8B's 32 (80 at 70 billion); 12 h² weights in a layer of width h,
    8 KV heads of 128.
    """
    layers = max(1, round(32 * (weights / 8e9) ** 0.42))
    each = weights / layers
    hidden = max(1, round((each / 12) ** 0.5))
    attention = Attention(max(1, round(hidden / 128)), 8, 128)
    used = Layer(attention, Mlp(0)).streamed(hidden, 1)
    width = max(1, round((each - used) / (2 * hidden)))
    return _same(name, hidden, 0, layers, Layer(attention, Mlp(width, gated=False)))


def shape_of(name: str) -> Decoder:
    """The shape of a model by name, alias or local folder. Raises SpecError with the nearest names, ModelError for a folder."""
    known = ALIASES.get(name, name)
    if known in SHAPES:
        return SHAPES[known]
    if known in MODELS:
        return shape_of_model(MODELS[known])
    if os.path.isdir(known):
        return read_decoder(Path(known))
    names = [*MODELS, *SHAPES, *ALIASES]
    near = difflib.get_close_matches(name, names, 3)
    hint = (
        f"; nearest: {', '.join(near)}, or"
        if near
        else f": it is none of the {len(names)} names in docs/prediction.md, nor"
    )
    raise SpecError(f"unknown model {name!r}{hint} a folder with config.json")
