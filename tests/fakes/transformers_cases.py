"""Makes tests/kernels/data/forward.jsonl: tiny models of many families with their logits in float64 by Transformers.

    python tests/fakes/transformers_cases.py tests/kernels/data/forward.jsonl

In an environment with transformers 5.19 (of hybrid models and granitemoeshared 5.24) and torch, such as that of vLLM. Each line: config.json, the tensors with their shapes (their
numbers follow from their names: `named_tensors`), tokens, and the logits of the last of them.
"""

from __future__ import annotations

import json
import sys
import warnings
from math import inf
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import AutoModelForCausalLM
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

sys.path.insert(0, str(Path(__file__).parents[1]))
from fakes.named_tensors import named_tensor, plus_of

TOKENS = 20
BASE: dict[str, Any] = {
    "vocab_size": 61,
    "hidden_size": 48,
    "intermediate_size": 56,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "max_position_embeddings": 64,
    "tie_word_embeddings": False,
}
TURNS = ["sliding_attention", "full_attention"] * 2
WINDOW = {"sliding_window": 6, "layer_types": TURNS}
ROUTED = {"num_experts_per_tok": 3}
LATENT: dict[str, Any] = {
    "num_key_value_heads": 4, "kv_lora_rank": 24, "q_lora_rank": 20, "qk_rope_head_dim": 8, "qk_nope_head_dim": 16,
    "v_head_dim": 12, "moe_intermediate_size": 32, "first_k_dense_replace": 1, "n_routed_experts": 8,
    "n_shared_experts": 2, "head_dim": None,
} | ROUTED  # fmt: skip
GRANITE = {
    "attention_multiplier": 0.1, "residual_multiplier": 0.22, "embedding_multiplier": 12.0, "logits_scaling": 6.0,
}  # fmt: skip


def rope(kind: str = "default", **settings: Any) -> dict[str, Any]:
    """A block of RoPE's settings."""
    return {"rope_parameters": {"rope_type": kind, "rope_theta": 10000.0} | settings}


def yarn(times: float) -> dict[str, Any]:
    """DeepSeek's."""
    more = {"mscale": times, "mscale_all_dim": times, "beta_fast": 32, "beta_slow": 1}
    return rope("yarn", factor=40.0, original_max_position_embeddings=8, **more)


