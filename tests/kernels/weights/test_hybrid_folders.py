"""Folders of models with states: where rows of several matrices lie in one tensor, what is refused, and steps of them."""

from __future__ import annotations

import json
from math import inf, prod
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from transformers_answers import CASES, holds_states, routed_folder

from membound.backends.numba.cpu import NumbaCpu
from membound.kernels.cpu.simd.features import LANES
from membound.kernels.inputs import ModelInputs
from membound.kernels.mixers import Mamba2
from membound.kernels.mlps import size_of
from membound.kernels.models import ModelError, get_model
from membound.kernels.own_routes import own_routes
from membound.kernels.parts import Attention, Experts
from membound.kernels.reference import compute, relative_error
from membound.kernels.seeded import make_inputs
from membound.kernels.weights.checkpoint import Checkpoint
from membound.kernels.weights.formats import dequantize, quantize
from membound.kernels.weights.tensor_names import Place
from membound.kernels.work import parse

HYBRIDS = [case for case in CASES if holds_states(case)]
named = pytest.mark.parametrize("case", HYBRIDS, ids=[case["config"]["model_type"] for case in HYBRIDS])


def by_kind(kind: str) -> dict[str, Any]:
    return next(case for case in HYBRIDS if case["config"]["model_type"] == kind)


def test_runs_of_rows_lie_a_period_apart() -> None:
    place = Place("t", first=3, stored=24, run=2, period=8)
    assert list(place.slices(0, 6)) == [slice(3, 5), slice(11, 13), slice(19, 21)]
    assert list(place.slices(1, 5)) == [slice(4, 5), slice(11, 13), slice(19, 20)]
    assert list(Place("t", first=3, stored=24).slices(1, 4)) == [slice(4, 7)]
    assert list(Place("t", first=3, stored=24).slices(0, 0)) == []


@named
def test_a_step_of_a_folder_reads_its_states_and_is_computed(case: dict[str, Any], tmp_path: Path) -> None:
    folder = routed_folder(case, tmp_path)
    work = parse(f"step:model={folder},context=6,weight=f32,kv=f32")
    inputs = make_inputs(work, seed=3)
    assert isinstance(inputs, ModelInputs)
    whole = compute(inputs, 0)
    assert whole.shape == (1, case["config"]["vocab_size"])
    rounded = make_inputs(parse(f"step:model={folder},context=6,weight=int8,kv=f32"), seed=3)
    assert 0 < relative_error(compute(rounded, 0), whole) < 0.1
    assert any(one.name == "state" for one in work.operations)


@named
def test_the_bytes_of_a_step_are_those_of_the_folder_s_tensors(case: dict[str, Any], tmp_path: Path) -> None:
    """Each number once, but those of an embedding that is not the LM head as well, and of experts that no row takes."""
    work = parse(f"step:model={routed_folder(case, tmp_path)},context=6,weight=f32,kv=f32")
    hidden, decoder = case["config"]["hidden_size"], work.shape.decoder
    left = 0 if decoder.tied else case["config"]["vocab_size"] * hidden
    for layer in decoder.layers:
        if isinstance(layer.mlp, Experts):
            left += (layer.mlp.count - layer.mlp.chosen) * size_of(layer.mlp.matrices(hidden))
    numbers = sum(prod(shape) for shape in case["tensors"].values())
    assert work.traffic.weights_bytes == 4 * (numbers - left)


@pytest.mark.parametrize("kind", ["qwen3_next", "nemotron_h"])
def test_a_folder_chooses_its_experts_itself(kind: str, tmp_path: Path) -> None:
    folder = routed_folder(by_kind(kind), tmp_path)
    inputs = make_inputs(parse(f"step:model={folder},context=6,weight=f32,kv=f32"), seed=3)
    assert isinstance(inputs, ModelInputs)
    layers = inputs.model.decoder.layers
    assert [routes.shape[1] > 0 for routes in own_routes(inputs)] == [
        not hasattr(layer.mlp, "width") for layer in layers
    ]


