"""Shapes of published models as layers of parts: what they hold, and what they compute.

>>> SHAPES["gemma-3-1b"].kinds[SHAPES["gemma-3-1b"].layers[0]]
22

Dense ones are run (`models`), all of them predicted (`shapes`).
"""

from __future__ import annotations

from dataclasses import replace
from math import log
from typing import Any

from membound.kernels.parts import Attention, Decoder, Experts, Latent, Layer, Mlp, Router
from membound.kernels.published_hybrids import HYBRIDS
from membound.kernels.rope import LinearScaling, Llama3Scaling, Rope, YarnScaling

NOT_KNOWN = "what {} computes is not known here"


def _dense(
    name: str,
    size: tuple[int, int, int],
    heads: tuple[int, int, int],
    width: int,
    rope: Rope,
    eps: float = 1e-5,
    tied: bool = False,
    norms: str = "before",
    **attention: Any,
) -> Decoder:
    """All layers alike; size is (hidden, layers, vocab), heads (q, KV, width)."""
    hidden, count, vocab = size
    layer = Layer(Attention(*heads, rope=rope, **attention), Mlp(width), norms)
    return Decoder(name, hidden, vocab, (layer,) * count, tied, eps=eps)


def _qwen(
    name: str, size: tuple[int, int, int], heads: tuple[int, int, int], width: int, **more: Any
) -> Decoder:
    """Qwen 2.5 where there are biases, else Qwen 3."""
    normed = {} if "biases" in more else {"head_norm": "head"}
    return _dense(name, size, heads, width, Rope(1e6), **({"eps": 1e-6} | normed | more))


def _every(count: int, period: int, last: Layer, others: Layer) -> tuple[Layer, ...]:
    """Layers of which every `period`-th is `last`."""
    return tuple(others if (index + 1) % period else last for index in range(count))


def _smollm3() -> Decoder:
    """Every fourth layer tells no positions."""
    plain = _dense("smollm3-3b", (2048, 36, 128256), (16, 4, 128), 11008, Rope(5e6), 1e-6, tied=True)
    layer = plain.layers[0]
    still = replace(layer, mixer=Attention(16, 4, 128, rope=None))
    return replace(plain, layers=_every(36, 4, still, layer))


def _gemma(
    name: str,
    size: tuple[int, int, int],
    heads: tuple[int, int, int],
    width: int,
    windows: tuple[int, int],
    scalar: int = 256,
    stretched: float = 0,
) -> Decoder:
    """Gemma 2 and 3; windows is (the period of layers that see all, tokens that the others see).

    `scalar`: scores are divided by its root. `stretched`: the factor of linear scaling in layers that see all.
    """
    (hidden, count, vocab), (period, window), third = size, windows, windows[0] == 6
    scaling = LinearScaling(stretched) if stretched else None
    seen: dict[str, Any] = {"scale": scalar**-0.5} | ({"head_norm": "head"} if third else {"softcap": 50.0})
    full = Attention(*heads, rope=Rope(1e6, scaling=scaling) if third else Rope(), **seen)
    mlp = Mlp(width, activation="gelu_tanh")
    last = Layer(full, mlp, norms="both")
    others = replace(last, mixer=replace(full, window=window, rope=Rope()))
    layers = _every(count, period, last, others)
    cap = 0.0 if third else 30.0
    return Decoder(
        name, hidden, vocab, layers, tied=True, eps=1e-6, embedding_gain=hidden**0.5, logit_softcap=cap
    )


def _routed(
    name: str,
    size: tuple[int, int, int],
    mixer: Attention | Latent,
    dense: tuple[int, int],
    mixture: Experts,
    eps: float = 1e-6,
    not_known: str = "",
) -> Decoder:
    """Dense layers first, then routed ones; size is (hidden, layers, vocab), dense (layers, width)."""
    hidden, count, vocab = size
    first = (Layer(mixer, Mlp(dense[1])),) * dense[0]
    layers = first + (Layer(mixer, mixture),) * (count - dense[0])
    return Decoder(name, hidden, vocab, layers, eps=eps, not_known=not_known)


def _deepseek_v3(count: int, chosen: int, width: int, groups: tuple[int, int], factor: float) -> Experts:
    """Routed as DeepSeek-V3 does it, with one expert that every token takes."""
    router = Router("sigmoid", correction=True, groups=groups[0], groups_chosen=groups[1], factor=factor)
    return Experts(count, chosen, Mlp(width), Mlp(width), router=router)


def _deepseek_v2(count: int, groups: tuple[int, int], factor: float) -> Experts:
    router = Router(normalised=False, groups=groups[0], groups_chosen=groups[1], group_best=1, factor=factor)
    width = 1408 if count == 64 else 1536
    return Experts(count, 6, Mlp(width), Mlp(2 * width), router=router)


