"""Folders of models with states: where rows of several matrices lie in one tensor, what is refused, and steps of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from transformers_answers import CASES, holds_states, routed_folder

from membound.kernels.inputs import ModelInputs
from membound.kernels.models import ModelError, get_model
from membound.kernels.own_routes import own_routes
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
    ("kind", "names"), [("qwen3_next", "qkvzba"), ("qwen3_5_text", "qkvz"), ("nemotron_h", "zx")]
)
def test_matrices_that_share_a_tensor_are_quantised_apart(kind: str, names: str, tmp_path: Path) -> None:
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
