"""Folders of models with experts whose matrices are stored quantised, each expert's apart, as they are published.

>>> expected = write_experts(tmp_path, "deepseek_v3", "fp8_blocks")          # module -> the matrix [n, k] that its tensors mean

Names are written out by hand, as the published files have them; nothing of membound's readers is used.
"""

import json

import numpy as np
from quantised_folders import CONFIGS, INPUTS, make, save

_COMMON = {"hidden_size": 128, "num_attention_heads": 4, "vocab_size": 70, "num_experts_per_tok": 2}
MODELS = {
    "qwen3_moe": _COMMON
    | {"num_hidden_layers": 3, "num_key_value_heads": 2, "head_dim": 32, "intermediate_size": 256}
    | {"num_experts": 6, "moe_intermediate_size": 128, "mlp_only_layers": [1], "norm_topk_prob": True},
    "qwen2_moe": _COMMON
    | {"num_hidden_layers": 2, "num_key_value_heads": 2, "intermediate_size": 256, "num_experts": 6}
    | {"moe_intermediate_size": 128, "shared_expert_intermediate_size": 256},
    "mixtral": _COMMON
    | {"num_hidden_layers": 2, "num_key_value_heads": 2, "intermediate_size": 256, "num_local_experts": 4},
    "deepseek_v3": _COMMON
    | {"num_hidden_layers": 3, "num_key_value_heads": 4, "q_lora_rank": 128, "kv_lora_rank": 128}
    | {"qk_nope_head_dim": 32, "qk_rope_head_dim": 32, "v_head_dim": 32, "intermediate_size": 256}
    | {"moe_intermediate_size": 128, "n_routed_experts": 8, "n_shared_experts": 1, "n_group": 4, "topk_group": 2}
    | {"first_k_dense_replace": 1, "routed_scaling_factor": 2.5},
}  # fmt: skip
MODELS["deepseek_v32"] = MODELS["deepseek_v3"] | {"index_n_heads": 4, "index_head_dim": 64, "index_topk": 3}
DEEPSEEK = ("deepseek_v3", "deepseek_v32")
ROUTERS = {
    "qwen2_moe": "mlp.gate",
    "qwen3_moe": "mlp.gate",
    "mixtral": "block_sparse_moe.gate",
    **dict.fromkeys(DEEPSEEK, "mlp.gate"),
}
"""Which stay floats. llm-compressor lists them in config.json; GPTQ and AWQ say nothing, and FP8's writers list what has no scales."""
PARTS = {"gate": "gate_proj", "up": "up_proj", "down": "down_proj"}
COUNTS = ("num_experts", "num_local_experts", "n_routed_experts")
MIXTRAL = {"gate": "w1", "up": "w3", "down": "w2"}


def mlp(prefix, width, names=PARTS):
    """Modules of an MLP -> (n, k, which of them share an input)."""
    return {
        f"{prefix}.{names['gate']}": (width, 128, f"{prefix} in"),
        f"{prefix}.{names['up']}": (width, 128, f"{prefix} in"),
        f"{prefix}.{names['down']}": (128, width, f"{prefix} down"),
    }


def attention(family):
    """Modules of a layer's attention."""
    if family in DEEPSEEK:
        shapes = {"q_a_proj": (128, 128), "q_b_proj": (256, 128), "kv_a_proj_with_mqa": (160, 128)}
        shapes |= {"kv_b_proj": (256, 128), "o_proj": (128, 128)}
        if family == "deepseek_v32":
            shapes |= {"indexer.wq_b": (256, 128), "indexer.wk": (64, 128), "indexer.weights_proj": (4, 128)}
    else:
        shapes = {"q_proj": (128, 128), "k_proj": (64, 128), "v_proj": (64, 128), "o_proj": (128, 128)}
    return {
        f"self_attn.{name}": (*shape, INPUTS.get(name.removesuffix("_proj"), name))
        for name, shape in shapes.items()
    }


def experts_of(family, index, count):
    """Modules of a layer's second half."""
    if family == "mixtral":
        each = [mlp(f"block_sparse_moe.experts.{number}", 256, MIXTRAL) for number in range(count)]
    elif index == {"qwen3_moe": 1, **dict.fromkeys(DEEPSEEK, 0)}.get(family):
        each = [mlp("mlp", 256)]
    else:
        each = [mlp(f"mlp.experts.{number}", 128) for number in range(count)]
        each += [mlp("mlp.shared_experts", 128)] if family in DEEPSEEK else []
        each += [mlp("mlp.shared_expert", 256)] if family == "qwen2_moe" else []
    return {name: shape for one in each for name, shape in one.items()}


