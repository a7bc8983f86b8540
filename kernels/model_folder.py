"""A local Hugging Face folder as a model: what its config.json means, and what the folder is known by.

>>> read_folder(Path("/models/Llama-3.2-1B")).head_dim
64

Where the file is silent, Transformers' defaults hold (huggingface/transformers, models/*/configuration_*.py, version 5).
What is not computed here is refused by name; nothing is ignored that would change the arithmetic.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import astuple, dataclass, replace
from pathlib import Path
from typing import Any

from membound.kernels.config_json import MAX_COUNT, MOST_LAYERS, NESTED, Config, read_config
from membound.kernels.decoder_folder import (
    TEXT_TYPES,
    defaults_of,
    read_decoder,
    text_part,
    why_counted,
)
from membound.kernels.families import FAMILIES
from membound.kernels.family_arithmetic import ARITHMETIC
from membound.kernels.model import Model, ModelError, model_of
from membound.kernels.parts import Attention
from membound.kernels.rope import Llama3Scaling, Rope
from membound.kernels.rope_fields import read_rope, rope_block
from membound.kernels.weights.stored.quantization import NAMES, scheme_of, settings_of
from membound.kernels.window_fields import WINDOWED

CONTENT_DIGITS = 12
LONGEST_HEADER = 100_000_000
"""Bytes of a safetensors header, as safetensors itself limits them."""
NOT_CONTENT = ("_name_or_path", "transformers_version")
"""Fields of config.json that say who wrote it, and nothing about the model."""


@dataclass(frozen=True, slots=True)
class _Family:
    """A model_type of Transformers. `kv_heads` and `head_dim` are taken where the file lacks them; 0: from other fields.

    `windows` says which layers slide: none, all of them, or the `late` ones, from max_window_layers on.
    """

    architecture: str
    kv_heads: int = 0
    head_dim: int = 0
    qkv_bias: bool = False
    qk_norm: bool = False
    windows: str = "none"


_FAMILIES = {
    "llama": _Family("LlamaForCausalLM"),
    "mistral": _Family("MistralForCausalLM", kv_heads=8, windows="all"),
    "qwen2": _Family("Qwen2ForCausalLM", kv_heads=32, qkv_bias=True, windows="late"),
    "qwen3": _Family("Qwen3ForCausalLM", kv_heads=32, head_dim=128, qk_norm=True, windows="late"),
}
_WINDOW, _LATE_LAYERS = 4096, 28
"""sliding_window and max_window_layers of Mistral, Qwen2 and Qwen3 where the file lacks them."""
_TEXT = [name for name, family in TEXT_TYPES.items() if family in ARITHMETIC]
_CODE = {
    "deepseek_v2": "modeling_deepseek.DeepseekV2ForCausalLM",
    "deepseek_v3": "modeling_deepseek.DeepseekV3ForCausalLM",
    "kimi_k2": "modeling_deepseek.DeepseekV3ForCausalLM",
    "kimi_k25": "modeling_kimi_k25.KimiK25ForConditionalGeneration",
    "mimo": "modeling_mimo.MiMoForCausalLM",
    "minimax_m2": "modeling_minimax_m2.MiniMaxM2ForCausalLM",
    "nemotron_h": "modeling_nemotron_h.NemotronHForCausalLM",
    "phi3": "modeling_phi3.Phi3ForCausalLM",
}
"""Code that published folders name and that Transformers has taken in since, or whose text part it has."""

_ONLY: dict[str, tuple[Any, str]] = {
    "hidden_act": ("silu", "silu"),
    "mlp_bias": (False, "an MLP without biases"),
    "num_experts": (0, "dense models"),
    "num_local_experts": (0, "dense models"),
    "n_routed_experts": (0, "dense models"),
    "partial_rotary_factor": (1, "1, all of a head is rotated"),
    "is_encoder_decoder": (False, "decoders alone"),
    "add_cross_attention": (False, "decoders alone"),
}
"""Fields of config.json that change the arithmetic: the one value that is computed, and what is supported."""

_ANYWHERE = {
    "is_encoder_decoder": _ONLY["is_encoder_decoder"],
    "add_cross_attention": _ONLY["add_cross_attention"],
}
"""Those that no family which is known by its parts alone computes."""


def read_folder(folder: Path) -> Model:
    """The model that a folder holds. Raises ModelError that names the file, the field and what is supported."""
    path = folder / "config.json"
    fields = read_config(path)
    name = fields.get("model_type")
    family = _FAMILIES.get(name) if isinstance(name, str) else None
    if family is None or any(nested in fields for nested in NESTED):
        return _read_parts(folder, fields)
    config = Config(path, fields)
    _refuse_foreign(Config(path, fields | rope_block(config).fields), family)
    hidden, q_heads = config.count("hidden_size"), config.count("num_attention_heads")
    layers = config.count("num_hidden_layers")
    if layers > MOST_LAYERS:
        raise config.bad("num_hidden_layers", f"{MOST_LAYERS} at most")
    window, window_from = _window(config, family, layers)
    kv_heads, head_dim = _kv_heads(config, family, q_heads), _head_dim(config, family, hidden, q_heads)
    turning = read_rope(config, head_dim, 10000.0)
    model = Model(
        name=str(folder),
        hidden=hidden,
        layers=layers,
        q_heads=q_heads,
        kv_heads=kv_heads,
        head_dim=head_dim,
        intermediate=config.count("intermediate_size"),
        vocab=config.count("vocab_size"),
        rope_theta=turning.theta,
        norm_eps=config.real("rms_norm_eps", 1e-6),
        tied=config.flag("tie_word_embeddings"),
        qkv_bias=family.qkv_bias or config.flag("attention_bias"),
        qk_norm=family.qk_norm,
        rope_scaling=astuple(turning.scaling) if isinstance(turning.scaling, Llama3Scaling) else (),
        folder=str(folder),
        window=window,
        window_from=window_from,
        scheme=scheme_of(path, fields),
        content=_content(folder, fields),
        assumed=tuple(config.assumed),
    )
    return _stretched(_patterned(config, family, _checked(path, model)), turning)


def _read_parts(folder: Path, fields: dict[str, Any]) -> Model:
    """The model of a family that is known by its parts alone."""
    path = folder / "config.json"
    text = text_part(path, fields)[0]
    config, kind = Config(path, fields), text.get("model_type")
    if not isinstance(kind, str) or TEXT_TYPES.get(kind, kind) not in FAMILIES:
        supported = ", ".join((*ARITHMETIC, *_TEXT))
        raise ModelError(f"{path}: model_type {kind!r:.60} is not supported; supported: {supported}")
    for name, (only, supported) in _ANYWHERE.items():
        if fields.get(name) is not None and fields[name] != only:
            raise _refusal(config, name, f": {supported}")
    named = fields.get("architectures")
    if named is not None and not (isinstance(named, list) and len(named) == 1 and _writes_text(named[0])):
        raise _refusal(config, "architectures", ": one that ends in ForCausalLM or ForConditionalGeneration")
    for part in (fields, text):
        _refuse_code(Config(path, part))
    decoder = read_decoder(folder)
    if not decoder.not_known and (why := why_counted(decoder)):
        raise ModelError(f"{path}: {why}")
    settings = settings_of(path, fields, text)
    scheme = None if _own_experts(kind, settings) else scheme_of(path, {NAMES[0]: settings})
    assumed = (f"{name}={value}" for name, value in defaults_of(text).items() if type(value) is int)
    model = replace(model_of(decoder, _content(folder, fields)), scheme=scheme, assumed=tuple(assumed))
    return _checked(path, model)


def _own_experts(kind: str, quantised: Any) -> bool:
    """Whether a family's own quantisation is meant, which its tensors show: gpt-oss' experts in MXFP4."""
    return kind == "gpt_oss" and isinstance(quantised, dict) and quantised.get("quant_method") == "mxfp4"


def _checked(path: Path, model: Model) -> Model:
    if max(model.q_dim, model.kv_dim) > MAX_COUNT:
        raise ModelError(f"{path}: heads of {model.head_dim} make more than {MAX_COUNT} columns")
    return model


def _writes_text(architecture: Any) -> bool:
    return isinstance(architecture, str) and architecture.endswith(
        ("ForCausalLM", "ForConditionalGeneration")
    )


def _patterned(config: Config, family: _Family, model: Model) -> Model:
    """The model with windows where layer_types has them, if layers with and without one take turns."""
    kinds = _layer_types(config, model.layers)
    if family.windows != "late" or not model.window or not kinds:
        return model
    layers = tuple(
        replace(layer, mixer=replace(layer.mixer, window=model.window if kind == WINDOWED else 0))
        for layer, kind in zip(model.decoder.layers, kinds, strict=True)
        if isinstance(layer.mixer, Attention)
    )
    parts = replace(model.decoder, layers=layers)
    return model if parts == model.decoder else replace(model, parts=parts)


def _stretched(model: Model, turning: Rope) -> Model:
    """The model with RoPE as its file has it, where the model's numbers cannot say so."""
    if turning.scaling is None or isinstance(turning.scaling, Llama3Scaling):
        return model
    layers = tuple(
        replace(layer, mixer=replace(layer.mixer, rope=turning))
        for layer in model.decoder.layers
        if isinstance(layer.mixer, Attention)
    )
    return replace(model, parts=replace(model.decoder, layers=layers))


