"""`numba:cuda` on a real GPU: every kernel against the reference, graphs, events, ceilings."""

from __future__ import annotations

import gpu_works
import pytest

from membound.backends.numba.gpu import NumbaCuda
from membound.bench.ceilings.backend import launch_once
from membound.bench.ceilings.device import measure_device_ceilings
from membound.bench.ceilings.in_turn import timed_queue
from membound.kernels.reference import compute, relative_error, tolerance
from membound.kernels.seeded import make_inputs
from membound.kernels.work import parse

pytestmark = pytest.mark.gpu

STEP_LIMIT = 0.05


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
    expected = [compute(inputs, slot) for slot in range(inputs.slots)]
    for slot in (*range(inputs.slots), 0):
        backend.launch(slot)
        backend.sync()
        assert relative_error(backend.output(), expected[slot]) < (limit or tolerance(work)), slot
    return backend


@pytest.mark.parametrize("spec", gpu_works.EVERY_BATCH)
def test_linear_at_every_batch(spec: str) -> None:
    check("cuda", spec).close()


@pytest.mark.parametrize("spec", gpu_works.EVERY_SIZE + gpu_works.WIDE)
def test_linear_at_every_size(spec: str) -> None:
    check("cuda", spec).close()


@pytest.mark.parametrize("spec", gpu_works.LONGEST_RINGS)
def test_linear_with_the_longest_rings(spec: str) -> None:
    check("cuda", spec).close()


@pytest.mark.parametrize("spec", gpu_works.EVERY_CACHE)
def test_attention_over_every_cache(spec: str) -> None:
    check("cuda", spec).close()


@pytest.mark.parametrize("spec", gpu_works.EVERY_RESIDUE)
def test_attention_at_every_residue_of_a_page(spec: str) -> None:
    check("cuda", spec).close()


@pytest.mark.parametrize("spec", gpu_works.EVERY_GROUPING)
def test_attention_over_every_grouping(spec: str) -> None:
    check("cuda", spec).close()


@pytest.mark.parametrize("spec", gpu_works.LATENT)
def test_latent_attention(spec: str) -> None:
    check("cuda", spec).close()


@pytest.mark.parametrize("device", ["cuda", "cuda:0+graph"])
@pytest.mark.parametrize("spec", gpu_works.STEPS)
def test_a_step(device: str, spec: str) -> None:
    check(device, spec, STEP_LIMIT).close()


def test_a_graph_and_the_plain_launches_give_the_same_bits() -> None:
    plain, graph = (check(device, gpu_works.GRAPH, STEP_LIMIT).output() for device in ("cuda", "cuda+graph"))
    assert (plain == graph).all()


def test_events_agree_with_the_wall_clock() -> None:
    backend = check("cuda", gpu_works.LARGE)
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
@pytest.mark.parametrize("spec", gpu_works.EXTRA_ARITHMETIC)
def test_extra_arithmetic_leaves_the_output_as_it_is(spec: str, fmas: int) -> None:
    check("cuda", spec, fmas=fmas).close()


def test_a_co_runner_takes_its_own_beside_a_victim_and_ends_when_it_is_told() -> None:
    backend = check("cuda", gpu_works.VICTIM)
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
