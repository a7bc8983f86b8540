"""Steps of models with experts and with latent attention in the CPU's kernels, against the float64 reference."""

from __future__ import annotations

import numpy as np
import pytest
from routed_models import LATENT, ROUTED, routed_models

from membound.kernels.cpu.step.packed_routed import PackedRouted
from membound.kernels.reference import compute, relative_error, tolerance
from membound.kernels.seeded import make_inputs
from membound.kernels.work import parse

pytestmark = pytest.mark.usefixtures("routed_models")
__all__ = ["routed_models"]


def ran(spec: str, threads: int = 2) -> tuple[float, PackedRouted, object]:
    work = parse(spec)
    inputs = make_inputs(work, seed=6)
    packed = PackedRouted(inputs, threads)  # type: ignore[arg-type]
    for _ in range(2):  # the second finds what the first has written
        packed.run()
    return relative_error(packed.logits, compute(inputs, 0)), packed, inputs


def close(name: str, rest: str) -> None:
    spec = f"step:model={name},{rest}"
    error, packed, inputs = ran(spec)
    assert error < (2e-5 if "weight=f32,kv=f32" in rest else tolerance(parse(spec)))
    routed = [i for i, layer in enumerate(inputs.model.decoder.layers) if hasattr(layer.mlp, "count")]
    planned = np.stack([inputs.plan.routes(i) for i in routed])
    assert np.array_equal(np.sort(packed.choice), np.sort(planned))


@pytest.mark.slow
@pytest.mark.parametrize("name", ROUTED)  # of one shape of heads, so that one compilation serves them all
def test_experts(name: str) -> None:
    close(name, "context=13,weight=f32,kv=f32")


@pytest.mark.slow
@pytest.mark.parametrize("name", LATENT)
def test_latent_attention(name: str) -> None:
    close(name, "context=13,weight=f32,kv=f32")
