"""Models with experts or latent attention as Hugging Face folders: which architecture they are, its config.json, its tensors.

>>> from membound.kernels.models import get_model
>>> architecture_of(get_model("gpt-oss-20b").decoder).model_type
'gpt_oss'

Sources: huggingface/transformers, models/*/configuration_*.py and modeling_*.py, version 5, and how vLLM 0.32 loads each
(vllm/model_executor/models). Numbers are those of the work; a router is float32.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from math import log
from typing import Any

import numpy as np
import numpy.typing as npt

from membound.kernels.layer_tensors import ROUTER, matrices_of, routed_part
from membound.kernels.parts import Attention, Decoder, Experts, Latent, Layer, Mixer
from membound.kernels.rope import Rope, YarnScaling
from membound.kernels.weights.layers import LayerWeights

Array = npt.NDArray[Any]


@dataclass(frozen=True, slots=True)
class Architecture:
    """A model_type, its class in Transformers, and what its layers call the block of experts, a router and an expert's matrices.

    `stacked`: all experts are one tensor, transposed, rows of gate and up in turn (gpt-oss).
    """

    model_type: str
    title: str
    block: str = "mlp"
    router: str = "gate"
    gate: str = "gate_proj"
    up: str = "up_proj"
    down: str = "down_proj"
    stacked: bool = False


QWEN3 = Architecture("qwen3_moe", "Qwen3MoeForCausalLM")
MIXTRAL = Architecture("mixtral", "MixtralForCausalLM", "block_sparse_moe", "gate", "w1", "w3", "w2")
GPT_OSS = Architecture("gpt_oss", "GptOssForCausalLM", router="router", stacked=True)
DEEPSEEK_V2 = Architecture("deepseek_v2", "DeepseekV2ForCausalLM")
DEEPSEEK_V3 = Architecture("deepseek_v3", "DeepseekV3ForCausalLM")

ATTENTION = {
    "q_down": "q_a_proj", "q_up": "q_b_proj", "kv_down": "kv_a_proj_with_mqa", "kv_up": "kv_b_proj",
    "q": "q_proj", "k": "k_proj", "v": "v_proj", "o": "o_proj",
}  # fmt: skip
LATENT_NORMS = {"q_norm": "q_a_layernorm", "kv_norm": "kv_a_layernorm"}


def architecture_of(decoder: Decoder) -> Architecture | None:
    """The architecture that computes what the decoder does; None if none of those above is it."""
    if any(_is_newer(kind.mixer) for kind in decoder.kinds):
        return None
    experts, mixer = routed_part(decoder), decoder.layers[0].attention
    plain = (
        decoder.norm == "rms"
        and decoder.norm_vectors == 1
        and decoder.logit_gain == decoder.embedding_gain == 1
    )
    if (
        experts is None
        or not plain
        or any(kind.norms != "before" or kind.residual != 1 for kind in decoder.kinds)
    ):
        return None
    if not all(_writes_rope(kind.attention) for kind in decoder.kinds):
        return None
    router = experts.router
    if isinstance(mixer, Latent):
        if experts.shared is None or experts.shared_gate or not mixer.rope.neighbours:
            return None
        if (
            router.score == "softmax"
            and not router.correction
            and not router.normalised
            and router.group_best == 1
        ):
            return DEEPSEEK_V2
        return DEEPSEEK_V3 if router.score == "sigmoid" and router.correction and router.normalised else None
    if any(not isinstance(kind.mlp, Experts) for kind in decoder.kinds) or experts.shared is not None:
        return None
    if experts.expert.activation == "clamped":
        return (
            GPT_OSS
            if experts.expert.bias and mixer.sinks and mixer.biases == "qkvo" and router.bias
            else None
        )
    if router.score != "softmax" or not router.normalised or router.bias or not _is_plain(mixer):
        return None
    return QWEN3 if mixer.head_norm == "head" else MIXTRAL if not mixer.head_norm else None


def _is_newer(mixer: Mixer) -> bool:
    """Whether a mixer has what none of these architectures has: a state, an index, a gate, or narrower values."""
    if isinstance(mixer, Latent):
        return mixer.index is not None
    return not isinstance(mixer, Attention) or mixer.gated or bool(mixer.value_dim)


def _writes_rope(mixer: Attention | Latent) -> bool:
    """Whether `_rope` says all of a layer's RoPE: as it was made, or YaRN with the gain that its factor has."""
    rope = mixer.rope
    if rope is None or rope.dim or (isinstance(mixer, Attention) and rope.neighbours):
        return False
    if not isinstance(rope.scaling, YarnScaling):
        return rope.scaling is None
    wanted = 1.0 if isinstance(mixer, Latent) else 0.1 * log(rope.scaling.factor) + 1
    return abs(rope.scaling.gain - wanted) < 1e-9


