"""Steps of models with states in torch, against the float64 reference."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hybrid_models import DELTA, HYBRID, MAMBA, MAMBAS, hybrid_models

from membound.backends.pytorch.backend import PyTorch
from membound.backends.pytorch.mamba_layer import CachedMamba
from membound.backends.pytorch.state_layer import CachedDelta
from membound.kernels.recurrence import mix
from membound.kernels.reference import compute, relative_error, tolerance
from membound.kernels.seeded import make_inputs
from membound.kernels.weights.states import random_state
from membound.kernels.work import parse

pytestmark = pytest.mark.usefixtures("hybrid_models")
__all__ = ["hybrid_models"]


def error_of(spec: str) -> float:
    work, backend = parse(spec), PyTorch()
    inputs = make_inputs(work, seed=4)
    backend.open("cpu", 1)
    assert backend.supports(work) is None
    backend.prepare(work, inputs)
    for _ in range(2):  # the second launch is the same step: it reads the state that the first one read
        backend.launch(0)
    error = relative_error(backend.output(), compute(inputs, 0))
    backend.close()
    return error


@pytest.mark.parametrize("name", [*HYBRID, *MAMBAS])
@pytest.mark.parametrize("batch", [1, 3])
def test_float32_is_the_reference(name: str, batch: int) -> None:
    assert error_of(f"step:model={name},batch={batch},context=13,weight=f32,kv=f32") < 1e-5


@pytest.mark.parametrize("weight", ["bf16", "f16"])
def test_other_formats_keep_the_tolerance(weight: str) -> None:
    spec = f"step:model=tiny-delta,batch=2,context=13,weight={weight},kv={weight}"
    assert error_of(spec) < tolerance(parse(spec))


def test_the_state_behind_a_token_is_the_reference_and_the_one_before_stays() -> None:
    rng, hidden = np.random.default_rng(1), 96
    vectors = {
        "conv": rng.standard_normal(DELTA.channels * DELTA.kernel),
        "log_decay": rng.standard_normal(DELTA.value_heads) - 2,
        "dt_bias": rng.standard_normal(DELTA.value_heads),
        "state_norm": np.ones(DELTA.value_dim),
    }
    vectors = {name: values.astype(np.float32) for name, values in vectors.items()}
    matrices = {name: rng.standard_normal(shape) / 10 for name, shape in DELTA.matrices(hidden).items()}
    x, before = rng.standard_normal((3, hidden)), random_state(DELTA, 3, stream=9)
    _, after = mix(x, DELTA, before, lambda name, y: y @ matrices[name].T, vectors, 1e-6)
    layer = CachedDelta(DELTA, before, vectors)
    flat = np.concatenate([x @ matrices[name].T for name in ("q", "k", "v", "b", "a")], 1)
    layer(torch.from_numpy(flat.astype(np.float32)))
    assert relative_error(layer.state_after.numpy(), after.matrices) < 1e-6
    assert relative_error(layer.tail_after.numpy(), after.tail) < 1e-6
    assert np.array_equal(layer.state.numpy(), random_state(DELTA, 3, stream=9).matrices)


def test_the_state_of_mamba_behind_a_token_is_the_reference() -> None:
    rng, hidden = np.random.default_rng(2), 96
    vectors = {
        name: (rng.standard_normal(width) / 2).astype(np.float32)
        for name, width in MAMBA.vector_widths(hidden).items()
    }
    matrices = {name: rng.standard_normal(shape) / 10 for name, shape in MAMBA.matrices(hidden).items()}
    x, before = rng.standard_normal((3, hidden)), random_state(MAMBA, 3, stream=9)
    _, after = mix(x, MAMBA, before, lambda name, y: y @ matrices[name].T, vectors, 1e-6)
    layer = CachedMamba(MAMBA, before, vectors)
    flat = np.concatenate([x @ matrices[name].T for name in ("x", "b", "c", "dt")], 1)
    layer(torch.from_numpy(flat.astype(np.float32)))
    assert relative_error(layer.state_after.numpy(), after.matrices) < 1e-6
    assert relative_error(layer.tail_after.numpy(), after.tail) < 1e-6


def test_a_prompt_of_such_a_model_is_refused_by_name() -> None:
    assert PyTorch().supports(parse("prefill:model=tiny-delta,tokens=8")) == (
        "tiny-delta asks for gated DeltaNet, which it lacks"
    )
