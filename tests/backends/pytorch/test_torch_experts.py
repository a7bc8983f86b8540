"""Routed experts in torch: grouped products and loops, every format, odd shapes, what is stored and what rows say."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from membound.backends.pytorch.backend import PyTorch
from membound.backends.pytorch.experts import Kind, takes_grouped
from membound.kernels import forward
from membound.kernels.reference import compute, relative_error, tolerance
from membound.kernels.seeded import make_inputs
from membound.kernels.work import RoutedExperts, parse

SMALL = "experts:hidden=96,width=64,count=9,chosen=2"


def check(device: str, spec: str, form: str) -> PyTorch:
    """Four slots over two or more sets of experts, against the reference; what the backend says of each launch."""
    work = parse(spec)
    assert isinstance(work, RoutedExperts)
    inputs = make_inputs(work, 3, slots=4)
    backend = PyTorch()
    backend.open(device, 2)
    assert backend.supports(work) is None
    backend.prepare(work, inputs)
    for slot in (3, 0, 1, 2):
        backend.launch(slot)
        assert backend.output().shape == (work.batch, work.hidden)
        assert relative_error(backend.output(), compute(inputs, slot)) < tolerance(work), slot
        assert backend.settings() == {"experts": form, "experts_read": work.distinct}
    return backend


@pytest.mark.parametrize("more", ["", ",batch=3", ",batch=7,distinct=9", ",batch=8,distinct=2"])
@pytest.mark.parametrize("weight", ["f32", "bf16"])
def test_grouped_products_match_the_reference(weight: str, more: str) -> None:
    backend = check("cpu", f"{SMALL}{more},weight={weight}", "grouped_mm")
    assert backend.stored_bytes() is None


@pytest.mark.parametrize(
    ("device", "spec"),
    [
        ("cpu+loop", f"{SMALL},batch=3,weight=f32"),
        ("cpu+loop", f"{SMALL},batch=3,weight=bf16"),
        ("cpu", f"{SMALL},batch=3,weight=f16"),
        ("cpu", f"{SMALL},weight=int8"),
        ("cpu", f"{SMALL},batch=7,weight=int8,act=int8"),
        ("cpu", f"{SMALL},batch=3,weight=int4g32"),
        ("cpu", "experts:hidden=256,width=128,count=5,chosen=1,batch=3,weight=int4g128"),
        ("cpu", "experts:hidden=37,width=21,count=5,chosen=1,batch=3,weight=bf16"),
    ],
)
def test_loops_match_the_reference(device: str, spec: str) -> None:
    check(device, spec, "loop")


def test_grouped_products_take_aligned_floats_alone() -> None:
    for spec, grouped in (
        ("hidden=4,width=4,weight=f32", True),
        ("hidden=4,width=4,weight=bf16", False),
        ("hidden=8,width=8,weight=bf16", True),
        ("hidden=8,width=7,weight=f32", False),
        ("hidden=8,width=8,weight=f16", False),
    ):
        work = parse(f"experts:{spec},chosen=1")
        assert isinstance(work, RoutedExperts)
        assert takes_grouped(work) is grouped


def test_stored_bytes_are_those_of_the_experts_that_are_read() -> None:
    work = parse(f"{SMALL},batch=3,distinct=4,weight=int8")
    backend = PyTorch()
    backend.open("cpu", 2)
    backend.prepare(work, make_inputs(work, 1, slots=2))
    scales = (2 * 64 + 96) * 2  # bfloat16 in place of float32
    assert backend.stored_bytes() == 4 * (3 * 96 * 64 + scales) + 9 * 96 * 4


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")  # torch's own, while it compiles
def test_grouped_products_are_compiled() -> None:
    check("cpu+compile", f"{SMALL},batch=3,weight=bf16", "grouped_mm")


@pytest.mark.parametrize("gated", [True, False])
@pytest.mark.parametrize("activation", ["silu", "gelu_tanh", "relu2"])
def test_experts_have_the_activation_that_they_name(activation: str, gated: bool) -> None:
    rows, width = 3, 37
    both = np.random.default_rng().normal(0, 2, (rows, (1 + gated) * width))
    found = Kind(1, activation, gated=gated).activate(
        torch.from_numpy(both), torch.zeros(rows, dtype=torch.int64)
    )
    expected = forward.ACTIVATIONS[activation](both[:, :width]) * (both[:, width:] if gated else 1)
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-12, atol=1e-12)
