"""Steps of model folders with experts of their own routes on every backend that runs them, against the float64 reference."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from transformers_answers import CASES, dense, inputs_of, routed_folder

from membound.backends.api import Backend
from membound.backends.numba.cpu import NumbaCpu
from membound.backends.onnx_runtime.backend import OnnxRuntime
from membound.backends.pytorch.backend import PyTorch
from membound.kernels.inputs import ModelInputs
from membound.kernels.reference import compute, relative_error

KINDS = (
    "mixtral",
    "qwen3_moe",
    "qwen2_moe",
    "gpt_oss",
    "deepseek_v2",
    "deepseek_v3",
    "glm4_moe",
    "granitemoe",
    "granitemoeshared",
    "llama4_text",
)
CHOSEN = {"llama4_text": 1}
NOT_BUILT = {
    **dict.fromkeys(("qwen2_moe", "granitemoe"), "takes heads of a multiple of 16 with RoPE, not 12"),
    "glm4_moe": "turns a multiple of 16 columns of a head, not 8",
    "llama4_text": "L2 norms of heads",
}
"""What ONNX Runtime's graphs lack."""


def step_of(kind: str, path: Path, weight: str = "f32") -> ModelInputs:
    case = next(one for one in CASES if not dense(one) and one["config"]["model_type"] == kind)
    context = len(case["tokens"]) - 1
    folder = routed_folder(case, path)
    return inputs_of(f"step:model={folder},context={context},cache=prompt,weight={weight},kv=f32", case)


def ran(backend: Backend, inputs: ModelInputs) -> tuple[float, dict[str, Any]]:
    """The error of the second launch, and the settings behind it."""
    backend.open("cpu", 2)
    assert backend.supports(inputs.work) is None
    backend.prepare(inputs.work, inputs)
    for _ in range(2):
        backend.launch(0)
    output, settings = backend.output(), backend.settings()
    backend.close()
    assert isinstance(output, np.ndarray)
    return relative_error(output, compute(inputs, 0)), settings


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_numba_runs_a_folder(kind: str, tmp_path: Path) -> None:
    error, settings = ran(NumbaCpu(), step_of(kind, tmp_path))
    assert error < 2e-5
    assert settings == {"experts_read": CHOSEN.get(kind, 3), "routes": "own"}


@pytest.mark.parametrize("kind", KINDS)
def test_torch_runs_a_folder(kind: str, tmp_path: Path) -> None:
    error, settings = ran(PyTorch(), step_of(kind, tmp_path))
    assert error < 1e-5
    assert settings == {"experts": "grouped_mm", "experts_read": CHOSEN.get(kind, 3), "routes": "own"}


@pytest.mark.parametrize("kind", KINDS)
def test_onnx_runtime_runs_a_folder_or_says_what_it_lacks(kind: str, tmp_path: Path) -> None:
    inputs, backend = step_of(kind, tmp_path), OnnxRuntime()
    if kind in NOT_BUILT:
        backend.open("cpu", 1)
        assert NOT_BUILT[kind] in (backend.supports(inputs.work) or "")
        return
    error, settings = ran(backend, inputs)
    assert error < 1e-5
    assert (settings["experts_read"], settings["routes"]) == (3, "own")


@pytest.mark.parametrize("make", [PyTorch, OnnxRuntime])
def test_the_choice_is_handed_over(make: type[Backend], tmp_path: Path) -> None:
    """A choice that the router would not make shows in the output: what is computed is the choice of the reference."""
    inputs, backend = step_of("qwen3_moe", tmp_path), make()
    right, _ = ran(backend, inputs)
    for index, routes in enumerate(inputs.held_routes):
        inputs.held_routes[index] = (routes + 1) % 8
    wrong, settings = ran(backend, inputs)
    assert right < 1e-5
    assert wrong > 0.01
    assert settings["experts_read"] == 3
