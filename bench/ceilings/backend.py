"""What a backend itself can do at most: its best square products, and how long starting next to nothing takes.

>>> for ceiling in measure_backend_ceilings(backend, device, print):
...     print(ceiling.name, ceiling.value, ceiling.unit)
launch 1.7e-06 s
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterator
from dataclasses import replace
from statistics import median
from typing import Any

from membound.backends.api import Backend, Device
from membound.bench.ceilings.ceiling import Ceiling, Tell
from membound.bench.measure.check import wrong_kind
from membound.bench.measure.failures import failure_of
from membound.bench.measure.figures import reason_against
from membound.kernels import reference
from membound.kernels.inputs import LinearInputs
from membound.kernels.seeded import make_inputs
from membound.kernels.work import Linear, Work, parse

GEMM_SIZES = (1024, 2048)
DEVICE_GEMM_SIZES = (4096, 8192)
"""On an accelerator, whose matrix units smaller products do not fill."""
GEMM_CHECKED_ROWS = 256
"""Rows of a product that are compared with the reference, spread over all."""
GEMM_FORMATS = ("f32", "bf16", "f16", "int8")
GEMM_SECONDS = 0.25
GEMM_SAMPLES = 5
NULL_WORKS = (
    "linear:n=32,k=128,m=1,weight=f32",
    "linear:n=32,k=128,m=1,weight=bf16",
    "attention:context=16,q_heads=1,kv_heads=1,head_dim=64,kv=f32",
    "step:model=tiny,context=16,weight=f32,kv=f32",
    "step:model=tiny,context=16,weight=bf16,kv=bf16",
    "step:model=tiny,context=16,weight=f32,kv=f32,layers=1,cache=prompt",
    "step:model=tiny,context=16,weight=bf16,kv=bf16,layers=1,cache=prompt",
)
"""So little work that launching is all that takes time; the first one that a backend supports."""
NULL_SAMPLES = 300
NULL_WARMUP = 50


def measure_backend_ceilings(
    backend: Backend,
    device: Device,
    tell: Tell,
    quick: bool = False,
    formats: Collection[str] = (),
) -> Iterator[Ceiling]:
    """The seconds of a null launch, and the best GEMM per format, ``gemm_<format>``, of an opened backend.

    Of `formats` alone if any is named. Hot: the operands are used again and again. int8 is with int8 activations. What the backend does not
    support is left out; a wrong product of any size has status "wrong", and what fails that of its failure.
    """
    for work in map(parse, NULL_WORKS):
        if reason_against(backend, work) is None:
            tell(f"{device.id}: launch overhead")
            yield _tried("launch", "s", _launch_overhead, backend, device, work)
            break
    if "+" in device.id:
        return  # a variant's products are those of the plain device
    sizes = GEMM_SIZES if device.accelerator is None else DEVICE_GEMM_SIZES
    for fmt in (known for known in GEMM_FORMATS if not formats or known in formats):
        act = "int8" if fmt == "int8" else "float"
        works = [Linear(n, n, n, fmt, act) for n in (sizes[:1] if quick else sizes)]
        tell(f"{device.id}: gemm_{fmt}")
        products = [
            _tried(f"gemm_{fmt}", "FLOP/s", _gemm, backend, device, work)
            for work in works
            if reason_against(backend, work) is None
        ]
        if products:
            yield max(products, key=lambda c: (c.status == "wrong", c.status == "ok", c.value or 0.0))


def _tried(
    name: str,
    unit: str,
    measure: Callable[[Backend, Device, Any], Ceiling],
    backend: Backend,
    device: Device,
    work: Work,
) -> Ceiling:
    """What `measure` finds, or why it could not: the others are still to come."""
    try:
        return measure(backend, device, work)
    except Exception as error:  # the boundary around a runtime, which raises classes of its own
        failure = failure_of(error)
        return Ceiling(name, None, unit, (), _of(device, work), failure.status, failure.reason)


def _launch_overhead(backend: Backend, device: Device, work: Work) -> Ceiling:
    backend.prepare(work, make_inputs(work, seed=0))
    for _ in range(NULL_WARMUP):
        launch_once(backend, 0)
    samples = tuple(launch_once(backend, 0) for _ in range(NULL_SAMPLES))
    config = _of(device, work)
    return Ceiling("launch", median(samples), "s", samples, config)


def _gemm(backend: Backend, device: Device, work: Linear) -> Ceiling:
    """Repeated launches of one product, after a check of some of its rows."""
    name, config = f"gemm_{work.weight}", _of(device, work)
    inputs = make_inputs(work, seed=0)
    if not isinstance(inputs, LinearInputs):
        raise AssertionError(f"{type(inputs).__name__} is no LinearInputs")
    backend.prepare(work, inputs)
    launch_once(backend, 0)
    some = slice(0, work.m, max(1, work.m // GEMM_CHECKED_ROWS))
    x = inputs.x[some]
    expected = reference.compute(replace(inputs, work=replace(work, m=len(x)), x=x), 0)
    y: Any = backend.output()
    if wrong := wrong_kind(y, inputs):
        return Ceiling(name, None, "FLOP/s", (), config, "wrong", f"output is {wrong}")
    if y.shape != (work.m, work.n):
        return Ceiling(name, None, "FLOP/s", (), config, "wrong", f"output has shape {y.shape}")
    error_size = reference.relative_error(y[some], expected)
    if error_size > reference.tolerance(work):
        return Ceiling(name, None, "FLOP/s", (), config, "wrong", f"error {error_size:.3g}")
    samples: list[float] = []
    while len(samples) < GEMM_SAMPLES or sum(samples) < GEMM_SECONDS:
        samples.append(launch_once(backend, 0))
    return Ceiling(name, work.flops / median(samples), "FLOP/s", tuple(samples), config)


def _of(device: Device, work: Work) -> dict[str, Any]:
    return {"backend": device.id, "threads": device.threads, "work": work.spec}


def launch_once(backend: Backend, slot: int) -> float:
    """Launch, sync, and the seconds they took."""
    start = time.perf_counter()
    backend.launch(slot)
    backend.sync()
    return time.perf_counter() - start
