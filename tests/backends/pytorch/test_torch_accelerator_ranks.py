"""A step that ranks on accelerators share, as far as processors can show it: they pass for accelerators, and gloo for NCCL."""

from __future__ import annotations

import math
from collections.abc import Iterator

import pytest
import torch
from fake_accelerator import FACTS, install_ranks

from membound.backends.api import Device
from membound.backends.pytorch import parallel
from membound.backends.pytorch.backend import PyTorch
from membound.backends.pytorch.parallel import PASSES
from membound.bench.ceilings.device import measure_device_ceilings
from membound.bench.ceilings.in_turn import DeviceCeilings
from membound.errors import BackendUnavailable
from membound.kernels.inputs import ModelInputs
from membound.kernels.reference import compute, relative_error, tolerance
from membound.kernels.seeded import make_inputs
from membound.kernels.work import parse
from membound.results.roofline import device_class

BF16 = "step:model=tiny,context=33,batch=2,weight=bf16,kv=bf16"


@pytest.fixture(scope="module")
def opened(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[PyTorch, Device]]:
    with pytest.MonkeyPatch.context() as patch:
        install_ranks(patch, tmp_path_factory.mktemp("ranks"))
        backend = PyTorch()
        yield backend, backend.open("fake:0+tp2", 2)
        backend.close()


def test_too_few_accelerators_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.accelerator, "device_count", lambda: 3)
    assert parallel.accelerators_of("cuda:1", 2) == ["cuda:1", "cuda:2"]
    with pytest.raises(
        BackendUnavailable,
        match=r"^2 ranks take an accelerator each, cuda:2 and those after it, and there are 3$",
    ):
        parallel.accelerators_of("cuda:2", 2)


def test_links_are_those_of_the_devices(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.distributed, "is_backend_available", lambda link: link in ("nccl", "gloo"))
    assert parallel.link_of("cuda:0") == "nccl"
    assert parallel.link_of("cpu") == "gloo"
    with pytest.raises(BackendUnavailable, match="built without xccl, by which ranks talk to each other"):
        parallel.link_of("xpu:0")


def test_accelerators_that_share_a_step_have_ceilings_of_their_own() -> None:
    assert device_class("torch:cuda:0+tp2") == "cuda:0+tp2"
    assert device_class("torch:cuda+tp4#b") == "cuda:0+tp4"
    assert device_class("torch:cuda:1+graph") == "cuda:1"
    assert device_class("torch:cpu+tp2") == "cpu"


def test_ranks_are_one_device_of_all_their_memory(opened: tuple[PyTorch, Device]) -> None:
    backend, device = opened
    assert device.name == "2 × a fake"
    assert device.accelerator is not None
    assert device.accelerator.memory_bytes == 2 * FACTS.memory_bytes
    assert device.accelerator.cache_bytes == 2 * FACTS.cache_bytes
    assert device.accelerator.compute_units == 2 * FACTS.compute_units
    assert backend.mark() is None, "no clock of one device times them all"


def test_logits_are_those_of_the_reference_and_each_rank_tells_its_times(
    opened: tuple[PyTorch, Device],
) -> None:
    backend, _ = opened
    work = parse(BF16)
    inputs = make_inputs(work, 5)
    assert isinstance(inputs, ModelInputs)
    assert backend.supports(work) is None
    backend.prepare(work, inputs)
    for _ in range(2):
        backend.launch(0)
        backend.sync()
        assert relative_error(backend.output(), compute(inputs, 0)) < tolerance(work)
    told = backend.settings()["ranks"]
    assert told["all_reduces"] == 4
    # The fake's events tick once each, a millisecond: a launch has an exchange for each all-reduce and one to gather.
    assert told["exchanging_s"] == [pytest.approx(5e-3)] * 2
    assert told["link_latency_s"] == pytest.approx(1e-3)


def test_ceilings_are_those_of_all_ranks_together(opened: tuple[PyTorch, Device]) -> None:
    backend, _ = opened
    seen: dict[str, list[float]] = {}
    for limit in backend.limits(True):
        limit.launch(0)
        backend.sync()
        assert limit.check(), limit.name
        seen.setdefault(limit.name, []).append(limit.amount)
        if limit.name != "all_reduce":
            assert limit.config["ranks"] == 2
    assert seen["read"] == [2 * PASSES * (1 << 20)] * 2
    assert seen["gemm_bf16"] == [2 * PASSES * 2.0 * 64**3]
    assert seen["all_reduce"] == [PASSES * (1 << 20)], "of two ranks each sends half of it twice"
    assert {"copy", "triad", "gemm_f32", "gemm_f16", "host_to_device_pinned"} < set(seen)


def test_ceilings_are_measured_and_take_turns(opened: tuple[PyTorch, Device]) -> None:
    backend, device = opened
    found = {one.name: one for one in measure_device_ceilings(backend, device, True, lambda text: None)}
    assert all(one.status == "ok" and (one.value or 0) > 0 for one in found.values()), found
    variant = str(found["read"].config["variant"])
    turns = DeviceCeilings(backend, {"read": variant, "gemm_bf16": "matmul, 64 × 64 × 64"})
    rates = turns.take_turn(["read", "gemm_bf16"]).rates
    assert set(rates) == {"read", "gemm_bf16"}
    assert all(math.isfinite(rate) and rate > 0 for rate in rates.values())
