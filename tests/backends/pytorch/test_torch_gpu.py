"""torch on a real accelerator: every variant against the reference, graphs, events, offloading, limits."""

from __future__ import annotations

import pytest

from membound.backends.pytorch.backend import PyTorch
from membound.backends.pytorch.device import accelerator_kind
from membound.bench.ceilings.backend import launch_once
from membound.bench.ceilings.device import measure_device_ceilings
from membound.bench.ceilings.in_turn import timed_queue
from membound.bench.machine.counters import device_delta, open_counters
from membound.kernels.reference import compute, relative_error, tolerance
from membound.kernels.seeded import make_inputs
from membound.kernels.work import parse

torch = pytest.importorskip("torch", reason="torch is not installed: pip install 'membound[torch]'")
pytestmark = pytest.mark.gpu

MODEL_LIMITS = {"f32": 1e-3, "bf16": 0.05, "int8": 0.05, "int4g128": 0.05}


@pytest.fixture(autouse=True)
def needs_a_gpu_that_torch_reaches() -> None:
    if accelerator_kind() is None:
        pytest.skip(f"torch {torch.__version__} reaches no GPU: install its build for this driver")


def opened(variant: str = "") -> PyTorch:
    backend = PyTorch()
    backend.open(f"{accelerator_kind()}:0{variant}", 2)
    return backend


def check(variant: str, spec: str, limit: float | None = None) -> PyTorch:
    """Every input set twice; works that this torch or this GPU cannot do are skipped with its reason."""
    work = parse(spec)
    backend = opened(variant)
    if reason := backend.supports(work):
        pytest.skip(reason)
    inputs = make_inputs(work, 7, slots=3)
    backend.prepare(work, inputs)
    expected = [compute(inputs, slot) for slot in range(inputs.slots)]
    for slot in (*range(inputs.slots), 0):
        backend.launch(slot)
        backend.sync()
        assert relative_error(backend.output(), expected[slot]) < (limit or tolerance(work)), slot
    return backend


@pytest.mark.parametrize("variant", ["", "+graph"])
@pytest.mark.parametrize("weight", ["f32", "bf16", "f16", "int8", "int4g32", "int4g128"])
@pytest.mark.parametrize(("n", "k", "m"), [(40, 256, 1), (136, 512, 5), (512, 1024, 64)])
def test_linear(variant: str, weight: str, n: int, k: int, m: int) -> None:
    check(variant, f"linear:n={n},k={k},m={m},weight={weight}")


@pytest.mark.parametrize("variant", ["", "+graph", "+sdpa-gqa", "+flash", "+efficient", "+math"])
@pytest.mark.parametrize(("context", "batch"), [(77, 3), (1024, 1), (4097, 2)])
def test_attention(variant: str, context: int, batch: int) -> None:
    check(variant, f"attention:context={context},q_heads=8,kv_heads=2,head_dim=64,batch={batch},kv=bf16")


@pytest.mark.parametrize("variant", ["", "+graph", "+offload"])
@pytest.mark.parametrize(("weight", "kv"), [("f32", "f32"), ("bf16", "bf16"), ("int8", "bf16")])
def test_a_step(variant: str, weight: str, kv: str) -> None:
    spec = f"step:model=tiny,context=33,batch=2,weight={weight},kv={kv}"
    check(variant, spec, MODEL_LIMITS[weight])


def test_a_graph_and_the_plain_launches_give_the_same_bits() -> None:
    spec = "step:model=tiny,context=33,batch=2,weight=bf16,kv=bf16"
    plain, graph = (check(variant, spec, 0.05).output() for variant in ("", "+graph"))
    assert (plain == graph).all()


def test_events_agree_with_the_wall_clock() -> None:
    """Launches of a millisecond: the device's share is nearly all of it, and never more than all."""
    backend = check("", "linear:n=16384,k=16384,m=1,weight=bf16")
    queued = [timed_queue(backend, lambda: backend.launch(0), 10) for _ in range(3)]
    waited = [launch_once(backend, 0) for _ in range(10)]
    assert 0 < min(queued) <= 1.05 * max(waited)


def test_every_ceiling_is_right_and_has_a_value() -> None:
    backend = opened()
    device = backend.open(f"{accelerator_kind()}:0", 2)
    assert device.accelerator is not None
    assert device.accelerator.memory_bytes > 1 << 30
    found = {c.name: c for c in measure_device_ceilings(backend, device, True, lambda _: None)}
    assert {name: c.reason for name, c in found.items() if c.status != "ok"} == {}
    assert {"read", "copy", "triad", "host_to_device_pinned", "device_to_host_pageable"} <= set(found)


def test_counters_are_read_and_nothing_is_set() -> None:
    backend = opened()
    device = backend.open(f"{accelerator_kind()}:0", 2)
    counters = open_counters(device.accelerator)
    before = counters.read()
    torch.ones(1 << 20, device=f"{accelerator_kind()}:0").sum().item()
    got = device_delta(before, counters.read())
    assert "device_clock_ratio" in got
    assert got["device_energy_j"] is None or got["device_energy_j"] >= 0
    assert counters.facts()["counters"], "or the reason why there are none"
