"""A local Hugging Face folder of any known family as a decoder of parts, to count with; `model_folder` reads what is run.

>>> read_decoder(Path("/models/gpt-oss-20b")).layers[0].mlp.count
32

Where config.json is silent, Transformers' defaults hold. What would change how many numbers a model holds, or how many it
reads, and is not known is refused by name. What changes the arithmetic alone (activations, RoPE, scales) and is not known is
`Decoder.not_known`: such a model is counted and not run. Of a model that sees or hears, the part that writes text is taken.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from membound.kernels.config_json import MOST_LAYERS, NESTED, Config, read_config
from membound.kernels.families import FAMILIES, Family
from membound.kernels.family_arithmetic import ARITHMETIC, Arithmetic
from membound.kernels.family_defaults import ALIASES, DEFAULTS
from membound.kernels.mixer_fields import head_dim_of
from membound.kernels.mixers import Mamba2
from membound.kernels.model import ModelError
from membound.kernels.parts import Attention, Decoder, Experts, Latent, Layer, Mixer, Mlp
from membound.kernels.window_fields import CHUNKED, FULL, WINDOWED, listed, never

SENSES = ("vision_config", "audio_config")
TEXT_TYPES = {
    "exaone4_5_text": "exaone4",
    "gemma3": "gemma3_text",
    "gemma4": "gemma4_text",
    "kimi_k2": "deepseek_v3",
    "llama4": "llama4_text",
    "mimo": "qwen2",
    "mistral3": "mistral",
    "qwen2_vl": "qwen2",
    "qwen2_vl_text": "qwen2",
    "qwen2_5_vl": "qwen2",
    "qwen2_5_vl_text": "qwen2",
    "qwen3_5": "qwen3_5_text",
    "qwen3_5_moe": "qwen3_5_moe_text",
    "qwen3_vl_text": "qwen3",
    "qwen3_vl_moe_text": "qwen3_moe",
}
"""model_types whose text part is another family's."""


def read_decoder(folder: Path) -> Decoder:
    """What the folder's config.json holds. Raises ModelError that names the file, the field and what is supported."""
    path = folder / "config.json"
    fields, left_out = text_part(path, read_config(path))
    kind = _family(path, fields)
    family = FAMILIES[kind]
    config = Config(path, fields | defaults_of(fields))
    for name in family.refused:
        if config.flag(name):
            raise ModelError(f"{path}: {name}=true is not supported")
    layers = family.layers(config) if family.layers else _layers(config, family)
    counted = Decoder(
        name=str(folder),
        hidden=config.count("hidden_size"),
        vocab=config.count("vocab_size"),
        layers=layers,
        tied=config.flag("tie_word_embeddings"),
        norm_vectors=family.norm_vectors,
        head_bias=bool(family.head_bias_flag) and config.flag(family.head_bias_flag),
        folder=str(folder),
        left_out=left_out,
        family=kind,
    )
    return _with_arithmetic(config, counted)


def _with_arithmetic(config: Config, counted: Decoder) -> Decoder:
    """The same with what it computes, or with why that is not known."""
    arithmetic = ARITHMETIC.get(counted.family)
    if arithmetic is None:
        return replace(counted, not_known=f"{config.path}: {why_counted(counted)}")
    try:
        activation = arithmetic.read_activation(config)
        layers = (
            _computing(config, arithmetic, layer, index, activation)
            for index, layer in enumerate(counted.layers)
        )
        gains: dict[str, Any] = dict(arithmetic.gains(config)) if arithmetic.gains else {}
        eps = config.real(*arithmetic.eps)
        return replace(counted, layers=tuple(layers), norm=arithmetic.norm, eps=eps, **gains)
    except ModelError as error:
        return replace(counted, not_known=str(error))


def why_counted(decoder: Decoder) -> str:
    """Why a folder's model is counted alone; '' for one whose parts are all run."""
    if any(isinstance(kind.mlp, Experts) and kind.mlp.latent for kind in decoder.kinds):
        what = "experts of a narrower state (moe_latent_size)"
        return f"{what}, which model_type {decoder.family!r} has, is counted and not run from a folder here"
    return (
        ""
        if decoder.family in ARITHMETIC
        else f"what model_type {decoder.family!r} computes is not known here"
    )


def _computing(config: Config, arithmetic: Arithmetic, layer: Layer, index: int, activation: str) -> Layer:
    """A layer with what it computes."""
    mixer, mlp = layer.mixer, layer.mlp
    if isinstance(mixer, Latent):
        mixer = arithmetic.read_latent(config, mixer)
    elif isinstance(mixer, Attention):
        seen = WINDOWED if mixer.window else CHUNKED if mixer.chunk else FULL
        mixer = arithmetic.read_attention(config, mixer, seen, index)
    elif isinstance(mixer, Mamba2):
        mixer = arithmetic.read_state(config, mixer)
    if isinstance(mlp, Experts):
        shared = replace(mlp.shared, activation=activation) if mlp.shared else None
        router = arithmetic.router(config, mlp.router) if arithmetic.router else mlp.router
        mlp = replace(mlp, expert=replace(mlp.expert, activation=activation), shared=shared, router=router)
    else:
        mlp = replace(mlp, activation=activation)
    residual = config.real(arithmetic.residual, 1.0) if arithmetic.residual else 1.0
    return replace(layer, mixer=mixer, mlp=mlp, residual=residual)


