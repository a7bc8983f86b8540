"""What the families of models hold, by their model_type in config.json: norms, biases, windows, experts.

>>> FAMILIES["gpt_oss"].sinks
True

Sources: huggingface/transformers, models/*/modeling_*.py and configuration_*.py, version 5. `decoder_folder` reads a
config.json by these.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from membound.kernels.config_json import Config
from membound.kernels.gemma4_fields import gemma4_layers
from membound.kernels.mixer_fields import (
    gated_delta,
    granite_layers,
    indexed,
    mimo_attention,
    mimo_kind,
    mimo_mixture,
    neighbouring,
    nemotron_layers,
)
from membound.kernels.mixers import GatedDelta, Latent
from membound.kernels.mixture_fields import (
    CORRECTED,
    PLAIN,
    Mixture,
    deepseek,
    ernie,
    every_layer,
    llama4,
    qwen,
)
from membound.kernels.parts import Attention, Layer, Router
from membound.kernels.window_fields import (
    even_switched,
    late,
    switched,
    unplaced_switched,
    windowed_or_listed,
)


@dataclass(frozen=True, slots=True)
class Family:
    """What a model_type of Transformers holds. Names are those of fields of config.json.

    biases: projections that always have one; bias_flag: the field that says so of `flagged`. head_norm as in `Attention`;
    head_norm_flag: the field that switches it on. norms, norm_vectors as in `Layer` and `Decoder`. full_every: where layer_types is
    missing, every layer of this multiple sees all and the others a window; 1: none sees all, 0: every one does. late_windows: where
    use_sliding_window is true, layers from max_window_layers on slide. patterned: sliding_window_pattern is full_every. chunked: the others see a chunk in
    place of a window. kind: what a layer sees, in place of these. refused: flags that add what is not counted here.
    """

    gated: bool = True
    biases: str = ""
    bias_flag: str = ""
    flagged: str = "qkvo"
    mlp_bias_flag: str = ""
    head_norm: str = ""
    head_norm_flag: str = ""
    norms: str = "before"
    norm_vectors: int = 1
    full_every: int = 0
    late_windows: bool = False
    patterned: bool = False
    chunked: bool = False
    latent: bool = False
    sinks: bool = False
    head_bias_flag: str = ""
    mixture: Mixture | None = None
    kind: Callable[[Config, int], str] | None = None
    gated_attention: bool = False
    state: Callable[[Config, int], GatedDelta | None] | None = None
    refined: Callable[[Config, Attention], Attention] | None = None
    index: Callable[[Config, Latent, int], Latent] | None = None
    layers: Callable[[Config], tuple[Layer, ...]] | None = None
    dense_width: str = "intermediate_size"
    refused: tuple[str, ...] = ()


# Families

_LLAMA = Family(bias_flag="attention_bias", mlp_bias_flag="mlp_bias")
_DEEPSEEK_V3 = Family(latent=True, bias_flag="attention_bias", mixture=deepseek(CORRECTED))
_QWEN3_5 = Family(head_norm="head", gated_attention=True, state=gated_delta, refused=("attention_bias",))
FAMILIES = {
    "arcee": Family(gated=False, bias_flag="attention_bias", mlp_bias_flag="mlp_bias"),
    "cohere": Family(
        norms="parallel",
        bias_flag="attention_bias",
        refused=("use_qk_norm",),
    ),
    "cohere2": Family(
        norms="parallel",
        bias_flag="attention_bias",
        full_every=4,
        patterned=True,
    ),
    "deepseek_v2": Family(
        latent=True,
        bias_flag="attention_bias",
        mixture=deepseek(PLAIN),
    ),
    "deepseek_v3": _DEEPSEEK_V3,
    "deepseek_v32": replace(_DEEPSEEK_V3, index=indexed),
    "dots1": Family(
        kind=late,
        head_norm="head",
        bias_flag="attention_bias",
        mixture=deepseek(CORRECTED),
    ),
    "ernie4_5": Family(bias_flag="use_bias", mlp_bias_flag="use_bias"),
    "ernie4_5_moe": Family(
        refused=("use_bias",),
        mixture=ernie,
    ),
    "exaone4": Family(head_norm="head", norms="after", full_every=4, patterned=True),
    "gemma": Family(bias_flag="attention_bias"),
    "gemma2": Family(norms="both", bias_flag="attention_bias", full_every=2),
    "gemma3_text": Family(
        norms="both",
        bias_flag="attention_bias",
        head_norm="head",
        full_every=6,
        patterned=True,
    ),
    "gemma4_text": Family(
        layers=gemma4_layers,
    ),
    "glm": Family(bias_flag="attention_bias", flagged="qkv"),
    "glm4": Family(norms="both", bias_flag="attention_bias", flagged="qkv"),
    "glm4_moe": Family(
        bias_flag="attention_bias",
        flagged="qkv",
        head_norm="head",
        head_norm_flag="use_qk_norm",
        mixture=deepseek(CORRECTED),
    ),
    "glm4_moe_lite": replace(
        _DEEPSEEK_V3,
    ),
    "glm_moe_dsa": replace(
        _DEEPSEEK_V3,
        index=neighbouring,
    ),
    "gpt_oss": Family(
        sinks=True,
        bias_flag="attention_bias",
        full_every=2,
        mixture=every_layer("intermediate_size", "num_local_experts", bias=True, router=Router(bias=True)),
    ),
    "granite": _LLAMA,
    "granitemoe": Family(
        bias_flag="attention_bias", mixture=every_layer("intermediate_size", "num_local_experts")
    ),
    "granitemoehybrid": Family(
        layers=granite_layers,
    ),
    "granitemoeshared": Family(
        bias_flag="attention_bias",
        mixture=every_layer("intermediate_size", "num_local_experts", "shared_intermediate_size"),
    ),
    "hunyuan_v1_dense": Family(head_norm="head", bias_flag="attention_bias"),
    "llama": _LLAMA,
    "llama4_text": Family(
        bias_flag="attention_bias",
        full_every=4,
        chunked=True,
        mixture=llama4,
        dense_width="intermediate_size_mlp",
    ),
    "mimo_v2_flash": Family(
        bias_flag="attention_bias",
        flagged="qkv",
        kind=mimo_kind,
        refined=mimo_attention,
        mixture=mimo_mixture,
    ),
    "minimax_m2": Family(
        head_norm="all",
        mixture=every_layer("intermediate_size", "num_local_experts", router=CORRECTED),
    ),
    "ministral": Family(kind=windowed_or_listed),
    "ministral3": Family(full_every=1),
    "mistral": Family(full_every=1),
    "mixtral": Family(
        full_every=1,
        mixture=every_layer("intermediate_size", "num_local_experts"),
    ),
    "nemotron": Family(gated=False, norm_vectors=2, bias_flag="attention_bias", mlp_bias_flag="mlp_bias"),
    "nemotron_h": Family(
        layers=nemotron_layers,
    ),
    "olmo": Family(bias_flag="attention_bias", norm_vectors=0),
    "olmo2": Family(bias_flag="attention_bias", head_norm="all", norms="after"),
    "olmo3": Family(
        bias_flag="attention_bias",
        head_norm="all",
        norms="after",
        full_every=4,
    ),
    "olmoe": Family(
        bias_flag="attention_bias",
        head_norm="all",
        mixture=every_layer("intermediate_size", "num_experts"),
    ),
    "phi": Family(
        gated=False,
        biases="qkvo",
        mlp_bias_flag="mlp_bias",
        norms="parallel",
        norm_vectors=2,
        head_bias_flag="lm_head_bias",
        refused=("qk_layernorm",),
    ),
    "phi3": Family(full_every=1),
    "phimoe": Family(
        full_every=1,
        norm_vectors=2,
        bias_flag="attention_bias",
        head_bias_flag="lm_head_bias",
        mixture=every_layer("intermediate_size", "num_local_experts"),
    ),
    "qwen2": Family(biases="qkv", late_windows=True),
    "qwen2_moe": Family(
        bias_flag="qkv_bias",
        flagged="qkv",
        kind=even_switched,
        mixture=qwen(shared=True),
    ),
    "qwen3": Family(
        head_norm="head",
        bias_flag="attention_bias",
        late_windows=True,
    ),
    "qwen3_moe": Family(
        kind=switched,
        head_norm="head",
        bias_flag="attention_bias",
        mixture=qwen(shared=False),
    ),
    "qwen3_5_moe_text": replace(
        _QWEN3_5,
        mixture=qwen(shared=True),
    ),
    "qwen3_5_text": _QWEN3_5,
    "qwen3_next": replace(
        _QWEN3_5,
        mixture=qwen(shared=True),
    ),
    "seed_oss": Family(
        bias_flag="attention_bias",
        flagged="qkv",
        mlp_bias_flag="mlp_bias",
        refused=("attention_out_bias",),
    ),
    "smollm3": replace(_LLAMA, kind=unplaced_switched),
    "solar_open": Family(bias_flag="attention_bias", flagged="qkv", mixture=deepseek(CORRECTED, dense=False)),
    "stablelm": Family(
        norm_vectors=2,
        bias_flag="use_qkv_bias",
        flagged="qkv",
        refused=("qk_layernorm", "use_parallel_residual"),
    ),
    "starcoder2": Family(
        gated=False,
        norm_vectors=2,
        bias_flag="use_bias",
        mlp_bias_flag="use_bias",
        full_every=1,
    ),
}
"""By model_type."""
