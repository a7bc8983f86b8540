"""An accelerator from the worker to the table: rotation past its cache, its clock, its counters, its ceilings."""

from __future__ import annotations

import re
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import fake_backends
import pytest
from membound.bench.measure.case import Case, run_case
from test_device_counters import FakeNvml

from membound.bench.claim.budget import Budget
from membound.bench.claim.ceilings import Refused
from membound.bench.measure import case as case_module
from membound.bench.measure.cold_memory import ColdMemory
from membound.bench.measure.contestant import enter
from membound.bench.planning.plan import Options, make_plan
from membound.bench.run.execute import execute
from membound.bench.run.progress import Silent
from membound.kernels.cuda.device import driver
from membound.kernels.cuda.device.simulated import SimulatedGpu
from membound.kernels.work import parse
from membound.results.row import Row
from membound.results.stats import records, summarize
from membound.results.store import RunWriter
from membound.results.views.table import notes

WORK = "linear:n=16,k=32,m=2,weight=f32"
BUDGET = Budget(warmup_s=0.0, timing_s=0.001, samples=3, sample_s=1e-5, device_samples=3)


@pytest.fixture
def fakes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    fake_backends.install(tmp_path / "site", monkeypatch)
    return tmp_path


def measured(folder: Path, monkeypatch: pytest.MonkeyPatch, backend: str = "gpu:gpu:0", **state: Any) -> Row:
    library = FakeNvml(**state)
    real = library.nvmlDeviceGetHandleByPciBusId
    monkeypatch.setattr(
        library, "nvmlDeviceGetHandleByPciBusId", lambda pci: real("0000:04:00.0"), raising=False
    )
    monkeypatch.setitem(sys.modules, "pynvml", library)
    case = Case(backend, WORK, 1, 2, 0, BUDGET, 10**9, folder / "reference")
    return run_case(case, lambda phase: None)


def test_a_row_of_an_accelerator(fakes: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    row = measured(fakes, monkeypatch)
    assert (row.status, row.device, row.memory_ceiling) == ("ok", "a fake GPU", "read")
    size = parse(WORK).footprint_bytes
    assert row.slots == -(-4 * 3000 // size) + 1, "four times its own cache, not the processor's"
    assert row.device_samples_s == pytest.approx([1e-3] * 3)
    assert row.accelerator["cache_bytes"] == 3000
    assert row.accelerator["driver"] == "580.1"
    assert (row.telemetry["device_power_w"], row.telemetry["device_throttle"]) == (350.5, "")
    assert row.timed_launches > row.slots


def test_input_sets_stay_within_the_devices_memory(fakes: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(case_module, "DEVICE_SHARE", 7e-3)
    row = measured(fakes, monkeypatch)
    assert row.slots == 7000 // parse(WORK).footprint_bytes


def test_a_throttled_replicate_is_invalid(fakes: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    row = measured(fakes, monkeypatch, reasons=0x8)
    assert row.status == "ok"
    assert row.grade == "invalid"
    assert "device throttled: hardware slowdown" in row.grade_reasons


def test_a_row_names_the_link_that_it_streams_over(fakes: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert measured(fakes, monkeypatch, "gpu:gpu:0+offload").memory_ceiling == "host_to_device_pinned"


def test_ceilings_that_were_too_low_are_measured_again_through_the_backend(fakes: Path) -> None:
    options = Options(budget=BUDGET, replicates=1, reference_dir=fakes / "reference", threads=1)
    plan = make_plan(["gpu:gpu:0", "gpu:gpu:0+offload"], [WORK], options, 10**9)
    no_machine = replace(plan, repeats=0)
    with RunWriter(fakes / "run.jsonl") as writer, pytest.MonkeyPatch.context() as patch:
        patch.setattr("membound.bench.run.execute._run_ceilings", lambda *_, **__: None)
        rows = execute(no_machine, writer, Silent())
    ceilings = [
        (r.backend, r.work, r.replicate, r.value) for r in rows if r.work in ("read", "host_to_device_pinned")
    ]
    assert sorted(ceilings) == [
        ("gpu:gpu:0", "host_to_device_pinned", 0, 1.0),
        ("gpu:gpu:0", "host_to_device_pinned", 1, 1.0),
        ("gpu:gpu:0", "read", 0, 1.0),
        ("gpu:gpu:0", "read", 1, 1.0),
    ]
    cases = [r for r in rows if r.kind == "case"]
    assert [(r.status, r.config) for r in cases] == [("ok", {"above_ceiling": True})] * 2
    lines = {line["backend"]: line for line in records(summarize(rows))}
    assert lines["gpu:gpu:0"]["read_ceiling_bytes_per_s"] == 1.0
    assert lines["gpu:gpu:0+offload"]["memory_ceiling"] == "host_to_device_pinned"
    said = set(notes(lines["gpu:gpu:0+offload"]))
    assert "of host_to_device_pinned" in said
    assert any(re.fullmatch(r"device (1 ms|1000 µs) \(\d+%\)", note) for note in said), said
    assert not any(note.startswith("of ") for note in notes(lines["gpu:gpu:0"]))


def test_a_duel_is_not_for_accelerators(fakes: Path) -> None:
    cold = ColdMemory(1, lambda: 1)
    with pytest.raises(Refused, match="keeps the CPU's caches cold") as error:
        enter("gpu:gpu:0", parse(WORK), cold, threads=1, slots=2, seed=1)
    assert error.value.status == "unsupported"


def test_a_simulated_gpu_becomes_a_row_like_any_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Numba's kernels through the whole of a case; what the simulator has no counters for is unknown."""
    monkeypatch.setattr(driver, "open_gpu", lambda ordinal: SimulatedGpu())
    work = "linear:n=16,k=64,m=1,weight=bf16"
    quick = replace(BUDGET, warmup_launches=1, samples=2, slow_samples=1, device_samples=1, hot_samples=1)
    room = 2 * parse(work).footprint_bytes
    case = Case("numba:cuda:0+graph", work, 5, 2, 0, quick, room, tmp_path / "reference")
    row = run_case(case, lambda phase: None)
    assert (row.status, row.reason, row.device, row.slots) == ("ok", "", "simulated GPU", 2)
    assert row.error is not None
    assert row.tolerance is not None
    assert row.error <= row.tolerance
    assert row.device_samples_s
    assert row.accelerator["compute_units"] == 2
    assert row.accelerator["counters"] == "the runtime does not tell the device's PCI address"
    assert "numba-cuda" in row.versions
    assert row.telemetry["device_clock_ratio"] is None
    assert row.grade != "clean"