def text_part(path: Path, fields: dict[str, Any]) -> tuple[dict[str, Any], str]:
    """The fields of what writes text, those above it where it is silent, and what is left out.

    Whether the LM head is the embedding is said above it, if it is said there.
    """
    senses = [name.removesuffix("_config") for name in SENSES if fields.get(name)]
    left_out = " and ".join(senses)
    for name in NESTED:
        inner = fields.get(name)
        if inner is None:
            continue
        if not isinstance(inner, dict):
            raise ModelError(f"{path}: {name}={inner!r:.60} must be a JSON object")
        above: dict[str, Any] = {key: fields[key] for key in ("model_type", "vocab_size") if key in fields}
        tied = "tie_word_embeddings"
        return above | inner | ({tied: fields[tied]} if fields.get(tied) is not None else {}), left_out
    return fields, left_out


def defaults_of(fields: dict[str, Any]) -> dict[str, Any]:
    """What Transformers takes for the fields of a text part that are left out, and those that it has under another name."""
    name = str(fields.get("model_type"))
    family = TEXT_TYPES.get(name, name)
    known = {**DEFAULTS.get(family, {}), **DEFAULTS.get(name, {})}
    known |= {
        own: fields[other] for other, own in ALIASES.get(family, {}).items() if fields.get(other) is not None
    }
    return {key: value for key, value in known.items() if key not in fields}


def _family(path: Path, fields: dict[str, Any]) -> str:
    """The model_type among `FAMILIES`."""
    name = fields.get("model_type")
    kind = TEXT_TYPES.get(name, name) if isinstance(name, str) else ""
    if kind not in FAMILIES:
        raise ModelError(
            f"{path}: model_type {name!r:.60} is not supported; supported: {', '.join(sorted({*FAMILIES, *TEXT_TYPES}))}"
        )
    return kind


def _layers(config: Config, family: Family) -> tuple[Layer, ...]:
    count = config.count("num_hidden_layers")
    if count > MOST_LAYERS:
        raise config.bad("num_hidden_layers", f"{MOST_LAYERS} at most")
    return tuple(_layer(config, family, index) for index in range(count))


def _layer(config: Config, family: Family, index: int) -> Layer:
    mixer: Mixer | None = family.state(config, index) if family.state else None
    if mixer is None:
        mixer = _latent(config, family, index) if family.latent else _attention(config, family, index)
    mixture = family.mixture(config, index) if family.mixture else None
    bias = bool(family.mlp_bias_flag) and config.flag(family.mlp_bias_flag)
    mlp = mixture or Mlp(config.count(family.dense_width), family.gated, bias)
    return Layer(mixer, mlp, family.norms)


def _latent(config: Config, family: Family, index: int) -> Latent:
    latent = Latent(
        q_heads=config.count("num_attention_heads"),
        q_rank=config.count("q_lora_rank") if config.fields.get("q_lora_rank") is not None else 0,
        kv_rank=config.count("kv_lora_rank"),
        nope_dim=config.count("qk_nope_head_dim"),
        rope_dim=config.count("qk_rope_head_dim"),
        value_dim=config.count("v_head_dim"),
        biases=config.flag(family.bias_flag),
    )
    return family.index(config, latent, index) if family.index else latent


def _attention(config: Config, family: Family, index: int) -> Attention:
    q_heads = config.count("num_attention_heads")
    kv_heads = (
        q_heads if config.fields.get("num_key_value_heads") is None else config.count("num_key_value_heads")
    )
    if q_heads % kv_heads:
        raise config.bad("num_attention_heads", f"a multiple of num_key_value_heads={kv_heads}")
    kind = _kind(config, family, index)
    flagged = family.flagged if family.bias_flag and config.flag(family.bias_flag) else ""
    normed = not family.head_norm_flag or config.flag(family.head_norm_flag)
    attention = Attention(
        q_heads,
        kv_heads,
        head_dim_of(config, q_heads),
        window=config.count("sliding_window") if kind == WINDOWED else 0,
        chunk=config.count("attention_chunk_size") if kind == CHUNKED else 0,
        biases=family.biases or flagged,
        head_norm=family.head_norm if normed else "",
        sinks=family.sinks,
        gated=family.gated_attention,
    )
    return family.refined(config, attention) if family.refined else attention


def _kind(config: Config, family: Family, index: int) -> str:
    """What a layer sees: as layer_types says, else as the family does it."""
    if family.kind:
        return family.kind(config, index)
    if family.state:
        return FULL
    if not family.full_every and not family.late_windows:
        return never(config, index)
    given = listed(config, index) if family.full_every != 1 else None
    if family.late_windows and not config.flag("use_sliding_window"):
        return FULL  # whatever is listed: Transformers drops the window
    if given is not None:
        return given
    if family.chunked:
        whole = config.fields["attention_chunk_size"] is None or not (index + 1) % family.full_every
        return FULL if whole else CHUNKED
    if config.fields.get("sliding_window") is None:
        return FULL
    if family.late_windows:
        return WINDOWED if index >= config.count("max_window_layers", 0) else FULL
    every = _pattern(config, family)
    return WINDOWED if every and (every == 1 or (index + 1) % every) else FULL


def _pattern(config: Config, family: Family) -> int:
    """Of how many layers the last one sees all."""
    given = config.fields.get("sliding_window_pattern")
    if not family.patterned or given is None:
        return family.full_every
    if isinstance(given, str) and given.strip("L") == "G":  # EXAONE writes LLLG
        return len(given)
    return config.count("sliding_window_pattern")
