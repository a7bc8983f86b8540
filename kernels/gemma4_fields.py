"""The layers of Gemma 4 as a config.json describes them: wide heads where a layer sees all, keys that are values, experts beside an MLP.

>>> gemma4_layers(Config(path, fields))[5].mixer.keys_are_values
True

`families` says which model_type has them. Source: huggingface/transformers, models/gemma4/*_gemma4.py, version 5.24.
"""

from __future__ import annotations

from membound.kernels.config_json import MOST_LAYERS, Config
from membound.kernels.mixture_fields import mixture_of
from membound.kernels.model import ModelError
from membound.kernels.parts import Attention, Layer, Mlp, Router

WINDOWED, FULL = "sliding_attention", "full_attention"
GAINED = Router(gains=True)
WIDE = {"head_dim": "global_head_dim", "num_key_value_heads": "num_global_key_value_heads"}
"""Fields that layers which see all have under a name of their own."""
OWN = tuple(WIDE)


def gemma4_layers(config: Config) -> tuple[Layer, ...]:
    """All of them. Raises ModelError for those that share another layer's cache or take an embedding of their own (E2B, E4B)."""
    for name in ("hidden_size_per_layer_input", "num_kv_shared_layers"):
        if config.fields.get(name):
            raise ModelError(f"{config.path}: {name}={config.fields[name]!r:.60} is not supported")
    count = config.count("num_hidden_layers")
    if count > MOST_LAYERS:
        raise config.bad("num_hidden_layers", f"{MOST_LAYERS} at most")
    kinds = config.fields.get("layer_types")
    if kinds is None:
        kinds = [FULL if not (index + 1) % 6 else WINDOWED for index in range(count)]
    if not isinstance(kinds, list) or len(kinds) != count or any(k not in (WINDOWED, FULL) for k in kinds):
        raise config.bad("layer_types", f"a list with {WINDOWED} or {FULL} for each layer")
    sees_all = (*(kind == FULL for kind in kinds[:-1]), True)  # the last one always
    return tuple(_layer(_of_layer(config, index), one) for index, one in enumerate(sees_all))


def _of_layer(config: Config, index: int) -> Config:
    """The fields of one layer: Transformers 5.24 writes those that differ under its number, where published files have names for them."""
    every = config.fields.get("per_layer_config")
    if every is None:
        return config
    own = every.get(str(index), {}) if isinstance(every, dict) else None
    if not isinstance(own, dict) or own.keys() - OWN:
        raise config.bad("per_layer_config", f"an object of layers, each with {' and '.join(OWN)} or none")
    wide = {WIDE[name]: config.fields.get(name) for name in OWN} | {WIDE[name]: own[name] for name in own}
    return Config(config.path, config.fields | own | wide)


def _layer(config: Config, all_seen: bool) -> Layer:
    routed = config.flag("enable_moe_block")
    mlp = Mlp(config.count("intermediate_size"))
    if not routed:
        return Layer(_attention(config, all_seen), mlp, "both", gain=True)
    expert = Mlp(config.count("moe_intermediate_size"))
    experts = mixture_of(config, "num_experts", "top_k_experts", expert, mlp, router=GAINED)
    return Layer(_attention(config, all_seen), experts, "both_beside", gain=True)


def _attention(config: Config, all_seen: bool) -> Attention:
    """Layers that see all have heads of global_head_dim, and where keys are values as many KV heads as num_global_key_value_heads."""
    q_heads, same = config.count("num_attention_heads"), config.flag("attention_k_eq_v")
    own = all_seen and same and config.fields.get("num_global_key_value_heads") is not None
    name = "num_global_key_value_heads" if own else "num_key_value_heads"
    kv_heads = config.count(name)
    if q_heads % kv_heads:
        raise config.bad("num_attention_heads", f"a multiple of {name}={kv_heads}")
    return Attention(
        q_heads,
        kv_heads,
        config.count("global_head_dim" if all_seen else "head_dim"),
        window=0 if all_seen else config.count("sliding_window"),
        biases="qkvo" if config.flag("attention_bias") else "",
        head_norm="head",
        scale=1.0,
        keys_are_values=all_seen and same,
        value_norm=True,
    )
