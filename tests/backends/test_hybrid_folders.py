"""Steps and prompts from folders of models with states, on the backends that run them, against the float64 reference."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from transformers_answers import CASES, holds_states, routed_folder

from membound.backends.api import Backend
from membound.backends.numba.cpu import NumbaCpu
from membound.backends.onnx_runtime.backend import OnnxRuntime
from membound.backends.pytorch.backend import PyTorch
from membound.kernels.inputs import ModelInputs
from membound.kernels.reference import compute, relative_error, tolerance
from membound.kernels.seeded import make_inputs
from membound.kernels.work import parse

HYBRIDS = [case for case in CASES if holds_states(case)]


def step_of(case: dict[str, Any], path: Path, weight: str = "f32") -> ModelInputs:
    folder = routed_folder(case, path)
    inputs = make_inputs(
        parse(f"step:model={folder},context=9,weight={weight},kv={'f32' if weight == 'f32' else weight}"),
        seed=3,
    )
    assert isinstance(inputs, ModelInputs)
    return inputs


def ran(backend: Backend, inputs: ModelInputs) -> float:
    """The error of the second launch, which reads the state that the first one read; of experts those of the folder's own router."""
    backend.open("cpu", 2)
    assert backend.supports(inputs.work) is None
    backend.prepare(inputs.work, inputs)
    for _ in range(2):
        backend.launch(0)
    output, settings = backend.output(), backend.settings()
    backend.close()
    assert isinstance(output, np.ndarray)
    assert (settings.get("routes"), settings.get("experts_read")) == (
        ("own", 3) if inputs.model.decoder.experts else (None, None)
    )
    return relative_error(output, compute(inputs, 0))


@pytest.mark.parametrize("case", HYBRIDS, ids=[case["config"]["model_type"] for case in HYBRIDS])
def test_torch_runs_a_folder(case: dict[str, Any], tmp_path: Path) -> None:
    assert ran(PyTorch(), step_of(case, tmp_path)) < 1e-5


def test_torch_runs_a_folder_in_bf16(tmp_path: Path) -> None:
    """The reference rounds the same matrices, those that share a tensor among them."""
    (case,) = (one for one in HYBRIDS if one["config"]["model_type"] == "qwen3_5_text")
    inputs = step_of(case, tmp_path, "bf16")
    assert ran(PyTorch(), inputs) < tolerance(inputs.work)


@pytest.mark.parametrize("kind", ["qwen3_5_text", "granitemoehybrid"])
def test_torch_runs_a_prompt_of_a_folder(kind: str, tmp_path: Path) -> None:
    case = next(one for one in HYBRIDS if one["config"]["model_type"] == kind)
    folder = routed_folder(case, tmp_path)
    inputs = make_inputs(parse(f"prefill:model={folder},batch=2,tokens=70,weight=f32,kv=f32"), seed=3)
    assert isinstance(inputs, ModelInputs)
    assert ran(PyTorch(), inputs) < 1e-5


@pytest.mark.slow  # compiles a whole step
def test_numba_runs_a_folder(tmp_path: Path) -> None:
    """The one with the most to lose: biases of Mamba-2's products and of the MLP that stands beside experts."""
    case = next(one for one in HYBRIDS if one["config"].get("mlp_bias"))
    assert ran(NumbaCpu(), step_of(case, tmp_path)) < 2e-5


@pytest.mark.slow  # compiles a whole prompt
def test_numba_runs_a_prompt_of_a_folder(tmp_path: Path) -> None:
    case = next(one for one in HYBRIDS if one["config"]["model_type"] == "qwen3_5_text")
    folder = routed_folder(case, tmp_path)
    inputs = make_inputs(parse(f"prefill:model={folder},batch=2,tokens=35,weight=f32,kv=f32"), seed=3)
    assert isinstance(inputs, ModelInputs)
    assert ran(NumbaCpu(), inputs) < 1e-5


def test_onnx_runtime_names_what_it_lacks(tmp_path: Path) -> None:
    backend = OnnxRuntime()
    backend.open("cpu", 1)
    for number, (kind, lacks) in enumerate((("qwen3_5_text", "gated DeltaNet"), ("nemotron_h", "Mamba-2"))):
        case = next(one for one in HYBRIDS if one["config"]["model_type"] == kind)
        reason = backend.supports(step_of(case, tmp_path / str(number)).work)
        assert lacks in (reason or "")
