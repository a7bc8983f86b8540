"""What the families of models hold, by their model_type in config.json: norms, biases, windows, experts.

>>> FAMILIES["gpt_oss"].sinks
True

Sources: huggingface/transformers, models/*/modeling_*.py and configuration_*.py, version 5. `decoder_folder` reads a
config.json by these.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

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


@dataclass(frozen=True, slots=True)
class Family:
    """What a model_type of Transformers holds. Names are those of fields of config.json.

    biases: projections that always have one; bias_flag: the field that says so of `flagged`. head_norm as in `Attention`;
    head_norm_flag: the field that switches it on. norms, norm_vectors as in `Layer` and `Decoder`. full_every: where layer_types is
    missing, every layer of this multiple sees all and the others a window; 1: none sees all, 0: every one does. late_windows: where
    use_sliding_window is true, layers from max_window_layers on slide. chunked: the others see a chunk in place of a window. refused: flags that add what is not counted here. defaults:
    Transformers' own for fields that files leave out.
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
    defaults: Mapping[str, Any] = field(default_factory=dict)


# Families

_LLAMA = Family(bias_flag="attention_bias", mlp_bias_flag="mlp_bias")
_LATENT: dict[str, Any] = {
    "q_lora_rank": 1536,
    "kv_lora_rank": 512,
    "qk_nope_head_dim": 128,
    "qk_rope_head_dim": 64,
    "v_head_dim": 128,
    "first_k_dense_replace": 3,
}
_DEEPSEEK_V3 = Family(latent=True, bias_flag="attention_bias", mixture=deepseek(CORRECTED), defaults=_LATENT)
_DELTA: dict[str, Any] = {
    "head_dim": 256,
    "linear_conv_kernel_dim": 4,
    "linear_key_head_dim": 128,
    "linear_value_head_dim": 128,
    "linear_num_key_heads": 16,
    "linear_num_value_heads": 32,
}
_QWEN3_5 = Family(
    head_norm="head", gated_attention=True, state=gated_delta, refused=("attention_bias",), defaults=_DELTA
)
_INDEX: dict[str, Any] = {"index_n_heads": 64, "index_head_dim": 128, "index_topk": 2048}
_GEMMA: dict[str, Any] = {"head_dim": 256, "tie_word_embeddings": True}
_QWEN: dict[str, Any] = {"sliding_window": 4096, "max_window_layers": 28}