def _kv_heads(config: Config, family: _Family, q_heads: int) -> int:
    """Transformers takes as many as query heads where the field is null, the family's default where it is missing."""
    name = "num_key_value_heads"
    if config.fields.get(name, 0) is None:
        kv_heads = q_heads
    elif name in config.fields:
        kv_heads = config.count(name)
    else:
        kv_heads = config.assume(name, family.kv_heads or q_heads)
    if q_heads % kv_heads:
        taken = "" if name in config.fields else f", Transformers' default for {config.fields['model_type']}"
        raise config.bad("num_attention_heads", f"a multiple of {name}={kv_heads}{taken}")
    return kv_heads


def _head_dim(config: Config, family: _Family, hidden: int, q_heads: int) -> int:
    """The width of a head, which RoPE turns in pairs."""
    given = config.fields.get("head_dim") is not None or ("head_dim" in config.fields and family.head_dim)
    if given:
        head_dim = config.count("head_dim")
    elif family.head_dim:
        head_dim = config.assume("head_dim", family.head_dim)
    elif hidden % q_heads:
        raise config.bad(
            "hidden_size", f"a multiple of num_attention_heads={q_heads} where there is no head_dim"
        )
    else:
        head_dim = hidden // q_heads
    if head_dim % 2:
        source = "head_dim" if given else f"hidden_size={hidden} / num_attention_heads={q_heads}"
        raise ModelError(
            f"{config.path}: heads of {head_dim} numbers ({source}) are not supported: RoPE turns them in pairs, so "
            "the width must be even"
        )
    return head_dim


