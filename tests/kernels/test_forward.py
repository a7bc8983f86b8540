"""Every family that is computed, against Hugging Face Transformers in float64: a stored answer of a tiny model each."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from transformers_answers import (
    CASES,
    DATA,
    dense,
    folder_of,
    has_wide_heads,
    holds_states,
    inputs_of,
    numbers,
    routed_folder,
)

from membound.kernels import forward
from membound.kernels.decoder_folder import read_decoder
from membound.kernels.family_arithmetic import ARITHMETIC
from membound.kernels.inputs import ModelInputs
from membound.kernels.model import Model
from membound.kernels.models import get_model
from membound.kernels.parts import Attention, Decoder, Experts, Latent, Layer, Router
from membound.kernels.reference import compute, prefill, relative_error
from membound.kernels.weights.checkpoint import Checkpoint
from membound.kernels.weights.formats import F32, Weight
from membound.kernels.weights.layers import LayerWeights

BOUND = 1e-6
"""What is left is Transformers' float32 table of RoPE, and the float32 cache here."""


def named(cases: list[dict[str, Any]]) -> Any:
    return pytest.mark.parametrize("case", cases, ids=[case["config"]["model_type"] for case in cases])


@named([case for case in CASES if dense(case)])
@pytest.mark.parametrize("kind", ["prefill", "step"])
def test_a_folder_answers_as_in_transformers(case: dict[str, Any], kind: str, tmp_path: Path) -> None:
    count = len(case["tokens"])
    rest = f"tokens={count}" if kind == "prefill" else f"context={count - 1},cache=prompt"
    inputs = inputs_of(f"{kind}:model={folder_of(case, tmp_path)},{rest},weight=f32,kv=f32", case)
    assert relative_error(compute(inputs, 0)[0], np.array(case["logits"])) < BOUND


@named([case for case in CASES if holds_states(case) or has_wide_heads(case)])
@pytest.mark.parametrize("write", [routed_folder, folder_of], ids=["published", "stacked"])
def test_a_folder_with_layers_of_its_own_answers_as_in_transformers(
    case: dict[str, Any], write: Any, tmp_path: Path
) -> None:
    model = get_model(write(case, tmp_path))
    source = Checkpoint(model, "f32", seed=1)
    source.check_numbers()
    work: Any = SimpleNamespace(kv="f32", act="float", tokens=len(case["tokens"]))
    inputs = ModelInputs(work, model, 1, np.empty(0, np.float32), source)
    inputs = replace(inputs, x=inputs.embedded(np.array([case["tokens"]])))
    assert relative_error(prefill(inputs)[0], np.array(case["logits"])) < BOUND


@named([case for case in CASES if not (dense(case) or holds_states(case) or has_wide_heads(case))])
def test_experts_and_latent_attention_answer_as_in_transformers(case: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(case["config"]), "utf-8")
    decoder = read_decoder(tmp_path)
    assert decoder.not_known == ""
    source = Tensors(decoder, numbers(case))
    work: Any = SimpleNamespace(kv="f32", act="float", tokens=len(case["tokens"]))
    model = Model("", decoder.hidden, len(decoder.layers), 1, 1, 1, 1, decoder.vocab, parts=decoder)
    inputs = ModelInputs(work, model, 1, np.empty(0, np.float32), source)
    inputs = replace(inputs, x=inputs.embedded(np.array([case["tokens"]])))
    assert relative_error(prefill(inputs)[0], np.array(case["logits"])) < BOUND


def test_every_family_that_is_computed_is_compared() -> None:
    assert {case["config"]["model_type"] for case in CASES} == {*ARITHMETIC}
    routers = {
        layer.mlp.router for case in CASES for layer in layers_of(case) if isinstance(layer.mlp, Experts)
    }
    assert {router.score for router in routers} == {"softmax", "sigmoid"}
    for name in ("normalised", "bias", "correction", "on_input", "group_best"):
        assert len({getattr(router, name) for router in routers}) == 2
    assert DATA.stat().st_size < 200_000


