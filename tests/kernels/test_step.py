"""Whole compiled decode steps against the float64 reference: formats, caches, batches, model features."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from beyond_llama import BEYOND
from transformers_answers import CASES, dense, folder_of, inputs_of

from membound.kernels import models
from membound.kernels.cpu.step.packed_model import PackedModel
from membound.kernels.models import Model
from membound.kernels.reference import relative_error, step
from membound.kernels.rope import Rope
from membound.kernels.seeded import make_inputs
from membound.kernels.work import parse

# float32 arithmetic alone; a float16 cache adds a key that falls on the other side of a rounding boundary now
# and then, int8 an activation that does; bfloat16 matrix tiles round every activation
BOUNDS = {"float": 1e-5, "f16": 1e-3, "int8": 0.04, "tile": 0.02}


def error(spec: str) -> float:
    inputs = make_inputs(parse(spec), seed=int(np.random.default_rng().integers(1 << 30)))
    packed = PackedModel(inputs, threads=2)
    packed.run()
    first = packed.logits
    packed.run()
    assert np.array_equal(packed.logits, first), "a step must not depend on the one before"
    return relative_error(first, step(inputs))


@pytest.mark.parametrize(
    ("spec", "bound"),
    [
        ("step:model=tiny,context=37,weight=f32,kv=f32", BOUNDS["float"]),
        ("step:model=tiny,context=16,weight=f32,kv=f32,layers=1", BOUNDS["float"]),
        pytest.param("step:model=tiny,context=1,batch=3,weight=bf16,kv=bf16", 0.01, marks=pytest.mark.slow),
        pytest.param(
            "step:model=tiny,context=37,batch=2,weight=f16,kv=f16",
            BOUNDS["f16"],
            marks=[pytest.mark.instruction_set, pytest.mark.slow],
        ),
        pytest.param(
            "step:model=tiny,context=37,weight=int4g32,kv=f32,act=int8",
            BOUNDS["int8"],
            marks=pytest.mark.slow,
        ),
        pytest.param(
            "step:model=tiny,context=129,weight=int8,kv=int8,act=int8", BOUNDS["int8"], marks=pytest.mark.slow
        ),
        pytest.param(
            "step:model=tiny,context=40,batch=6,weight=bf16,kv=bf16", BOUNDS["tile"], marks=pytest.mark.slow
        ),
    ],
)
def test_step(spec: str, bound: float) -> None:
    assert error(spec) < bound


@pytest.mark.parametrize(
    "change",
    [
        {"qkv_bias": True},
        {"qk_norm": True},
        {"gated": False},
        {"rope_scaling": (32.0, 1.0, 4.0, 8192.0)},
        {"hidden": 250, "intermediate": 333, "vocab": 77},
    ],
    ids=lambda change: next(iter(change)),
)
def test_model_features(change: dict[str, object], monkeypatch: pytest.MonkeyPatch) -> None:
    model: Model = replace(models.MODELS["tiny"], name="variant", **change)  # type: ignore[arg-type]
    monkeypatch.setitem(models.MODELS, "variant", model)
    assert error("step:model=variant,context=37,weight=f32,kv=f32") < BOUNDS["float"]


@pytest.mark.parametrize("name", BEYOND)
def test_what_goes_beyond_llama(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(models.MODELS, "variant", BEYOND[name])
    inputs = make_inputs(parse("step:model=variant,context=37,weight=f32,kv=f32"), seed=5)
    plain = make_inputs(parse("step:model=tiny,context=37,weight=f32,kv=f32"), seed=5)
    assert relative_error(step(plain), step(inputs)) > 0.02, "a step without it must be another"
    assert error("step:model=variant,context=37,weight=f32,kv=f32") < BOUNDS["float"]


@pytest.mark.parametrize("batch", [1, pytest.param(3, marks=pytest.mark.slow)])
def test_several_kinds_of_layers(batch: int, monkeypatch: pytest.MonkeyPatch) -> None:
    tiny = models.MODELS["tiny"]
    kind = tiny.decoder.layers[0]
    near = replace(kind, mixer=replace(kind.mixer, window=5, rope=Rope(500.0)))
    still = replace(kind, mixer=replace(kind.mixer, rope=None))
    parts = replace(tiny.decoder, layers=(near, kind, still, near))
    monkeypatch.setitem(models.MODELS, "variant", replace(tiny, name="variant", layers=4, parts=parts))
    assert error(f"step:model=variant,context=37,batch={batch},weight=f32,kv=f32") < BOUNDS["float"]


@pytest.mark.slow
@pytest.mark.parametrize(
    "case", [one for one in CASES if dense(one)], ids=lambda one: one["config"]["model_type"]
)
def test_families_of_transformers(case: dict[str, Any], tmp_path: Path) -> None:
    rest = f"context={len(case['tokens']) - 1},weight=f32,kv=f32,cache=prompt"
    packed = PackedModel(inputs_of(f"step:model={folder_of(case, tmp_path)},{rest}", case), threads=2)
    packed.run()
    assert relative_error(packed.logits[0], np.array(case["logits"])) < BOUNDS["float"]
