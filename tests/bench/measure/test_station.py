"""A worker's station, in this process: every command with right, wrong and lying backends; one failure costs one work."""

from __future__ import annotations

import gc
from itertools import groupby
from pathlib import Path
from typing import Any

import fake_backends
import hostile_backends
import numpy as np
import pytest
from local_workers import CACHE, ODD, ODDEST, LocalWorker, ask, failed, opened, opening, shrink

from membound.backends import registry
from membound.bench.measure.cold_backend import FITTING_LAUNCHES
from membound.bench.measure.cold_memory import COPIES, MOST_SLOTS
from membound.bench.protocol.messages import (
    AskOffers,
    Check,
    Checked,
    Done,
    Failed,
    Open,
    Opened,
    Phase,
    Prepare,
    Prepared,
    Release,
    TakeTurn,
    Turned,
)
from membound.kernels import reference
from membound.kernels.seeded import make_inputs
from membound.kernels.slots import SET_BYTES
from membound.kernels.work import parse


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Small caches, no pauses, all fakes."""
    hostile_backends.install(tmp_path / "site", monkeypatch)
    shrink(monkeypatch)
    return tmp_path


# A work from its preparation to its end


def test_a_right_backend_goes_all_the_way(folder: Path) -> None:
    seed = int(np.random.default_rng().integers(1 << 31))
    worker, phases = LocalWorker(1), list[Phase]()
    memory = COPIES * MOST_SLOTS * (parse(ODD).footprint_bytes + SET_BYTES)
    device = worker.ask(opening("ok:cpu", folder, seed=seed, memory_bytes=memory), 0.0)
    assert isinstance(device, Opened)
    assert (device.device, device.accelerator, device.memory_ceiling) == ("a fake processor", {}, "read")
    assert (device.versions["fake"], device.versions["numpy"]) == ("1.2", np.__version__)
    work = parse(ODD)
    prepared = worker.ask(Prepare(4, ODD), 0.0, phases.append)
    assert isinstance(prepared, Prepared)
    assert prepared.slots == MOST_SLOTS
    assert prepared.footprint_bytes == work.footprint_bytes
    assert prepared.working_set_bytes == MOST_SLOTS * work.footprint_bytes
    assert 0 <= prepared.error < prepared.tolerance == reference.tolerance(work)
    assert 1 <= prepared.launches <= 32
    assert min(prepared.first_s, prepared.launch_s, prepared.prepare_s) > 0
    assert prepared.stored_bytes is None
    names = [name for name, _ in groupby(p.name for p in phases if not p.name.startswith("compiling"))]
    assert names == ["opening", "preparing", "checking", "fitting the burst"]
    assert {tuple(phase.contestants) for phase in phases} == {(4,)}
    turns = [ask(worker, TakeTurn(4, passed_bytes=10 * CACHE), Turned) for _ in range(5)]
    for turn in turns:
        assert turn.time_s > 0
        assert turn.launches == prepared.launches
        assert turn.device_s is None
        assert turn.moved_bytes >= prepared.launches * work.footprint_bytes
        assert (turn.stolen, turn.telemetry) == ({}, {})
        assert len(turn.retaken_s) <= 5
    checked = worker.ask(Check(4), 0.0, phases.append)
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


def test_memory_that_evicts_is_given_back_with_the_last_contestant(folder: Path) -> None:
    worker, freed = opened("ok:cpu", folder), list[int]()
    for who in (0, 1):
        ask(worker, Prepare(who, ODD), Prepared)
    assert worker.station.cold is not None
    worker.station.cold.free = lambda: freed.append(1)
    ask(worker, Release(0), Done)
    assert freed == []
    ask(worker, Release(1), Done)
    assert freed == [1]


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


# Experiments


def test_reasons_of_refusals_are_texts(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fake_backends.Ok, "supports", lambda self, work: 5)
    worker = opened("ok:cpu", folder)
    arm = {"name": "m1", "group": "g", "work": ODD, "factors": {}}
    assert failed(worker, AskOffers({"2": [arm]})) == ("error", "supports() is 5, not text")


def test_another_backend_opened_in_the_same_worker_takes_the_place_of_the_first(folder: Path) -> None:
    worker = opened("ok:cpu", folder)
    assert isinstance(worker.ask(Open("wrong:cpu", 7, 1 << 20, str(folder)), 0.0), Opened)
    assert failed(worker, Prepare(0, ODD))[0] == "wrong"
    assert registry.device_of("wrong:cpu#2") == "cpu"