LLAMA3 = {"low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 16}
LONG = {
    "short_factor": [1 + 0.1 * i for i in range(6)],
    "long_factor": [2.0 + i for i in range(6)],
    "partial_rotary_factor": 0.75,
}
DELTA: dict[str, Any] = {
    "linear_num_key_heads": 2, "linear_num_value_heads": 4, "linear_key_head_dim": 8, "linear_value_head_dim": 12,
    "linear_conv_kernel_dim": 4, "full_attention_interval": 2, "norm_topk_prob": True,
}  # fmt: skip
QWEN_MOE = ROUTED | {"num_experts": 8, "moe_intermediate_size": 32, "shared_expert_intermediate_size": 24}
NEMOTRON = ROUTED | {
    "num_hidden_layers": None, "hybrid_override_pattern": "M-M*-ME", "mamba_num_heads": 4, "mamba_head_dim": 8, "ssm_state_size": 10,
    "n_groups": 2, "conv_kernel": 4, "n_routed_experts": 8, "moe_intermediate_size": 24, "moe_shared_expert_intermediate_size": 40,
    "routed_scaling_factor": 2.5, "time_step_min": 0.4,
}  # fmt: skip
GRANITE_HYBRID = GRANITE | {
    "layer_types": ["mamba", "attention", "attention", "mamba"], "shared_intermediate_size": 40, "mamba_n_heads": 6, "mamba_d_head": "auto",
    "mamba_d_state": 10, "mamba_d_conv": 4, "mamba_expand": 2, "mamba_n_groups": 2, "mamba_chunk_size": 8, "head_dim": None,
}  # fmt: skip
GEMMA_4: dict[str, Any] = {
    "num_hidden_layers": 3, "sliding_window": 6, "layer_types": [*["sliding_attention"] * 2, "full_attention"], "global_head_dim": 32,
    "num_global_key_value_heads": 1, "attention_k_eq_v": True, "hidden_size_per_layer_input": 0, "tie_word_embeddings": True,
    "final_logit_softcapping": 3.0, "rope_parameters": {
        "sliding_attention": {"rope_type": "default", "rope_theta": 1e4},
        "full_attention": {"rope_type": "proportional", "partial_rotary_factor": 0.25, "rope_theta": 1e6},
    },
}  # fmt: skip
ROUTED_GEMMA_4: dict[str, Any] = {
    "num_hidden_layers": 2, "layer_types": ["sliding_attention", "full_attention"], "enable_moe_block": True, "num_experts": 8,
    "top_k_experts": 3, "moe_intermediate_size": 24, "attention_bias": True, "tie_word_embeddings": False, "rope_parameters": None,
}  # fmt: skip
INDEX = {"index_n_heads": 16, "index_head_dim": 16, "index_topk": 6}
V3 = {"n_group": 4, "topk_group": 2, "routed_scaling_factor": 2.5, "norm_topk_prob": True}
CASES: list[tuple[str, dict[str, Any]]] = [
    ("llama", rope("llama3", factor=8.0, **LLAMA3)),
    ("mistral", {"sliding_window": 6} | rope()),
    ("qwen2", rope("yarn", factor=4.0, original_max_position_embeddings=8) | {"tie_word_embeddings": True, "head_dim": None}),
    ("qwen3", {"use_sliding_window": True, "sliding_window": 6, "max_window_layers": 2} | rope("linear", factor=2.0)),
    ("gemma2", WINDOW | {"query_pre_attn_scalar": 24, "attn_logit_softcapping": 5.0, "final_logit_softcapping": 3.0, "tie_word_embeddings": True}),
    ("gemma3_text", WINDOW | {
        "query_pre_attn_scalar": 24, "tie_word_embeddings": True, "rope_parameters": {
            "sliding_attention": {"rope_type": "default", "rope_theta": 1e4},
            "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 1e6},
        }}),
    ("gemma4_text", GEMMA_4),
    ("gemma4_text", GEMMA_4 | ROUTED_GEMMA_4),
    ("glm", {"attention_bias": True} | rope(partial_rotary_factor=0.5)),
    ("glm4", {"attention_bias": True} | rope(partial_rotary_factor=0.5)),
    ("granite", GRANITE | {"head_dim": None} | rope()),
    ("olmo2", {"head_dim": None} | rope()),
    ("phi3", {"original_max_position_embeddings": 32, "head_dim": None, "hidden_size": 64, "sliding_window": None} | rope("longrope", **LONG)),
    ("phi3", {"original_max_position_embeddings": 8, "head_dim": None, "hidden_size": 64, "sliding_window": 6} | rope("longrope", **LONG)),
    ("smollm3", {"no_rope_layer_interval": 3} | rope()),
    ("stablelm", {"use_qkv_bias": True, "head_dim": None, "hidden_size": 64} | rope(partial_rotary_factor=0.25)),
    ("deepseek_v2", LATENT | {"q_lora_rank": None, "topk_method": "greedy", "n_group": 1, "topk_group": 1} | yarn(0.707)),
    ("deepseek_v2", LATENT | {"topk_method": "group_limited_greedy", "n_group": 4, "topk_group": 2, "routed_scaling_factor": 16.0} | yarn(0.707)),
    ("deepseek_v3", LATENT | V3 | yarn(1.0)),
    ("deepseek_v3", LATENT | V3 | {"norm_topk_prob": False, "q_lora_rank": None} | rope()),
    ("deepseek_v32", LATENT | V3 | INDEX | yarn(1.0)),
    ("glm_moe_dsa", LATENT | V3 | INDEX | {"n_group": 1, "topk_group": 1, "attention_bias": True} | rope()),
    ("glm4_moe", ROUTED | {
        "n_routed_experts": 8, "n_shared_experts": 1, "first_k_dense_replace": 1, "moe_intermediate_size": 32, "attention_bias": True,
        "use_qk_norm": True, "n_group": 1, "topk_group": 1, "routed_scaling_factor": 1.5} | rope(partial_rotary_factor=0.5)),
    ("gpt_oss", ROUTED | WINDOW | {"num_local_experts": 8} | rope(
        "yarn", rope_theta=150000.0, factor=32.0, beta_fast=32.0, beta_slow=1.0, original_max_position_embeddings=16, truncate=False)),
    ("granitemoe", ROUTED | GRANITE | {"num_local_experts": 8, "head_dim": None} | rope()),
    ("granitemoehybrid", GRANITE_HYBRID | {
        "num_local_experts": 0, "num_experts_per_tok": 0, "position_embedding_type": "nope", "tie_word_embeddings": True}),
    ("granitemoehybrid", GRANITE_HYBRID | ROUTED | {
        "num_hidden_layers": 3, "layer_types": ["attention", "mamba", "attention"], "num_local_experts": 8, "intermediate_size": 32, "mamba_d_head": 16,
        "mamba_n_groups": 3, "mamba_conv_bias": False, "mamba_proj_bias": True, "attention_bias": True, "time_step_limit": [0.4, inf],
        "head_dim": 16, "position_embedding_type": "rope"} | rope()),
    ("granitemoeshared", ROUTED | GRANITE | {
        "num_hidden_layers": 2, "num_local_experts": 8, "shared_intermediate_size": 40, "intermediate_size": 32, "attention_bias": True} | rope()),
    ("llama4_text", {
        "num_local_experts": 8, "num_experts_per_tok": 1, "interleave_moe_layer_step": 2, "intermediate_size_mlp": 80,
        "attention_chunk_size": 8, "use_qk_norm": True, "no_rope_layers": [1, 1, 1, 0], "floor_scale": 4, "attn_scale": 0.5,
        "attn_temperature_tuning": True} | rope()),
    ("mixtral", ROUTED | {"num_local_experts": 8, "sliding_window": 6} | rope()),
    ("minimax_m2", ROUTED | {"num_local_experts": 8} | rope(partial_rotary_factor=0.5)),
    ("qwen2_moe", ROUTED | {
        "num_experts": 8, "moe_intermediate_size": 32, "shared_expert_intermediate_size": 48, "norm_topk_prob": False,
        "head_dim": None, "mlp_only_layers": [1]} | rope()),
    ("qwen3_next", DELTA | QWEN_MOE | rope(partial_rotary_factor=0.25)),
    ("qwen3_5_text", DELTA | {"linear_conv_kernel_dim": 3} | rope(partial_rotary_factor=0.25)),
    ("qwen3_5_moe_text", DELTA | QWEN_MOE | rope(partial_rotary_factor=0.5)),
    ("nemotron_h", NEMOTRON),
    ("nemotron_h", NEMOTRON | {"use_bias": True, "mlp_bias": True, "use_conv_bias": False, "hybrid_override_pattern": "MEM*E", "n_groups": 4}),
    ("qwen3_moe", ROUTED | {"num_experts": 8, "moe_intermediate_size": 32, "norm_topk_prob": True} | rope()),
]  # fmt: skip


DOUBLED = (
    "deepseek_v32",
    "gemma4_text",
    "glm_moe_dsa",
    "qwen3_next",
    "qwen3_5_text",
    "qwen3_5_moe_text",
    "nemotron_h",
    "granitemoehybrid",
    "granitemoeshared",
)


class Doubled:
    """The module torch, whose float32 is float64: some models widen to it where they were told to compute in more."""

    float32 = torch.float64

    def __getattr__(self, name: str) -> Any:
        return getattr(torch, name)


def double(model: torch.nn.Module) -> torch.nn.Module:
    """The model in float64, also where its code says float32."""
    module = sys.modules[type(model).__module__]
    module.torch = Doubled()  # type: ignore[attr-defined]
    return model.double().eval()


def case(kind: str, more: dict[str, Any]) -> dict[str, Any]:
    """One model: what its file says, what its tensors are called, and what it answers."""
    fields = {
        name: value
        for name, value in (BASE | more).items()
        if value is not None or (name in more and name != "head_dim")
    }
    config = CONFIG_MAPPING[kind](**json.loads(json.dumps(fields)), pad_token_id=0)
    config._attn_implementation = config._experts_implementation = "eager"
    model = AutoModelForCausalLM.from_config(config, attn_implementation="eager").double().eval()
    if kind in DOUBLED:
        torch.Tensor.float = torch.Tensor.double  # type: ignore[method-assign,assignment]
        double(model)
    model.config._experts_implementation = "eager"
    shapes = {}
    with torch.no_grad():
        for name, tensor in (*model.named_parameters(), *model.named_buffers()):
            if "inv_freq" in name or "embed_scale" in name or not tensor.dtype.is_floating_point:
                continue
            shapes[name] = list(tensor.shape)
            tensor.copy_(torch.from_numpy(named_tensor(name, tuple(tensor.shape), plus_of(kind, name))))
        tokens = [(7 * i * i + 3 * i + 5) % BASE["vocab_size"] for i in range(TOKENS)]
        logits = model(torch.tensor([tokens])).logits[0, -1]
    return {
        "config": {"model_type": kind} | fields,
        "tensors": shapes,
        "tokens": tokens,
        "logits": [float(f"{value:.10g}") for value in logits.tolist()],
    }


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    transformers.logging.set_verbosity_error()
    torch.set_num_threads(1)
    lines = [json.dumps(case(kind, more), separators=(",", ":")) for kind, more in CASES]
    Path(sys.argv[1]).write_text("\n".join(lines) + "\n", "utf-8")
    print(len(lines), "cases by transformers", transformers.__version__)
