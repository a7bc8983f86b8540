"""Backends that lie, in this process: a value if it stands for one, else an error of that work alone; all else goes on."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import hostile_backends
import pytest
from local_workers import CACHE, ODD, ODDEST, LocalWorker, ask, failed, opened, opening, shrink

from membound.bench.ceilings import backend as ceilings
from membound.bench.protocol.messages import (
    AskCoverage,
    Ceilings,
    Check,
    Checked,
    Coverage,
    Done,
    Found,
    MeasureBackend,
    Opened,
    Prepare,
    Prepared,
    Probe,
    Release,
    TakeTurn,
    Turned,
)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Small caches, no pauses, all fakes."""
    hostile_backends.install(tmp_path / "site", monkeypatch)
    shrink(monkeypatch)
    return tmp_path


@pytest.mark.parametrize(
    ("lie", "reason"),
    [
        ("stored_negative", "stored_bytes() is -5, not a whole number from 0"),
        ("stored_float", "stored_bytes() is 1.5, not a whole number from 0"),
        ("stored_huge", f"stored_bytes() is 1{'0' * 40}, not a whole number from 0"),
        ("stored_text", "stored_bytes() is 'many', not a whole number from 0"),
        ("stored_true", "stored_bytes() is True, not a whole number from 0"),
        ("exchanged_negative", "exchanged_bytes() is -1, not a whole number from 0"),
    ],
)
def test_bytes_that_cannot_be_cost_their_work_alone(folder: Path, lie: str, reason: str) -> None:
    worker = opened(f"liar:cpu+{lie}", folder)
    assert failed(worker, Prepare(0, ODDEST)) == ("error", reason)
    assert worker.station.seats == {}, "nothing is held of it"
    goes_on(worker)


@pytest.mark.parametrize(("lie", "value"), [("stored_numpy", 12345), ("stored_unsigned", 255)])
def test_bytes_in_numpys_numbers_are_bytes(folder: Path, lie: str, value: int) -> None:
    worker = opened(f"liar:cpu+{lie}", folder)
    assert ask(worker, Prepare(0, ODDEST), Prepared).stored_bytes == value
    goes_on(worker)


def test_exchanged_bytes_in_numpys_numbers_are_bytes(folder: Path) -> None:
    worker = opened("liar:cpu+exchanged_numpy", folder)
    assert ask(worker, Prepare(0, ODDEST), Prepared).exchanged_bytes == 77
    goes_on(worker)


@pytest.mark.parametrize(
    ("lie", "reason"),
    [
        ("helpers_text", "helpers() is 'all of them', not a list of process numbers"),
        ("helpers_names", "a number of helpers() is 'init', not a whole number from 0"),
        ("helpers_strangers", "helpers() names process 1, which the backend's process did not start"),
    ],
)
def test_helpers_that_are_no_processes_or_others_cost_their_work_alone(
    folder: Path, lie: str, reason: str
) -> None:
    worker = opened(f"liar:cpu+{lie}", folder)
    ask(worker, Prepare(0, ODDEST), Prepared)
    assert failed(worker, TakeTurn(0)) == ("error", reason)
    goes_on(worker)


def test_a_worker_is_no_helper_of_its_own(folder: Path) -> None:
    """Its time would count twice."""
    worker = opened("liar:cpu+helpers_itself", folder)
    ask(worker, Prepare(0, ODDEST), Prepared)
    status, reason = failed(worker, TakeTurn(0))
    assert status == "error"
    assert re.fullmatch(r"helpers\(\) names process \d+, which the backend's process did not start", reason)
    goes_on(worker)


