"""Which layers see a window or a chunk, as a config.json says it, where a family has a rule of its own.

>>> switched(Config(path, {"use_sliding_window": True, "sliding_window": 4096}), index=0)
'sliding_attention'

`families` says which model_type has which. Sources: huggingface/transformers, models/*/configuration_*.py, version 5.24.
"""

from __future__ import annotations

from membound.kernels.config_json import Config
from membound.kernels.model import ModelError

WINDOWED, CHUNKED, FULL = "sliding_attention", "chunked_attention", "full_attention"


def listed(config: Config, index: int) -> str | None:
    """What layer_types says of a layer; None without such a list."""
    kinds = config.fields.get("layer_types")
    if kinds is None:
        return None
    count = config.count("num_hidden_layers")
    if not isinstance(kinds, list) or len(kinds) != count:
        raise config.bad("layer_types", f"a list with one kind for each of num_hidden_layers={count}")
    if kinds[index] not in (WINDOWED, CHUNKED, FULL):
        raise ModelError(
            f"{config.path}: layer_types has {kinds[index]!r:.60}, which is not supported; supported: "
            f"{FULL}, {WINDOWED}, {CHUNKED}"
        )
    return str(kinds[index])


def never(config: Config, index: int) -> str:
    """Every layer sees all; a list that says otherwise is refused."""
    kind = listed(config, index) or FULL
    if kind != FULL:
        raise ModelError(f"{config.path}: layer_types has {kind}, which its model_type has not")
    return FULL


def switched(config: Config, index: int) -> str:
    """All layers slide where use_sliding_window is true (Qwen3-MoE)."""
    return WINDOWED if _is_on(config) else FULL


def even_switched(config: Config, index: int) -> str:
    """The first, third, … before max_window_layers do (Qwen2-MoE)."""
    slides = not index % 2 and index < config.count("max_window_layers", 0)
    return (listed(config, index) or (WINDOWED if slides else FULL)) if _is_on(config) else FULL


def late(config: Config, index: int) -> str:
    """Layers from max_window_layers on do (dots1)."""
    if config.fields.get("sliding_window") is None:
        return FULL
    slides = index >= config.count("max_window_layers", 0)
    return listed(config, index) or (WINDOWED if slides else FULL)


def unplaced_switched(config: Config, index: int) -> str:
    """Layers that tell no positions do (SmolLM3)."""
    slides = without_rope(config, index)
    return (listed(config, index) or (WINDOWED if slides else FULL)) if _is_on(config) else FULL


def windowed_or_listed(config: Config, index: int) -> str:
    """All layers slide unless layer_types says otherwise (Ministral)."""
    return FULL if config.fields.get("sliding_window") is None else listed(config, index) or WINDOWED


def without_rope(config: Config, index: int) -> bool:
    """Layers that no_rope_layers marks with 0, or every no_rope_layer_interval-th, tell no positions."""
    marked = config.fields.get("no_rope_layers")
    if not marked:
        name = "no_rope_layer_interval"
        return not (index + 1) % (config.count(name) if name in config.fields else 4)
    if not isinstance(marked, list) or len(marked) != config.count("num_hidden_layers"):
        raise config.bad("no_rope_layers", "a list with 0 or 1 for each layer")
    return not marked[index]


def _is_on(config: Config) -> bool:
    return config.flag("use_sliding_window") and config.fields.get("sliding_window") is not None
