"""A worker's station with devices that have memory, a clock, counters and ceilings of their own, in this process."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import hostile_backends
import pytest
from fake_nvml import FakeNvml
from local_workers import LocalWorker, ask, failed, opened, opening, shrink

from membound.bench.ceilings.ceiling import Ceiling
from membound.bench.protocol.messages import (
    CeilingOpened,
    Ceilings,
    CeilingTurned,
    Check,
    Checked,
    MeasureBackend,
    OpenDeviceCeiling,
    Opened,
    Prepare,
    Prepared,
    TakeCeilingTurn,
    TakeTurn,
    Turned,
)
from membound.errors import BackendUnavailable
from membound.kernels.cuda.compile import CompileError
from membound.kernels.cuda.device import driver
from membound.kernels.cuda.device.simulated import SimulatedGpu
from membound.kernels.work import parse


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Small caches, no pauses, all fakes."""
    hostile_backends.install(tmp_path / "site", monkeypatch)
    shrink(monkeypatch)
    return tmp_path


SMALL = "linear:n=16,k=32,m=2,weight=f32"


@pytest.fixture
def nvml(monkeypatch: pytest.MonkeyPatch) -> FakeNvml:
    """The counters of the fake GPU."""
    library = FakeNvml()
    real = library.nvmlDeviceGetHandleByPciBusId
    monkeypatch.setattr(
        library, "nvmlDeviceGetHandleByPciBusId", lambda pci: real("0000:04:00.0"), raising=False
    )
    monkeypatch.setitem(sys.modules, "pynvml", library)
    return library


