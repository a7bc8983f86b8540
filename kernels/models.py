"""Model shapes: what a name such as ``llama-3.2-1b`` means in matrices.

>>> get_model("llama-3-8b").layer_matrices["down"]
(4096, 14336)

Shapes are those of each model's published config.json. A folder that holds a Hugging Face config.json
is a model too; nothing is ever downloaded.
"""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

from membound.kernels.operations import MAX_DIMENSION


@dataclass(frozen=True, slots=True)
class Model:
    """A dense decoder: RMSNorm, RoPE, grouped-query attention, gated or plain MLP, LM head.

    `rope_scaling` holds Llama 3's (factor, low_freq_factor, high_freq_factor, original_context) or ().
    `window` is how many tokens a layer with sliding-window attention sees; 0 where every layer sees all.
    """

    name: str
    hidden: int
    layers: int
    q_heads: int
    kv_heads: int
    head_dim: int
    intermediate: int
    vocab: int
    rope_theta: float = 10000.0
    norm_eps: float = 1e-5
    tied: bool = False
    qkv_bias: bool = False
    qk_norm: bool = False
    gated: bool = True
    rope_scaling: tuple[float, ...] = ()
    folder: str = ""
    window: int = 0

    @property
    def q_dim(self) -> int:
        """Width of all query heads together."""
        return self.q_heads * self.head_dim

    @property
    def kv_dim(self) -> int:
        """Width of all key heads together."""
        return self.kv_heads * self.head_dim

    @property
    def layer_matrices(self) -> dict[str, tuple[int, int]]:
        """The matrices of one layer as name -> (n, k), in the order of use."""
        h, i = self.hidden, self.intermediate
        matrices = {
            "q": (self.q_dim, h),
            "k": (self.kv_dim, h),
            "v": (self.kv_dim, h),
            "o": (h, self.q_dim),
            "gate": (i, h),
            "up": (i, h),
            "down": (h, i),
        }
        if not self.gated:
            del matrices["gate"]
        return matrices

    @property
    def parameters(self) -> int:
        """Matrix parameters that a step streams (the embedding table is not one of them unless tied)."""
        layer = sum(n * k for n, k in self.layer_matrices.values())
        return self.layers * layer + self.vocab * self.hidden

    def with_layers(self, layers: int) -> Model:
        """The same model with fewer layers; 0 keeps all."""
        return replace(self, layers=layers) if layers else self


_LLAMA3_ROPE = (32.0, 1.0, 4.0, 8192.0)

# Sources: the config.json published with each model; Llama-30B is the 32.5B model of the first Llama
# paper (arXiv 2302.13971, table 2); GPT-3 175B is table 2.1 of arXiv 2005.14165, run here with RMSNorm
# and RoPE in place of LayerNorm and learned positions (less than 0.01 % of its bytes) and a plain MLP.
MODELS = {
    m.name: m
    for m in (
        Model("tiny", 256, 2, 8, 2, 32, 512, 1000, tied=True),
        Model("llama-3.2-1b", 2048, 16, 32, 8, 64, 8192, 128256, 5e5, tied=True, rope_scaling=_LLAMA3_ROPE),
        Model("llama-3-8b", 4096, 32, 32, 8, 128, 14336, 128256, 5e5),
        Model("llama-3-70b", 8192, 80, 64, 8, 128, 28672, 128256, 5e5),
        Model("llama-2-7b", 4096, 32, 32, 32, 128, 11008, 32000),
        Model("llama-2-13b", 5120, 40, 40, 40, 128, 13824, 32000),
        Model("llama-30b", 6656, 60, 52, 52, 128, 17920, 32000, norm_eps=1e-6),
        Model("qwen2.5-0.5b", 896, 24, 14, 2, 64, 4864, 151936, 1e6, 1e-6, tied=True, qkv_bias=True),
        Model("qwen2.5-1.5b", 1536, 28, 12, 2, 128, 8960, 151936, 1e6, 1e-6, tied=True, qkv_bias=True),
        Model("qwen2.5-7b", 3584, 28, 28, 4, 128, 18944, 152064, 1e6, 1e-6, qkv_bias=True),
        Model("gpt-3-175b", 12288, 96, 96, 96, 128, 49152, 50257, tied=True, gated=False),
    )
}


@lru_cache(maxsize=64)
def get_model(name: str) -> Model:
    """The model of that name, or of that local folder. Raises ValueError that lists what is known."""
    if name in MODELS:
        return MODELS[name]
    folder = Path(name)
    try:
        is_folder = folder.is_dir()
    except OSError as error:
        raise ValueError(f"model folder {name[:60]!r} cannot be looked up: {error.strerror}") from None
    if is_folder:
        return _from_folder(folder)
    raise ValueError(f"unknown model {name!r}; known: {', '.join(MODELS)}, or a folder with config.json")


_FAMILIES = ("llama", "mistral", "qwen2", "qwen3")
_ONLY: dict[str, tuple[Any, str]] = {
    "hidden_act": ("silu", "silu"),
    "mlp_bias": (False, "an MLP without biases"),
    "num_experts": (0, "dense models"),
    "num_local_experts": (0, "dense models"),
    "partial_rotary_factor": (1, "1, all of a head is rotated"),
    "quantization_config": ({}, "float weights, which membound quantises itself"),
}
"""Fields of config.json that change the arithmetic: the one value that is computed, and what is supported."""


