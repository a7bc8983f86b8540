"""What the families of models compute, beside what they hold: eps, activations, RoPE, scales, gains, routers.

>>> ARITHMETIC["stablelm"].norm
'layer'

Sources: huggingface/transformers, models/*/modeling_*.py and configuration_*.py, version 5. Each family is compared with it
number by number (tests/kernels/test_forward.py). A family that is not here is counted alone.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from math import inf, sqrt
from typing import Any

from membound.kernels.config_json import Config
from membound.kernels.mixers import Mamba2
from membound.kernels.model import ModelError
from membound.kernels.parts import Attention, Latent, Router
from membound.kernels.rope_fields import mscale, read_rope, rope_block
from membound.kernels.window_fields import without_rope

ACTIVATIONS = {
    "silu": "silu",
    "swish": "silu",
    "gelu": "gelu",
    "gelu_new": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "relu2": "relu2",
}
"""Names in files, and which of `Mlp`'s they are."""


@dataclass(frozen=True, slots=True)
class Arithmetic:
    """How a model_type computes. Names are those of fields of config.json, with the value where a file lacks them.

    activation: without a field, what `Mlp` calls it. turning: the part of a head that RoPE turns. attention: what else an attention computes, given its kind of layer and index.
    state: what else a state of Mamba-2 computes. router: what a router computes. gains: fields of `Decoder`. residual: the field that the halves of a layer are multiplied by.
    """

    norm: str = "rms"
    eps: tuple[str, float] = ("rms_norm_eps", 1e-6)
    activation: tuple[str, str] = ("hidden_act", "silu")
    theta: float = 10000.0
    turning: float = 1.0
    neighbours: bool = False
    attention: Callable[[Config, Attention, str, int], Attention] | None = None
    latent: Callable[[Config, Latent], Latent] | None = None
    state: Callable[[Config, Mamba2], Mamba2] | None = None
    router: Callable[[Config, Router], Router] | None = None
    gains: Callable[[Config], Mapping[str, float]] | None = None
    residual: str = ""

    def read_activation(self, config: Config) -> str:
        """The activation of the MLP, as `Mlp` calls it."""
        name, default = self.activation
        if not name:
            return default
        value = config.fields[name] if config.fields.get(name) is not None else default
        if not isinstance(value, str) or value not in ACTIVATIONS:
            raise ModelError(
                f"{config.path}: {name}={value!r:.60} is not supported; supported: {', '.join(ACTIVATIONS)}"
            )
        return ACTIVATIONS[value]

    def read_attention(self, config: Config, counted: Attention, layer: str, index: int) -> Attention:
        """The attention of a layer, whose kind is `layer`, with what it computes."""
        rope = read_rope(config, counted.head_dim, self.theta, self.turning, self.neighbours, layer)
        computed = replace(counted, rope=rope)
        return self.attention(config, computed, layer, index) if self.attention else computed

    def read_latent(self, config: Config, counted: Latent) -> Latent:
        """Latent attention with what it computes."""
        if self.latent is None:
            raise ModelError(f"{config.path}: latent attention of this family is not known here")
        return self.latent(config, counted)

    def read_state(self, config: Config, counted: Mamba2) -> Mamba2:
        """A state of Mamba-2 with what it computes."""
        return self.state(config, counted) if self.state else counted


def optional(config: Config, name: str, default: float) -> float:
    """A positive number; 0 where the file has null."""
    return 0.0 if config.fields.get(name, default) is None else config.real(name, default)


# Attention

GEMMA4_ROPE: dict[str, dict[str, Any]] = {
    "sliding_attention": {"rope_type": "default", "rope_theta": 1e4},
    "full_attention": {"rope_type": "proportional", "partial_rotary_factor": 0.25, "rope_theta": 1e6},
}
"""What Transformers takes where a file has no rope_parameters."""


def _gemma2(config: Config, attention: Attention, layer: str, index: int) -> Attention:
    scale = config.real("query_pre_attn_scalar", 256.0) ** -0.5
    return replace(attention, scale=scale, softcap=optional(config, "attn_logit_softcapping", 50.0))