def test_an_accelerator_rotates_past_its_own_cache_and_is_timed_by_its_own_clock(
    folder: Path, nvml: FakeNvml
) -> None:
    worker = LocalWorker(1)
    device = ask(worker, opening("gpu:gpu:0", folder), Opened)
    assert (device.device, device.memory_ceiling) == ("a fake GPU", "read")
    assert (device.accelerator["cache_bytes"], device.accelerator["driver"]) == (3000, "580.1")
    prepared = ask(worker, Prepare(0, SMALL), Prepared)
    size = parse(SMALL).footprint_bytes
    assert prepared.slots == -(-4 * 3000 // size) + 1, "four times its own cache, not the processor's"
    turned = ask(worker, TakeTurn(0, passed_bytes=5), Turned)
    assert turned.device_s == pytest.approx(1e-3)
    assert turned.moved_bytes == 0, "nothing of it passes through the processor's caches"
    long = ask(worker, TakeTurn(0, seconds=0.01), Turned)
    assert long.device_s == pytest.approx(1e-3)
    assert long.launches >= 1
    assert long.telemetry["device_power_w"] == 350.5
    checked = ask(worker, Check(0), Checked)
    assert (checked.telemetry["device_power_w"], checked.telemetry["device_throttle"]) == (350.5, "")
    assert checked.settings["working_set_bytes"] == prepared.slots * size


def test_input_sets_stay_within_the_devices_memory(
    folder: Path, nvml: FakeNvml, monkeypatch: pytest.MonkeyPatch
) -> None:
    from membound.bench.measure import cold_memory

    monkeypatch.setattr(cold_memory, "DEVICE_SHARE", 7e-3)
    prepared = ask(opened("gpu:gpu:0", folder), Prepare(0, SMALL), Prepared)
    assert prepared.slots == 7000 // parse(SMALL).footprint_bytes


def test_a_throttled_device_is_told_at_the_end(folder: Path, nvml: FakeNvml) -> None:
    nvml.state["reasons"] = 0x8
    worker = opened("gpu:gpu:0", folder)
    ask(worker, Prepare(0, SMALL), Prepared)
    ask(worker, TakeTurn(0), Turned)
    assert ask(worker, Check(0), Checked).telemetry["device_throttle"] == "hardware slowdown"


def test_a_device_names_the_link_that_it_streams_over(folder: Path, nvml: FakeNvml) -> None:
    assert (
        ask(LocalWorker(1), opening("gpu:gpu:0+offload", folder), Opened).memory_ceiling
        == "host_to_device_pinned"
    )


def test_the_ceilings_of_a_device_take_turns(folder: Path) -> None:
    worker = opened("gpu:gpu:0", folder)
    units = ask(
        worker, OpenDeviceCeiling({"read": "fake", "host_to_device_pinned": "fake"}), CeilingOpened
    ).units
    assert units == {"read": "bytes/s", "host_to_device_pinned": "bytes/s"}
    turned = ask(worker, TakeCeilingTurn(["read"]), CeilingTurned)
    assert turned.rates == {"read": pytest.approx(1.0)}
    assert (turned.clean, turned.variants, turned.moved_bytes) == ({"read": True}, {"read": "fake"}, 0)
    assert failed(worker, TakeCeilingTurn(["copy"]))[1].startswith(
        "CeilingError: there is no ceiling copy here"
    )
    assert failed(worker, OpenDeviceCeiling({"read": "other"}))[1] == (
        "CeilingError: the backend offers no limit read, other"
    )


def test_a_backends_ceilings_are_kept_however_many_fail(folder: Path) -> None:
    found = ask(opened("gauge:gpu:0", folder), MeasureBackend(True), Ceilings)
    ceilings = {c["name"]: c for c in found.ceilings}
    assert ceilings["read"]["value"] == pytest.approx(2e9)
    assert ceilings["read"]["config"]["array_bytes"] == 512
    assert ceilings["numpy"]["value"] == pytest.approx(4e9)
    assert ceilings["last"]["value"] == pytest.approx(2e9)
    bad = {name: (c["status"], c["reason"]) for name, c in ceilings.items() if c["status"] != "ok"}
    assert bad == {
        "nan": ("error", "amount of nan is nan in 1 s"),
        "negative": ("error", "amount of negative is -1.0 in 1 s"),
        "zero": ("error", "amount of zero is 0 in 1 s"),
        "huge": ("error", "amount of huge is 1e+40 in 1 s"),
        "text": ("error", "amount of text is '1 GB' in 1 s"),
        "described": ("error", "described: array_bytes='1 GB' of config is not a number from 0"),
        "undescribed": ("error", "TypeError: 'NoneType' object is not iterable"),
        "unchecked": ("error", "ValueError: cannot be compared"),
        "wrong": ("wrong", "its result is wrong"),
        "limits": ("oom", "RuntimeError: CUDA out of memory"),
    }
    assert ceilings["launch"]["status"] == "ok"
    json.dumps(found.ceilings, allow_nan=False)


@pytest.mark.parametrize(
    ("error", "status"),
    [(BackendUnavailable("the compiler is gone"), "unavailable"), (CompileError("no nvvm"), "error")],
)
def test_what_was_found_before_a_failure_is_kept(
    folder: Path, monkeypatch: pytest.MonkeyPatch, error: Exception, status: str
) -> None:
    """As where nothing can be compiled, and no code of a null launch was carried: the limits were measured by then."""

    def fail(*_: object) -> Iterator[Ceiling]:
        yield Ceiling("launch", 1e-6, "s", (1e-6,), {})
        raise error

    monkeypatch.setattr("membound.bench.ceilings.backend.measure_backend_ceilings", fail)
    found = ask(opened("gauge:gpu:0", folder), MeasureBackend(True), Ceilings).ceilings
    ceilings = {c["name"]: c for c in found}
    assert ceilings["read"]["value"] == pytest.approx(2e9)
    assert ceilings["launch"]["value"] == 1e-6
    assert ceilings["backend"]["status"] == status
    assert str(error) in ceilings["backend"]["reason"]


def test_a_backend_whose_products_fail_has_a_reason_for_each(folder: Path) -> None:
    found = {c["name"]: c for c in ask(opened("raises:cpu", folder), MeasureBackend(True), Ceilings).ceilings}
    assert list(found) == ["launch", "gemm_f32", "gemm_bf16", "gemm_f16", "gemm_int8"]
    told = {(c["status"], c["reason"]) for c in found.values()}
    assert told == {("error", "RuntimeTroubleError: kernel not registered")}


def test_a_simulated_gpu_is_measured_like_any_other(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Numba's kernels all the way; what the simulator has no counters for is unknown."""
    monkeypatch.setattr(driver, "open_gpu", lambda ordinal: SimulatedGpu())
    work = "linear:n=16,k=64,m=1,weight=bf16"
    room = 2 * parse(work).footprint_bytes
    worker = LocalWorker(2)
    device = ask(worker, opening("numba:cuda:0+graph", folder, memory_bytes=room), Opened)
    assert device.device == "simulated GPU"
    assert device.accelerator["compute_units"] == 2
    assert device.accelerator["counters"] == "the runtime does not tell the device's PCI address"
    assert "numba-cuda" in device.versions
    prepared = ask(worker, Prepare(0, work), Prepared)
    assert prepared.slots == 2
    assert prepared.error <= prepared.tolerance
    turned = ask(worker, TakeTurn(0), Turned)
    assert turned.device_s is not None
    assert turned.device_s > 0
    checked = ask(worker, Check(0), Checked)
    assert checked.telemetry["device_clock_ratio"] is None
