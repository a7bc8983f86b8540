"""What mixes tokens in this year's hybrid models, as their config.json describes it: states, indexes, values narrower than keys.

>>> gated_delta(Config(path, fields), index=0).value_heads
32

`families` says which of them a model_type has. Sources: huggingface/transformers, models/*/configuration_*.py, version 5.
"""

from __future__ import annotations

from dataclasses import replace

from membound.kernels.config_json import MOST_LAYERS, Config
from membound.kernels.mixers import GatedDelta, Indexer, Latent, Mamba2
from membound.kernels.mixture_fields import CORRECTED, deepseek, mixture_of
from membound.kernels.model import ModelError
from membound.kernels.parts import Attention, Experts, Layer, Mixer, Mlp

LINEAR, FULL, WINDOWED = "linear_attention", "full_attention", "sliding_attention"
BLOCKS = {
    "M": LINEAR, "E": "moe", "*": FULL, "-": "mlp", "mamba": LINEAR, "attention": FULL,
    LINEAR: LINEAR, FULL: FULL, "moe": "moe", "mlp": "mlp",
}  # fmt: skip
"""What Nemotron-H's files call a block, by letter in older ones."""


def head_dim_of(config: Config, q_heads: int) -> int:
    """The width of a head: head_dim, or the query heads' shares of the hidden state. Raises ModelError."""
    if config.fields.get("head_dim") is not None:
        return config.count("head_dim")
    hidden = config.count("hidden_size")
    if hidden % q_heads:
        raise config.bad(
            "hidden_size", f"a multiple of num_attention_heads={q_heads} where there is no head_dim"
        )
    return hidden // q_heads


def gated_delta(config: Config, index: int) -> GatedDelta | None:
    """Qwen3-Next's and Qwen3.5's: three of four layers, or those that layer_types names."""
    kinds = config.fields.get("layer_types")
    if kinds is None:
        name = "full_attention_interval"
        every = config.count(name) if config.fields.get(name) is not None else 4
        linear = bool((index + 1) % every)
    else:
        linear = _kind_of(config, index) == LINEAR
    if not linear:
        return None
    keys, values = config.count("linear_num_key_heads"), config.count("linear_num_value_heads")
    if values % keys:
        raise config.bad("linear_num_value_heads", f"a multiple of linear_num_key_heads={keys}")
    dims = config.count("linear_key_head_dim"), config.count("linear_value_head_dim")
    return GatedDelta(keys, values, *dims, config.count("linear_conv_kernel_dim", 2))


def neighbouring(config: Config, latent: Latent, index: int) -> Latent:
    """GLM-5's index, in which RoPE turns neighbours; GLM-5.2's layers take turns at one."""
    found = indexed(config, latent, index)
    shared = not _selects(config, index)
    return replace(found, index=replace(found.index, neighbours=True, shared=shared) if found.index else None)


def _selects(config: Config, index: int) -> bool:
    """Whether a layer has an index of its own: as indexer_types or index_topk_pattern says, else the first index_skip_topk_offset and every index_topk_freq-th."""
    for name in ("indexer_types", "index_topk_pattern"):
        kinds = config.fields.get(name)
        if kinds is None:
            continue
        known = {"full": True, "shared": False, "F": True, "S": False}
        if (
            not isinstance(kinds, list | str)
            or len(kinds) != config.count("num_hidden_layers")
            or any(not isinstance(kind, str) or kind not in known for kind in kinds)
        ):
            raise config.bad(name, "a list with full or shared for each layer")
        if not known[kinds[0]]:
            raise config.bad(name, "full for the first layer, which has none before it")
        return known[kinds[index]]
    every, offset = (
        config.count(name) if config.fields.get(name) is not None else default
        for name, default in (("index_topk_freq", 1), ("index_skip_topk_offset", 2))
    )
    return not max(index - offset + 1, 0) % every


def indexed(config: Config, latent: Latent, index: int) -> Latent:
    """DeepSeek-V3.2's and GLM-5's latent attention, with an index of its own in every layer."""
    if not latent.q_rank:
        raise config.bad("q_lora_rank", "a positive whole number, from whose rank an index makes its queries")
    heads, head_dim, chosen = (config.count(f"index_{name}") for name in ("n_heads", "head_dim", "topk"))
    return replace(latent, index=Indexer(heads, head_dim, chosen))