def _from_folder(folder: Path) -> Model:
    """Read a Hugging Face config.json. Raises ValueError that names the file and the field."""
    path = folder / "config.json"
    if not path.is_file():
        raise ValueError(f"model folder {folder} has no config.json")
    try:
        config: dict[str, Any] = json.loads(path.read_text())
    except (OSError, ValueError, RecursionError) as error:
        raise ValueError(f"{path} cannot be read: {error}") from None
    if not isinstance(config, dict):
        raise ValueError(f"{path} is not a JSON object")
    family = config.get("model_type")
    if family not in _FAMILIES:
        raise ValueError(f"{path}: model_type {family!r} is not supported; supported: {', '.join(_FAMILIES)}")
    rope = _rope(path, config)
    _refuse_foreign(path, config | rope, family)
    try:
        model = _model_of(folder, path, config, rope, family)
    except KeyError as error:
        raise ValueError(f"{path} lacks {error}") from None
    if max(model.q_dim, model.kv_dim) > MAX_DIMENSION:
        raise ValueError(f"{path}: heads of {model.head_dim} make more than {MAX_DIMENSION} columns")
    return model


def _model_of(folder: Path, path: Path, config: dict[str, Any], rope: dict[str, Any], family: str) -> Model:
    """The model of a checked config.json. Raises KeyError, ValueError."""
    hidden, q_heads = _count(path, config, "hidden_size"), _count(path, config, "num_attention_heads")
    return Model(
        name=str(folder),
        hidden=hidden,
        layers=_count(path, config, "num_hidden_layers"),
        q_heads=q_heads,
        kv_heads=_count(path, config, "num_key_value_heads", q_heads),
        head_dim=_count(path, config, "head_dim", hidden // q_heads),
        intermediate=_count(path, config, "intermediate_size"),
        vocab=_count(path, config, "vocab_size"),
        rope_theta=_real(path, config | rope, "rope_theta", 10000.0),
        norm_eps=_real(path, config, "rms_norm_eps", 1e-6),
        tied=bool(config.get("tie_word_embeddings", False)),
        qkv_bias=family == "qwen2" or bool(config.get("attention_bias", False)),
        qk_norm=family == "qwen3",
        rope_scaling=_rope_scaling(path, rope),
        folder=str(folder),
        window=_window(path, config, family),
    )


def _refuse_foreign(path: Path, config: dict[str, Any], family: str) -> None:
    """Raises ValueError where a known model_type stands over arithmetic that is not computed here."""
    named, own = config.get("architectures"), f"{family.capitalize()}ForCausalLM"
    if named is not None and named != [own]:
        raise ValueError(
            f"{path}: architectures={named!r} is not supported; supported for model_type {family}: {own}"
        )
    for name, (only, supported) in _ONLY.items():
        if config.get(name) is not None and config[name] != only:
            value = repr(config[name])[:60]
            raise ValueError(f"{path}: {name}={value} is not supported; supported: {supported}")


def _window(path: Path, config: dict[str, Any], family: str) -> int:
    """Tokens that a sliding-window layer sees, or 0. Raises KeyError, ValueError.

    Mistral's layers slide wherever a window is given; Qwen's where `use_sliding_window` is true; newer files
    say for each layer what it does (huggingface/transformers, configuration_mistral.py, configuration_qwen2.py).
    """
    if config.get("sliding_window") is None:
        return 0
    kinds = config.get("layer_types")
    if isinstance(kinds, list):
        slides = "sliding_attention" in kinds
    else:
        slides = family == "mistral" or bool(config.get("use_sliding_window", False))
    return _count(path, config, "sliding_window") if slides else 0


def _count(path: Path, config: dict[str, Any], name: str, default: int | None = None) -> int:
    """A field that counts something; `default` where it is missing or null. Raises KeyError, ValueError."""
    value = config[name] if default is None else config.get(name)
    if value is None and default is not None:
        return default
    if type(value) is not int or not 1 <= value <= MAX_DIMENSION:
        raise ValueError(
            f"{path}: {name}={repr(value)[:60]} must be a positive whole number, {MAX_DIMENSION} at most"
        )
    return value


def _real(path: Path, config: dict[str, Any], name: str, default: float | None = None) -> float:
    """A field that measures something; `default` where it is missing. Raises KeyError, ValueError."""
    value = config[name] if default is None else config.get(name, default)
    if not isinstance(value, int | float) or isinstance(value, bool) or not 0 < value <= sys.float_info.max:
        raise ValueError(f"{path}: {name}={value!r} must be a positive number")
    return float(value)


def _rope(path: Path, config: dict[str, Any]) -> dict[str, Any]:
    """The RoPE block under either of the names in use (`rope_parameters` since Transformers 5)."""
    block = config.get("rope_parameters") or config.get("rope_scaling") or {}
    if not isinstance(block, dict):
        raise ValueError(f"{path}: RoPE settings {block!r} are not a JSON object")
    return block


def _rope_scaling(path: Path, rope: dict[str, Any]) -> tuple[float, ...]:
    kind = rope.get("rope_type", rope.get("type", "default"))
    if kind == "default":
        return ()
    if kind != "llama3":
        raise ValueError(f"{path}: RoPE scaling {kind!r} is not supported; supported: default, llama3")
    names = ("factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings")
    return tuple(_real(path, rope, name) for name in names)
