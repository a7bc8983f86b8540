"""Folders of DeepSeek-V3.2 and GLM-5, as published and as Transformers writes them, run on Numba; answers are Transformers' stored ones."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from quantised_experts import write_experts, write_meant
from safetensors.numpy import load_file, save_file
from transformers_answers import CASES, folder_of, inputs_of, routed_folder

from membound.backends.numba.cpu import NumbaCpu
from membound.kernels.inputs import ModelInputs
from membound.kernels.mixers import Latent
from membound.kernels.models import ModelError, get_model
from membound.kernels.reference import compute, relative_error, tolerance
from membound.kernels.seeded import make_inputs
from membound.kernels.weights.checkpoint import Checkpoint
from membound.kernels.weights.formats import dequantize
from membound.kernels.work import parse

INDEXED = {
    case["config"]["model_type"]: case
    for case in CASES
    if case["config"]["model_type"] in ("deepseek_v32", "glm_moe_dsa")
}


def output_of(inputs: Any) -> Any:
    backend = NumbaCpu()
    backend.open("cpu", threads=2)
    assert backend.supports(inputs.work) is None
    backend.prepare(inputs.work, inputs)
    for _ in range(2):
        backend.launch(0)
    assert backend.settings()["routes"] == "own"
    return backend.output()


@pytest.mark.slow
@pytest.mark.parametrize("kind", INDEXED)
@pytest.mark.parametrize("write", [routed_folder, folder_of], ids=["published", "stacked"])
def test_numba_answers_as_transformers(kind: str, write: Any, tmp_path: Path) -> None:
    case = INDEXED[kind]
    context = len(case["tokens"]) - 1
    assert context > case["config"]["index_topk"]
    spec = f"step:model={write(case, tmp_path)},context={context},cache=prompt,weight=f32,kv=f32"
    assert relative_error(output_of(inputs_of(spec, case))[0], np.array(case["logits"])) < 1e-5


@pytest.mark.slow
def test_layers_that_share_an_index_have_no_tensors_of_one(tmp_path: Path) -> None:
    case = INDEXED["glm_moe_dsa"]
    count = case["config"]["num_hidden_layers"]
    kinds = ["shared" if index == 1 else "full" for index in range(count)]
    folder = routed_folder({**case, "config": case["config"] | {"indexer_types": kinds}}, tmp_path)
    with pytest.raises(
        ModelError, match=r"layers\.1\.self_attn\.indexer\.k_norm\.bias is a bias that is not supported"
    ):
        Checkpoint(get_model(folder), "f32", seed=1)
    path = tmp_path / "model.safetensors"
    tensors = {
        name: values for name, values in load_file(path).items() if "layers.1.self_attn.indexer" not in name
    }
    save_file(tensors, path)
    shared = [
        layer.mixer.index.shared
        for layer in get_model(folder).decoder.layers
        if isinstance(layer.mixer, Latent) and layer.mixer.index
    ]
    assert shared == [index == 1 for index in range(count)]
    inputs = make_inputs(parse(f"step:model={folder},context=17,weight=f32,kv=f32"), 4)
    assert isinstance(inputs, ModelInputs)
    assert np.array_equal(inputs.selection(0), inputs.selection(1))
    assert relative_error(output_of(inputs), compute(inputs, 0)) < 1e-5


def test_a_tensor_of_an_index_that_is_missing_is_named(tmp_path: Path) -> None:
    def edit(tensors: dict[str, Any]) -> None:
        del tensors["model.layers.2.self_attn.indexer.wk.weight"]

    folder = routed_folder(INDEXED["deepseek_v32"], tmp_path, edit)
    with pytest.raises(ModelError, match=r"no tensor model\.layers\.2\.self_attn\.indexer\.wk\.weight"):
        Checkpoint(get_model(folder), "f32", seed=1)


def fp8_folder(path: Path) -> tuple[str, dict[str, Any]]:
    """As DeepSeek-V3.2 is published: all of an index but the weights of heads in FP8, by blocks of 128 rows and columns."""
    expected = write_experts(path, "deepseek_v32", "fp8_blocks", kept=("weights_proj",))
    config = json.loads((path / "config.json").read_text("utf-8"))
    config["quantization_config"] |= {"fmt": "e4m3", "scale_fmt": "ue8m0"}
    (path / "config.json").write_text(json.dumps(config), "utf-8")
    return str(path), expected


def test_matrices_of_an_index_in_fp8_are_the_numbers_that_they_mean(tmp_path: Path) -> None:
    folder, expected = fp8_folder(tmp_path / "packed")
    layer = Checkpoint(get_model(folder), "stored", seed=1).layer(1)
    for name, module in (("index_q", "wq_b"), ("index_k", "wk"), ("index_weights", "weights_proj")):
        weight = layer.matrices[name]
        assert weight.format == ("f16" if name == "index_weights" else "fp8b128")
        meant = expected[f"model.layers.1.self_attn.indexer.{module}"]
        assert relative_error(dequantize(weight), meant.astype(np.float64)) < 1e-7
    write_meant(tmp_path / "meant", tmp_path / "packed", expected)
    works = [
        f"step:model={tmp_path / one},context=9,cache=prompt,weight=f32,kv=f32" for one in ("packed", "meant")
    ]
    assert relative_error(*(compute(make_inputs(parse(spec), 1), 0) for spec in works)) < 1e-5


@pytest.mark.slow
@pytest.mark.parametrize("formats", ["weight=bf16,kv=bf16", "weight=stored,kv=f32"])
def test_a_folder_in_fp8_runs_on_numba(formats: str, tmp_path: Path) -> None:
    work = parse(f"step:model={fp8_folder(tmp_path)[0]},context=30,{formats}")
    inputs = make_inputs(work, 1)
    assert relative_error(output_of(inputs), compute(inputs, 0)) < tolerance(work)
