"""What checkpoints call the tensors of layers that hold a state, and of gated attention beside them: rows of several matrices in one tensor.

>>> rows_of(Attention(16, 2, 256, gated=True), "qwen3_next", "out_gate")
Rows(module='self_attn.q_proj', stored=8192, first=256, run=256, period=512)

Sources: huggingface/transformers, models/qwen3_next, models/qwen3_5, models/nemotron_h and models/granitemoehybrid, modeling_*.py, version 5.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from membound.kernels.mixers import GatedDelta, Mamba2
from membound.kernels.parts import Attention, Layer, Mixer

NEMOTRON = "nemotron_h"
"""Its layers are two blocks, each a `mixer` behind a `norm`."""
GRANITE = "granitemoehybrid"
"""Its states are `mamba` where Nemotron-H's are a `mixer`."""
KEY_HEADS_TOGETHER = ("qwen3_next",)
"""Families in whose files what goes into a state lies by key heads; others have q, k and v one behind the other."""
DELTA_VECTORS = {
    "conv": "linear_attn.conv1d.weight",
    "log_decay": "linear_attn.A_log",
    "dt_bias": "linear_attn.dt_bias",
    "state_norm": "linear_attn.norm.weight",
}
MAMBA_VECTORS = {
    "conv": "conv1d.weight",
    "conv_bias": "conv1d.bias",
    "log_decay": "A_log",
    "dt_bias": "dt_bias",
    "skip": "D",
    "state_norm": "norm.weight",
    "into_bias": "in_proj.bias",
    "o_bias": "out_proj.bias",
}


@dataclass(frozen=True, slots=True)
class Rows:
    """Rows of a module's weight, which has `stored` in all: runs of `run` rows, `period` apart, the first at `first`. Without numbers: all."""

    module: str
    stored: int = 0
    first: int = 0
    run: int = 0
    period: int = 0


def rows_of(mixer: Mixer, family: str, name: str) -> Rows | None:
    """Where a matrix of a mixer lies; None for one that is a tensor of its own under a usual name."""
    if isinstance(mixer, Mamba2):
        return _of_mamba(mixer, _mamba(family), name)
    if isinstance(mixer, GatedDelta):
        return (
            _by_key_heads(mixer, name) if family in KEY_HEADS_TOGETHER else _one_behind_another(mixer, name)
        )
    if isinstance(mixer, Attention) and mixer.gated and name in ("q", "out_gate"):
        dim = mixer.head_dim
        return Rows("self_attn.q_proj", 2 * mixer.q_heads * dim, dim * (name == "out_gate"), dim, 2 * dim)
    return None


def _mamba(family: str) -> str:
    return "mamba" if family == GRANITE else "mixer"


def _of_mamba(mixer: Mamba2, block: str, name: str) -> Rows:
    shapes = {each: n for each, (n, _) in mixer.matrices(1).items() if each != "o"}
    if name == "o":
        return Rows(f"{block}.out_proj")
    first, stored = sum(list(shapes.values())[: list(shapes).index(name)]), sum(shapes.values())
    return Rows(f"{block}.in_proj", stored, first, shapes[name], shapes[name])


def _one_behind_another(mixer: GatedDelta, name: str) -> Rows:
    keys, values = mixer.key_heads * mixer.key_dim, mixer.value_heads * mixer.value_dim
    if name in "qkv":
        run = values if name == "v" else keys
        return Rows("linear_attn.in_proj_qkv", 2 * keys + values, keys * "qkv".index(name), run, run)
    module = "out_proj" if name == "o" else f"in_proj_{name}"
    return Rows(f"linear_attn.{module}")


def _by_key_heads(mixer: GatedDelta, name: str) -> Rows:
    """Of each key head: its query, its key, its value heads and their gates; and their b, then their a."""
    each = mixer.value_heads // mixer.key_heads
    if name == "o":
        return Rows("linear_attn.out_proj")
    if name in "ba":
        return Rows("linear_attn.in_proj_ba", 2 * mixer.value_heads, each * "ba".index(name), each, 2 * each)
    runs = {"q": mixer.key_dim, "k": mixer.key_dim, "v": each * mixer.value_dim, "z": each * mixer.value_dim}
    first, period = sum(list(runs.values())[: "qkvz".index(name)]), sum(runs.values())
    return Rows("linear_attn.in_proj_qkvz", mixer.key_heads * period, first, runs[name], period)


def vector_of(mixer: Mixer, family: str, name: str) -> str | None:
    """The tensor of a state's vector within its layer; None for any other."""
    if isinstance(mixer, Mamba2) and name in MAMBA_VECTORS:
        return f"{_mamba(family)}.{MAMBA_VECTORS[name]}"
    return DELTA_VECTORS.get(name) if isinstance(mixer, GatedDelta) else None


def vector_shape(mixer: Mixer, name: str, width: int) -> tuple[int, ...]:
    """How a vector is stored: that of a convolution as its columns, each with the weights of its tokens."""
    if isinstance(mixer, GatedDelta | Mamba2) and name == "conv":
        return mixer.channels, 1, mixer.kernel
    return (1, width) if name == "shared_gate" else (width,)


def blocks_of(layers: Sequence[Layer], family: str) -> list[tuple[int, int]]:
    """The numbers in the files of each layer's halves: its own, or of Nemotron-H those of two blocks, the second if there is one."""
    if family != NEMOTRON:
        return [(index, index) for index in range(len(layers))]
    found, at = [], 0
    for layer in layers:
        found.append((at, at + 1))
        at += 1 if layer.norms == "half" else 2
    return found