def _is_plain(mixer: Attention) -> bool:
    """Grouped attention over all tokens with RoPE as Llama has it."""
    shape = (mixer.q_heads, mixer.kv_heads, mixer.head_dim)
    return mixer.rope is not None and mixer == Attention(
        *shape, head_norm=mixer.head_norm, rope=Rope(mixer.rope.theta)
    )


def routed_config(decoder: Decoder) -> dict[str, Any]:
    """The fields of config.json that say what parts compute. Raises AssertionError without an architecture."""
    found, experts, mixer = architecture_of(decoder), routed_part(decoder), decoder.layers[0].mixer
    if found is None or experts is None or mixer.rope is None:
        raise AssertionError(f"{decoder.name} is of no architecture that is exported")
    dense = next(
        (kind.mlp.width for kind in decoder.kinds if not isinstance(kind.mlp, Experts)), experts.expert.width
    )
    fields: dict[str, Any] = {
        "architectures": [found.title],
        "model_type": found.model_type,
        "num_attention_heads": mixer.q_heads,
        "num_experts_per_tok": experts.chosen,
        "intermediate_size": dense,
        "rms_norm_eps": decoder.eps,
        "rope_theta": mixer.rope.theta,
        "rope_parameters": _rope(mixer.rope, mixer),
        "tie_word_embeddings": False,
    }
    if isinstance(mixer, Latent):
        return fields | _latent_fields(decoder, mixer, experts)
    fields |= {"num_key_value_heads": mixer.kv_heads, "head_dim": mixer.head_dim}
    if found is QWEN3:
        more = {
            "norm_topk_prob": True,
            "decoder_sparse_step": 1,
            "mlp_only_layers": [],
            "num_experts": experts.count,
        }
        return fields | more | {"moe_intermediate_size": experts.expert.width}
    fields |= {"num_local_experts": experts.count}
    if found is MIXTRAL:
        return fields | {"sliding_window": None}
    windows = [layer.mixer.window for layer in decoder.layers if isinstance(layer.mixer, Attention)]
    kinds = ["sliding_attention" if window else "full_attention" for window in windows]
    window = max(windows)
    return fields | {
        "attention_bias": True, "layer_types": kinds, "sliding_window": window, "swiglu_limit": 7.0,
        "rope_scaling": {k: v for k, v in fields["rope_parameters"].items() if k != "rope_theta"},
    }  # fmt: skip


def _latent_fields(decoder: Decoder, mixer: Latent, experts: Experts) -> dict[str, Any]:
    router, shared = experts.router, experts.shared
    grouped = router.groups > 1
    old = "group_limited_greedy" if grouped else "greedy"
    return {
        "num_key_value_heads": mixer.q_heads,
        "q_lora_rank": mixer.q_rank or None,
        "kv_lora_rank": mixer.kv_rank,
        "attention_bias": mixer.biases,
        "qk_nope_head_dim": mixer.nope_dim,
        "qk_rope_head_dim": mixer.rope_dim,
        "v_head_dim": mixer.value_dim,
        "first_k_dense_replace": sum(not isinstance(layer.mlp, Experts) for layer in decoder.layers),
        "moe_layer_freq": 1,
        "moe_intermediate_size": experts.expert.width,
        "n_routed_experts": experts.count,
        "n_shared_experts": (shared.width if shared else 0) // experts.expert.width,
        "n_group": router.groups,
        "topk_group": router.groups_chosen,
        "topk_method": "noaux_tc" if router.correction else old,
        "scoring_func": router.score,
        "norm_topk_prob": router.normalised,
        "routed_scaling_factor": router.factor,
    }


def _rope(rope: Rope, mixer: Attention | Latent) -> dict[str, Any]:
    """RoPE's block; of latent attention with the mscale that makes the scale of its scores."""
    scaling = rope.scaling
    if not isinstance(scaling, YarnScaling):
        return {"rope_type": "default", "rope_theta": rope.theta}
    block = {
        "rope_type": "yarn",
        "rope_theta": rope.theta,
        "factor": scaling.factor,
        "original_max_position_embeddings": int(scaling.original),
        "beta_fast": scaling.fast,
        "beta_slow": scaling.slow,
    }
    if not isinstance(mixer, Latent):
        return block | {"truncate": scaling.truncate}
    plain = (mixer.nope_dim + mixer.rope_dim) ** -0.5
    times = round(((mixer.scale / plain) ** 0.5 - 1) / (0.1 * log(scaling.factor)), 9) if mixer.scale else 0.0
    return block | {"mscale": times, "mscale_all_dim": times}


