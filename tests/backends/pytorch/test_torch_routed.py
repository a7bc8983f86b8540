"""Steps and prompts of models with experts and with latent attention in torch, against the float64 reference."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from routed_models import EVERY, LATENT, routed_models

from membound.backends.pytorch.backend import PyTorch
from membound.backends.pytorch.routed_layer import choose_by_rule
from membound.kernels.forward import routes
from membound.kernels.parts import Router
from membound.kernels.reference import compute, relative_error, tolerance
from membound.kernels.seeded import make_inputs
from membound.kernels.work import parse

pytestmark = pytest.mark.usefixtures("routed_models")
__all__ = ["routed_models"]


def ran(spec: str, device: str = "cpu") -> tuple[float, dict[str, object]]:
    """The error of a launch, and the settings behind it."""
    work, backend = parse(spec), PyTorch()
    inputs = make_inputs(work, seed=4)
    backend.open(device, 1)
    backend.prepare(work, inputs)
    for _ in range(2):  # the second finds what the first has written
        backend.launch(0)
    error, settings = relative_error(backend.output(), compute(inputs, 0)), backend.settings()
    backend.close()
    return error, settings


@pytest.mark.parametrize("name", EVERY)
@pytest.mark.parametrize(
    "rest",
    [
        "step:model={},batch=5,context=13",
        "step:model={},context=12,cache=prompt",
        "step:model={},batch=3,context=7,queries=3",
        "prefill:model={},batch=2,tokens=11",
    ],
)
def test_float32_is_the_reference(name: str, rest: str) -> None:
    spec = rest.format(name) + ",weight=f32,kv=f32"
    error, settings = ran(spec)
    assert error < 1e-5
    assert settings == {"experts": "grouped_mm", "experts_read": parse(spec).distinct}


@pytest.mark.parametrize("name", EVERY)
@pytest.mark.parametrize("weight", ["bf16", "int8"])
def test_other_formats_keep_the_tolerance(name: str, weight: str) -> None:
    spec = f"step:model={name},batch=4,context=13,weight={weight},kv=bf16"
    error, settings = ran(spec)
    assert error < tolerance(parse(spec))
    assert settings["experts"] == ("grouped_mm" if weight == "bf16" else "loop")
    assert settings["experts_read"] == parse(spec).distinct


@pytest.mark.parametrize("distinct", [2, 8])
def test_as_many_experts_are_read_as_were_asked_for(distinct: int) -> None:
    _, settings = ran(f"step:model=tiny-qwen,batch=4,context=9,weight=f32,kv=f32,distinct={distinct}")
    assert settings["experts_read"] == distinct


@pytest.mark.parametrize(
    "router",
    [
        Router(),
        Router(normalised=False, factor=3.0, bias=True),
        Router("sigmoid", correction=True, groups=4, groups_chosen=2),
        Router(normalised=False, groups=4, groups_chosen=3, group_best=1),
    ],
)
def test_a_router_chooses_as_the_reference_does(router: Router) -> None:
    rng = np.random.default_rng(5)
    logits = rng.standard_normal((7, 16))
    vectors = {name: 0.1 * rng.standard_normal(16) for name in ("router_bias", "correction")}
    ids, shares = routes(logits, router, 3, vectors)
    used = [
        torch.from_numpy(vectors[name]) if so else None
        for name, so in (("router_bias", router.bias), ("correction", router.correction))
    ]
    found, their = choose_by_rule(torch.from_numpy(logits), router, 3, *used)
    assert np.array_equal(found.numpy(), ids)
    assert np.allclose(their.numpy(), shares)


def test_what_is_not_built_is_named() -> None:
    backend = PyTorch()
    backend.open("cpu+compile", 1)
    assert backend.supports(parse("step:model=tiny-qwen")) == "layers with experts run without torch.compile"
    backend.open("cpu+loop", 1)
    assert backend.supports(parse("step:model=tiny-qwen")) == "the variant loop changes routed experts only"


@pytest.mark.parametrize("name", LATENT)
def test_a_latent_cache_is_read_in_every_form(name: str) -> None:
    error, _ = ran(f"step:model={name},batch=2,context=13,weight=f32,kv=f32", "cpu+matmul")
    assert error < 1e-5
