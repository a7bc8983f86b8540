"""Steps of models whose attention sees selected tokens by the CPU kernels, against the float64 reference."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hybrid_models import INDEXED, hybrid_models

from membound.backends.numba.cpu import NumbaCpu
from membound.kernels import models
from membound.kernels.cpu.compile import set_threads
from membound.kernels.cpu.step.packed_routed import PackedRouted
from membound.kernels.inputs import ModelInputs
from membound.kernels.mixers import Latent
from membound.kernels.reference import compute, relative_error, tolerance
from membound.kernels.seeded import make_inputs
from membound.kernels.work import parse

pytestmark = pytest.mark.usefixtures("hybrid_models")
__all__ = ["hybrid_models"]


def run(spec: str, seed: int, threads: int = 2) -> tuple[float, ModelInputs, PackedRouted]:
    set_threads(2)
    work = parse(spec)
    assert NumbaCpu().supports(work) is None
    inputs = make_inputs(work, seed)
    assert isinstance(inputs, ModelInputs)
    packed = PackedRouted(inputs, threads)
    for _ in range(2):  # the second launch is the same step
        packed.run()
    return relative_error(packed.logits, compute(inputs, 0)), inputs, packed


def fresh() -> int:
    return int(np.random.default_rng().integers(1 << 31))


@pytest.mark.slow
@pytest.mark.parametrize("name", INDEXED)
@pytest.mark.parametrize(("batch", "context", "threads"), [(1, 40, 2), (3, 23, 2), (2, 5, 1), (1, 8, 3)])
def test_float32_is_the_reference(name: str, batch: int, context: int, threads: int) -> None:
    """The index selects 9: contexts are longer, and as long with the new token, and shorter."""
    seed = fresh()
    spec = f"step:model={name},batch={batch},context={context},weight=f32,kv=f32"
    error, inputs, packed = run(spec, seed, threads)
    assert error < 1e-5, seed
    for index in (0, 1, 3):
        assert np.array_equal(packed.selection[index], inputs.selection(index)), seed
    assert (packed.selection[2] == -1).all()


@pytest.mark.parametrize(
    "formats",
    [
        "weight=bf16,kv=bf16",
        *(
            pytest.param(one, marks=pytest.mark.slow)
            for one in (
                "weight=f16,kv=f16",
                "weight=int8,kv=int8",
                "weight=int8,act=int8,kv=bf16",
                "weight=int4g32z,kv=f32",
                "weight=q4_0,kv=int8",
                "weight=mxfp4,kv=bf16",
                "weight=fp8g128,kv=f16",
            )
        ),
    ],
)
def test_other_formats_keep_the_tolerance(formats: str) -> None:
    """Two tokens of nearly equal scores may be swapped, and what is read is what the reference selects."""
    spec, seed = f"step:model=dose-index,context=1500,{formats}", fresh()
    error, inputs, packed = run(spec, seed)
    assert error < tolerance(parse(spec)), seed
    for index in range(2):
        common = np.intersect1d(packed.selection[index], inputs.selection(index)).size
        assert (np.diff(packed.selection[index]) > 0).all()
        assert common > 0.9 * 1024, seed


@pytest.mark.slow
@pytest.mark.parametrize("formats", ["weight=bf16,kv=bf16", "weight=f16,kv=int8"])
def test_odd_widths_experts_and_formats(formats: str) -> None:
    spec, seed = f"step:model=tiny-index-moe,batch=2,context=40,{formats}", fresh()
    error, inputs, packed = run(spec, seed)
    assert error < tolerance(parse(spec)), seed
    routed = [index for index, layer in enumerate(inputs.model.decoder.layers) if hasattr(layer.mlp, "count")]
    assert np.array_equal(np.sort(packed.choice), np.sort(np.stack([inputs.routes(i) for i in routed])))


@pytest.mark.slow
def test_rope_of_neighbours_in_the_index_alone_and_biases(monkeypatch: pytest.MonkeyPatch) -> None:
    """GLM-5's index turns neighbours; RoPE of attention's own is the other kind here, and what goes down has biases."""

    def changed(mixer: Any) -> Latent:
        index = replace(mixer.index, neighbours=True)
        return replace(mixer, index=index, biases=True, rope=replace(mixer.rope, neighbours=False))

    whole = INDEXED["tiny-index"]
    layers = tuple(replace(one, mixer=changed(one.mixer)) for one in whole.layers)
    monkeypatch.setitem(models.SHAPES, "tiny-turned", replace(whole, name="tiny-turned", layers=layers))
    seed = fresh()
    error, inputs, packed = run("step:model=tiny-turned,batch=1,context=40,weight=f32,kv=f32", seed)
    assert error < 1e-5, seed
    for index in (0, 1, 3):
        assert np.array_equal(packed.selection[index], inputs.selection(index)), seed


@pytest.mark.slow
def test_the_backend_runs_it() -> None:
    work, backend = parse("step:model=tiny-index,batch=1,context=40,weight=f32,kv=f32"), NumbaCpu()
    backend.open("cpu", 2)
    inputs = make_inputs(work, 3)
    backend.prepare(work, inputs)
    backend.launch(0)
    assert relative_error(backend.output(), compute(inputs, 0)) < 1e-5
    assert backend.settings() == {}
    backend.close()
