"""Steps of several new tokens a sequence on ONNX Runtime, against the float64 reference."""

from __future__ import annotations

import pytest
from beyond_llama import BEYOND
from routed_models import routed_models

from membound.backends.onnx_runtime.backend import OnnxRuntime
from membound.kernels import models
from membound.kernels.inputs import ModelInputs
from membound.kernels.reference import compute, relative_error, tolerance
from membound.kernels.seeded import make_inputs
from membound.kernels.work import parse

pytestmark = pytest.mark.usefixtures("routed_models")
__all__ = ["routed_models"]


def error_of(spec: str) -> float:
    """Of the second launch, which finds what the first has written."""
    work, backend = parse(spec), OnnxRuntime()
    inputs = make_inputs(work, seed=4)
    assert isinstance(inputs, ModelInputs)
    backend.open("cpu", 1)
    assert backend.supports(work) is None
    backend.prepare(work, inputs)
    for _ in range(2):
        backend.launch(0)
    output = backend.output()
    assert output.shape == (work.rows, inputs.model.vocab)
    backend.close()
    return relative_error(output, compute(inputs, 0))


@pytest.mark.parametrize("bend", ["", "window", "sinks"])
@pytest.mark.parametrize("rest", ["context=13,queries=3", "context=4,queries=9,cache=prompt"])
def test_a_step_is_the_reference(bend: str, rest: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A window holds what the first query sees and the new tokens; of these each later one sees less."""
    if bend:
        monkeypatch.setitem(models.MODELS, "tiny", BEYOND[bend])
    assert error_of(f"step:model=tiny,{rest},weight=f32,kv=f32") < 1e-5


def test_experts_and_windows_with_sinks() -> None:
    assert error_of("step:model=tiny-gpt-oss,context=13,queries=3,weight=f32,kv=f32") < 1e-5


@pytest.mark.parametrize("model", ["tiny-lite", "tiny-deepseek"])
def test_latent_attention_of_several_sequences(model: str) -> None:
    assert error_of(f"step:model={model},batch=2,context=13,queries=3,weight=f32,kv=f32") < 1e-5


def test_chunks_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(models.MODELS, "tiny", BEYOND["chunk"])
    backend = OnnxRuntime()
    backend.open("cpu", 1)
    assert "no mask of chunks" in (
        backend.supports(parse("step:model=tiny,context=99,queries=4,weight=f32,kv=f32")) or ""
    )


def test_rounded_weights_and_caches_keep_the_tolerance() -> None:
    spec = "step:model=tiny,context=33,queries=4,weight=int8,kv=f16,act=int8"
    assert error_of(spec) < tolerance(parse(spec))


@pytest.mark.parametrize(
    ("spec", "device", "reason"),
    [
        ("model=tiny,batch=3,queries=2", "cpu", "several queries of one sequence, not of 3"),
        ("model=tiny,queries=4", "cpu+export", "+export steps with one query a sequence, not 4"),
    ],
)
def test_what_is_not_built_is_named(spec: str, device: str, reason: str) -> None:
    backend = OnnxRuntime()
    backend.open(device, 1)
    assert reason in (backend.supports(parse(f"step:{spec},context=20,weight=f32,kv=f32")) or "")