def _latent(heads: int, q_rank: int, factor: float = 40.0, times: float = 1.0, theta: float = 1e4) -> Latent:
    """DeepSeek's widths and YaRN, whose gain goes into the scale of scores."""
    scale = (0.1 * times * log(factor) + 1) ** 2 * 192**-0.5
    rope = Rope(theta, neighbours=True, scaling=YarnScaling(factor, 4096.0))
    return Latent(heads, q_rank, rope=rope, scale=scale)


def _gpt_oss(name: str, count: int, experts: int) -> Decoder:
    rope = Rope(150000.0, scaling=YarnScaling(32.0, 4096.0, gain=0.1 * log(32) + 1, truncate=False))
    attention = Attention(64, 8, 64, biases="qkvo", sinks=True, rope=rope)
    expert = Mlp(2880, bias=True, activation="clamped")
    full = Layer(attention, Experts(experts, 4, expert, router=Router(bias=True)))
    others = replace(full, mixer=replace(attention, window=128))
    return Decoder(name, 2880, 201088, _every(count, 2, full, others))


def _llama4(name: str, experts: int, period: int) -> Decoder:
    """Every `period`-th layer is routed, the others are dense; every fourth sees all, the others a chunk."""
    scout = period == 1
    rope = Rope(5e5, neighbours=True, scaling=Llama3Scaling(16.0, 1.0, 1.0, 8192.0) if scout else None)
    chunked = Attention(40, 8, 128, chunk=8192, rope=rope, head_norm="l2" if scout else "")
    full = Attention(40, 8, 128, rope=None, temperature=(8192.0, 0.1))
    router = Router("sigmoid", normalised=False, on_input=True)
    mixture = Experts(experts, 1, Mlp(8192), Mlp(8192), router=router)
    layers = tuple(
        Layer(chunked if (i + 1) % 4 else full, Mlp(16384) if (i + 1) % period else mixture)
        for i in range(48)
    )
    return Decoder(name, 5120, 202048, layers)


def _mixture(
    name: str, size: tuple[int, int, int], attention: Attention, experts: Experts, **more: Any
) -> Decoder:
    """Experts in all layers."""
    hidden, count, vocab = size
    return Decoder(name, hidden, vocab, (Layer(attention, experts),) * count, **more)


_GLM_ROPE = Rope(1e6, 64)
_SIGMOID = Router("sigmoid", correction=True)

