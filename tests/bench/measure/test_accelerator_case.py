"""An accelerator from the worker to the table: its clock and counters, the ceilings beside its turns, its link."""

from __future__ import annotations

import re
import sys
import time
from math import inf
from pathlib import Path
from random import Random

import hostile_backends
import pytest
from fake_nvml import FakeNvml
from local_workers import install, setting, shrink

from membound.bench.measure.ceiling_process import CeilingProcess
from membound.bench.measure.contestant import BackendProcess, Traffic
from membound.bench.measure.rounds import Pace, play
from membound.bench.run.case_rows import About, measured_row
from membound.kernels.work import parse
from membound.results.row import Row
from membound.results.stats import records, summarize
from membound.results.views.timed import notes

WORK = "linear:n=16,k=32,m=2,weight=f32"
LINK = "host_to_device_pinned"


@pytest.fixture
def nvml(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeNvml:
    """All fakes in this process, and the counters of the fake GPU."""
    hostile_backends.install(tmp_path / "site", monkeypatch)
    shrink(monkeypatch)
    install(monkeypatch)
    library = FakeNvml()
    real = library.nvmlDeviceGetHandleByPciBusId
    monkeypatch.setattr(
        library, "nvmlDeviceGetHandleByPciBusId", lambda pci: real("0000:04:00.0"), raising=False
    )
    monkeypatch.setitem(sys.modules, "pynvml", library)
    return library


def measured(folder: Path, backend: str = "gpu:gpu:0", link: str = "read") -> Row:
    """Five rounds with the device's ceilings between them, a long queue and a check: as a run does it."""
    traffic = Traffic()
    with (
        BackendProcess(backend, setting(folder), traffic=traffic) as process,
        CeilingProcess(
            setting(folder), backend="gpu:gpu:0", variants={link: "fake"}, traffic=traffic
        ) as ceilings,
    ):
        opened = process.open()
        one = process.prepare(0, WORK)
        began = time.perf_counter()
        play([one], {"gpu:0": ceilings}, Pace(5, inf), Random(1), began, lambda *_: None)
        long, checked = one.take_turn(seconds=0.01), one.check()
        assert checked is not None, one.failure
        assert traffic.bytes == 0, "nothing of it went through the processor's caches"
        about = About("run-a", backend, WORK, 0, 1, 7, opened, one.prepared)
        row = measured_row(one, checked, about, long=long)
    assert Row.from_json(row.to_json()) == row
    return row


def test_a_row_of_an_accelerator(tmp_path: Path, nvml: FakeNvml) -> None:
    row = measured(tmp_path)
    assert (row.status, row.device, row.memory_ceiling) == ("ok", "a fake GPU", "read")
    size = parse(WORK).footprint_bytes
    assert row.slots == -(-4 * 3000 // size) + 1, "four times its own cache, not the processor's"
    assert row.working_set_bytes == row.slots * size
    assert len(row.turns) == 5
    for turn in row.turns:
        assert turn.device_s == pytest.approx(1e-3)
        assert (turn.before, turn.after) == ({"read": pytest.approx(1.0)}, {"read": pytest.approx(1.0)})
        assert 0 <= turn.between <= 1
    assert row.device_samples_s == pytest.approx([1e-3])
    assert row.timed_launches >= 1
    assert (row.accelerator["cache_bytes"], row.accelerator["driver"]) == (3000, "580.1")
    assert (row.telemetry["device_power_w"], row.telemetry["device_throttle"]) == (350.5, "")
    (line,) = records(summarize([row]))
    assert line["device_time_s"] == pytest.approx(1e-3)
    assert line["read_ceiling_bytes_per_s"] == pytest.approx(1.0)
    assert line["device_of_bound"] == pytest.approx(row.bytes / 1e-3)


def test_a_throttled_process_is_invalid(tmp_path: Path, nvml: FakeNvml) -> None:
    nvml.state["reasons"] = 0x8
    row = measured(tmp_path)
    assert row.status == "ok"
    assert row.grade == "invalid"
    assert "device throttled: hardware slowdown" in row.grade_reasons


def test_what_streams_over_a_link_is_held_against_it(tmp_path: Path, nvml: FakeNvml) -> None:
    row = measured(tmp_path, "gpu:gpu:0+offload", LINK)
    assert row.memory_ceiling == LINK
    assert all(set(turn.before) == set(turn.after) == {LINK} for turn in row.turns)
    plain = measured(tmp_path)
    lines = {line["backend"]: line for line in records(summarize([row, plain]))}
    assert lines["gpu:gpu:0+offload"]["memory_ceiling"] == LINK
    said = set(notes(lines["gpu:gpu:0+offload"]))
    assert f"of {LINK}" in said
    assert any(re.fullmatch(r"device (1 ms|1000 µs) \(\d+%\)", note) for note in said), said
    assert not any(note.startswith("of ") for note in notes(lines["gpu:gpu:0"]))
