"""Shapes of published models whose layers hold a state or an index, or values narrower than keys; `published` has all.

>>> HYBRIDS["qwen3-next-80b-a3b"].state_bytes
(79036416, 76677120)

Sources: Transformers' defaults of qwen3_next (Qwen3-Next-80B-A3B), qwen3_5_text (Qwen3.5-9B), deepseek_v32, glm_moe_dsa (GLM-5),
mimo_v2_flash, nemotron_h and phimoe, which are the published config.json; patterns of layers and Nemotron-3-Nano's widths from
the config.json published with each, Ministral-3-14B's likewise; of Granite 4.0 from model cards, config.json and GGUF metadata.
"""

from __future__ import annotations

from dataclasses import replace

from membound.kernels.mixers import GatedDelta, Indexer, Mamba2
from membound.kernels.parts import Attention, Decoder, Experts, Latent, Layer, Mlp, Router
from membound.kernels.rope import Rope

NOT_RUN = "{}, which {} has, is counted and not run here"
SIGMOID = Router("sigmoid", correction=True)
_DELTA = GatedDelta(16, 32, 128, 128)
_NANO_PATTERN = "MEMEM*EMEMEM*EMEMEM*EMEMEM*EMEMEM*EMEMEMEM*EMEMEMEME"
_NEMOTRON_H_PATTERN = "M-M-M-M*-M-M-M-M-M*-M-M-M-M-M*-M-M-M-M-M*-M-M-M-M-M-"


def _qwen(
    name: str, size: tuple[int, int, int], heads: tuple[int, int, int], mlp: Mlp | Experts, tied: bool = False
) -> Decoder:
    """Three layers with a state, then one of gated attention, a quarter of whose heads turns; size as in `published`."""
    hidden, count, vocab = size
    attention = Attention(*heads, head_norm="head", gated=True, rope=Rope(1e7, dim=heads[2] // 4))
    kinds = Layer(_DELTA, mlp), Layer(attention, mlp)
    layers = tuple(kinds[not (index + 1) % 4] for index in range(count))
    return Decoder(name, hidden, vocab, layers, tied, eps=1e-6)


def _nemotron(
    name: str, hidden: int, pattern: str, attention: Attention, mamba: Mamba2, mlp: Mlp | Experts
) -> Decoder:
    """M: a state, *: attention, each with the MLP or experts (- or E) behind it, if one follows."""
    layers = list[Layer]()
    for block in pattern:
        if block in "M*":
            nothing = Mlp(0, gated=False, activation="relu2")
            layers.append(Layer(mamba if block == "M" else attention, nothing, "half"))
        else:
            layers[-1] = replace(layers[-1], mlp=mlp, norms="before")
    return Decoder(name, hidden, 131072, tuple(layers))


def _indexed(
    name: str, size: tuple[int, int, int], latent: Latent, dense: int, heads: int, router: Router
) -> Decoder:
    """Three dense layers, then experts; 2048 tokens are selected by keys of 128."""
    hidden, count, vocab = size
    mixer = replace(latent, index=Indexer(heads, 128, 2048, neighbours=name == "glm-5"))
    mixture = Experts(256, 8, Mlp(2048), Mlp(2048), router=router)
    layers = (Layer(mixer, Mlp(dense)),) * 3 + (Layer(mixer, mixture),) * (count - 3)
    return Decoder(name, hidden, vocab, layers, eps=1e-6)


def _granite(name: str, hidden: int, attention: Attention, heads: int, mlp: Mlp | Experts) -> Decoder:
    """40 layers, of which the sixth and every tenth after it has attention without RoPE; scores are divided by the width of a head."""
    state = Layer(Mamba2(heads, 64, 128), mlp, residual=0.22)
    full = Layer(replace(attention, rope=None, scale=1 / attention.head_dim), mlp, residual=0.22)
    layers = tuple(full if index % 10 == 5 else state for index in range(40))
    return Decoder(
        name, hidden, 100352, layers, tied=True, eps=1e-5, embedding_gain=12.0, logit_gain=256 / hidden
    )


def _mimo_v2_flash() -> Decoder:
    """The first layer is dense; it and every sixth see all, the others 129 tokens with twice the KV heads."""
    full = Attention(64, 4, 192, value_dim=128, rope=Rope(5e6, dim=64))
    windowed = replace(full, kv_heads=8, window=129, sinks=True, rope=Rope(1e4, dim=64))
    mixture = Experts(256, 8, Mlp(2048), router=SIGMOID)
    layers = tuple(
        Layer(windowed if index and (index + 1) % 6 else full, mixture if index else Mlp(16384))
        for index in range(48)
    )
    why = NOT_RUN.format("attention with values narrower than keys", "mimo-v2-flash")
    return Decoder("mimo-v2-flash", 4096, 152576, layers, not_known=why)


def _ministral() -> Decoder:
    attention = Attention(32, 8, 128, rope=Rope(1e9))
    why = NOT_RUN.format("YaRN with temperatures", "ministral-3-14b")
    return Decoder("ministral-3-14b", 5120, 131072, (Layer(attention, Mlp(16384)),) * 40, not_known=why)


def _phi_moe() -> Decoder:
    attention = Attention(32, 8, 128, biases="qkvo")
    layer = Layer(attention, Experts(16, 2, Mlp(6400), router=Router(normalised=False)))
    why = NOT_RUN.format("a router that chooses one expert after the other", "phi-3.5-moe")
    return Decoder(
        "phi-3.5-moe", 4096, 32064, (layer,) * 32, norm_vectors=2, head_bias=True, norm="layer", not_known=why
    )


_NANO_EXPERTS = Experts(
    128,
    6,
    Mlp(1856, gated=False, activation="relu2"),
    Mlp(3712, gated=False, activation="relu2"),
    router=replace(SIGMOID, factor=2.5),
)
HYBRIDS = {
    s.name: s
    for s in (
        _qwen(
            "qwen3-next-80b-a3b", (2048, 48, 151936), (16, 2, 256),
            Experts(512, 10, Mlp(512), Mlp(512), shared_gate=True),
        ),
        _qwen("qwen3.5-9b", (4096, 32, 248320), (16, 4, 256), Mlp(12288)),
        _nemotron(
            "nemotron-h-8b", 4096, _NEMOTRON_H_PATTERN, Attention(32, 8, 128, rope=None), Mamba2(128, 64, 128, 8),
            Mlp(21504, gated=False, activation="relu2"),
        ),
        _nemotron(
            "nemotron-3-nano-30b-a3b", 2688, _NANO_PATTERN, Attention(32, 2, 128, rope=None), Mamba2(64, 64, 128, 8),
            _NANO_EXPERTS,
        ),
        _indexed(
            "deepseek-v3.2", (7168, 61, 129280), Latent(128, 1536), 18432, 64,
            replace(SIGMOID, groups=8, groups_chosen=4, factor=2.5),
        ),
        _indexed(
            "glm-5", (6144, 78, 154880), Latent(64, 2048, nope_dim=192, value_dim=256), 12288, 32,
            replace(SIGMOID, factor=2.5),
        ),
        _granite("granite-4.0-h-micro", 2048, Attention(32, 8, 64), 64, Mlp(8192)),
        _granite("granite-4.0-h-tiny", 1536, Attention(12, 4, 128), 48, Experts(64, 6, Mlp(512), Mlp(1024))),
        _granite("granite-4.0-h-small", 4096, Attention(32, 8, 128), 128, Experts(72, 10, Mlp(768), Mlp(1536))),
        _mimo_v2_flash(),
        _ministral(),
        _phi_moe(),
    )
}  # fmt: skip