def layer_tensors(
    layer: Layer, hidden: int, found: Architecture
) -> Iterator[tuple[str, str, tuple[int, ...], str]]:
    """(name in the file behind ``model.layers.N.``, kind, shape, what `numbers_of` makes it of) of a layer.

    kind: ``matrix`` in the work's format, or ``vector`` in float32, which a router is, too.
    """
    mixer = layer.mixer
    shapes = matrices_of(layer, hidden)
    for name, n in mixer.vector_widths(hidden).items():
        of, norms = name.removesuffix("_bias"), LATENT_NORMS if isinstance(mixer, Latent) else {}
        called = (
            "sinks"
            if name == "sinks"
            else f"{ATTENTION[of]}.bias"
            if of != name
            else f"{norms.get(name, name)}.weight"
        )
        yield f"self_attn.{called}", "vector", (n,), name
    for name in mixer.matrices(hidden):
        yield f"self_attn.{ATTENTION[name]}.weight", "matrix", shapes[name], name
    yield "input_layernorm.weight", "vector", (hidden,), "attention_norm"
    yield "post_attention_layernorm.weight", "vector", (hidden,), "mlp_norm"
    if not isinstance(layer.mlp, Experts):
        for name in layer.mlp.matrices(hidden):
            yield f"mlp.{name}_proj.weight", "matrix", shapes[name], name
        return
    yield from _expert_tensors(layer.mlp, hidden, found)
    if layer.mlp.shared is not None:
        for name, shape in layer.mlp.shared.matrices(hidden).items():
            yield f"mlp.shared_experts.{name}_proj.weight", "matrix", shape, f"shared.{name}"


def _expert_tensors(
    experts: Experts, hidden: int, found: Architecture
) -> Iterator[tuple[str, str, tuple[int, ...], str]]:
    block, width, count = found.block, experts.expert.width, experts.count
    yield f"{block}.{found.router}.weight", "vector", (count, hidden), ROUTER
    if experts.router.bias:
        yield f"{block}.{found.router}.bias", "vector", (count,), "router_bias"
    if experts.router.correction:
        yield f"{block}.{found.router}.e_score_correction_bias", "vector", (count,), "correction"
    if found.stacked:
        yield f"{block}.experts.gate_up_proj", "matrix", (count, hidden, 2 * width), "stacked gate_up"
        yield f"{block}.experts.gate_up_proj_bias", "vector", (count, 2 * width), "stacked gate_up_bias"
        yield f"{block}.experts.down_proj", "matrix", (count, width, hidden), "stacked down"
        yield f"{block}.experts.down_proj_bias", "vector", (count, hidden), "stacked down_bias"
        return
    for number in range(count):
        for name, called in (("gate", found.gate), ("up", found.up), ("down", found.down)):
            shape = experts.expert.matrices(hidden)[name]
            yield f"{block}.experts.{number}.{called}.weight", "matrix", shape, f"expert{number}.{name}"


def numbers_of(layer: LayerWeights, made_of: str, count: int) -> Array:
    """The numbers of a tensor of `layer_tensors`; count: experts that there are."""
    if not made_of.startswith("stacked "):
        return layer.vectors[made_of] if made_of in layer.vectors else layer.matrices[made_of].values
    name = made_of.removeprefix("stacked ")
    if name.endswith("_bias"):
        return np.stack(
            [_joined(layer.vectors, number, name.removesuffix("_bias")) for number in range(count)]
        )
    matrices = layer.matrices
    if name == "down":
        return np.stack([matrices[f"expert{number}.down"].values.T for number in range(count)])
    pairs = ((matrices[f"expert{e}.gate"].values, matrices[f"expert{e}.up"].values) for e in range(count))
    return np.stack([_in_turn(gate, up).T for gate, up in pairs])


def _joined(vectors: Mapping[str, Array], number: int, name: str) -> Array:
    if name == "down":
        return vectors[f"expert{number}.down_bias"]
    return _in_turn(vectors[f"expert{number}.gate_bias"], vectors[f"expert{number}.up_bias"])


def _in_turn(first: Array, second: Array) -> Array:
    """Rows of both in turn."""
    return np.stack([first, second], 1).reshape(2 * len(first), *first.shape[1:])