@pytest.mark.parametrize(
    ("kind", "names"),
    [
        ("qwen3_next", [*"qkvzba"]),
        ("qwen3_5_text", [*"qkvz"]),
        ("nemotron_h", [*"zx"]),
        ("granitemoehybrid", ["z", "dt", "gate", "up"]),
    ],
)
def test_matrices_that_share_a_tensor_are_quantised_apart(
    kind: str, names: list[str], tmp_path: Path
) -> None:
    model = get_model(routed_folder(by_kind(kind), tmp_path))
    plain, made = (Checkpoint(model, weight, seed=1).layer(0).matrices for weight in ("f32", "int8"))
    for name in names:
        wanted = dequantize(quantize(dequantize(plain[name]), "int8"))
        assert np.array_equal(dequantize(made[name]), wanted)


@pytest.mark.parametrize(
    ("kind", "drop"),
    [
        ("qwen3_next", "model.layers.0.linear_attn.A_log"),
        ("qwen3_5_text", "model.layers.2.linear_attn.in_proj_z.weight"),
        ("nemotron_h", "backbone.layers.0.mixer.conv1d.weight"),
        ("nemotron_h", "backbone.norm_f.weight"),
        ("granitemoehybrid", "model.layers.0.mamba.D"),
        ("granitemoehybrid", "model.layers.1.shared_mlp.input_linear.weight"),
    ],
)
def test_what_is_missing_is_named(kind: str, drop: str, tmp_path: Path) -> None:
    folder = routed_folder(by_kind(kind), tmp_path, lambda tensors: tensors.pop(drop))
    with pytest.raises(ModelError, match=f"has no tensor {drop}"):
        Checkpoint(get_model(folder), "f32", seed=1)


def test_layers_that_guess_ahead_are_passed_by_and_a_tensor_without_a_place_is_not(tmp_path: Path) -> None:
    ahead = {"mtp.layers.0.mlp.up_proj.weight": np.zeros((4, 4), np.float32)}
    folder = routed_folder(by_kind("qwen3_next"), tmp_path / "a", lambda tensors: tensors.update(ahead))
    Checkpoint(get_model(folder), "f32", seed=1)
    more = {"backbone.layers.1.mixer.conv1d.weight": np.zeros((4, 1, 4), np.float32)}
    folder = routed_folder(by_kind("nemotron_h"), tmp_path / "b", lambda tensors: tensors.update(more))
    with pytest.raises(ModelError, match=r"layers.1.mixer.conv1d.weight is a tensor that is not supported"):
        Checkpoint(get_model(folder), "f32", seed=1)


# Granite


def granite(path: Path, **change: Any) -> str:
    """The folder of the dense hybrid, with other fields."""
    case = by_kind("granitemoehybrid")
    return routed_folder(case | {"config": case["config"] | change}, path)


def test_multipliers_and_the_least_time_step_are_read(tmp_path: Path) -> None:
    """Transformers writes infinity as an object."""
    for number, most in enumerate((inf, {"__float__": "Infinity"})):
        found = get_model(granite(tmp_path / str(number), time_step_limit=[0.25, most])).decoder
        state, attention = found.layers[0].mixer, found.layers[1].mixer
        assert isinstance(state, Mamba2)
        assert isinstance(attention, Attention)
        assert (state.least_step, state.groups, attention.scale, attention.rope) == (0.25, 2, 0.1, None)
        assert (found.embedding_gain, found.logit_gain) == (12, 1 / 6)
        assert {layer.residual for layer in found.layers} == {0.22}


