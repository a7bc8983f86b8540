import sys

import numpy as np
import pytest
import threadpoolctl

from membound.backends import registry
from membound.errors import BackendUnavailable, Unsupported
from membound.kernels.reference import compute, relative_error, tolerance
from membound.kernels.seeded import make_inputs
from membound.kernels.work import parse


@pytest.fixture
def backend():
    made = registry.create("numpy:cpu")
    made.open("cpu", 1)
    yield made
    made.close()


@pytest.mark.parametrize(("n", "k", "m"), [(1, 1, 1), (37, 129, 1), (64, 256, 5), (3, 1000, 17)])
def test_every_slot_matches_the_reference(backend, n, k, m):
    work = parse(f"linear:n={n},k={k},m={m},weight=f32")
    inputs = make_inputs(work, 3, slots=3)
    assert backend.supports(work) is None
    backend.prepare(work, inputs)
    outputs = []
    for slot in (2, 0, 1):
        backend.launch(slot)
        backend.sync()
        outputs.append(backend.output())
        assert outputs[-1].dtype == np.float32
        assert relative_error(outputs[-1], compute(inputs, slot)) < tolerance(work)
    assert not np.array_equal(outputs[0], outputs[1])


@pytest.mark.parametrize("more", ["batch=3", "batch=7,distinct=9", "count=3,chosen=3"])
def test_experts_of_every_slot_match_the_reference(backend, more):
    work = parse(
        f"experts:hidden=37,width=21,{'' if 'count' in more else 'count=9,chosen=2,'}{more},weight=f32"
    )
    inputs = make_inputs(work, 3, slots=3)
    assert backend.supports(work) is None
    backend.prepare(work, inputs)
    for slot in (2, 0, 1):
        backend.launch(slot)
        assert backend.output().dtype == np.float32
        assert relative_error(backend.output(), compute(inputs, slot)) < 1e-5
        assert backend.settings() == {"experts_read": work.distinct}
    other = parse("linear:n=4,k=4,weight=f32")
    backend.prepare(other, make_inputs(other, 1))
    backend.launch(0)
    assert backend.settings() == {}


def test_threads_are_set_and_given_back():
    def threads():
        return [p["num_threads"] for p in threadpoolctl.threadpool_info() if p["user_api"] == "blas"]

    before = threads()
    backend = registry.create("numpy:cpu")
    device = backend.open("cpu", 1)
    assert set(threads()) == {1}
    assert (device.id, device.threads) == ("numpy:cpu", 1)
    assert device.versions["numpy"] == np.__version__
    assert device.versions["blas"]
    assert device.name
    backend.close()
    backend.close()
    assert threads() == before


@pytest.mark.parametrize(
    ("spec", "reason"),
    [
        ("linear:n=4,k=32,weight=bf16", "f32 only"),
        ("linear:n=4,k=32,weight=int8,act=int8", "f32 only"),
        ("experts:hidden=32,width=32", "f32 only"),
        ("attention:context=4,kv=f32", "only linear and experts"),
        ("step:model=tiny,weight=f32", "only linear"),
    ],
)
def test_everything_else_is_unsupported(backend, spec, reason):
    work = parse(spec)
    assert reason in backend.supports(work)
    with pytest.raises(Unsupported, match=reason):
        backend.prepare(work, make_inputs(work, 1))


def test_what_is_missing_is_said(monkeypatch):
    with pytest.raises(BackendUnavailable, match="no device 'cuda'; it has: cpu"):
        registry.create("numpy:cuda").open("cuda", 1)
    monkeypatch.setitem(sys.modules, "threadpoolctl", None)
    with pytest.raises(BackendUnavailable, match="threadpoolctl") as caught:
        registry.create("numpy:cpu").open("cpu", 1)
    assert caught.value.remedy == "pip install threadpoolctl"


def test_a_blas_that_keeps_its_threads_is_refused(monkeypatch):
    monkeypatch.setattr(threadpoolctl, "threadpool_info", list)
    with pytest.raises(BackendUnavailable, match=r"does not run on 1 threads \(no BLAS found\)"):
        registry.create("numpy:cpu").open("cpu", 1)