@pytest.mark.parametrize(
    ("lie", "expected"),
    [
        ("settings_numpy", {"f": 0.5, "i": 7, "b": True, "a": [0, 1, 2], "s": "x"}),
        ("settings_nan", {"threshold": "nan", "limits": ["-inf", 1.0], "deep": {"x": "nan"}}),
        ("settings_objects", {"dtype": "torch.bfloat16", "5": "/a", "set": [3], "none": None, "c": "1j"}),
        ("settings_surrogate", {"file \\udcff": "name \\udcff"}),
        ("settings_named_as_ours", {"threads": "auto", "work": 5}),
    ],
)
def test_settings_become_plain_values(folder: Path, lie: str, expected: dict[str, Any]) -> None:
    worker = opened(f"liar:cpu+{lie}", folder)
    ask(worker, Prepare(0, ODDEST), Prepared)
    ask(worker, TakeTurn(0), Turned)
    told = ask(worker, Check(0), Checked).settings
    assert told.pop("working_set_bytes") >= 4 * CACHE
    assert told == expected
    goes_on(worker)


@pytest.mark.parametrize(
    ("lie", "reason"),
    [
        ("settings_list", "settings() is [1, 2], not a dict"),
        ("settings_none", "settings() is None, not a dict"),
        ("settings_itself", "RecursionError"),
        ("settings_long", "ValueError: Checked takes"),
    ],
)
def test_settings_that_cannot_be_cost_their_work_alone(folder: Path, lie: str, reason: str) -> None:
    worker = opened(f"liar:cpu+{lie}", folder)
    ask(worker, Prepare(0, ODDEST), Prepared)
    ask(worker, TakeTurn(0), Turned)
    status, told = failed(worker, Check(0))
    assert (status, told.startswith(reason)) == ("error", True), told
    goes_on(worker)


@pytest.mark.parametrize(
    "lie", ["time_zero", "time_negative", "time_nan", "time_infinite", "time_none", "time_text", "time_tiny"]
)
def test_a_time_that_no_clock_can_tell_costs_its_work_alone(folder: Path, lie: str) -> None:
    worker = opened(f"liar:cpu+{lie}", folder)
    ask(worker, Prepare(0, ODDEST), Prepared)
    told = hostile_backends.LIES[lie][1]
    assert failed(worker, TakeTurn(0)) == ("error", f"elapsed_s() is {told!r}, which no clock can tell")
    goes_on(worker)


def test_a_time_in_numpys_numbers_is_a_time(folder: Path) -> None:
    worker = opened("liar:cpu+time_numpy", folder)
    prepared = ask(worker, Prepare(0, ODDEST), Prepared)
    assert ask(worker, TakeTurn(0), Turned).device_s == pytest.approx(0.25 / prepared.launches)
    goes_on(worker)


def goes_on(worker: LocalWorker) -> None:
    """The next work of the same worker is measured to its end."""
    ask(worker, Release(0), Done)
    ask(worker, Prepare(0, ODD), Prepared)
    ask(worker, TakeTurn(0), Turned)
    ask(worker, Check(0), Checked)
    ask(worker, Release(0), Done)
    assert worker.station.seats == {}


@pytest.mark.parametrize(
    ("device", "field", "value"),
    [
        ("cpu+versions_number", "versions", {"fake": "5", "6": "None"}),
        ("cpu+name_surrogate", "device", "a \\udcff processor"),
        ("cpu+memory_numpy", "accelerator", {"memory_bytes": 10**6, "cache_bytes": 3000, "compute_units": 4}),
    ],
)
def test_a_device_becomes_plain_values(folder: Path, device: str, field: str, value: Any) -> None:
    told = getattr(ask(LocalWorker(1), opening(f"liar:{device}", folder), Opened), field)
    assert told == value or told.items() >= value.items()


@pytest.mark.parametrize(
    ("lie", "reason"),
    [
        ("supports_five", "supports() is 5, not text"),
        ("supports_false", "supports() is False, not text"),
        ("supports_bytes", "supports() is b'no', not text"),
    ],
)
def test_an_answer_that_is_neither_reason_nor_none_costs_its_works(
    folder: Path, lie: str, reason: str
) -> None:
    worker = opened(f"odd:cpu+{lie}", folder)
    assert failed(worker, Prepare(0, ODD)) == ("error", reason)