def _kind_of(config: Config, index: int) -> str:
    """What layer_types says of a layer."""
    kinds, count = config.fields["layer_types"], config.count("num_hidden_layers")
    if not isinstance(kinds, list) or len(kinds) != count:
        raise config.bad("layer_types", f"a list with one kind for each of num_hidden_layers={count}")
    if kinds[index] not in (LINEAR, FULL):
        raise ModelError(
            f"{config.path}: layer_types has {kinds[index]!r:.60}, which is not supported; supported: {FULL}, {LINEAR}"
        )
    return str(kinds[index])


# Nemotron-H


def nemotron_layers(config: Config) -> tuple[Layer, ...]:
    """Its blocks, each with a norm of its own, in pairs of a mixer and the MLP or the experts behind it: a layer each.

    A mixer that another one follows is a layer without an MLP. Source: models/nemotron_h/modeling_nemotron_h.py.
    """
    blocks, layers = _blocks(config), list[Layer]()
    for block in blocks:
        if block in (LINEAR, FULL):
            mixer: Mixer = _mamba2(config) if block == LINEAR else _attention(config)
            layers.append(Layer(mixer, Mlp(0, gated=False, activation="relu2"), "half"))
        elif not layers or layers[-1].norms != "half":
            raise ModelError(f"{config.path}: an MLP that stands behind no mixer is not supported")
        else:
            mlp: Mlp | Experts = _experts(config) if block == "moe" else _mlp(config, "intermediate_size")
            layers[-1] = replace(layers[-1], mlp=mlp, norms="before")
    return tuple(layers)


def _blocks(config: Config) -> list[str]:
    name = next((n for n in ("layers_block_type", "layer_types") if config.fields.get(n) is not None), "")
    name = name or "hybrid_override_pattern"
    given = config.fields.get(name)
    if not isinstance(given, list | str) or not given or len(given) > MOST_LAYERS:
        raise config.bad(name, f"a list or a text with a kind for each of {MOST_LAYERS} blocks at most")
    found = [BLOCKS.get(kind) if isinstance(kind, str) else None for kind in given]
    for kind, known in zip(given, found, strict=True):
        if known is None:
            raise ModelError(f"{config.path}: {name} has {kind!r:.60}, which is not supported")
    return [known for known in found if known is not None]


def _mamba2(config: Config) -> Mamba2:
    heads, groups = config.count("mamba_num_heads"), config.count("n_groups")
    if heads % groups:
        raise config.bad("mamba_num_heads", f"a multiple of n_groups={groups}")
    sizes = heads, config.count("mamba_head_dim"), config.count("ssm_state_size"), groups
    for name in ("mamba_hidden_act", "mlp_hidden_act"):
        only = "silu" if name.startswith("mamba") else "relu2"
        if config.fields.get(name, only) != only:
            raise config.bad(name, f"{only!r}, which is what is computed")
    return Mamba2(
        *sizes,
        config.count("conv_kernel", 2),
        conv_bias=config.flag("use_conv_bias"),
        bias=config.flag("use_bias"),
        least_step=config.real("time_step_min", 0.001),
    )


def _attention(config: Config) -> Attention:
    q_heads, kv_heads = config.count("num_attention_heads"), config.count("num_key_value_heads")
    if q_heads % kv_heads:
        raise config.bad("num_attention_heads", f"a multiple of num_key_value_heads={kv_heads}")
    return Attention(q_heads, kv_heads, config.count("head_dim"), rope=None)


def _mlp(config: Config, width: str) -> Mlp:
    return Mlp(config.count(width), gated=False, bias=config.flag("mlp_bias"), activation="relu2")


def _experts(config: Config) -> Experts:
    shared = _mlp(config, "moe_shared_expert_intermediate_size")
    expert = replace(_mlp(config, "moe_intermediate_size"), bias=False)
    latent = config.count("moe_latent_size") if config.fields.get("moe_latent_size") is not None else 0
    if latent and config.flag("mlp_bias"):
        raise config.bad("mlp_bias", "false beside moe_latent_size")
    return mixture_of(
        config, "n_routed_experts", "num_experts_per_tok", expert, shared, router=CORRECTED, latent=latent
    )


# Granite 4


