"""Prompts of models with states by the CPU kernels, against the float64 reference; test_state_chunks.py has the states alone."""

from __future__ import annotations

import re

import numpy as np
import pytest
from hybrid_models import HYBRID, INDEXED, MAMBAS, hybrid_models

from membound.backends.numba.cpu import NumbaCpu
from membound.kernels.inputs import ModelInputs
from membound.kernels.reference import compute, relative_error, tolerance
from membound.kernels.seeded import make_inputs
from membound.kernels.work import parse

pytestmark = pytest.mark.usefixtures("hybrid_models")
__all__ = ["hybrid_models"]


def error(spec: str) -> float:
    """Of the second launch, which finds what the first has left; experts are those of the plan."""
    work, backend = parse(spec), NumbaCpu()
    inputs = make_inputs(work, seed=6)
    assert isinstance(inputs, ModelInputs)
    backend.open("cpu", 2)
    assert backend.supports(work) is None
    backend.prepare(work, inputs)
    for _ in range(2):
        backend.launch(0)
    output = backend.output()
    if inputs.plan is not None:
        layers = enumerate(inputs.model.decoder.layers)
        planned = [inputs.routes(index) for index, layer in layers if hasattr(layer.mlp, "count")]
        assert backend._choice is not None
        chosen = np.stack(backend._choice())
        assert np.array_equal(np.sort(chosen), np.sort(np.stack(planned)))
    backend.close()
    return relative_error(output, compute(inputs, 0))


@pytest.mark.slow  # compiles whole prompts
@pytest.mark.parametrize(
    "shape",
    [
        "tiny-delta,tokens=130",
        "tiny-delta-moe,batch=2,tokens=65",  # the second chunk has the end of one sequence and the start of another
        "tiny-mamba,batch=3,tokens=1",
        "tiny-mamba-moe,batch=3,tokens=21",
        "tiny-granite-h,batch=2,tokens=2",
        "tiny-granite-h-moe,tokens=63",
    ],
)
def test_float32_is_the_reference(shape: str) -> None:
    assert error(f"prefill:model={shape},weight=f32,kv=f32") < 2e-5


@pytest.mark.slow
@pytest.mark.parametrize(
    "shape",
    [
        "tiny-delta,batch=2,tokens=100,weight=bf16,kv=bf16",
        "dose-mamba,tokens=9,weight=int8,act=int8,kv=int8",
        "dose-delta,tokens=19,weight=int4g32,kv=f16",
    ],
)
def test_other_formats_keep_the_tolerance(shape: str) -> None:
    assert error(f"prefill:model={shape}") < tolerance(parse(f"prefill:model={shape}"))


def test_what_the_kernels_take_and_lack() -> None:
    backend = NumbaCpu()
    for name in (*HYBRID, *MAMBAS, *INDEXED):
        assert backend.supports(parse(f"prefill:model={name},tokens=9")) is None
    for spec, reason in (("prefill:model=tiny-delta,batch=65,tokens=2", "up to 64 sequences, not 65"),):
        refusal = backend.supports(parse(spec))
        assert re.search(reason, refusal or "")
