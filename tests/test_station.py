"""A worker's station, in this process: every command with right, wrong and lying backends; one failure costs one work."""

from __future__ import annotations

import gc
import json
import sys
from pathlib import Path
from typing import Any

import fake_backends
import hostile_backends
import numpy as np
import pytest
from local_workers import CACHE, LocalWorker, opened, opening, shrink
from test_device_counters import FakeNvml

from membound.backends import registry
from membound.bench.measure.cold_backend import FITTING_LAUNCHES
from membound.bench.protocol.messages import (
    AskOffers,
    CeilingOpened,
    Ceilings,
    CeilingTurned,
    Check,
    Checked,
    Done,
    Failed,
    Found,
    MeasureBackend,
    Offers,
    Open,
    OpenDeviceCeiling,
    Opened,
    Phase,
    Prepare,
    Prepared,
    Probe,
    Release,
    TakeCeilingTurn,
    TakeTurn,
    Turned,
)
from membound.kernels import reference
from membound.kernels.cuda.device import driver
from membound.kernels.cuda.device.simulated import SimulatedGpu
from membound.kernels.seeded import make_inputs
from membound.kernels.work import parse

ODD = "linear:n=37,k=53,m=3,weight=int8"
ODDEST = "linear:n=37,k=53,m=13,weight=int8"
"""The work on which hostile backends are hostile."""
SECONDS = 0.0
"""Nothing is waited for in this process."""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Small caches, no pauses, all fakes."""
    hostile_backends.install(tmp_path / "site", monkeypatch)
    shrink(monkeypatch)
    return tmp_path


def ask(worker: LocalWorker, command: Any, expected: type[Any]) -> Any:
    answer = worker.ask(command, SECONDS)
    assert type(answer) is expected, answer
    return answer


def failed(worker: LocalWorker, command: Any) -> tuple[str, str]:
    answer = ask(worker, command, Failed)
    return answer.status, answer.reason


# A work from its preparation to its end


def test_a_right_backend_goes_all_the_way(folder: Path) -> None:
    seed = int(np.random.default_rng().integers(1 << 31))
    worker, phases = LocalWorker(1), list[Phase]()
    device = worker.ask(opening("ok:cpu", folder, seed=seed), SECONDS)
    assert isinstance(device, Opened)
    assert (device.device, device.accelerator, device.memory_ceiling) == ("a fake processor", {}, "read")
    assert (device.versions["fake"], device.versions["numpy"]) == ("1.2", np.__version__)
    work = parse(ODD)
    prepared = worker.ask(Prepare(4, ODD), SECONDS, phases.append)
    assert isinstance(prepared, Prepared)
    assert prepared.slots == 33
    assert prepared.footprint_bytes == work.footprint_bytes
    assert prepared.working_set_bytes == 33 * work.footprint_bytes
    assert 0 <= prepared.error < prepared.tolerance == reference.tolerance(work)
    assert 1 <= prepared.launches <= 32
    assert min(prepared.first_s, prepared.launch_s, prepared.prepare_s) > 0
    assert prepared.stored_bytes is None
    names = [phase.name for phase in phases if not phase.name.startswith("compiling")]
    assert names == ["opening", "preparing", "checking", "fitting the burst"]
    assert {tuple(phase.contestants) for phase in phases} == {(4,)}
    turns = [ask(worker, TakeTurn(4, passed_bytes=10 * CACHE), Turned) for _ in range(5)]
    for turn in turns:
        assert turn.time_s > 0
        assert turn.launches == prepared.launches
        assert turn.device_s is None
        assert turn.moved_bytes >= prepared.launches * work.footprint_bytes
        assert (turn.stolen, turn.telemetry) == ({}, {})
        assert len(turn.retaken_s) == len(turn.retaken_disturbances) <= 5
    checked = worker.ask(Check(4), SECONDS, phases.append)
    assert isinstance(checked, Checked)
    assert 0 <= checked.error < prepared.tolerance
    assert checked.telemetry["wall_s"] > 0
    assert set(checked.settings) == {"working_set_bytes"}, "no tokens: that is of models only"
    assert checked.settings["working_set_bytes"] >= 4 * CACHE
    assert phases[-1] == Phase("checking", [4])
    assert ask(worker, Release(4), Done) == Done()
    assert worker.station.seats == {}


@pytest.mark.parametrize(
    ("backend", "work", "status", "reason"),
    [
        ("wrong:cpu", ODD, "wrong", "error 0.1 on input set 0 exceeds"),
        ("notfinite:cpu", ODD, "wrong", "not finite"),
        ("oom:cpu", "linear:n=8,k=8,m=13", "oom", "MemoryError: Unable to allocate"),
        ("raises:cpu", ODD, "error", "RuntimeTroubleError: kernel not registered"),
        (
            "ok:cpu",
            "attention:context=3,q_heads=2,kv_heads=1,head_dim=8",
            "unsupported",
            "attention is not faked",
        ),
        (
            "muteengine:cpu",
            "step:model=tiny,batch=2,context=4,weight=f32,kv=f32,layers=1,cache=prompt",
            "wrong",
            "(1, 1)",
        ),
        ("liar:cpu+output_complex", ODDEST, "wrong", "output is an array of complex64"),
        ("liar:cpu+output_huge", ODDEST, "wrong", "on input set 0 exceeds"),
        ("troubled:cpu+raise.supports", ODDEST, "error", "RuntimeError: trouble"),
        ("troubled:cpu+raise.launch", ODDEST, "error", "RuntimeError: trouble"),
        ("troubled:cpu+raise.output", ODDEST, "error", "RuntimeError: trouble"),
        ("troubled:cpu+unavailable.prepare", ODDEST, "unavailable", "lost the device; plug it in"),
    ],
)
def test_what_cannot_be_prepared_says_why_and_leaves_nothing(
    folder: Path, backend: str, work: str, status: str, reason: str
) -> None:
    worker = opened(backend, folder)
    found = failed(worker, Prepare(0, work))
    assert found[0] == status
    assert reason in found[1]
    assert worker.station.seats == {}
    assert failed(worker, TakeTurn(0)) == ("error", "KeyError: 0")


@pytest.mark.parametrize(
    ("backend", "status", "reason"),
    [
        ("ok:npu", "unavailable", "no device 'npu'; pip install another-machine"),
        ("missing:cpu", "unavailable", "cannot be imported: No module named 'no_such_module'"),
        ("nosuch:cpu", "error", "UnknownBackend: unknown backend 'nosuch'"),
        ("troubled:cpu+raise.open", "error", "RuntimeError: trouble"),
        ("liar:cpu+name_none", "error", "Device.name is None, not text"),
        ("liar:cpu+versions_list", "error", "Device.versions is ['fake'], not a dict"),
        ("liar:cpu+ceiling_none", "error", "Device.memory_ceiling is None, not text"),
        ("liar:cpu+memory_negative", "error", "accelerator.memory_bytes is -1, not a whole number from 0"),
    ],
)
def test_what_cannot_be_opened_says_why(folder: Path, backend: str, status: str, reason: str) -> None:
    worker = LocalWorker(1)
    found = failed(worker, opening(backend, folder))
    assert found[0] == status
    assert reason in found[1]


def test_a_wrong_answer_keeps_its_error_before_turns_and_after(folder: Path) -> None:
    early = ask(opened("wrong:cpu", folder), Prepare(0, ODD), Failed)
    assert early.error == pytest.approx(0.1, rel=1e-3)
    worker = opened("laterwrong:cpu", folder)
    ask(worker, Prepare(0, ODD), Prepared)
    ask(worker, TakeTurn(0), Turned)
    late = ask(worker, Check(0), Failed)
    assert late.status == "wrong"
    assert late.error == pytest.approx(2, rel=1e-3)


@pytest.mark.parametrize(
    ("where", "command"),
    [("turn", TakeTurn(0)), ("check", Check(0)), ("settings", Check(0)), ("close", Release(0))],
)
def test_trouble_later_on_is_that_of_its_work_alone(folder: Path, where: str, command: Any) -> None:
    worker = opened(f"troubled:cpu+raise.{where}", folder)
    ask(worker, Prepare(0, ODDEST), Prepared)
    ask(worker, Prepare(1, ODD), Prepared)
    if where != "turn":
        ask(worker, TakeTurn(0), Turned)
    assert failed(worker, command) == ("error", "RuntimeError: trouble")
    ask(worker, TakeTurn(1), Turned)
    ask(worker, Check(1), Checked)
    ask(worker, Release(1), Done)
    assert 1 not in worker.station.seats


def test_a_backend_that_cannot_be_closed_does_not_hide_what_failed_first(folder: Path) -> None:
    worker = opened("troubled:cpu+raise.close", folder)
    assert (
        failed(worker, Prepare(0, "attention:context=3,q_heads=2,kv_heads=1,head_dim=8"))[0] == "unsupported"
    )


# Lies


@pytest.mark.parametrize(
    ("lie", "reason"),
    [
        ("stored_negative", "stored_bytes() is -5, not a whole number from 0"),
        ("stored_float", "stored_bytes() is 1.5, not a whole number from 0"),
        ("stored_huge", f"stored_bytes() is 1{'0' * 40}, not a whole number from 0"),
        ("stored_text", "stored_bytes() is 'many', not a whole number from 0"),
        ("stored_true", "stored_bytes() is True, not a whole number from 0"),
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


def test_named_devices_are_tried_and_no_other(folder: Path) -> None:
    found = ask(LocalWorker(1), Probe("ok", ["cpu+twin", "odd"]), Found).devices
    assert [(d["id"], d["available"]) for d in found] == [("ok:cpu+twin", True), ("ok:odd", False)]
    (gone,) = ask(LocalWorker(1), Probe("missing", []), Found).devices
    assert (gone["id"], gone["available"]) == ("missing", False)
    assert "No module named 'no_such_module'" in gone["reason"]


# Several contestants in one worker


def test_contestants_of_a_worker_share_the_count_of_bytes(folder: Path) -> None:
    worker = opened("ok:cpu", folder)
    for number in (0, 1):
        ask(worker, Prepare(number, ODD), Prepared)
    one, two = (worker.station.seats[number].one for number in (0, 1))
    assert one.cold is two.cold
    before = one.cold.passed_bytes
    turned = ask(worker, TakeTurn(0, passed_bytes=1000), Turned)
    assert two.cold.passed_bytes == before + 1000 + turned.moved_bytes


def test_a_number_that_was_never_given_back_is_prepared_anew(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    closed: list[fake_backends.Ok] = []
    monkeypatch.setattr(fake_backends.Ok, "close", lambda self: closed.append(self))
    worker = opened("ok:cpu", folder)
    ask(worker, Prepare(0, ODD), Prepared)
    left = worker.station.seats[0].one.backend
    closed.clear()
    ask(worker, Prepare(0, ODD), Prepared)
    assert closed == [left]
    assert list(worker.station.seats) == [0]


def test_what_was_never_prepared_is_released_all_the_same(folder: Path) -> None:
    assert ask(opened("ok:cpu", folder), Release(5), Done) == Done()


def test_all_is_given_back_at_the_end_though_one_cannot_be(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    closed: list[Any] = []
    worker = opened("troubled:cpu+raise.close", folder)
    ask(worker, Prepare(0, ODDEST), Prepared)
    ask(worker, Prepare(1, ODD), Prepared)
    real = hostile_backends.Troubled.close
    monkeypatch.setattr(hostile_backends.Troubled, "close", lambda self: closed.append(self) or real(self))
    worker.close()
    assert len(closed) == 2
    assert worker.station.seats == {}


def test_garbage_collection_is_off_while_timing_and_on_after_an_error(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: set[bool] = set()
    worker = opened("troubled:cpu+raise.turn", folder)
    ask(worker, Prepare(0, ODD), Prepared)
    ask(worker, Prepare(1, ODDEST), Prepared)
    real = hostile_backends.Troubled.launch
    monkeypatch.setattr(
        hostile_backends.Troubled, "launch", lambda self, slot: seen.add(gc.isenabled()) or real(self, slot)
    )
    ask(worker, TakeTurn(0), Turned)
    assert seen == {False}
    assert gc.isenabled()
    assert failed(worker, TakeTurn(1))[1] == "RuntimeError: trouble"
    assert gc.isenabled()


def test_the_same_input_set_again_and_again_is_asked_for_by_name(folder: Path) -> None:
    worker = opened("ok:cpu", folder)
    ask(worker, Prepare(0, ODD), Prepared)
    ask(worker, TakeTurn(0), Turned)
    backend, slots = worker.station.seats[0].one.backend, set()
    backend.launch = slots.add  # type: ignore[method-assign]
    hot = ask(worker, TakeTurn(0, hot=True), Turned)
    assert len(slots) == 1
    assert hot.device_s is None
    assert hot.time_s > 0


# Engines

BEHIND_A_PROMPT = "step:model=tiny,batch=2,context=4,weight=f32,kv=f32,layers=1,cache=prompt"


def test_an_engines_tokens_are_checked_from_the_first_to_the_last(folder: Path) -> None:
    worker = opened("engine:cpu", folder)
    prepared = ask(worker, Prepare(0, BEHIND_A_PROMPT), Prepared)
    assert (prepared.slots, prepared.launches) == (1, 1)
    ask(worker, TakeTurn(0), Turned)
    checked = ask(worker, Check(0), Checked)
    assert checked.error < 1e-6
    expected = reference.compute(make_inputs(parse(BEHIND_A_PROMPT), 7), 0)
    assert checked.settings["greedy_tokens"] == expected.argmax(-1).tolist()
    assert checked.settings["steps"] >= 1 + FITTING_LAUNCHES


def test_an_engine_that_goes_wrong_later_has_no_check(folder: Path) -> None:
    worker = opened("lateengine:cpu", folder)
    ask(worker, Prepare(0, BEHIND_A_PROMPT), Prepared)
    ask(worker, TakeTurn(0), Turned)
    status, reason = failed(worker, Check(0))
    assert status == "wrong"
    assert "on input set 0 exceeds" in reason


# Accelerators

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
        "described": ("error", "described: array_bytes='1 GB' of config is not a number"),
        "undescribed": ("error", "TypeError: 'NoneType' object is not iterable"),
        "unchecked": ("error", "ValueError: cannot be compared"),
        "wrong": ("wrong", "its result is wrong"),
        "limits": ("oom", "RuntimeError: CUDA out of memory"),
    }
    assert ceilings["launch"]["status"] == "ok"
    json.dumps(found.ceilings, allow_nan=False)


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


# Experiments


def test_reasons_of_refusals_are_texts(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fake_backends.Ok, "supports", lambda self, work: 5)
    worker = opened("ok:cpu", folder)
    arm = {"name": "m1", "group": "g", "work": ODD, "factors": {}}
    offers = ask(worker, AskOffers({"2": [arm]}), Offers)
    assert offers.refused == {"2": {"m1": "5"}}


def test_another_backend_opened_in_the_same_worker_takes_the_place_of_the_first(folder: Path) -> None:
    worker = opened("ok:cpu", folder)
    assert isinstance(worker.ask(Open("wrong:cpu", 7, 1 << 20, str(folder)), SECONDS), Opened)
    assert failed(worker, Prepare(0, ODD))[0] == "wrong"
    assert registry.device_of("wrong:cpu#2") == "cpu"
