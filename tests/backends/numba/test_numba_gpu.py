"""`numba:cuda` on a real GPU: every kernel against the reference, graphs, events, ceilings."""

from __future__ import annotations

import pytest

from membound.backends.numba.gpu import NumbaCuda
from membound.bench.ceilings.backend import launch_once
from membound.bench.ceilings.device import measure_device_ceilings
from membound.bench.ceilings.in_turn import timed_queue
from membound.kernels.reference import compute, relative_error, tolerance
from membound.kernels.seeded import make_inputs
from membound.kernels.work import parse

pytestmark = pytest.mark.gpu

WEIGHTS = ("f32", "bf16", "f16", "int8", "int4g32", "int4g128")
MODEL_LIMITS = {"f32": 0.05, "bf16": 0.05, "int8": 0.05, "int4g128": 0.05}


def check(
    device: str, spec: str, limit: float | None = None, seed: int = 11, fmas: int | None = None
) -> NumbaCuda:
    """Every input set, the first one twice; with `fmas` extra multiply-adds an element, if they are asked for."""
    work = parse(spec)
    inputs = make_inputs(work, seed, slots=3)
    backend = NumbaCuda()
    backend.open(device, 2)
    assert backend.supports(work) is None
    if fmas is not None:
        backend.add_arithmetic(work, fmas)
    backend.prepare(work, inputs)
    for slot in (*range(inputs.slots), 0):
        backend.launch(slot)
        backend.sync()
        assert relative_error(backend.output(), compute(inputs, slot)) < (limit or tolerance(work)), slot
    return backend


@pytest.mark.parametrize("m", [1, 2, 4, 5, 8, 16, 33, 64])
@pytest.mark.parametrize("weight", WEIGHTS)
def test_linear_at_every_batch(weight: str, m: int) -> None:
    check("cuda", f"linear:n=333,k=512,m={m},weight={weight}").close()


@pytest.mark.parametrize(("n", "k"), [(1, 128), (4096, 4096), (28672, 1024)])
@pytest.mark.parametrize("weight", WEIGHTS)
def test_linear_at_every_size(weight: str, n: int, k: int) -> None:
    check("cuda", f"linear:n={n},k={k},weight={weight}").close()


@pytest.mark.parametrize("page", [0, 16, 64])
@pytest.mark.parametrize("kv", ["bf16", "f16", "int8", "fp8"])
@pytest.mark.parametrize(("context", "batch"), [(1, 1), (63, 3), (1025, 2), (8192, 1)])
def test_attention_over_every_cache(kv: str, page: int, context: int, batch: int) -> None:
    pages = f",page={page}" if page else ""
    check("cuda", f"attention:context={context},q_heads=8,kv_heads=2,batch={batch},kv={kv}{pages}").close()


@pytest.mark.parametrize("context", range(1024, 1041))
def test_attention_at_every_residue_of_a_page(context: int) -> None:
    check("cuda", f"attention:context={context},q_heads=8,kv_heads=2,page=16", seed=context).close()


@pytest.mark.parametrize(
    ("q_heads", "kv_heads", "head_dim"), [(4, 4, 64), (16, 2, 128), (32, 1, 128), (6, 2, 64)]
)
def test_attention_over_every_grouping(q_heads: int, kv_heads: int, head_dim: int) -> None:
    shape = f"q_heads={q_heads},kv_heads={kv_heads},head_dim={head_dim}"
    check("cuda", f"attention:context=777,{shape}").close()


@pytest.mark.parametrize("page", [0, 64])
@pytest.mark.parametrize("kv", ["bf16", "f16", "int8", "fp8"])
@pytest.mark.parametrize(("context", "q_heads"), [(1, 16), (777, 3), (8192, 16), (300, 40)])
def test_latent_attention(kv: str, page: int, context: int, q_heads: int) -> None:
    pages = f",page={page}" if page else ""
    check("cuda", f"mla:context={context},q_heads={q_heads},batch=2,kv={kv}{pages}").close()


@pytest.mark.parametrize("device", ["cuda", "cuda:0+graph"])
@pytest.mark.parametrize("weight", ["bf16", "int8", "int4g128"])
@pytest.mark.parametrize("kv", ["bf16", "int8"])
def test_a_step(device: str, weight: str, kv: str) -> None:
    check(
        device, f"step:model=tiny,batch=2,context=100,weight={weight},kv={kv}", MODEL_LIMITS[weight]
    ).close()


def test_a_graph_and_the_plain_launches_give_the_same_bits() -> None:
    spec = "step:model=tiny,batch=1,context=65,weight=bf16,kv=bf16"
    plain, graph = (check(device, spec, 0.05).output() for device in ("cuda", "cuda+graph"))
    assert (plain == graph).all()


def test_events_agree_with_the_wall_clock() -> None:
    backend = check("cuda", "linear:n=16384,k=16384,weight=bf16")
    queued = [timed_queue(backend, lambda: backend.launch(0), 10) for _ in range(3)]
    waited = [launch_once(backend, 0) for _ in range(10)]
    assert 0 < min(queued) <= 1.05 * max(waited)


def test_every_ceiling_is_right_and_has_a_value() -> None:
    backend = NumbaCuda()
    device = backend.open("cuda:0", 2)
    assert device.accelerator is not None
    assert device.accelerator.cache_bytes > 1 << 20
    found = {c.name: c for c in measure_device_ceilings(backend, device, True, lambda _: None)}
    assert {name: c.reason for name, c in found.items() if c.status != "ok"} == {}
    assert set(found) == {"read", "copy", "triad", "read_l2", "fma_f32", "tile_bf16", "tile_f16"}
    assert (found["tile_bf16"].value or 0) > (found["fma_f32"].value or 0) > 1e12


@pytest.mark.parametrize("fmas", [0, 1, 30])
@pytest.mark.parametrize(
    "spec",
    [
        "linear:n=28672,k=1024,weight=f32",
        "linear:n=333,k=512,weight=bf16",
        "attention:context=777,q_heads=8,kv_heads=8,kv=bf16",
        "attention:context=777,q_heads=8,kv_heads=2,kv=f16,page=64",
    ],
)
def test_extra_arithmetic_leaves_the_output_as_it_is(spec: str, fmas: int) -> None:
    check("cuda", spec, fmas=fmas).close()


def test_a_co_runner_takes_its_own_beside_a_victim_and_ends_when_it_is_told() -> None:
    backend = check("cuda", "linear:n=16384,k=4096,weight=bf16")
    with backend.co_runner() as co_runner:
        for trade, takes in (("idle", (False, False)), ("bandwidth", (True, False)), ("fma", (False, True))):
            co_runner.work(trade, 0.25)
            before = co_runner.taken()
            for slot in range(3):
                backend.launch(slot)
                backend.sync()
            after = co_runner.taken()
            co_runner.rest()
            assert tuple(b > a for a, b in zip(before, after, strict=True)) == takes
            assert co_runner.taken() == co_runner.taken()
    backend.close()
