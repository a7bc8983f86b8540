"""What Transformers takes for fields that a config.json leaves out and that say how many numbers a model holds or reads.

>>> DEFAULTS["minimax_m2"]["head_dim"]
128

Source: huggingface/transformers, models/*/configuration_*.py, version 5.24. A field that is null is not left out.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_ROUTED: dict[str, Any] = {"n_routed_experts": 256, "n_shared_experts": 1}
_LATENT: dict[str, Any] = {
    "q_lora_rank": 1536,
    "kv_lora_rank": 512,
    "qk_nope_head_dim": 128,
    "qk_rope_head_dim": 64,
    "v_head_dim": 128,
    "first_k_dense_replace": 3,
}
_DEEPSEEK_V3 = _LATENT | _ROUTED
_WIDE_LATENT = _DEEPSEEK_V3 | {"qk_nope_head_dim": 192, "v_head_dim": 256}
_INDEX: dict[str, Any] = {"index_n_heads": 64, "index_head_dim": 128, "index_topk": 2048}
_GEMMA: dict[str, Any] = {"head_dim": 256, "tie_word_embeddings": True}
_GLM: dict[str, Any] = {"attention_bias": True, "head_dim": 128, "num_key_value_heads": 2}
_QWEN: dict[str, Any] = {"num_key_value_heads": 32, "sliding_window": 4096, "max_window_layers": 28}
_QWEN_VL: dict[str, Any] = {"num_key_value_heads": 8, "max_window_layers": 80}
_QWEN_MOE: dict[str, Any] = {"decoder_sparse_step": 1, "sliding_window": 4096}
_DELTA: dict[str, Any] = {
    "head_dim": 256,
    "linear_conv_kernel_dim": 4,
    "linear_key_head_dim": 128,
    "linear_value_head_dim": 128,
    "linear_num_key_heads": 16,
    "linear_num_value_heads": 32,
}
_DELTA_MOE = _DELTA | {
    "num_key_value_heads": 2,
    "decoder_sparse_step": 1,
    "moe_intermediate_size": 512,
    "shared_expert_intermediate_size": 512,
}

_BY_LOCAL = {"num_local_experts": "n_routed_experts"}
_LOCAL = {"num_experts": "num_local_experts"}
_NAMED = {"num_local_experts": "num_experts"}
ALIASES: Mapping[str, Mapping[str, str]] = {
    "deepseek_v2": {"num_experts": "n_routed_experts"},
    "deepseek_v3": _BY_LOCAL,
    "deepseek_v32": _BY_LOCAL,
    "dots1": _BY_LOCAL,
    "ernie4_5_moe": {"num_experts": "moe_num_experts", "num_experts_per_tok": "moe_k"},
    "glm4_moe": _BY_LOCAL,
    "glm4_moe_lite": _BY_LOCAL,
    "glm_moe_dsa": _BY_LOCAL,
    "gpt_oss": _LOCAL,
    "mimo_v2_flash": _BY_LOCAL,
    "minimax_m2": _LOCAL,
    "mixtral": _LOCAL,
    "nemotron_h": _BY_LOCAL,
    "olmoe": _NAMED,
    "qwen3_moe": _NAMED,
    "solar_open": _BY_LOCAL,
}
"""By model_type, other names under which Transformers takes a field, and the one that is read here."""
DEFAULTS: Mapping[str, Mapping[str, Any]] = {
    "cohere": {"tie_word_embeddings": True},
    "cohere2": {"tie_word_embeddings": True, "sliding_window": 4096},
    "deepseek_v2": _LATENT | {"first_k_dense_replace": 0, "n_routed_experts": 64, "n_shared_experts": 2},
    "deepseek_v3": _DEEPSEEK_V3,
    "deepseek_v32": _DEEPSEEK_V3 | _INDEX,
    "dots1": {
        "first_k_dense_replace": 0,
        "num_key_value_heads": 32,
        "sliding_window": 4096,
        "max_window_layers": 62,
    },
    "ernie4_5": {"tie_word_embeddings": True, "head_dim": 128, "num_key_value_heads": 2},
    "ernie4_5_moe": {
        "tie_word_embeddings": True,
        "num_key_value_heads": 4,
        "moe_layer_start_index": 1,
        "moe_layer_interval": 1,
        "moe_num_shared_experts": 2,
        "moe_num_experts": 64,
        "moe_k": 6,
    },
    "exaone4": {"num_key_value_heads": 32, "sliding_window": 4096},
    "gemma": _GEMMA | {"num_key_value_heads": 16},
    "gemma2": _GEMMA | {"num_key_value_heads": 4, "sliding_window": 4096},
    "gemma3_text": _GEMMA
    | {
        "sliding_window": 4096,
        "num_attention_heads": 8,
        "num_key_value_heads": 4,
        "vocab_size": 262208,
    },
    "gemma4_text": _GEMMA
    | {
        "global_head_dim": 512,
        "hidden_size_per_layer_input": 256,
        "num_attention_heads": 8,
        "num_key_value_heads": 4,
        "sliding_window": 512,
        "vocab_size": 262144,
    },
    "glm": _GLM,
    "glm4": _GLM,
    "glm4_moe": _ROUTED | {"first_k_dense_replace": 1, "num_key_value_heads": 8, "n_routed_experts": 128},
    "glm4_moe_lite": _WIDE_LATENT | {"q_lora_rank": 768, "first_k_dense_replace": 1, "n_routed_experts": 64},
    "glm_moe_dsa": _WIDE_LATENT | _INDEX | {"q_lora_rank": 2048, "index_n_heads": 32},
    "gpt_oss": {"attention_bias": True, "sliding_window": 128, "head_dim": 64, "num_key_value_heads": 8},
    "granitemoehybrid": {
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
    "llama4_text": {
        "interleave_moe_layer_step": 1,
        "attention_chunk_size": 8192,
        "num_experts_per_tok": 1,
        "vocab_size": 202048,
        "head_dim": 128,
        "num_key_value_heads": 8,
    },
    "mimo_v2_flash": {
        "num_key_value_heads": 4,
        "head_dim": 192,
        "v_head_dim": 128,
        "sliding_window": 129,
        "first_k_dense_replace": 1,
        "n_routed_experts": 256,
    },
    "minimax_m2": {"head_dim": 128, "num_key_value_heads": 8},
    "ministral": {"num_key_value_heads": 8, "sliding_window": 4096},
    "ministral3": {"head_dim": 128, "num_key_value_heads": 8},
    "mistral": {"num_key_value_heads": 8, "sliding_window": 4096},
    "mixtral": {"num_key_value_heads": 8, "num_local_experts": 8, "num_experts_per_tok": 2},
    "nemotron_h": {
        "num_key_value_heads": 8,
        "head_dim": 128,
        "mamba_num_heads": 128,
        "mamba_head_dim": 64,
        "ssm_state_size": 128,
        "n_groups": 8,
        "conv_kernel": 4,
        "use_conv_bias": True,
    },
    "olmo3": {"sliding_window": 4096},
    "olmoe": {"num_experts": 64, "num_experts_per_tok": 8},
    "phi": {"mlp_bias": True, "lm_head_bias": True},
    "phimoe": {"num_key_value_heads": 8, "num_local_experts": 16, "num_experts_per_tok": 2},
    "qwen2": _QWEN,
    "qwen2_moe": _QWEN
    | _QWEN_MOE
    | {
        "qkv_bias": True,
        "num_key_value_heads": 16,
        "num_experts": 60,
        "num_experts_per_tok": 4,
        "moe_intermediate_size": 1408,
        "shared_expert_intermediate_size": 5632,
    },
    "qwen2_vl_text": _QWEN_VL,
    "qwen2_5_vl_text": _QWEN_VL,
    "qwen3": _QWEN | {"head_dim": 128},
    "qwen3_moe": _QWEN_MOE
    | {"num_key_value_heads": 4, "num_experts_per_tok": 8, "moe_intermediate_size": 768},
    "qwen3_vl_moe_text": {
        "num_key_value_heads": 16,
        "num_experts": 60,
        "num_experts_per_tok": 4,
        "moe_intermediate_size": 1408,
        "norm_topk_prob": True,
    },
    "qwen3_5_moe_text": _DELTA_MOE | {"num_experts": 256, "num_experts_per_tok": 8},
    "qwen3_5_text": _DELTA | {"num_key_value_heads": 4},
    "qwen3_next": _DELTA_MOE | {"num_experts": 512, "num_experts_per_tok": 10},
    "seed_oss": {"attention_bias": True, "head_dim": 128, "num_key_value_heads": 8},
    "smollm3": {"num_key_value_heads": 4, "tie_word_embeddings": True},
    "solar_open": _ROUTED | {"head_dim": 128, "num_key_value_heads": 8, "n_routed_experts": 128},
    "stablelm": {"num_key_value_heads": 32},
    "starcoder2": {"use_bias": True, "tie_word_embeddings": True, "num_key_value_heads": 2},
}
"""By model_type. One whose family is another's (`decoder_folder.TEXT_TYPES`) has here what it takes in its stead."""