FAMILIES = {
    "arcee": Family(gated=False, bias_flag="attention_bias", mlp_bias_flag="mlp_bias"),
    "cohere": Family(
        norms="parallel",
        bias_flag="attention_bias",
        refused=("use_qk_norm",),
        defaults={"tie_word_embeddings": True},
    ),
    "cohere2": Family(
        norms="parallel",
        bias_flag="attention_bias",
        full_every=4,
        defaults={"tie_word_embeddings": True, "sliding_window": 4096},
    ),
    "deepseek_v2": Family(
        latent=True,
        bias_flag="attention_bias",
        mixture=deepseek(PLAIN),
        defaults=_LATENT | {"first_k_dense_replace": 0},
    ),
    "deepseek_v3": _DEEPSEEK_V3,
    "deepseek_v32": replace(_DEEPSEEK_V3, index=indexed, defaults=_LATENT | _INDEX),
    "dots1": Family(
        head_norm="head",
        bias_flag="attention_bias",
        mixture=deepseek(CORRECTED),
        defaults={"first_k_dense_replace": 0},
    ),
    "ernie4_5": Family(
        bias_flag="use_bias", mlp_bias_flag="use_bias", defaults={"tie_word_embeddings": True}
    ),
    "ernie4_5_moe": Family(
        refused=("use_bias",),
        mixture=ernie,
        defaults={
            "tie_word_embeddings": True,
            "moe_layer_start_index": 1,
            "moe_layer_interval": 1,
            "moe_num_shared_experts": 2,
            "moe_num_experts": 64,
            "moe_k": 6,
        },
    ),
    "exaone4": Family(head_norm="head", norms="after", full_every=4),
    "gemma": Family(bias_flag="attention_bias", defaults=_GEMMA),
    "gemma2": Family(
        norms="both", bias_flag="attention_bias", full_every=2, defaults=_GEMMA | {"sliding_window": 4096}
    ),
    "gemma3_text": Family(
        norms="both",
        bias_flag="attention_bias",
        head_norm="head",
        full_every=6,
        defaults=_GEMMA
        | {
            "sliding_window": 4096,
            "num_attention_heads": 8,
            "num_key_value_heads": 4,
            "vocab_size": 262208,
        },
    ),
    "gemma4_text": Family(
        layers=gemma4_layers,
        defaults={
            "head_dim": 256,
            "global_head_dim": 512,
            "hidden_size_per_layer_input": 256,
            "num_attention_heads": 8,
            "num_key_value_heads": 4,
            "sliding_window": 512,
            "tie_word_embeddings": True,
            "vocab_size": 262144,
        },
    ),
    "glm": Family(bias_flag="attention_bias", flagged="qkv", defaults={"attention_bias": True}),
    "glm4": Family(
        norms="both", bias_flag="attention_bias", flagged="qkv", defaults={"attention_bias": True}
    ),
    "glm4_moe": Family(
        bias_flag="attention_bias",
        flagged="qkv",
        head_norm="head",
        head_norm_flag="use_qk_norm",
        mixture=deepseek(CORRECTED),
        defaults={"first_k_dense_replace": 1},
    ),
    "glm4_moe_lite": replace(
        _DEEPSEEK_V3,
        defaults=_LATENT
        | {"q_lora_rank": 768, "qk_nope_head_dim": 192, "v_head_dim": 256, "first_k_dense_replace": 1},
    ),
    "glm_moe_dsa": replace(
        _DEEPSEEK_V3,
        index=neighbouring,
        defaults=_LATENT
        | _INDEX
        | {"q_lora_rank": 2048, "qk_nope_head_dim": 192, "v_head_dim": 256, "index_n_heads": 32},
    ),
    "gpt_oss": Family(
        sinks=True,
        bias_flag="attention_bias",
        full_every=2,
        mixture=every_layer("intermediate_size", "num_local_experts", bias=True, router=Router(bias=True)),
        defaults={"attention_bias": True, "sliding_window": 128, "head_dim": 64},
    ),
    "granite": _LLAMA,
    "granitemoe": Family(
        bias_flag="attention_bias", mixture=every_layer("intermediate_size", "num_local_experts")
    ),
    "granitemoehybrid": Family(
        layers=granite_layers,
        defaults={
            "num_local_experts": 8,
            "num_experts_per_tok": 2,
            "shared_intermediate_size": 1024,
            "mamba_n_heads": 128,
            "mamba_n_groups": 1,
            "mamba_d_state": 256,
            "mamba_d_head": "auto",
            "mamba_d_conv": 4,
            "mamba_expand": 2,
            "mamba_conv_bias": True,
        },
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
        defaults={
            "interleave_moe_layer_step": 1,
            "attention_chunk_size": 8192,
            "num_experts_per_tok": 1,
            "vocab_size": 202048,
        },
    ),
    "mimo_v2_flash": Family(
        bias_flag="attention_bias",
        flagged="qkv",
        kind=mimo_kind,
        refined=mimo_attention,
        mixture=mimo_mixture,
        defaults={
            "num_key_value_heads": 4,
            "head_dim": 192,
            "v_head_dim": 128,
            "sliding_window": 129,
            "first_k_dense_replace": 1,
        },
    ),
    "minimax_m2": Family(
        head_norm="all",
        mixture=every_layer("intermediate_size", "num_local_experts", router=CORRECTED),
    ),
    "ministral": Family(full_every=1),
    "ministral3": Family(full_every=1, defaults={"head_dim": 128}),
    "mistral": Family(full_every=1, defaults={"num_key_value_heads": 8, "sliding_window": 4096}),
    "mixtral": Family(
        full_every=1,
        mixture=every_layer("intermediate_size", "num_local_experts"),
        defaults={"num_key_value_heads": 8, "num_local_experts": 8, "num_experts_per_tok": 2},
    ),
    "nemotron": Family(gated=False, norm_vectors=2, bias_flag="attention_bias", mlp_bias_flag="mlp_bias"),
    "nemotron_h": Family(
        layers=nemotron_layers,
        defaults={
            "num_key_value_heads": 8,
            "head_dim": 128,
            "mamba_num_heads": 128,
            "mamba_head_dim": 64,
            "ssm_state_size": 128,
            "n_groups": 8,
            "conv_kernel": 4,
            "use_conv_bias": True,
        },
    ),
    "olmo": Family(bias_flag="attention_bias", norm_vectors=0),
    "olmo2": Family(bias_flag="attention_bias", head_norm="all", norms="after"),
    "olmo3": Family(
        bias_flag="attention_bias",
        head_norm="all",
        norms="after",
        full_every=4,
        defaults={"sliding_window": 4096},
    ),
    "olmoe": Family(
        bias_flag="attention_bias",
        head_norm="all",
        mixture=every_layer("intermediate_size", "num_experts"),
        defaults={"num_experts": 64, "num_experts_per_tok": 8},
    ),
    "phi": Family(
        gated=False,
        biases="qkvo",
        mlp_bias_flag="mlp_bias",
        norms="parallel",
        norm_vectors=2,
        head_bias_flag="lm_head_bias",
        refused=("qk_layernorm",),
        defaults={"mlp_bias": True, "lm_head_bias": True},
    ),
    "phi3": Family(full_every=1),
    "phimoe": Family(
        full_every=1,
        norm_vectors=2,
        bias_flag="attention_bias",
        head_bias_flag="lm_head_bias",
        mixture=every_layer("intermediate_size", "num_local_experts"),
        defaults={"num_key_value_heads": 8, "num_local_experts": 16, "num_experts_per_tok": 2},
    ),
    "qwen2": Family(biases="qkv", late_windows=True, defaults=_QWEN | {"num_key_value_heads": 32}),
    "qwen2_moe": Family(
        biases="qkv",
        late_windows=True,
        mixture=qwen,
        defaults=_QWEN
        | {
            "decoder_sparse_step": 1,
            "num_experts": 60,
            "num_experts_per_tok": 4,
            "moe_intermediate_size": 1408,
            "shared_expert_intermediate_size": 5632,
        },
    ),
    "qwen3": Family(
        head_norm="head",
        bias_flag="attention_bias",
        late_windows=True,
        defaults=_QWEN | {"head_dim": 128, "num_key_value_heads": 32},
    ),
    "qwen3_moe": Family(
        head_norm="head",
        bias_flag="attention_bias",
        mixture=qwen,
        defaults={"decoder_sparse_step": 1, "num_experts_per_tok": 8, "moe_intermediate_size": 768},
    ),
    "qwen3_5_moe_text": replace(
        _QWEN3_5,
        mixture=qwen,
        defaults=_DELTA
        | {
            "decoder_sparse_step": 1,
            "num_experts": 256,
            "num_experts_per_tok": 8,
            "moe_intermediate_size": 512,
            "shared_expert_intermediate_size": 512,
        },
    ),
    "qwen3_5_text": _QWEN3_5,
    "qwen3_next": replace(
        _QWEN3_5,
        mixture=qwen,
        defaults=_DELTA
        | {
            "decoder_sparse_step": 1,
            "num_experts": 512,
            "num_experts_per_tok": 10,
            "moe_intermediate_size": 512,
            "shared_expert_intermediate_size": 512,
        },
    ),
    "seed_oss": Family(
        bias_flag="attention_bias",
        flagged="qkv",
        mlp_bias_flag="mlp_bias",
        refused=("attention_out_bias",),
        defaults={"attention_bias": True, "head_dim": 128},
    ),
    "smollm3": _LLAMA,
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
        defaults={"use_bias": True, "tie_word_embeddings": True},
    ),
}
"""By model_type."""
