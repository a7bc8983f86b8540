"""Every kernel of every backend that is here, on this machine's physical cores, against its measured ceilings.

    pytest tests/benchmarks --benchmark-only
    pytest --benchmark-only -m gpu

What a backend cannot do, and a device that is not here, is a skipped case with its reason.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from membound.backends import registry
from membound.backends.api import Backend, Device
from membound.errors import BackendUnavailable, MemboundError, Unsupported
from membound.kernels.weights.formats import FORMATS, KV_FORMATS
from membound.kernels.work import parse
from membound.results.roofline import device_class
from membound.results.wording import short

pytestmark = pytest.mark.filterwarnings(
    "ignore:`torch.jit:DeprecationWarning"
)  # torch's own, while it compiles

GPU_DEVICES = ("numba:cuda", "torch:cuda", "onnxruntime:cuda")
"""Asked for on every machine, so that a run without a GPU says what it left out."""

ACTS = [(fmt, act) for fmt in FORMATS for act in ("float", "int8") if act == "float" or fmt.startswith("int")]
BATCH_FORMATS = ("weight=bf16,act=float", "weight=int8,act=int8")
"""Measured at more batch sizes; all formats at all of them would double the time."""
WORKS = (
    *(f"linear:n=4096,k=4096,m={m},weight={fmt},act={act}" for m in (1, 16) for fmt, act in ACTS),
    *(f"linear:n=4096,k=4096,m={m},{form}" for m in (4, 64) for form in BATCH_FORMATS),
    *(f"attention:context=8192,q_heads=32,kv_heads=8,head_dim=128,kv={kv}" for kv in KV_FORMATS),
    "attention:context=8192,q_heads=32,kv_heads=8,head_dim=128,kv=bf16,queries=4",
    "mla:context=8192,q_heads=16",
    "step:model=llama-3.2-1b,layers=2,weight=bf16,kv=bf16",
    "step:model=llama-3.2-1b,layers=2,weight=int8,act=int8,kv=f32",
    "prefill:model=llama-3.2-1b,layers=2,tokens=128,weight=bf16,kv=bf16",
)


def devices() -> Iterator[Any]:
    """A parameter for each device worth trying, those with memory of their own marked as GPUs."""
    names = dict.fromkeys(GPU_DEVICES)
    for entry in registry.entries():
        prefix = entry.partition(".")[0]
        try:
            names |= dict.fromkeys(f"{prefix}:{device}" for device in registry.load(entry).devices())
        except BackendUnavailable as error:
            reason = f"{entry}: {error.reason}"
            yield pytest.param(entry, marks=pytest.mark.skip(reason=reason), id=entry)
    for name in names:
        marks = [] if device_class(name) == "cpu" else [pytest.mark.gpu]
        yield pytest.param(name, marks=marks, id=name)


@pytest.fixture(scope="module", params=devices())
def opened(request: pytest.FixtureRequest) -> Iterator[tuple[str, Backend, Device]]:
    """A backend with its device, opened once for all works."""
    from membound.bench.machine.fingerprint import default_threads

    name: str = request.param
    try:
        backend = registry.create(name)
    except MemboundError as error:
        pytest.skip(f"{name}: {error}")
    try:
        device = backend.open(registry.device_of(name), default_threads())
        yield name, backend, device
    except BackendUnavailable as error:
        pytest.skip(f"{name}: {error.reason}")
    finally:
        backend.close()


def name_of(spec: str) -> str:
    """A spec as `pytest -k` can name it: ``linear-n4096-k4096-m16-int8-act-int8``."""
    return short(spec).replace(" ", "-").replace("=", "")


@pytest.mark.parametrize("spec", WORKS, ids=name_of)
def test_kernel(opened: tuple[str, Backend, Device], spec: str, bandwidth_benchmark: Any) -> None:
    name, backend, device = opened
    work = parse(spec)
    if reason := backend.supports(work):
        pytest.skip(f"{name}: {reason}")
    inputs = bandwidth_benchmark.inputs(spec, device)
    try:
        backend.prepare(work, inputs)
    except Unsupported as error:
        pytest.skip(f"{name}: {error}")
    bandwidth_benchmark(
        backend.launch,
        [(slot,) for slot in range(inputs.slots)],
        inputs=inputs,
        sync=backend.sync,
        output=backend.output,
        label=name.partition(":")[0],
        device=device,
    )