def _refuse_foreign(config: Config, family: _Family) -> None:
    """Raises ModelError where a known model_type stands over arithmetic that is not computed here."""
    kind, named, own = config.fields["model_type"], config.fields.get("architectures"), family.architecture
    if named is not None and named != [own]:
        raise _refusal(config, "architectures", f" for model_type {kind}: {own}")
    _refuse_code(config)
    for name, (only, supported) in _ONLY.items():
        if config.fields.get(name) is not None and config.fields[name] != only:
            raise _refusal(config, name, f": {supported}")
    if kind == "mistral" and config.flag("attention_bias"):
        raise _refusal(config, "attention_bias", f" for model_type {kind}: attention without biases")


def _refusal(config: Config, name: str, supported: str) -> ModelError:
    value = f"{config.fields[name]!r:.60}"
    return ModelError(f"{config.path}: {name}={value} is not supported; supported{supported}")


def _refuse_code(config: Config) -> None:
    """Raises ModelError where the model is a program in its folder, but for those of `_CODE`. A tokenizer may be one."""
    code = config.fields.get("auto_map")
    known = _CODE.get(str(config.fields.get("model_type")))
    if known and isinstance(code, dict) and str(code.get("AutoModelForCausalLM")).split("--")[-1] == known:
        return  # what stands before -- is the repository that a copy came from
    if code and not (isinstance(code, dict) and not any(str(key).startswith("AutoModel") for key in code)):
        raise _refusal(
            config, "auto_map", ": models that Transformers computes itself, not code beside the weights"
        )