def floats_of(family, layers, count):
    """Tensors that stay floats -> shape."""
    shapes = {
        "model.embed_tokens.weight": (70, 128),
        "model.norm.weight": (128,),
        "lm_head.weight": (70, 128),
    }
    for index, modules in enumerate(layers):
        of = f"model.layers.{index}"
        for norm in ("input_layernorm", "post_attention_layernorm"):
            shapes[f"{of}.{norm}.weight"] = (128,)
        if family == "qwen2_moe":
            shapes[f"{of}.mlp.shared_expert_gate.weight"] = (1, 128)
            shapes |= {
                f"{of}.self_attn.{name}_proj.bias": (n,) for name, n in (("q", 128), ("k", 64), ("v", 64))
            }
        if family == "qwen3_moe":
            shapes |= {f"{of}.self_attn.{name}_norm.weight": (32,) for name in "qk"}
        if family in DEEPSEEK:
            shapes |= {f"{of}.self_attn.{name}_layernorm.weight": (128,) for name in ("q_a", "kv_a")}
        if family == "deepseek_v32":
            shapes |= {f"{of}.self_attn.indexer.k_norm.{kind}": (64,) for kind in ("weight", "bias")}
        if any(".experts." in name for name in modules):
            shapes[f"{of}.{ROUTERS[family]}.weight"] = (count, 128)
            if family in DEEPSEEK:
                shapes[f"{of}.mlp.gate.e_score_correction_bias"] = (count,)
    return shapes


def write_experts(folder, family, kind, edit=None, seed=5, kept=(), **more):
    """A folder of `MODELS[family]` whose layers' matrices are stored as `kind`, but for those whose names hold one of `kept`.

    Returns module -> the matrix [n, k] that its tensors mean. `more`: fields of config.json besides.
    """
    folder.mkdir(parents=True, exist_ok=True)
    fields = {"model_type": family} | MODELS[family] | more
    quantised = CONFIGS[kind]
    if "ignore" in quantised:
        listed = [*quantised["ignore"], rf"re:.*{ROUTERS[family]}$", *(f"re:.*{text}" for text in kept)]
        quantised = quantised | {"ignore": listed}
    if kept and "zero_point" in quantised:
        quantised = quantised | {"modules_to_not_convert": list(kept)}
    (folder / "config.json").write_text(json.dumps(fields | {"quantization_config": quantised}))
    count = next(fields[name] for name in COUNTS if name in fields)
    layers = [attention(family) | experts_of(family, i, count) for i in range(fields["num_hidden_layers"])]
    rng = np.random.default_rng(seed)
    tensors = {}
    for name, shape in floats_of(family, layers, count).items():
        norm = 1.0 if "norm" in name else 0.0
        tensors[name] = (norm + rng.standard_normal(shape) / 8).astype(np.float16)
    expected = {}
    for index, modules in enumerate(layers):
        for part, (n, k, shared) in modules.items():
            module = f"model.layers.{index}.{part}"
            if any(text in module for text in kept):
                tensors[f"{module}.weight"] = (rng.standard_normal((n, k)) / 16).astype(np.float16)
                expected[module] = tensors[f"{module}.weight"].astype(np.float32)
                continue
            order = np.random.default_rng([seed, index, *shared.encode()])
            made, expected[module] = make(
                kind, order, np.random.default_rng([seed, index, *part.encode()]), n, k
            )
            tensors |= {f"{module}.{suffix}": values for suffix, values in made.items()}
    if edit:
        edit(tensors)
    save(tensors, folder / "model.safetensors")
    return expected


def write_meant(folder, source, expected):
    """The model of folder `source` with the numbers that its quantised matrices mean as float32."""
    from safetensors import safe_open

    folder.mkdir()
    fields = json.loads((source / "config.json").read_text())
    del fields["quantization_config"]
    (folder / "config.json").write_text(json.dumps(fields))
    tensors = {f"{module}.weight": values.astype(np.float32) for module, values in expected.items()}
    with safe_open(source / "model.safetensors", framework="numpy") as file:
        for name in file.keys():  # noqa: SIM118
            if name.endswith(".bias") or name.rpartition(".")[0] not in expected:
                tensors[name] = file.get_tensor(name)
    save(tensors, folder / "model.safetensors")
