"""Routed experts by ONNX Runtime's MoE and QMoE: every format that they have, several sets, what is stored and told."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from membound.backends.onnx_runtime.backend import OnnxRuntime
from membound.errors import Unsupported
from membound.kernels.reference import compute, relative_error, tolerance
from membound.kernels.seeded import make_inputs
from membound.kernels.work import RoutedExperts, parse

SMALL = "experts:hidden=96,width=64,count=9,chosen=2"


@pytest.fixture
def backend() -> Iterator[OnnxRuntime]:
    backend = OnnxRuntime()
    backend.open("cpu", 2)
    yield backend
    backend.close()


@pytest.mark.parametrize(
    ("spec", "extra"),
    [
        (f"{SMALL},weight=f32", 0),
        (f"{SMALL},batch=3,weight=f32", 0),
        (f"{SMALL},batch=7,distinct=9,weight=f32", 0),
        ("experts:hidden=37,width=21,count=5,chosen=1,batch=3,weight=f32", 0),
        (f"{SMALL},batch=3,weight=f16", 5 * 3 * 96 * 64 * 2),
        (f"{SMALL},weight=int8", 0),
        (f"{SMALL},batch=3,weight=int8,act=int8", 0),
        (f"{SMALL},weight=int4g32", 2 * 3 * 96 * 64 // 32 * 2),
        (f"{SMALL},batch=7,weight=int4g32,act=int8", 7 * 3 * 96 * 64 // 32 * 2),
        ("experts:hidden=256,width=128,count=5,chosen=1,batch=2,weight=int4g128,act=int8", 2 * 3 * 256 * 2),
    ],
)
def test_every_slot_matches_the_reference(backend: OnnxRuntime, spec: str, extra: int) -> None:
    work = parse(spec)
    assert isinstance(work, RoutedExperts)
    assert backend.supports(work) is None
    inputs = make_inputs(work, 3, slots=4)
    backend.prepare(work, inputs)
    for slot in (3, 0, 1, 2):
        backend.launch(slot)
        assert relative_error(backend.output(), compute(inputs, slot)) < tolerance(work), slot
        assert backend.settings()["experts_read"] == work.distinct
    traffic = work.traffic
    stored = traffic.weights_bytes + traffic.scales_bytes + extra
    assert backend.stored_bytes() == (stored if extra else None)


def test_bfloat16_is_refused(backend: OnnxRuntime) -> None:
    work = parse(f"{SMALL},weight=bf16")
    assert backend.supports(work) == "ONNX Runtime has no bfloat16 matmul on CPUs"
    with pytest.raises(Unsupported, match="no bfloat16"):
        backend.prepare(work, make_inputs(work, 1))


def test_another_provider_is_refused(backend: OnnxRuntime) -> None:
    backend._kind = "cuda"
    assert (
        backend.supports(parse(f"{SMALL},weight=f32"))
        == "routed experts are built for the CPU provider alone"
    )


def test_zero_points_are_refused(backend: OnnxRuntime) -> None:
    work = parse("experts:hidden=64,width=64,count=9,chosen=2,weight=int4g32z")
    assert backend.supports(work) == "routed experts are built without zero points"