def _window(config: Config, family: _Family, layers: int) -> tuple[int, int]:
    """Tokens that a sliding layer sees, or 0, and the first layer that slides.

    All layers of Mistral slide unless sliding_window is null, whatever layer_types says; Qwen's only where use_sliding_window
    is true, from layer max_window_layers on, or where layer_types says so. Where it is not, Transformers drops the window.
    """
    first = 0
    kinds = _layer_types(config, layers)
    if family.windows == "none":
        if "sliding_attention" in kinds:
            raise ModelError(
                f"{config.path}: layer_types has sliding_attention, which its model_type has not"
            )
        return 0, 0
    if family.windows == "late" and not config.flag("use_sliding_window"):
        return 0, 0
    if family.windows == "late" and kinds:
        if "sliding_attention" not in kinds:
            return 0, 0
        first = kinds.index("sliding_attention")
    elif family.windows == "late":
        name = "max_window_layers"
        first = config.count(name, 0) if name in config.fields else config.assume(name, _LATE_LAYERS)
    if "sliding_window" not in config.fields:
        window = config.assume("sliding_window", _WINDOW)
    elif config.fields["sliding_window"] is not None:
        window = config.count("sliding_window")
    elif kinds and family.windows == "late":
        raise config.bad("sliding_window", "a positive whole number, since layer_types has sliding_attention")
    else:
        return 0, 0
    return (window, first) if first < layers else (0, 0)


def _layer_types(config: Config, layers: int) -> list[str]:
    """What each layer does where the file says so, else an empty list."""
    kinds = config.fields.get("layer_types")
    if kinds is None:
        return []
    if not isinstance(kinds, list) or len(kinds) != layers:
        raise config.bad("layer_types", f"a list with one kind for each of num_hidden_layers={layers}")
    for kind in kinds:
        if kind not in ("full_attention", "sliding_attention"):
            raise ModelError(
                f"{config.path}: layer_types has {kind!r:.60}, which is not supported; supported: full_attention, "
                "sliding_attention"
            )
    return kinds


def _content(folder: Path, fields: dict[str, Any]) -> str:
    """What the folder is known by, wherever it lies: a hash of config.json's fields and of its weights' headers.

    Numbers are not read: it is the shape of the work. Files that cannot be read are passed by; `checkpoint` names them.
    """
    told = {name: value for name, value in fields.items() if name not in NOT_CONTENT}
    try:
        digest = hashlib.sha256(json.dumps(told, sort_keys=True).encode())
    except RecursionError as error:
        raise ModelError(f"{folder / 'config.json'} cannot be read: {error}") from None
    for path in sorted(folder.glob("*.safetensors*")):
        try:
            if path.is_file():
                digest.update(_header(path))
        except OSError:
            continue
    return digest.hexdigest()[:CONTENT_DIGITS]


def _header(path: Path) -> bytes:
    """The names, dtypes and shapes of a safetensors file as it stores them; an index or a damaged file's first bytes."""
    with path.open("rb") as file:
        start = file.read(8)
        size = int.from_bytes(start, "little") if path.suffix == ".safetensors" else LONGEST_HEADER
        return start + file.read(min(size, LONGEST_HEADER))