def layers_of(case: dict[str, Any]) -> tuple[Layer, ...]:
    from tempfile import TemporaryDirectory

    with TemporaryDirectory() as folder:
        (Path(folder) / "config.json").write_text(json.dumps(case["config"]), "utf-8")
        return read_decoder(Path(folder)).layers


class Tensors:
    """A `WeightSource` over the tensors of a Transformers model with experts or latent attention, by hand."""

    def __init__(self, decoder: Decoder, tensors: dict[str, F32]) -> None:
        self.decoder, self.tensors = decoder, tensors

    def layer(self, index: int) -> LayerWeights:
        kind, prefix = self.decoder.layers[index], f"model.layers.{index}."
        tensors = {
            name.removeprefix(prefix): values
            for name, values in self.tensors.items()
            if name.startswith(prefix)
        }
        found = attention_of(tensors) | mlp_of(kind, tensors)
        found["attention_norm"] = tensors["input_layernorm.weight"]
        found["mlp_norm"] = tensors["post_attention_layernorm.weight"]
        matrices = {name: Weight("f32", *v.shape, v) for name, v in found.items() if v.ndim == 2}
        return LayerWeights(matrices, {name: v for name, v in found.items() if v.ndim == 1})

    def final_norm(self) -> F32:
        return self.tensors["model.norm.weight"]

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
        return self.tensors["model.embed_tokens.weight"][tokens]


ATTENTION = {
    "q_a_proj": "q_down", "q_b_proj": "q_up", "q_proj": "q", "k_proj": "k", "v_proj": "v", "o_proj": "o",
    "kv_a_proj_with_mqa": "kv_down", "kv_b_proj": "kv_up", "q_a_layernorm": "q_norm", "kv_a_layernorm": "kv_norm",
    "q_norm": "q_norm", "k_norm": "k_norm",
}  # fmt: skip


INDEX = {
    "wq_b.weight": "index_q", "wk.weight": "index_k", "weights_proj.weight": "index_weights",
    "k_norm.weight": "index_k_norm", "k_norm.bias": "index_k_norm_bias",
}  # fmt: skip


def attention_of(tensors: dict[str, F32]) -> dict[str, F32]:
    found = {}
    for name, values in tensors.items():
        block, _, rest = name.partition(".")
        part, _, kind = rest.partition(".")
        if block == "self_attn":
            if part == "indexer":
                found[INDEX[kind]] = values
                continue
            found["sinks" if part == "sinks" else ATTENTION[part] + "_bias" * (kind == "bias")] = values
    return found


def mlp_of(kind: Layer, tensors: dict[str, F32]) -> dict[str, F32]:
    block = next(
        name
        for name in ("mlp", "feed_forward", "block_sparse_moe")
        if any(n.startswith(name) for n in tensors)
    )
    inner = {name.removeprefix(f"{block}."): v for name, v in tensors.items() if name.startswith(f"{block}.")}
    if not isinstance(kind.mlp, Experts):
        return plain(inner, "", "")
    found: dict[str, F32] = {}
    for old, new in (
        ("gate.weight", "router"), ("router.weight", "router"), ("router.layer.weight", "router"), ("router.bias", "router_bias"),
        ("gate.e_score_correction_bias", "correction"), ("e_score_correction_bias", "correction"),
    ):  # fmt: skip
        if old in inner:
            found[new] = inner[old]
    for old in ("shared_expert.", "shared_experts."):
        if kind.mlp.shared and f"{old}up_proj.weight" in inner:
            found |= plain(inner, old, "shared.")
    if (
        kind.mlp.shared and "shared_mlp.input_linear.weight" in tensors
    ):  # Granite's, gate and up one behind the other
        halves = np.split(tensors["shared_mlp.input_linear.weight"], 2)
        found |= {f"shared.{name}": half for name, half in zip(("gate", "up"), halves, strict=True)}
        found["shared.down"] = tensors["shared_mlp.output_linear.weight"]
    if kind.mlp.shared_gate:
        found["shared_gate"] = inner["shared_expert_gate.weight"][0]
    for expert in range(kind.mlp.count):
        found |= expert_of(inner, expert)
    return found