@pytest.mark.parametrize(
    ("lie", "reason"),
    [
        ("open_none", "open() gave NoneType, not a Device"),
        ("open_class", "open() gave type, not a Device"),
        ("accelerator_dict", "Device.accelerator is {'memory_bytes': 5}, not an Accelerator"),
    ],
)
def test_a_device_that_is_none_is_told(folder: Path, lie: str, reason: str) -> None:
    assert failed(LocalWorker(1), opening(f"odd:cpu+{lie}", folder)) == ("error", reason)


def test_who_cannot_be_closed_is_measured_all_the_same(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ceilings, "GEMM_FORMATS", ())
    worker = opened("unclosing:cpu", folder)
    ask(worker, Prepare(0, ODD), Prepared)
    ask(worker, TakeTurn(0), Turned)
    ask(worker, Check(0), Checked)
    told = {one["name"]: one["status"] for one in ask(worker, MeasureBackend(True), Ceilings).ceilings}
    assert told["launch"] == "ok"
    (found,) = ask(LocalWorker(1), Probe("unclosing", ["cpu"]), Found).devices
    assert found["available"]


# Probing


def test_every_device_is_tried_and_the_bad_ones_have_a_reason(folder: Path) -> None:
    found = {d["id"]: d for d in ask(LocalWorker(1), Probe("ok", []), Found).devices}
    assert list(found) == ["ok:cpu", "ok:cpu+twin", "ok:npu"]
    assert [d["available"] for d in found.values()] == [True, True, False]
    assert found["ok:cpu"]["name"] == "a fake processor"
    assert (found["ok:npu"]["reason"], found["ok:npu"]["remedy"]) == (
        "no device 'npu'",
        "pip install another-machine",
    )


def test_devices_that_lie_are_told_one_by_one(folder: Path) -> None:
    found = {d["id"]: d for d in ask(LocalWorker(1), Probe("liar", []), Found).devices}
    assert len(found) == len(hostile_backends.DEVICES)
    assert found["liar:cpu"]["available"]
    assert found["liar:cpu+versions_number"]["versions"] == {"fake": "5", "6": "None"}
    assert found["liar:cpu+memory_numpy"]["accelerator"]["memory_bytes"] == 10**6
    bad = {name.partition("+")[2]: d["reason"] for name, d in found.items() if not d["available"]}
    assert bad == {
        "name_none": "Device.name is None, not text",
        "versions_list": "Device.versions is ['fake'], not a dict",
        "ceiling_none": "Device.memory_ceiling is None, not text",
        "memory_negative": "accelerator.memory_bytes is -1, not a whole number from 0",
        "memory_float": "accelerator.memory_bytes is 1.5, not a whole number from 0",
    }


@pytest.mark.parametrize(
    ("entry", "reason"),
    [
        ("endless", "devices() lists more than 1000"),
        ("deviceless", "a name of devices() is None, not text"),
    ],
)
def test_lists_of_devices_that_cannot_be_are_told(folder: Path, entry: str, reason: str) -> None:
    assert failed(LocalWorker(1), Probe(entry, [])) == ("error", reason)


def test_coverage_asks_the_other_devices_too(folder: Path) -> None:
    told = {one["id"]: one for one in ask(LocalWorker(1), AskCoverage("odd", [ODD]), Coverage).answers}
    assert told["odd:cpu"]["opened"]
    assert {name.partition("+")[2]: one["reason"] for name, one in told.items() if not one["opened"]} == {
        "supports_five": "supports() is 5, not text",
        "supports_false": "supports() is False, not text",
        "supports_bytes": "supports() is b'no', not text",
        "open_none": "open() gave NoneType, not a Device",
        "open_class": "open() gave type, not a Device",
        "accelerator_dict": "Device.accelerator is {'memory_bytes': 5}, not an Accelerator",
    }


def test_named_devices_are_tried_and_no_other(folder: Path) -> None:
    found = ask(LocalWorker(1), Probe("ok", ["cpu+twin", "odd"]), Found).devices
    assert [(d["id"], d["available"]) for d in found] == [("ok:cpu+twin", True), ("ok:odd", False)]
    (gone,) = ask(LocalWorker(1), Probe("missing", []), Found).devices
    assert (gone["id"], gone["available"]) == ("missing", False)
    assert "No module named 'no_such_module'" in gone["reason"]