def granite_layers(config: Config) -> tuple[Layer, ...]:
    """States or attention, each with an MLP that all tokens take, beside experts where there are some (Granite 4.0 hybrids).

    Source: models/granitemoehybrid/modeling_granitemoehybrid.py.
    """
    count = config.count("num_hidden_layers")
    if count > MOST_LAYERS:
        raise config.bad("num_hidden_layers", f"{MOST_LAYERS} at most")
    kinds = config.fields.get("layer_types", config.fields.get("layers_block_type"))
    kinds = [LINEAR] * count if kinds is None else kinds
    if not isinstance(kinds, list) or len(kinds) != count or not all(isinstance(kind, str) for kind in kinds):
        raise config.bad("layer_types", f"a list with one kind for each of num_hidden_layers={count}")
    found = {kind: _granite_layer(config, kind) for kind in kinds}
    return tuple(found[kind] for kind in kinds)


def _granite_layer(config: Config, kind: str) -> Layer:
    if BLOCKS.get(kind) not in (LINEAR, FULL) or kind in "M*":
        raise ModelError(
            f"{config.path}: layer_types has {kind!r:.60}, which is not supported; supported: mamba, attention"
        )
    common = Mlp(config.count("shared_intermediate_size"))
    mlp: Mlp | Experts = common
    if config.fields.get("num_local_experts"):
        expert = Mlp(config.count("intermediate_size"))
        mlp = mixture_of(config, "num_local_experts", "num_experts_per_tok", expert, common)
    return Layer(_granite_state(config) if BLOCKS[kind] == LINEAR else _granite_attention(config), mlp)


def _granite_state(config: Config) -> Mamba2:
    heads, groups = config.count("mamba_n_heads"), config.count("mamba_n_groups")
    width = config.count("mamba_expand") * config.count("hidden_size")
    head_dim = width // heads if config.fields["mamba_d_head"] == "auto" else config.count("mamba_d_head")
    if heads * head_dim != width:
        raise config.bad("mamba_d_head", f"such that mamba_n_heads={heads} of them make {width}")
    if heads % groups:
        raise config.bad("mamba_n_heads", f"a multiple of mamba_n_groups={groups}")
    return Mamba2(
        heads,
        head_dim,
        config.count("mamba_d_state"),
        groups,
        config.count("mamba_d_conv", 2),
        conv_bias=config.flag("mamba_conv_bias"),
        bias=config.flag("mamba_proj_bias"),
    )


def _granite_attention(config: Config) -> Attention:
    q_heads = config.count("num_attention_heads")
    given = config.fields.get("num_key_value_heads") is not None
    kv_heads = config.count("num_key_value_heads") if given else q_heads
    if q_heads % kv_heads:
        raise config.bad("num_attention_heads", f"a multiple of num_key_value_heads={kv_heads}")
    biases = "qkvo" if config.flag("attention_bias") else ""
    return Attention(q_heads, kv_heads, head_dim_of(config, q_heads), biases=biases, rope=None)


# MiMo-V2-Flash


def mimo_kind(config: Config, index: int) -> str:
    """Whether a layer sees a window: as layer_types or hybrid_layer_pattern (1) says, else all but the first and every sixth."""
    count = config.count("num_hidden_layers")
    for name, windowed in (("layer_types", WINDOWED), ("hybrid_layer_pattern", 1)):
        kinds = config.fields.get(name)
        if kinds is None:
            continue
        if (
            not isinstance(kinds, list)
            or len(kinds) != count
            or any(k not in (windowed, FULL, 0) for k in kinds)
        ):
            raise config.bad(name, f"a list with one kind for each of num_hidden_layers={count}")
        return WINDOWED if kinds[index] == windowed else FULL
    return WINDOWED if index and (index + 1) % 6 else FULL


def mimo_attention(config: Config, attention: Attention) -> Attention:
    """Values narrower than keys; layers with a window have twice the KV heads, and sinks."""
    wide = replace(attention, value_dim=config.count("v_head_dim"))
    if not attention.window:
        return wide
    name = "sliding_window_size"  # the tokens before the query, where a file has it
    window = config.count(name) + 1 if config.fields.get(name) is not None else attention.window
    return replace(wide, kv_heads=2 * attention.kv_heads, sinks=True, window=window)


def mimo_mixture(config: Config, index: int) -> Experts | None:
    """All but the first layer, or those that moe_layer_freq marks with 1."""
    marked = config.fields.get("moe_layer_freq")
    if not isinstance(marked, list):
        return deepseek(CORRECTED)(config, index)
    if len(marked) != config.count("num_hidden_layers") or any(one not in (0, 1) for one in marked):
        raise config.bad("moe_layer_freq", "a list with 0 or 1 for each layer")
    return deepseek(CORRECTED, dense=False)(config, index) if marked[index] else None