SHAPES = {
    s.name: s
    for s in (
        _dense(
            "llama-3.2-3b", (3072, 28, 128256), (24, 8, 128), 8192,
            Rope(5e5, scaling=Llama3Scaling(32.0, 1.0, 4.0, 8192.0)), tied=True,
        ),
        _dense(
            "llama-3.1-405b", (16384, 126, 128256), (128, 8, 128), 53248,
            Rope(5e5, scaling=Llama3Scaling(8.0, 1.0, 4.0, 8192.0)),
        ),
        _dense("mistral-7b", (4096, 32, 32768), (32, 8, 128), 14336, Rope(1e6)),
        _qwen("qwen2.5-3b", (2048, 36, 151936), (16, 2, 128), 11008, biases="qkv", tied=True),
        _qwen("qwen2.5-14b", (5120, 48, 152064), (40, 8, 128), 13824, biases="qkv", eps=1e-5),
        _qwen("qwen2.5-32b", (5120, 64, 152064), (40, 8, 128), 27648, biases="qkv", eps=1e-5),
        _qwen("qwen2.5-72b", (8192, 80, 152064), (64, 8, 128), 29568, biases="qkv", eps=1e-5),
        _qwen("qwen3-0.6b", (1024, 28, 151936), (16, 8, 128), 3072, tied=True),
        _qwen("qwen3-1.7b", (2048, 28, 151936), (16, 8, 128), 6144, tied=True),
        _qwen("qwen3-4b", (2560, 36, 151936), (32, 8, 128), 9728, tied=True),
        _qwen("qwen3-8b", (4096, 36, 151936), (32, 8, 128), 12288),
        _qwen("qwen3-14b", (5120, 40, 151936), (40, 8, 128), 17408),
        _qwen("qwen3-32b", (5120, 64, 151936), (64, 8, 128), 25600),
        _dense("phi-3.5-mini", (3072, 32, 32064), (32, 32, 96), 8192, Rope()),
        _dense("phi-4-mini", (3072, 32, 200064), (24, 8, 128), 8192, Rope(dim=96), tied=True),
        _dense("phi-4", (5120, 40, 100352), (40, 10, 128), 17920, Rope(250000.0)),
        _dense(
            "olmo-2-7b", (4096, 32, 100352), (32, 32, 128), 11008, Rope(5e5), 1e-6, norms="after", head_norm="all"
        ),
        _dense(
            "olmo-2-32b", (5120, 64, 100352), (40, 8, 128), 27648, Rope(5e5), 1e-6, norms="after", head_norm="all"
        ),
        _dense(
            "glm-4-9b-0414", (4096, 40, 151552), (32, 2, 128), 13696, Rope(dim=64, neighbours=True), norms="both",
            biases="qkv",
        ),
        _dense("smollm2-135m", (576, 30, 49152), (9, 3, 64), 1536, Rope(1e5), tied=True),
        _dense("smollm2-1.7b", (2048, 24, 49152), (32, 32, 64), 8192, Rope(130000.0), tied=True),
        _smollm3(),
        _gemma("gemma-2-2b", (2304, 26, 256000), (8, 4, 256), 9216, (2, 4096)),
        _gemma("gemma-2-9b", (3584, 42, 256000), (16, 8, 256), 14336, (2, 4096)),
        _gemma("gemma-2-27b", (4608, 46, 256000), (32, 16, 128), 36864, (2, 4096), 144),
        _gemma("gemma-3-1b", (1152, 26, 262144), (4, 1, 256), 6912, (6, 512)),
        _gemma("gemma-3-4b", (2560, 34, 262208), (8, 4, 256), 10240, (6, 1024), stretched=8.0),
        _gemma("gemma-3-12b", (3840, 48, 262208), (16, 8, 256), 15360, (6, 1024), stretched=8.0),
        _gemma("gemma-3-27b", (5376, 62, 262208), (32, 16, 128), 21504, (6, 1024), 168, 8.0),
        _mixture(
            "mixtral-8x7b", (4096, 32, 32000), Attention(32, 8, 128, rope=Rope(1e6)), Experts(8, 2, Mlp(14336))
        ),
        _mixture(
            "mixtral-8x22b", (6144, 56, 32768), Attention(48, 8, 128, rope=Rope(1e6)), Experts(8, 2, Mlp(16384))
        ),
        _mixture(
            "qwen3-30b-a3b", (2048, 48, 151936), Attention(32, 4, 128, head_norm="head", rope=Rope(1e6)),
            Experts(128, 8, Mlp(768)), eps=1e-6,
        ),
        _mixture(
            "qwen3-235b-a22b", (4096, 94, 151936), Attention(64, 4, 128, head_norm="head", rope=Rope(1e6)),
            Experts(128, 8, Mlp(1536)), eps=1e-6,
        ),
        _mixture(
            "minimax-m2", (3072, 62, 200064), Attention(48, 8, 128, head_norm="all", rope=Rope(5e6, 64)),
            Experts(256, 8, Mlp(1536), router=_SIGMOID), eps=1e-6,
        ),
        _gpt_oss("gpt-oss-20b", 24, 32),
        _gpt_oss("gpt-oss-120b", 36, 128),
        _llama4("llama-4-scout", 16, 1),
        _llama4("llama-4-maverick", 128, 2),
        _routed(
            "deepseek-v2-lite", (2048, 27, 102400), _latent(16, 0, times=0.707), (1, 10944),
            _deepseek_v2(64, (1, 1), 1.0),
        ),
        _routed(
            "deepseek-v2", (5120, 60, 102400), _latent(128, 1536, times=0.707), (1, 12288),
            _deepseek_v2(160, (8, 3), 16.0),
        ),
        _routed(
            "deepseek-v3", (7168, 61, 129280), _latent(128, 1536), (3, 18432), _deepseek_v3(256, 8, 2048, (8, 4), 2.5)
        ),
        _routed(
            "kimi-k2", (7168, 61, 163840), _latent(64, 1536, 32.0, theta=50000.0), (1, 18432),
            _deepseek_v3(384, 8, 2048, (1, 1), 2.827),
        ),
        _routed(
            "glm-4.7-flash", (2048, 47, 154880), Latent(20, 768, nope_dim=192, value_dim=256), (1, 10240),
            _deepseek_v3(64, 4, 1536, (1, 1), 1.0), not_known=NOT_KNOWN.format("glm-4.7-flash"),
        ),
        _routed(
            "glm-4.5", (5120, 92, 151552),
            Attention(96, 8, 128, biases="qkv", head_norm="head", rope=_GLM_ROPE), (3, 12288),
            _deepseek_v3(160, 8, 1536, (1, 1), 2.5), 1e-5,
        ),
        _routed(
            "glm-4.5-air", (4096, 46, 151552), Attention(96, 8, 128, biases="qkv", rope=_GLM_ROPE), (1, 10944),
            _deepseek_v3(128, 8, 1408, (1, 1), 1.0), 1e-5,
        ),
    )
} | HYBRIDS  # fmt: skip
"""Sources: litgpt's config.py and mlc-llm's model_preset.py (Gemma, Phi, OLMo, SmolLM2, Mixtral, Qwen3), slime's scripts/models
(DeepSeek-V3, Kimi K2, GLM, MiniMax-M2), openai/gpt-oss model.py, arXiv 2405.04434 (DeepSeek-V2), Transformers' defaults of llama4,
glm4_moe, glm4_moe_lite and smollm3, the config.json published with the others. Phi's RoPE is not stretched here: its factors,
48 for each of two lengths, change no byte."""