def _gemma3(config: Config, attention: Attention, layer: str, index: int) -> Attention:
    """Layers with a window have a θ of their own, and no scaling."""
    scale = config.real("query_pre_attn_scalar", 256.0) ** -0.5
    if config.flag("use_bidirectional_attention"):
        raise ModelError(f"{config.path}: use_bidirectional_attention=true is not supported")
    softcap = (
        optional(config, "attn_logit_softcapping", 0.0)
        if config.fields.get("attn_logit_softcapping")
        else 0.0
    )
    own = {name: value for name, value in config.fields.items() if name not in ("rope_scaling", "rope_theta")}
    blocks = config.fields.get("rope_parameters")
    if attention.window:
        theta = config.real("rope_local_base_freq", 10000.0)
        per_layer = isinstance(blocks, dict) and layer in blocks
        fields = (
            own if per_layer else {name: value for name, value in own.items() if name != "rope_parameters"}
        )
        rope = read_rope(Config(config.path, fields), attention.head_dim, theta, layer=layer)
    else:
        rope = read_rope(config, attention.head_dim, 1e6, layer=layer)
    return replace(attention, scale=scale, softcap=softcap, rope=rope)


def _gemma4(config: Config, attention: Attention, layer: str, index: int) -> Attention:
    """Each kind of layer has a block of RoPE's settings; of the plain one Transformers reads no part of a head."""
    if config.fields.get("use_bidirectional_attention") == "all":
        raise ModelError(f"{config.path}: use_bidirectional_attention='all' is not supported")
    blocks = config.fields.get("rope_parameters")
    block = (
        (GEMMA4_ROPE if blocks is None else blocks).get(layer) if isinstance(blocks, dict | None) else None
    )
    if not isinstance(block, dict):
        raise config.bad("rope_parameters", f"an object with {' and '.join(GEMMA4_ROPE)}")
    if block.get("rope_type") == "default":
        block = {name: value for name, value in block.items() if name != "partial_rotary_factor"}
    most = {name: config.fields[name] for name in ("max_position_embeddings",) if name in config.fields}
    rope = read_rope(Config(config.path, most | {"rope_parameters": block}), attention.head_dim, 10000.0)
    return replace(attention, rope=rope)


def _granite(config: Config, attention: Attention, layer: str, index: int) -> Attention:
    return replace(attention, scale=config.real("attention_multiplier", 1.0))


def _granite_hybrid(config: Config, attention: Attention, layer: str, index: int) -> Attention:
    """Positions are told by RoPE where position_embedding_type says so, else by the states between."""
    kind = config.fields.get("position_embedding_type")
    if kind not in (None, "nope", "rope"):
        raise config.bad("position_embedding_type", "'rope', 'nope' or null")
    scaled = _granite(config, attention, layer, index)
    return scaled if kind == "rope" else replace(scaled, rope=None)


def _smollm3(config: Config, attention: Attention, layer: str, index: int) -> Attention:
    return replace(attention, rope=None) if without_rope(config, index) else attention


def _llama4(config: Config, attention: Attention, layer: str, index: int) -> Attention:
    def switched_on(name: str) -> bool:
        return config.fields.get(name) is None or bool(config.fields[name])

    if not without_rope(config, index):
        return replace(attention, head_norm="l2" if switched_on("use_qk_norm") else "")
    warmth = (config.real("floor_scale", 8192.0), config.real("attn_scale", 0.1))
    return replace(
        attention, rope=None, temperature=warmth if switched_on("attn_temperature_tuning") else None
    )


def _still(config: Config, attention: Attention, layer: str, index: int) -> Attention:
    """Positions are told by the states between."""
    return replace(attention, rope=None)


def _minimax(config: Config, attention: Attention, layer: str, index: int) -> Attention:
    """Files say how many columns turn, Transformers' own settings which part of a head."""
    turning = 1.0
    if config.fields.get("rotary_dim") is not None:
        turning = config.count("rotary_dim") / attention.head_dim
    return replace(attention, rope=read_rope(config, attention.head_dim, 5e6, turning))


