"""RoPE as a config.json says it: under either of its names, for all layers or for each kind of them.

>>> read_rope(config, head_dim=128, theta=10000.0).scaling
Llama3Scaling(factor=32.0, low=1.0, high=4.0, original=8192.0)

Defaults are those of Hugging Face Transformers, version 5 (`modeling_rope_utils.py`). Raises ModelError for what is not known.
"""

from __future__ import annotations

import sys
from math import log, sqrt
from typing import Any

from membound.kernels.config_json import Config
from membound.kernels.model import ModelError
from membound.kernels.rope import (
    LinearScaling,
    Llama3Scaling,
    LongRopeScaling,
    ProportionalScaling,
    Rope,
    Scaling,
    YarnScaling,
)

BLOCKS = ("rope_parameters", "rope_scaling")
"""The block's name since Transformers 5, and before."""
KNOWN: dict[str, tuple[str, ...]] = {
    "default": (),
    "mrope": (),
    "proportional": ("factor",),
    "linear": ("factor",),
    "llama3": ("factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings"),
    "yarn": (
        *("factor", "original_max_position_embeddings", "attention_factor", "beta_fast", "beta_slow"),
        *("mscale", "mscale_all_dim", "truncate"),
    ),
    "longrope": (
        *("short_factor", "long_factor", "factor", "original_max_position_embeddings", "attention_factor"),
        *("short_mscale", "long_mscale"),
    ),
}
"""Kinds of scaling with their settings."""
ALWAYS = ("rope_type", "type", "rope_theta", "partial_rotary_factor")
PLACES = ("mrope_section", "mrope_interleaved")
"""Settings beside any kind that tell places in an image; a text is as without."""


def read_rope(
    config: Config,
    head_dim: int,
    theta: float,
    turning: float = 1.0,
    neighbours: bool = False,
    layer: str = "",
) -> Rope:
    """The RoPE of heads of `head_dim`. `theta`, and `turning`, the part of a head that turns, where the file is silent.

    `layer`: the kind of layer, where the block may have one for each.
    """
    block = rope_block(config, layer)
    own = {name: block.fields[name] for name in ALWAYS if name in block.fields}
    rotary = Config(config.path, config.fields | own)
    given = rotary.fields.get("partial_rotary_factor") is not None
    part = rotary.real("partial_rotary_factor") if given else turning
    dim = int(head_dim * min(part, 1.0))
    if part > 1 or dim < 2 or dim % 2:
        raise ModelError(
            f"{config.path}: {part:g} of a head of {head_dim} numbers is not supported: RoPE turns pairs of them, so it must be an "
            "even number of these"
        )
    scaling = _scaling(config, block, dim // 2)
    turned = 0 if dim == head_dim or isinstance(scaling, ProportionalScaling) else dim
    found = Rope(rotary.real("rope_theta", theta), turned, neighbours, scaling)
    if isinstance(scaling, YarnScaling) and found.theta <= 1:
        raise rotary.bad("rope_theta", "more than 1 for YaRN")
    return found


def rope_block(config: Config, layer: str = "") -> Config:
    """The settings of RoPE, of one kind of layer where each has its own."""
    block: dict[str, Any] = {}
    for name in BLOCKS:
        found = config.fields.get(name) or {}
        if not isinstance(found, dict):
            raise ModelError(f"{config.path}: RoPE settings {found!r:.60} are not a JSON object")
        if layer and layer in found:
            found = found[layer] or {}
            if not isinstance(found, dict):
                raise ModelError(f"{config.path}: RoPE settings {found!r:.60} are not a JSON object")
        for key in found:
            if key in block and block[key] != found[key]:
                raise ModelError(
                    f"{config.path}: rope_parameters and rope_scaling differ in {key}: keep one of them"
                )
        block |= found
    return Config(config.path, block)


def mscale(factor: float, times: float = 1.0) -> float:
    """YaRN's gain for a context `factor` times as long."""
    return 0.1 * times * log(factor) + 1.0 if factor > 1 else 1.0


def _scaling(config: Config, block: Config, pairs: int) -> Scaling | None:
    kind = block.fields.get("rope_type", block.fields.get("type", "default"))
    kind = "longrope" if kind == "su" else kind
    if not isinstance(kind, str) or kind not in KNOWN:
        raise ModelError(
            f"{config.path}: RoPE scaling {kind!r:.60} is not supported; supported: {', '.join(KNOWN)}"
        )
    for name, value in block.fields.items():
        if name not in (*ALWAYS, *PLACES, *KNOWN[kind]) and value is not None:
            raise ModelError(
                f"{config.path}: RoPE setting {name}={value!r:.60} is not supported; {kind} has "
                f"{', '.join((*ALWAYS, *KNOWN[kind]))}"
            )
    if kind == "proportional":
        return ProportionalScaling(pairs, block.real("factor", 1.0))
    if kind == "linear":
        return LinearScaling(block.real("factor"))
    if kind == "llama3":
        return Llama3Scaling(*(block.real(name) for name in KNOWN["llama3"]))
    if kind == "yarn":
        return _yarn(config, block)
    return _longrope(config, block, pairs) if kind == "longrope" else None


def _original(config: Config, block: Config) -> float:
    """Tokens that the model was made for before it was stretched."""
    name = "original_max_position_embeddings"
    for place in (config, block):
        if place.fields.get(name) is not None:
            return float(place.count(name))
    return float(config.count("max_position_embeddings"))


def _factor(config: Config, block: Config, original: float) -> float:
    if block.fields.get("factor") is not None:
        return block.real("factor")
    return config.count("max_position_embeddings") / original


def _yarn(config: Config, block: Config) -> YarnScaling:
    original = _original(config, block)
    factor = _factor(config, block, original)
    if block.fields.get("attention_factor") is not None:
        gain = block.real("attention_factor")
    elif block.fields.get("mscale") and block.fields.get("mscale_all_dim"):
        gain = mscale(factor, block.real("mscale")) / mscale(factor, block.real("mscale_all_dim"))
    else:
        gain = mscale(factor)
    fast, slow = (
        block.real(name) if block.fields.get(name) else default
        for name, default in (("beta_fast", 32.0), ("beta_slow", 1.0))
    )
    truncate = block.flag("truncate") if block.fields.get("truncate") is not None else True
    return YarnScaling(factor, original, fast, slow, gain, truncate)


def _longrope(config: Config, block: Config, pairs: int) -> LongRopeScaling:
    factors = []
    for name in ("short_factor", "long_factor"):
        values: Any = block.fields.get(name)
        numbers = isinstance(values, list) and all(
            isinstance(v, int | float) and not isinstance(v, bool) and 0 < v <= sys.float_info.max
            for v in values
        )
        if not numbers or len(values) != pairs:
            raise block.bad(
                name, f"a list of {pairs} positive numbers, one for each pair of columns that turns"
            )
        factors.append(tuple(float(value) for value in values))
    original = _original(config, block)
    factor = _factor(config, block, original)
    if block.fields.get("attention_factor") is not None:
        gain = block.real("attention_factor")
    elif original < 2:
        raise block.bad("original_max_position_embeddings", "at least 2")
    else:
        gain = sqrt(1 + log(factor) / log(original)) if factor > 1 else 1.0
    return LongRopeScaling(factors[0], factors[1], original, gain)
