"""The tensors of a Transformers model with states, by hand: a `WeightSource` over Qwen's and Nemotron's names."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from membound.kernels.mixers import GatedDelta, Mamba2
from membound.kernels.parts import Decoder, Experts, Layer
from membound.kernels.weights.formats import F32, Weight
from membound.kernels.weights.layers import LayerWeights


class HybridTensors:
    """Weights of float32; norms of Qwen are stored less one."""

    def __init__(self, decoder: Decoder, tensors: dict[str, F32]) -> None:
        self.decoder, self.tensors = decoder, tensors
        self.nemotron = decoder.family == "nemotron_h"
        self.plus = np.float32(0 if self.nemotron else 1)

    def within(self, prefix: str) -> dict[str, F32]:
        return {
            name.removeprefix(prefix).removesuffix(".weight"): values
            for name, values in self.tensors.items()
            if name.startswith(prefix)
        }

    def layer(self, index: int) -> LayerWeights:
        kind = self.decoder.layers[index]
        found = self._nemotron(index, kind) if self.nemotron else self._qwen(index, kind)
        matrices = {
            name: Weight("f32", *v.shape, np.ascontiguousarray(v)) for name, v in found.items() if v.ndim == 2
        }
        return LayerWeights(matrices, {name: v for name, v in found.items() if v.ndim == 1})

    def _qwen(self, index: int, kind: Layer) -> dict[str, F32]:
        layer = self.within(f"model.layers.{index}.")
        found = {
            "attention_norm": layer["input_layernorm"] + self.plus,
            "mlp_norm": layer["post_attention_layernorm"] + self.plus,
        }
        if isinstance(kind.mixer, GatedDelta):
            found |= delta_of(kind.mixer, self.within(f"model.layers.{index}.linear_attn."))
        else:
            found |= attention_of(self.within(f"model.layers.{index}.self_attn."), self.plus)
        mlp = self.within(f"model.layers.{index}.mlp.")
        if not isinstance(kind.mlp, Experts):
            return found | {name: mlp[f"{name}_proj"] for name in ("gate", "up", "down")}
        found |= {"router": mlp["gate"], "shared_gate": mlp["shared_expert_gate"][0]}
        found |= {f"shared.{name}": mlp[f"shared_expert.{name}_proj"] for name in ("gate", "up", "down")}
        for number, (both, down) in enumerate(
            zip(mlp["experts.gate_up_proj"], mlp["experts.down_proj"], strict=True)
        ):
            found[f"expert{number}.gate"], found[f"expert{number}.up"] = np.split(both, 2)
            found[f"expert{number}.down"] = down
        return found

    def _nemotron(self, index: int, kind: Layer) -> dict[str, F32]:
        """A layer here is a mixer and the block behind it."""
        block = sum(1 + (layer.norms == "before") for layer in self.decoder.layers[:index])
        mixer = self.within(f"model.layers.{block}.mixer.")
        found = {"attention_norm": self.tensors[f"model.layers.{block}.norm.weight"]}
        if isinstance(kind.mixer, Mamba2):
            found |= mamba_of(kind.mixer, mixer)
        else:
            found |= {name: mixer[f"{name}_proj"] for name in "qkvo"}
        if kind.norms == "half":
            return found
        mlp = self.within(f"model.layers.{block + 1}.mixer.")
        found["mlp_norm"] = self.tensors[f"model.layers.{block + 1}.norm.weight"]
        if not isinstance(kind.mlp, Experts):
            return found | two_of(mlp, "", "")
        found |= {"router": mlp["gate"], "correction": mlp["gate.e_score_correction_bias"]}
        found |= two_of(mlp, "shared_experts.", "shared.")
        for number, (up, down) in enumerate(
            zip(mlp["experts.up_proj"], mlp["experts.down_proj"], strict=True)
        ):
            found |= {f"expert{number}.up": up, f"expert{number}.down": down}
        return found

    def final_norm(self) -> F32:
        if self.nemotron:
            return self.tensors["model.norm_f.weight"]
        return self.tensors["model.norm.weight"] + self.plus

    def final_bias(self) -> None:
        return None

    def lm_head(self) -> Weight:
        table = self.tensors["lm_head.weight"]
        return Weight("f32", *table.shape, table)

    def embedding_table(self) -> Weight:
        raise AssertionError("not asked for")

    def hidden_states(self, rows: int) -> F32:
        raise AssertionError("not asked for")

    def embedding(self, tokens: Any) -> F32:
        return self.tensors["model.embeddings.weight" if self.nemotron else "model.embed_tokens.weight"][
            tokens
        ]


def two_of(mlp: Mapping[str, F32], old: str, new: str) -> dict[str, F32]:
    found = {f"{new}{name}": mlp[f"{old}{name}_proj"] for name in ("up", "down")}
    for name in ("up", "down"):
        if f"{old}{name}_proj.bias" in mlp:
            found[f"{new}{name}_bias"] = mlp[f"{old}{name}_proj.bias"]
    return found


def attention_of(block: Mapping[str, F32], plus: np.float32) -> dict[str, F32]:
    """Rows of q and of its gate take turns by head."""
    dim = len(block["q_norm"])
    both = block["q_proj"].reshape(-1, 2, dim, block["q_proj"].shape[1])
    q, gate = (both[:, i].reshape(-1, both.shape[-1]) for i in range(2))
    found = {"q": q, "out_gate": gate, "k": block["k_proj"], "v": block["v_proj"], "o": block["o_proj"]}
    return found | {name: block[name] + plus for name in ("q_norm", "k_norm")}


def delta_of(mixer: GatedDelta, block: Mapping[str, F32]) -> dict[str, F32]:
    """Qwen3-Next has the rows of a key head and those of its value heads next to each other; Qwen3.5 has each apart."""
    keys, values, each = mixer.key_heads, mixer.value_heads, mixer.value_heads // mixer.key_heads
    found = {
        "conv": block["conv1d"].reshape(-1),
        "log_decay": block["A_log"],
        "dt_bias": block["dt_bias"],
        "state_norm": block["norm"],
        "o": block["out_proj"],
    }
    if "in_proj_qkv" in block:
        width = keys * mixer.key_dim
        found["q"], found["k"], found["v"] = np.split(block["in_proj_qkv"], (width, 2 * width))
        return found | {name: block[f"in_proj_{name}"] for name in "zba"}
    hidden = block["out_proj"].shape[0]
    wide = block["in_proj_qkvz"].reshape(keys, -1, hidden)
    ends = np.cumsum([mixer.key_dim, mixer.key_dim, each * mixer.value_dim])
    for name, part in zip("qkvz", np.split(wide, ends, 1), strict=True):
        found[name] = part.reshape(-1, hidden)
    for name, part in zip("ba", np.split(block["in_proj_ba"].reshape(keys, -1, hidden), 2, 1), strict=True):
        found[name] = part.reshape(values, hidden)
    return found


def mamba_of(mixer: Mamba2, block: Mapping[str, F32]) -> dict[str, F32]:
    """z, x, B, C and dt are one matrix."""
    shared = mixer.groups * mixer.state_dim
    ends = np.cumsum([mixer.width, mixer.width, shared, shared])
    found = dict(zip(("z", "x", "b", "c", "dt"), np.split(block["in_proj"], ends), strict=True))
    found |= {"conv": block["conv1d"].reshape(-1), "log_decay": block["A_log"], "dt_bias": block["dt_bias"]}
    found |= {"skip": block["D"], "state_norm": block["norm"], "o": block["out_proj"]}
    names = {"conv1d.bias": "conv_bias", "in_proj.bias": "into_bias", "out_proj.bias": "o_bias"}
    return found | {new: block[old] for old, new in names.items() if old in block}
