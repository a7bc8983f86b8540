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
from membound.kernels.parts import Experts, Mlp, Router

Mixture = Callable[[Config, int], Experts | None]
"""Makes the experts of a layer from a config.json; None where the layer is dense."""
PLAIN, CORRECTED = Router(), Router(correction=True)
"""Routers without numbers besides their matrix, and with one an expert that corrects the choice."""


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
    dense_width: str = "intermediate_size"
    refused: tuple[str, ...] = ()
    defaults: Mapping[str, Any] = field(default_factory=dict)


# Experts


def _mixture(
    config: Config, count: str, chosen: str, expert: Mlp, shared: Mlp | None = None, **more: Any
) -> Experts:
    """Experts of the fields that say how many there are and how many a token takes."""
    there = config.count(count)
    if config.count(chosen) > there:
        raise config.bad(chosen, f"{there} at most, which is {count}")
    return Experts(there, config.count(chosen), expert, shared, **more)


def _shared(config: Config, count: str, width: int) -> Mlp | None:
    """The MLPs that every token takes, as one that is as wide as all of them."""
    shared = config.count(count, 0) if config.fields.get(count) is not None else 0
    return Mlp(shared * width) if shared else None


def _listed(config: Config, name: str) -> list[int] | None:
    """A list of layers, where the file has one."""
    value = config.fields.get(name)
    if value is not None and not (isinstance(value, list) and all(isinstance(one, int) for one in value)):
        raise config.bad(name, "a list of layers")
    return value


def _every(width: str, count: str, shared: str = "", bias: bool = False, router: Router = PLAIN) -> Mixture:
    """A mixture in every layer, as Mixtral has it. `shared`: the field with the width of the MLP that all tokens take."""

    def mixture(config: Config, index: int) -> Experts:
        wide = config.count(shared) if shared and config.fields.get(shared) else 0
        expert = Mlp(config.count(width), bias=bias)
        common = Mlp(wide) if wide else None
        return _mixture(config, count, "num_experts_per_tok", expert, common, router=router)

    return mixture


def _qwen(config: Config, index: int) -> Experts | None:
    """Qwen2-MoE and Qwen3-MoE: some layers may be dense."""
    if index in (_listed(config, "mlp_only_layers") or ()) or (index + 1) % config.count(
        "decoder_sparse_step"
    ):
        return None
    count = "num_experts" if "num_experts" in config.fields else "num_local_experts"
    wide = "shared_expert_intermediate_size"
    shared = Mlp(config.count(wide)) if config.fields.get(wide) else None
    expert = Mlp(config.count("moe_intermediate_size"))
    return _mixture(config, count, "num_experts_per_tok", expert, shared, shared_gate=shared is not None)


def _deepseek(router: Router, dense: bool = True) -> Mixture:
    """DeepSeek's and GLM's, with experts that every token takes. `dense`: the first layers are, or those that mlp_layer_types names."""

    def mixture(config: Config, index: int) -> Experts | None:
        if not config.fields.get("n_routed_experts") or (dense and not _is_routed(config, index)):
            return None
        width = config.count("moe_intermediate_size")
        shared = _shared(config, "n_shared_experts", width)
        count, chosen = "n_routed_experts", "num_experts_per_tok"
        return _mixture(config, count, chosen, Mlp(width), shared, router=router)

    return mixture


def _is_routed(config: Config, index: int) -> bool:
    kinds = config.fields.get("mlp_layer_types")
    if kinds is not None:
        if not isinstance(kinds, list) or len(kinds) != config.count("num_hidden_layers"):
            raise config.bad("mlp_layer_types", "a list with one kind for each layer")
        return bool(kinds[index] == "sparse")
    every = config.count("moe_layer_freq") if config.fields.get("moe_layer_freq") is not None else 1
    return index >= config.count("first_k_dense_replace", 0) and not index % every


def _llama4(config: Config, index: int) -> Experts | None:
    """Every interleave_moe_layer_step-th layer, or those that are listed; with one expert that every token takes."""
    listed = _listed(config, "moe_layers")
    if listed is None and (index + 1) % config.count("interleave_moe_layer_step"):
        return None
    if listed is not None and index not in listed:
        return None
    expert = Mlp(config.count("intermediate_size"))
    return _mixture(config, "num_local_experts", "num_experts_per_tok", expert, expert)