def test_heads_are_as_wide_as_the_file_says_or_share_the_hidden_state(tmp_path: Path) -> None:
    for number, (given, width) in enumerate((({"head_dim": 20}, 20), ({"head_dim": None}, 12), ({}, 12))):
        attention = get_model(granite(tmp_path / str(number), **given)).decoder.layers[1].mixer
        assert isinstance(attention, Attention)
        assert (attention.head_dim, attention.matrices(48)["o"]) == (width, (48, 4 * width))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (
            {"num_attention_heads": 10, "num_key_value_heads": 2},
            "hidden_size=48 must be a multiple of num_attention_heads=10 where there is no head_dim",
        ),
        (
            {"position_embedding_type": "alibi"},
            "position_embedding_type='alibi' must be 'rope', 'nope' or null",
        ),
        ({"hidden_act": "gelu"}, "hidden_act='gelu' must be 'silu', which is what states compute"),
        ({"time_step_limit": [0, 0.1]}, r"time_step_limit=[0, 0.1] must be [least, Infinity]"),
        ({"time_step_limit": [-1, inf]}, "time_step_limit=[-1, inf] must be [least, Infinity]"),
        ({"time_step_limit": "none"}, "time_step_limit='none' must be [least, Infinity]"),
        ({"layer_types": ["mamba"] * 4}, "a model without any attention is counted and not run here"),
        ({"quantization_config": {"quant_method": "fp8"}}, "weight_block_size=None, which is not supported"),
    ],
)
def test_what_is_not_run_is_one_line(change: dict[str, Any], said: str, tmp_path: Path) -> None:
    with pytest.raises(ModelError) as error:
        get_model(granite(tmp_path, **change))
    assert said in str(error.value)
    assert "\n" not in str(error.value)


def test_a_folder_of_attention_alone_is_a_model_too(tmp_path: Path) -> None:
    """As granite-4.0-micro is, whose model_type is that of the hybrids."""
    case = by_kind("granitemoehybrid")
    config = case["config"] | {"layer_types": ["attention"] * 4, "position_embedding_type": "rope"}
    (tmp_path / "config.json").write_text(json.dumps(config), "utf-8")
    decoder = get_model(str(tmp_path)).decoder
    assert {type(layer.mixer) for layer in decoder.layers} == {Attention}
    assert decoder.layers[0].mixer.rope is not None
    assert any(decoder.state_bytes) is False


@named
def test_matrices_that_share_a_tensor_are_taken_apart_as_stored(case: dict[str, Any], tmp_path: Path) -> None:
    folder = routed_folder(case, tmp_path)
    stored, floats = (parse(f"step:model={folder},context=6,weight={w},kv=f32") for w in ("stored", "f32"))
    assert stored.traffic == floats.traffic
    assert stored.footprint_bytes == floats.footprint_bytes
    assert np.array_equal(*(compute(make_inputs(work, seed=3), 0) for work in (stored, floats)))


def halved(tensors: dict[str, Any]) -> None:
    """What goes out of layers' halves in 16 bits."""
    for name, values in tensors.items():
        if values.ndim == 2 and any(part in name for part in ("o_proj", "out_proj", "output_linear")):
            tensors[name] = values.astype(np.float16)


@pytest.mark.slow
@pytest.mark.parametrize("spec", ["step:model={},context=6,batch=3", "prefill:model={},tokens=21,batch=2"])
@pytest.mark.parametrize("kind", ["granitemoehybrid", "qwen3_5_text"])
def test_states_beside_several_stored_formats(kind: str, spec: str, tmp_path: Path) -> None:
    case = next(one for one in HYBRIDS if one["config"]["model_type"] == kind and not get_model(
        routed_folder(one, tmp_path / str(HYBRIDS.index(one)))).decoder.experts)  # fmt: skip
    work = parse(spec.format(routed_folder(case, tmp_path / "stored", halved)) + ",weight=stored,kv=f32")
    assert work.stored is not None
    assert set(work.stored.formats) == {"f32", "f16"}
    backend = NumbaCpu()
    backend.open("cpu", threads=2)
    assert backend.supports(work) is None
    inputs = make_inputs(work, seed=3)
    backend.prepare(work, inputs)
    for _ in range(2):
        backend.launch(0)
    assert relative_error(backend.output(), compute(inputs, 0)) < 1e-5


def test_a_format_that_ends_within_a_panel_is_refused_before_it_is_packed(tmp_path: Path) -> None:
    def values_halved(tensors: dict[str, Any]) -> None:
        for name in [one for one in tensors if "v_proj" in one]:
            tensors[name] = tensors[name].astype(np.float16)

    case = by_kind("granitemoehybrid")
    work = parse(f"step:model={routed_folder(case, tmp_path, values_halved)},context=6,weight=stored")
    refusal = f"72 rows of f32 before others in f16 fill no whole panels of {LANES}"
    assert NumbaCpu().supports(work) == (refusal if LANES == 16 else None)
