"""Prompts of models with experts, with latent attention and with windows in the CPU's kernels, against the float64 reference."""

from __future__ import annotations

import re

import numpy as np
import pytest
from beyond_llama import BEYOND, windowed_models
from routed_models import routed_models

from membound.backends.numba.cpu import NumbaCpu
from membound.kernels import models
from membound.kernels.cpu.step.packed_routed_prompt import PackedRoutedPrompt
from membound.kernels.inputs import ModelInputs
from membound.kernels.reference import compute, relative_error, tolerance
from membound.kernels.seeded import make_inputs
from membound.kernels.work import parse

pytestmark = pytest.mark.usefixtures("routed_models", "windowed_models")
__all__ = ["routed_models", "windowed_models"]


def error(spec: str) -> float:
    inputs = make_inputs(parse(spec), seed=6)
    assert isinstance(inputs, ModelInputs)
    assert inputs.plan is not None
    packed = PackedRoutedPrompt(inputs, 2)
    for _ in range(2):  # the second finds what the first has written
        packed.run()
    routed = [i for i, layer in enumerate(inputs.model.decoder.layers) if hasattr(layer.mlp, "count")]
    planned = np.stack([inputs.plan.routes(i) for i in routed])
    assert np.array_equal(np.sort(packed.choice), np.sort(planned))
    return relative_error(packed.logits, compute(inputs, 0))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("model", "shape"),
    [
        ("tiny-qwen", "batch=3,tokens=19"),  # a chunk that is not full, in every sequence
        ("tiny-glm", "batch=3,tokens=5"),
        ("tiny-lite", "batch=2,tokens=70"),  # two chunks, the second of six tokens
        ("tiny-deepseek", "batch=2,tokens=66"),
        ("tiny-gpt-oss", "batch=2,tokens=70"),
        ("tiny-on-input", "batch=2,tokens=70"),
    ],
)
def test_prompts_in_float32(model: str, shape: str) -> None:
    assert error(f"prefill:model={model},{shape},weight=f32,kv=f32") < 2e-5


@pytest.mark.slow
def test_a_prompt_over_a_rounded_cache() -> None:
    spec = "prefill:model=tiny-lite,batch=2,tokens=11,weight=bf16,kv=int8"
    assert error(spec) < tolerance(parse(spec))


def dense_error(spec: str) -> float:
    work, backend = parse(spec), NumbaCpu()
    inputs = make_inputs(work, seed=6)
    backend.open("cpu", 2)
    assert backend.supports(work) is None
    backend.prepare(work, inputs)
    for _ in range(2):
        backend.launch(0)
    assert backend.settings() == {}
    return relative_error(backend.output(), compute(inputs, 0))


@pytest.mark.slow
@pytest.mark.parametrize("bend", BEYOND)
def test_dense_prompts_beyond_llama(bend: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(models.MODELS, "bent", BEYOND[bend])
    assert dense_error("prefill:model=bent,batch=2,tokens=70,weight=f32,kv=f32") < 2e-5


@pytest.mark.slow
@pytest.mark.parametrize("model", ["tiny-gemma-2", "tiny-gemma-3", "tiny-mistral"])
@pytest.mark.parametrize("shape", ["batch=2,tokens=70", "tokens=9", "batch=3,tokens=12"])
def test_dense_families_with_windows(model: str, shape: str) -> None:
    assert dense_error(f"prefill:model={model},{shape},weight=f32,kv=f32") < 2e-5


@pytest.mark.slow
@pytest.mark.parametrize("kv", ["bf16", "f16", "int8"])
def test_windows_over_a_rounded_cache(kv: str) -> None:
    spec = f"prefill:model=tiny-gemma-2,batch=2,tokens=70,weight=bf16,kv={kv}"
    assert dense_error(spec) < tolerance(parse(spec))


@pytest.mark.parametrize(
    ("spec", "reason"),
    [
        ("prefill:model=gemma-2-2b,batch=65,tokens=2", "up to 64 sequences, not 65"),
        ("prefill:model=tiny-lite,batch=65,tokens=2", "up to 64 sequences, not 65"),
    ],
)
def test_prompts_that_the_kernels_refuse(spec: str, reason: str) -> None:
    refusal = NumbaCpu().supports(parse(spec))
    assert refusal is not None
    assert re.search(reason, refusal)