def _ernie(config: Config, index: int) -> Experts | None:
    """Between two layers, every moe_layer_interval-th."""
    last, first = config.fields.get("moe_layer_end_index"), config.count("moe_layer_start_index", 0)
    if last is not None and last != -1:
        last = config.count("moe_layer_end_index", 0)
    inside = first <= index <= (config.count("num_hidden_layers") - 1 if last in (None, -1) else last)
    if not inside or (index + 1) % config.count("moe_layer_interval"):
        return None
    width = config.count("moe_intermediate_size")
    shared = _shared(config, "moe_num_shared_experts", width)
    return _mixture(config, "moe_num_experts", "moe_k", Mlp(width), shared, router=CORRECTED)


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
_DEEPSEEK_V3 = Family(latent=True, bias_flag="attention_bias", mixture=_deepseek(CORRECTED), defaults=_LATENT)
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
        mixture=_deepseek(PLAIN),
        defaults=_LATENT | {"first_k_dense_replace": 0},
    ),
    "deepseek_v3": _DEEPSEEK_V3,
    "dots1": Family(
        head_norm="head",
        bias_flag="attention_bias",
        mixture=_deepseek(CORRECTED),
        defaults={"first_k_dense_replace": 0},
    ),
    "ernie4_5": Family(
        bias_flag="use_bias", mlp_bias_flag="use_bias", defaults={"tie_word_embeddings": True}
    ),
    "ernie4_5_moe": Family(
        refused=("use_bias",),
        mixture=_ernie,
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
    "glm": Family(bias_flag="attention_bias", flagged="qkv", defaults={"attention_bias": True}),
    "glm4": Family(
        norms="both", bias_flag="attention_bias", flagged="qkv", defaults={"attention_bias": True}
    ),
    "glm4_moe": Family(
        bias_flag="attention_bias",
        flagged="qkv",
        head_norm="head",
        head_norm_flag="use_qk_norm",
        mixture=_deepseek(CORRECTED),
        defaults={"first_k_dense_replace": 1},
    ),
    "glm4_moe_lite": replace(
        _DEEPSEEK_V3,
        defaults=_LATENT
        | {"q_lora_rank": 768, "qk_nope_head_dim": 192, "v_head_dim": 256, "first_k_dense_replace": 1},
    ),
    "gpt_oss": Family(
        sinks=True,
        bias_flag="attention_bias",
        full_every=2,
        mixture=_every("intermediate_size", "num_local_experts", bias=True, router=Router(bias=True)),
        defaults={"attention_bias": True, "sliding_window": 128, "head_dim": 64},
    ),
    "granite": _LLAMA,
    "granitemoe": Family(
        bias_flag="attention_bias", mixture=_every("intermediate_size", "num_local_experts")
    ),
    "granitemoeshared": Family(
        bias_flag="attention_bias",
        mixture=_every("intermediate_size", "num_local_experts", "shared_intermediate_size"),
    ),
    "hunyuan_v1_dense": Family(head_norm="head", bias_flag="attention_bias"),
    "llama": _LLAMA,
    "llama4_text": Family(
        bias_flag="attention_bias",
        full_every=4,
        chunked=True,
        mixture=_llama4,
        dense_width="intermediate_size_mlp",
        defaults={
            "interleave_moe_layer_step": 1,
            "attention_chunk_size": 8192,
            "num_experts_per_tok": 1,
            "vocab_size": 202048,
        },
    ),
    "minimax_m2": Family(
        head_norm="all",
        mixture=_every("intermediate_size", "num_local_experts", router=CORRECTED),
    ),
    "ministral": Family(full_every=1),
    "ministral3": Family(full_every=1, defaults={"head_dim": 128}),
    "mistral": Family(full_every=1, defaults={"num_key_value_heads": 8, "sliding_window": 4096}),
    "mixtral": Family(
        full_every=1,
        mixture=_every("intermediate_size", "num_local_experts"),
        defaults={"num_key_value_heads": 8, "num_local_experts": 8, "num_experts_per_tok": 2},
    ),
    "nemotron": Family(gated=False, norm_vectors=2, bias_flag="attention_bias", mlp_bias_flag="mlp_bias"),
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
        mixture=_every("intermediate_size", "num_experts"),
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
        mixture=_every("intermediate_size", "num_local_experts"),
        defaults={"num_key_value_heads": 8, "num_local_experts": 16, "num_experts_per_tok": 2},
    ),
    "qwen2": Family(biases="qkv", late_windows=True, defaults=_QWEN | {"num_key_value_heads": 32}),
    "qwen2_moe": Family(
        biases="qkv",
        late_windows=True,
        mixture=_qwen,
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
        mixture=_qwen,
        defaults={"decoder_sparse_step": 1, "num_experts_per_tok": 8, "moe_intermediate_size": 768},
    ),
    "seed_oss": Family(
        bias_flag="attention_bias",
        flagged="qkv",
        mlp_bias_flag="mlp_bias",
        refused=("attention_out_bias",),
        defaults={"attention_bias": True, "head_dim": 128},
    ),
    "smollm3": _LLAMA,
    "solar_open": Family(
        bias_flag="attention_bias", flagged="qkv", mixture=_deepseek(CORRECTED, dense=False)
    ),
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
