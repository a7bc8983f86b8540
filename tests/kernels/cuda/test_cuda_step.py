"""A whole decode step on CUDA, simulated, against the float64 reference."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from membound.kernels import models
from membound.kernels.cuda.device.simulated import SimulatedGpu
from membound.kernels.cuda.step.products import fuses
from membound.kernels.cuda.step.step import prepare_step, unsupported_step
from membound.kernels.inputs import ModelInputs
from membound.kernels.models import Model
from membound.kernels.reference import compute, relative_error, tolerance
from membound.kernels.seeded import make_inputs
from membound.kernels.work import Step, parse

GQA = Model("small", 64, 1, 4, 2, 32, 64, 24)
SHAPES = {
    "grouped": GQA,
    "multi-head": replace(GQA, kv_heads=4, q_heads=4, rope_scaling=(8.0, 1.0, 4.0, 16.0)),
    "multi-query": replace(GQA, kv_heads=1, vocab=37),
    "bias and norms": replace(GQA, qkv_bias=True, qk_norm=True, layers=2),
    "plain MLP": replace(GQA, gated=False, head_dim=64, q_heads=2),
}


def step_error(
    spec: str, monkeypatch: pytest.MonkeyPatch, shape: Model | None = None, runs: int = 1
) -> float:
    """The error of the simulated step, run `runs` times, as a fraction of the tolerance."""
    if shape is not None:
        monkeypatch.setitem(models.MODELS, shape.name, shape)
    work = parse(spec)
    assert isinstance(work, Step)
    assert unsupported_step(work) is None
    inputs = make_inputs(work, 6)
    assert isinstance(inputs, ModelInputs)
    gpu = SimulatedGpu()
    prepared = prepare_step(gpu, inputs)
    expected, outputs = compute(inputs, 0), []
    for _ in range(runs):
        gpu.capture(prepared.launches).start()
        outputs.append(prepared.logits.read().reshape(expected.shape))
    assert np.array_equal(outputs[0], outputs[-1])
    asked = work.traffic.weights_bytes + work.traffic.scales_bytes
    assert prepared.weights_bytes <= 1.5 * asked
    return relative_error(outputs[0], expected) / tolerance(work)


@pytest.mark.slow
@pytest.mark.parametrize("shape", SHAPES)
def test_every_shape_of_a_model(shape: str, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = "step:model=small,context=21,batch=2,kv=int8,weight=int8"
    assert step_error(spec, monkeypatch, SHAPES[shape]) < 0.8


@pytest.mark.parametrize("context", [15, *(pytest.param(n, marks=pytest.mark.slow) for n in (16, 63))])
def test_contexts_around_the_ends_of_tiles(context: int, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = f"step:model=small,context={context},kv=f16,weight=int4g32"
    assert step_error(spec, monkeypatch, GQA) < 0.8


def test_a_step_repeats_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    assert step_error("step:model=small,context=5,kv=fp8,weight=bf16", monkeypatch, GQA, runs=2) < 0.8


@pytest.mark.slow
@pytest.mark.parametrize(("weight", "batch"), [("f32", 1), ("bf16", 5)])
def test_float_weights(weight: str, batch: int, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = f"step:model=small,context=9,batch={batch},kv=bf16,weight={weight}"
    assert step_error(spec, monkeypatch, GQA) < 0.8


@pytest.mark.parametrize(
    ("weight", "batch", "gated", "launches"),
    [("bf16", 4, True, 8), ("bf16", 1, False, 8), ("bf16", 5, True, 12), ("int8", 1, True, 12)],
)
def test_norms_and_activations_take_launches_only_where_tensor_cores_multiply(
    weight: str, batch: int, gated: bool, launches: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of one layer: a copy, qkv, append, attention, o, up, down and head; else three norms and an activation more."""
    monkeypatch.setitem(models.MODELS, "small", replace(GQA, gated=gated))
    work = parse(f"step:model=small,context=30,batch={batch},kv=bf16,weight={weight}")
    inputs = make_inputs(work, 6)
    assert isinstance(work, Step)
    assert isinstance(inputs, ModelInputs)
    assert len(prepare_step(SimulatedGpu(), inputs).launches) == launches
    assert fuses(work) is (launches == 8)


def test_a_cache_that_a_prompt_has_left(monkeypatch: pytest.MonkeyPatch) -> None:
    assert step_error("step:model=small,context=18,weight=int8,cache=prompt", monkeypatch, GQA) < 0.8


@pytest.mark.slow
def test_the_tiny_model(monkeypatch: pytest.MonkeyPatch) -> None:
    assert step_error("step:model=tiny,context=33,weight=int8,layers=1", monkeypatch) < 0.8


@pytest.mark.parametrize(
    ("spec", "reason"),
    [
        ("step:model=tiny,weight=int8,act=int8", "no int8 × int8 products"),
        ("step:model=tiny,kv=f32", "do not take f32"),
    ],
)
def test_what_cannot_run_has_a_reason(spec: str, reason: str) -> None:
    work = parse(spec)
    assert isinstance(work, Step)
    assert reason in (unsupported_step(work) or "")


def test_odd_widths_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(models.MODELS, "small", replace(GQA, intermediate=72))
    work = parse("step:model=small")
    assert isinstance(work, Step)
    assert unsupported_step(work) == "the CUDA step takes widths of multiples of 64, not intermediate=72"