def _gpt_oss(config: Config, attention: Attention, layer: str, index: int) -> Attention:
    for name, only in (("swiglu_alpha", 1.702), ("swiglu_limit", 7.0)):
        if config.real(name, only) != only:
            raise config.bad(name, f"{only}, which is what is computed")
    if rope_block(config).fields:
        return attention
    yarn = {"rope_type": "yarn", "factor": 32.0, "original_max_position_embeddings": 4096, "truncate": False}
    stretched = Config(config.path, config.fields | {"rope_parameters": yarn})
    return replace(attention, rope=read_rope(stretched, attention.head_dim, 150000.0))


def _deepseek(config: Config, latent: Latent) -> Latent:
    """YaRN's gain goes into the scale of scores, squared, once for the query and once for the key."""
    halves = config.fields.get("rope_interleave") is False
    rope = read_rope(config, latent.rope_dim, 10000.0, neighbours=not halves)
    scale, block = (latent.nope_dim + latent.rope_dim) ** -0.5, rope_block(config)
    if rope.scaling is not None and block.fields.get("mscale_all_dim"):
        scale *= mscale(block.real("factor"), block.real("mscale_all_dim")) ** 2
    return replace(latent, rope=rope, scale=scale)


# States


def _granite_state(config: Config, state: Mamba2) -> Mamba2:
    """Time steps have a least length and none at most; hidden_act stands behind the convolution too, whose own is SiLU."""
    act, limit = config.fields.get("hidden_act"), config.fields.get("time_step_limit")
    if act is not None and ACTIVATIONS.get(str(act)) != "silu":
        raise config.bad("hidden_act", "'silu', which is what states compute")
    if limit is None:
        return state
    both: list[Any] = limit if isinstance(limit, list) and len(limit) == 2 else [None, None]
    least, most = both
    real = isinstance(least, int | float) and not isinstance(least, bool)
    if not real or not 0 <= least <= sys.float_info.max or most not in (inf, {"__float__": "Infinity"}):
        raise config.bad("time_step_limit", "[least, Infinity]: no time step is too long here")
    return replace(state, least_step=float(least))


# Routers


def _normalised(default: bool) -> Callable[[Config, Router], Router]:
    def router(config: Config, counted: Router) -> Router:
        given = config.fields.get("norm_topk_prob") is not None
        return replace(counted, normalised=config.flag("norm_topk_prob") if given else default)

    return router


def _llama4_router(config: Config, counted: Router) -> Router:
    return replace(counted, score="sigmoid", normalised=False, on_input=True)


def _sigmoid(groups: int, groups_chosen: int, factor: float) -> Callable[[Config, Router], Router]:
    """DeepSeek-V3's. The arguments hold where the file is silent."""

    def router(config: Config, counted: Router) -> Router:
        made = _normalised(True)(config, counted)
        return _grouped(config, replace(made, score="sigmoid"), groups, groups_chosen, factor)

    return router


def _sigmoid_alone(config: Config, counted: Router) -> Router:
    return replace(counted, score="sigmoid")


def _deepseek_v2(config: Config, counted: Router) -> Router:
    made = replace(counted, normalised=False, group_best=1)
    if config.fields.get("topk_method") == "group_limited_greedy":
        return _grouped(config, made, 1, 1, 1.0)
    return replace(made, factor=config.real("routed_scaling_factor", 1.0))


def _grouped(config: Config, router: Router, groups: int, chosen: int, factor: float) -> Router:
    known = config.fields
    groups = config.count("n_group") if known.get("n_group") is not None else groups
    chosen = config.count("topk_group") if known.get("topk_group") is not None else chosen
    size, rest = divmod(config.count("n_routed_experts"), groups)
    if rest or chosen > groups:
        raise config.bad("n_group", "a divisor of n_routed_experts, and topk_group no larger")
    if groups > 1 and size < router.group_best:
        raise config.bad(
            "n_group", f"groups of {router.group_best} experts or more, by which they are compared"
        )
    if config.count("num_experts_per_tok") > chosen * size:
        raise config.bad(
            "num_experts_per_tok", f"{chosen * size} at most, which {chosen} of {groups} groups hold"
        )
    factor = config.real("routed_scaling_factor", factor)
    return replace(router, groups=groups, groups_chosen=chosen, factor=factor)


# Gains


