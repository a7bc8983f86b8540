"""The Numba backend through the contract: every kind of work, slots of their own, refusals with reasons."""

from __future__ import annotations

import numpy as np
import pytest

from membound.backends.numba.cpu import MOST_ROWS, NumbaCpu
from membound.errors import BackendUnavailable
from membound.kernels.cpu.compile import ThreadingError
from membound.kernels.reference import compute, relative_error, tolerance
from membound.kernels.seeded import make_inputs
from membound.kernels.work import parse


@pytest.fixture
def backend() -> NumbaCpu:
    numba_cpu = NumbaCpu()
    device = numba_cpu.open("cpu", 2)
    assert device.threads == 2
    assert device.versions["threading_layer"] != "workqueue"
    return numba_cpu


@pytest.mark.parametrize(
    "spec",
    [
        "linear:n=131,k=96,m=1,weight=bf16",
        pytest.param("linear:n=131,k=96,m=1,weight=int8,act=int8", marks=pytest.mark.slow),
        pytest.param("linear:n=131,k=96,m=3,weight=int4g32,act=int8", marks=pytest.mark.slow),
        pytest.param("linear:n=131,k=512,m=1,weight=q4_k", marks=pytest.mark.slow),
        pytest.param(
            "attention:q_heads=8,kv_heads=2,head_dim=64,context=77,batch=2,kv=bf16", marks=pytest.mark.slow
        ),
        pytest.param("attention:q_heads=8,kv_heads=2,head_dim=64,context=77,kv=int8", marks=pytest.mark.slow),
        pytest.param(
            "attention:q_heads=8,kv_heads=2,head_dim=64,context=77,batch=2,kv=f32,queries=3",
            marks=pytest.mark.slow,
        ),
        pytest.param(
            "attention:q_heads=6,kv_heads=2,head_dim=64,context=300,kv=int8,queries=5", marks=pytest.mark.slow
        ),
        pytest.param("mla:context=77,q_heads=16,batch=2,kv=bf16", marks=pytest.mark.slow),
        pytest.param("mla:context=300,q_heads=5,kv=int8", marks=pytest.mark.slow),
        pytest.param("prefill:model=tiny,tokens=70,batch=2,weight=f32,kv=f32", marks=pytest.mark.slow),
        pytest.param(
            "prefill:model=tiny,tokens=9,batch=3,weight=int8,act=int8,kv=int8", marks=pytest.mark.slow
        ),
        pytest.param("prefill:model=tiny,tokens=130,weight=bf16", marks=pytest.mark.slow),
        pytest.param("prefill:model=tiny,tokens=9,batch=3,weight=q4_k,kv=f32", marks=pytest.mark.slow),
        pytest.param(
            "attention:q_heads=14,kv_heads=2,head_dim=96,context=131,batch=3,kv=f16", marks=pytest.mark.slow
        ),
        pytest.param("step:model=tiny,context=37,weight=f32,kv=f32", marks=pytest.mark.slow),
        pytest.param("step:model=tiny,context=37,batch=2,weight=q4_k,kv=f32", marks=pytest.mark.slow),
        pytest.param("step:model=tiny,context=37,weight=q4_k,act=int8,kv=f32", marks=pytest.mark.slow),
        pytest.param(
            "step:model=tiny,context=21,batch=2,weight=f16,kv=f16,cache=prompt", marks=pytest.mark.slow
        ),
    ],
)
def test_every_slot_agrees_with_the_reference(backend: NumbaCpu, spec: str) -> None:
    work = parse(spec)
    assert backend.supports(work) is None
    inputs = make_inputs(work, seed=11, slots=3)
    backend.prepare(work, inputs)
    for slot in range(inputs.slots):
        backend.launch(slot)
        backend.sync()
        assert backend.output().dtype == np.float32
        assert relative_error(backend.output(), compute(inputs, slot)) < tolerance(work)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("sizes", "more"),
    [
        ("hidden=97,width=51", "weight=bf16"),
        ("hidden=97,width=51", "weight=int8,act=int8"),
        ("hidden=256,width=512", "weight=q4_k"),
    ],
)
def test_experts_of_every_slot_agree_with_the_reference(backend: NumbaCpu, sizes: str, more: str) -> None:
    work = parse(f"experts:{sizes},count=9,chosen=2,batch=3,{more}")
    assert backend.supports(work) is None
    inputs = make_inputs(work, seed=11, slots=4)
    backend.prepare(work, inputs)
    for slot in range(inputs.slots):
        backend.launch(slot)
        assert relative_error(backend.output(), compute(inputs, slot)) < tolerance(work)
        assert backend.settings() == {"experts_read": 5}
    assert backend.stored_bytes() is not None  # 51 columns are padded to whole panels, q4_k's scales widened
    other = parse("linear:n=131,k=96,m=1,weight=bf16")
    backend.prepare(other, make_inputs(other, 1))
    assert backend.settings() == {}


def test_what_it_refuses(backend: NumbaCpu) -> None:
    reason = backend.supports(parse(f"linear:n=8,k=8,m={MOST_ROWS + 1}"))
    assert reason == f"the kernels take up to {MOST_ROWS} rows, not {MOST_ROWS + 1}"
    assert backend.supports(parse("step:model=tiny,batch=65")) is not None
    assert backend.supports(parse("experts:hidden=64,width=64,batch=65")) is not None
    assert backend.supports(parse("attention:context=8,batch=65")) is None
    assert backend.supports(parse("prefill:model=tiny,tokens=8,batch=65")) is None


@pytest.mark.parametrize(
    ("spec", "reason"),
    [
        ("attention:context=8,kv=fp8", "there is no attention kernel over an fp8 cache for CPUs"),
        ("step:model=tiny,kv=fp8", "there is no attention kernel over an fp8 cache for CPUs"),
        ("attention:context=8,page=16", "there is no attention kernel over a paged cache for CPUs"),
        ("mla:context=8,page=16", "there is no attention kernel over a paged cache for CPUs"),
        ("mla:context=8,kv=fp8", "there is no attention kernel over an fp8 cache for CPUs"),
    ],
)
def test_caches_that_it_refuses(backend: NumbaCpu, spec: str, reason: str) -> None:
    assert backend.supports(parse(spec)) == reason


def test_padding_is_told_where_it_counts(backend: NumbaCpu) -> None:
    for n, padded in ((1, True), (4096, False)):
        work = parse(f"linear:n={n},k=512,weight=f32")
        backend.prepare(work, make_inputs(work, 1, 1))
        assert (backend.stored_bytes() is not None) is padded


def test_another_device_is_refused() -> None:
    with pytest.raises(BackendUnavailable, match="no device 'tpu'"):
        NumbaCpu().open("tpu", 1)


def test_a_slow_threading_layer_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("numba.threading_layer", lambda: "workqueue")
    with pytest.raises(BackendUnavailable, match="libgomp1") as refused:
        NumbaCpu().open("cpu", 1)
    assert isinstance(refused.value.__context__, ThreadingError)


@pytest.mark.parametrize("asked", ["workqueue", "forksafe", "nonsense"])
def test_a_threading_layer_that_was_asked_for_is_not_blamed_on_the_machine(
    monkeypatch: pytest.MonkeyPatch, asked: str
) -> None:
    """Before, it was OpenMP that was said to be missing, or a ValueError of Numba's."""
    monkeypatch.setattr("numba.config.THREADING_LAYER", asked)
    with pytest.raises(BackendUnavailable, match=f"^NUMBA_THREADING_LAYER={asked} keeps") as refused:
        NumbaCpu().open("cpu", 1)
    assert refused.value.remedy == "unset NUMBA_THREADING_LAYER"