def plain(inner: dict[str, F32], old: str, new: str) -> dict[str, F32]:
    return {f"{new}{name}": inner[f"{old}{name}_proj.weight"] for name in ("gate", "up", "down")}


def expert_of(inner: dict[str, F32], expert: int) -> dict[str, F32]:
    """One of the experts that Transformers stacks: [count, n, k] in most models, [count, k, n] in Llama 4 and gpt-oss."""
    stacked = "experts.gate_up_proj" if "experts.gate_up_proj" in inner else "input_linear.weight"
    down = inner["experts.down_proj" if stacked.startswith("experts") else "output_linear.weight"][expert]
    both, bias = inner[stacked][expert], inner.get("experts.gate_up_proj_bias")
    hidden = inner.get("gate.weight", inner.get("router.weight", inner.get("router.layer.weight"))).shape[1]
    if both.shape[0] == hidden and down.shape[1] == hidden:
        both, down = both.T, down.T
    of = f"expert{expert}."
    if bias is not None:  # gpt-oss lets rows of gate and up take turns
        made = {"gate": both[0::2], "up": both[1::2], "down": down}
        made |= {"gate_bias": bias[expert][0::2], "up_bias": bias[expert][1::2]}
        made["down_bias"] = inner["experts.down_proj_bias"][expert]
    else:
        made = dict(zip(("gate", "up"), np.split(both, 2), strict=True)) | {"down": down}
    return {of + name: np.ascontiguousarray(values) for name, values in made.items()}


# By hand


def test_a_router_looks_at_the_best_groups_alone() -> None:
    logits = np.log(np.array([[0.9, 0.1, 0.5, 0.6]]) / (1 - np.array([[0.9, 0.1, 0.5, 0.6]])))
    router = Router("sigmoid", groups=2, groups_chosen=1)
    ids, weights = forward.routes(logits, router, 2, {})
    assert ids.tolist() == [[3, 2]]  # 0.5 + 0.6 > 0.9 + 0.1
    assert weights == pytest.approx(np.array([[0.6, 0.5]]) / 1.1)
    ids, weights = forward.routes(logits, replace(router, group_best=1, normalised=False, factor=2.0), 2, {})
    assert ids.tolist() == [[0, 1]]
    assert weights == pytest.approx(np.array([[1.8, 0.2]]))


def test_what_tokens_do_not_see() -> None:
    windowed = forward.hidden_pairs(Attention(1, 1, 1, window=2), 3, 5, 5)
    assert (~windowed).tolist() == [[False, False, True, True, False], [False, False, False, True, True]]
    chunked = forward.hidden_pairs(Attention(1, 1, 1, chunk=4), 3, 5, 5)
    assert (~chunked).tolist() == [[True] * 4 + [False], [False] * 4 + [True]]
    assert not forward.hidden_pairs(Latent(1, 0), 1, 2, 2).any()


def test_activations_by_hand() -> None:
    x = np.array([-2.0, 0.0, 3.0])
    assert forward.squared_relu(x).tolist() == [0, 0, 9]
    assert forward.exact_gelu(x) == pytest.approx([-0.0455003, 0, 2.9959503], abs=1e-6)
    assert forward.softcapped(x, 2.0) == pytest.approx(2 * np.tanh(x / 2))
    assert forward.softmax(np.zeros((1, 3)), np.zeros((1, 1))) == pytest.approx(np.full((1, 3), 0.25))
    assert forward.temperatures(Attention(1, 1, 1, temperature=(4, 0.5)), np.array([2, 3])) == pytest.approx(
        [1, 1 + np.log(2) / 2]
    )
    normed = forward.layer_norm(np.array([[1.0, 3.0]]), np.array([2.0, 1.0]), np.array([0.5, 0.0]), 0.0)
    assert normed == pytest.approx(np.array([[-1.5, 1.0]]))