def _gemma_gains(config: Config) -> Mapping[str, float]:
    given = config.fields.get("final_logit_softcapping")
    cap = {"logit_softcap": config.real("final_logit_softcapping")} if given is not None else {}
    return {"embedding_gain": sqrt(config.count("hidden_size"))} | cap


def _gemma2_gains(config: Config) -> Mapping[str, float]:
    capped = {"final_logit_softcapping": 30.0} if "final_logit_softcapping" not in config.fields else {}
    return _gemma_gains(Config(config.path, config.fields | capped))


def _granite_gains(config: Config) -> Mapping[str, float]:
    return {
        "embedding_gain": config.real("embedding_multiplier", 1.0),
        "logit_gain": 1 / config.real("logits_scaling", 1.0),
    }


_GEMMA: dict[str, Any] = {"activation": ("hidden_activation", "gelu_pytorch_tanh")}
_GRANITE: dict[str, Any] = {
    "attention": _granite,
    "gains": _granite_gains,
    "residual": "residual_multiplier",
}
_GRANITE_HYBRID = _GRANITE | {"attention": _granite_hybrid, "state": _granite_state}
_EPS_5 = ("rms_norm_eps", 1e-5)
_GLM = Arithmetic(eps=("rms_norm_eps", 0.00000015625), turning=0.5, neighbours=True)

ARITHMETIC = {
    "llama": Arithmetic(),
    "mistral": Arithmetic(),
    "qwen2": Arithmetic(),
    "qwen3": Arithmetic(),
    "gemma2": Arithmetic(attention=_gemma2, gains=_gemma2_gains, **_GEMMA),
    "gemma3_text": Arithmetic(attention=_gemma3, gains=_gemma_gains, theta=1e6, **_GEMMA),
    "gemma4_text": Arithmetic(attention=_gemma4, gains=_gemma_gains, **_GEMMA),
    "glm": _GLM,
    "glm4": _GLM,
    "granite": Arithmetic(**_GRANITE),
    "olmo2": Arithmetic(eps=_EPS_5),
    "phi3": Arithmetic(eps=_EPS_5),
    "smollm3": Arithmetic(attention=_smollm3, theta=2e6),
    "stablelm": Arithmetic(norm="layer", eps=("layer_norm_eps", 1e-5), turning=0.25),
    "deepseek_v2": Arithmetic(latent=_deepseek, router=_deepseek_v2),
    "deepseek_v3": Arithmetic(latent=_deepseek, router=_sigmoid(8, 4, 2.5)),
    "deepseek_v32": Arithmetic(latent=_deepseek, router=_sigmoid(8, 4, 2.5)),
    "glm_moe_dsa": Arithmetic(eps=_EPS_5, latent=_deepseek, router=_sigmoid(1, 1, 2.5)),
    "glm4_moe": Arithmetic(eps=_EPS_5, turning=0.5, router=_sigmoid(1, 1, 1.0)),
    "gpt_oss": Arithmetic(eps=_EPS_5, theta=150000.0, attention=_gpt_oss, activation=("", "clamped")),
    "granitemoe": Arithmetic(**_GRANITE),
    "granitemoehybrid": Arithmetic(**_GRANITE_HYBRID),
    "granitemoeshared": Arithmetic(**_GRANITE),
    "llama4_text": Arithmetic(
        eps=_EPS_5, theta=500000.0, neighbours=True, attention=_llama4, router=_llama4_router
    ),
    "mixtral": Arithmetic(eps=_EPS_5, theta=1e6),
    "minimax_m2": Arithmetic(attention=_minimax, router=_sigmoid_alone),
    "nemotron_h": Arithmetic(
        eps=("layer_norm_epsilon", 1e-5),
        activation=("mlp_hidden_act", "relu2"),
        attention=_still,
        router=_sigmoid(1, 1, 1.0),
    ),
    "qwen2_moe": Arithmetic(router=_normalised(False)),
    "qwen3_5_moe_text": Arithmetic(turning=0.25, router=_normalised(True)),
    "qwen3_5_text": Arithmetic(turning=0.25),
    "qwen3_next": Arithmetic(turning=0.25, router=_normalised(True)),
    "qwen3_moe": Arithmetic(router=_normalised(False)),
}
"""By model_type; those of dense models first."""
