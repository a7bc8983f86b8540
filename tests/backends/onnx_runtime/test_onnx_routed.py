"""Steps and prompts of models with experts and with latent attention on ONNX Runtime, against the float64 reference."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from routed_models import EVERY, LATENT, ROUTED, routed_models

from membound.backends.onnx_runtime.backend import OnnxRuntime
from membound.kernels.inputs import ModelInputs
from membound.kernels.parts import Experts
from membound.kernels.reference import compute, relative_error, step, tolerance
from membound.kernels.routing import route
from membound.kernels.seeded import make_inputs
from membound.kernels.work import SpecError, Step, parse

pytestmark = pytest.mark.usefixtures("routed_models")
__all__ = ["routed_models"]
NOT_BUILT = ("tiny-on-input",)
BUILT = [name for name in EVERY if name not in NOT_BUILT]


def ran(spec: str) -> tuple[float, OnnxRuntime, ModelInputs]:
    """The error of the second launch, which finds what the first has written."""
    work, backend = parse(spec), OnnxRuntime()
    inputs = make_inputs(work, seed=4)
    assert isinstance(inputs, ModelInputs)
    backend.open("cpu", 2)
    assert backend.supports(work) is None
    backend.prepare(work, inputs)
    for _ in range(2):
        backend.launch(0)
    return relative_error(backend.output(), compute(inputs, 0)), backend, inputs


def choices(backend: OnnxRuntime) -> list[Any]:
    """What each layer's operator chose, each row's experts in their order."""
    return [np.sort(route(one.numpy(), backend._chosen)[0]) for one in backend._logits]


def planned(inputs: ModelInputs) -> list[Any]:
    layers = enumerate(inputs.model.decoder.layers)
    return [np.sort(inputs.routes(index)) for index, layer in layers if isinstance(layer.mlp, Experts)]


@pytest.mark.parametrize("name", BUILT)
@pytest.mark.parametrize("rest", ["batch=5,context=13", "context=12,cache=prompt"])
def test_a_step_is_the_reference_and_every_planned_choice_is_taken(name: str, rest: str) -> None:
    error, backend, inputs = ran(f"step:model={name},{rest},weight=f32,kv=f32")
    assert error < 1e-5
    assert backend.settings()["experts_read"] == inputs.work.distinct
    for found, wanted in zip(choices(backend), planned(inputs), strict=True):
        assert np.array_equal(found, wanted)
    assert backend.stored_bytes() is None
    backend.close()


@pytest.mark.parametrize("name", [name for name in ROUTED if name not in NOT_BUILT])
def test_a_prompt_is_the_reference(name: str) -> None:
    error, backend, inputs = ran(f"prefill:model={name},batch=2,tokens=7,weight=f32,kv=f32")
    assert error < 1e-5
    assert backend.settings()["experts_read"] == inputs.work.distinct
    backend.close()


@pytest.mark.parametrize("name", BUILT)
@pytest.mark.parametrize(("weight", "act"), [("int8", "int8"), ("int4g32", "float"), ("int4g32", "int8")])
def test_other_formats_keep_the_tolerance(name: str, weight: str, act: str) -> None:
    if name == "tiny-deepseek" and weight == "int4g32":
        with pytest.raises(SpecError, match="rows of q_up of 48, not a multiple of 32"):
            parse(f"step:model={name},weight={weight}")
        return
    error, backend, inputs = ran(f"step:model={name},batch=4,context=13,weight={weight},act={act},kv=f32")
    assert error < tolerance(inputs.work)
    assert backend.settings()["experts_read"] == inputs.work.distinct
    backend.close()


def test_a_float16_cache_is_attended_to_in_float16() -> None:
    error, backend, inputs = ran("step:model=tiny-gpt-oss,batch=3,context=13,weight=f32,kv=f16")
    assert error < tolerance(inputs.work)
    cache = inputs.work.traffic.kv_read_bytes
    weights = inputs.work.traffic.weights_bytes
    assert backend.stored_bytes() == weights + 3 * cache
    backend.close()


@pytest.mark.parametrize("name", LATENT)
def test_a_row_is_appended_in_place_and_no_other_is_touched(name: str) -> None:
    _, backend, inputs = ran(f"step:model={name},batch=2,context=9,weight=f32,kv=f32")
    _, binding = backend._launches[0]
    rows = next(value.numpy() for value in binding.get_outputs() if value.shape() == [2, 10, 80])
    held = inputs.cache(0).k[:, 0]
    assert np.array_equal(rows[:, :-1], held)
    assert np.abs(rows[:, -1]).min() > 0
    backend.close()


def test_absorbed_matrices_of_integers_are_widened_and_counted() -> None:
    _, backend, inputs = ran("step:model=tiny-lite,batch=2,context=9,weight=int8,act=int8,kv=f32")
    work = inputs.work
    assert isinstance(work, Step)
    up = 2 * 4 * (32 + 32) * 64  # of two layers, heads, nope and value, rank
    asked = work.traffic.weights_bytes + work.traffic.scales_bytes + work.traffic.kv_read_bytes
    scales = 2 * 4 * (32 + 32) * 4
    assert backend.stored_bytes() == asked + 3 * up - scales
    backend.close()


def test_a_window_is_all_that_its_layer_keeps() -> None:
    work = parse("step:model=tiny-gpt-oss,batch=2,context=40,weight=f32,kv=f32")
    inputs, backend = make_inputs(work, seed=4), OnnxRuntime()
    backend.open("cpu", 1)
    backend.prepare(work, inputs)
    backend.launch(0)
    _, binding = backend._launches[0]
    places = sorted(value.shape()[2] for value in binding.get_outputs() if len(value.shape()) == 4)
    assert places == [9, 9, 41, 41]
    assert isinstance(inputs, ModelInputs)
    assert relative_error(backend.output(), step(inputs)) < 1e-5
    backend.close()


def test_what_is_not_built_is_named() -> None:
    backend = OnnxRuntime()
    backend.open("cpu", 1)

    def reason(spec: str) -> str | None:
        return backend.supports(parse(f"{spec},weight=f32,kv=f32"))

    assert reason("step:model=tiny-on-input") == (
        "tiny-on-input asks for L2 norms of heads, shares that multiply what goes into experts, temperatures, which it lacks"
    )
    assert reason("prefill:model=tiny-lite") == "tiny-lite asks for latent attention, which it lacks"
    assert reason("prefill:model=tiny-gpt-oss") == "tiny-gpt-oss asks for sliding windows, which it lacks"
    assert backend.supports(parse("step:model=tiny-lite,weight=f32,kv=f16")) == (
        "latent attention is built over a float32 cache"
    )
    backend.open("cpu+export", 1)
    assert "asks for" in (reason("step:model=tiny-qwen") or "")
