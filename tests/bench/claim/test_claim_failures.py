"""Whatever goes wrong with a worker of a claim is an observation, and the others are measured."""

from __future__ import annotations

from pathlib import Path

import claim_workers
import fake_backends
import pytest
from claim_workers import TIMES_S, Faked, FakeWorker, dying, planned, run

from membound.bench.claim import execute as claim_execute
from membound.bench.claim.arms import Arm
from membound.bench.protocol.messages import (
    Answer,
    Check,
    Command,
    Failed,
    MeasureBackend,
    MeasureMachine,
    Open,
    OpenCeiling,
    Prepare,
    TakeTurn,
)
from membound.bench.protocol.process import WorkerTimeoutError, WorkerUnavailableError
from membound.kernels.work import Linear
from membound.results.claim.observation import Observation


@pytest.fixture
def faked(monkeypatch: pytest.MonkeyPatch) -> Faked:
    return claim_workers.install(monkeypatch)


def key(one: Observation) -> tuple[object, ...]:
    """What was set and in which process."""
    return one.experiment, one.backend, one.arm, one.work, one.replicate, tuple(sorted(one.factors.items()))


@pytest.mark.parametrize("at", [Prepare, TakeTurn, Check])
def test_a_crash_blames_the_arm_that_was_at_it_and_the_others_are_measured_in_a_fresh_process(
    tmp_path: Path, faked: Faked, at: type[Command]
) -> None:
    def happens(worker: FakeWorker, command: Command) -> Answer | None:
        if isinstance(command, at) and worker.arms[command.contestant][0].factors["m"] == 8:
            raise dying()
        return None

    faked.happens = happens
    claim, _ = run(tmp_path, planned(tmp_path, 3))
    crashed = [one for one in claim.observations if one.status != "ok"]
    phase = {Prepare: "preparing", TakeTurn: "timing", Check: "checking"}[at]
    assert {(o.number("m"), o.status, o.reason) for o in crashed} == {
        (8, "crashed", f"while {phase}: SIGSEGV: bye")
    }
    assert len(crashed) == 6  # two formats, three processes: a crash may have had an outer cause
    assert all(one.time_s is None for one in crashed)
    assert {len(one.turns) for one in crashed} == {7 if at is Check else 0}
    assert len({*map(key, claim.observations)}) == len(claim.observations) == 3 * 2 * 10
    assert len(faked.workers(Prepare)) == 3 * 3  # each format's crash costs a process a fresh one


def test_arms_that_each_kill_their_worker_are_each_blamed_once_a_process(
    tmp_path: Path, faked: Faked
) -> None:
    def happens(worker: FakeWorker, command: Command) -> Answer | None:
        if isinstance(command, TakeTurn):
            raise dying()
        return None

    faked.happens = happens
    claim, _ = run(tmp_path, planned(tmp_path, 5, processes=2))
    assert {one.status for one in claim.observations} == {"crashed"}
    arms = {one.work for one in claim.observations}
    assert len(claim.observations) == len(arms)  # no process of it could be measured, so there is no second
    assert len(faked.workers(Prepare)) == len(arms)


def test_a_turn_that_fails_takes_its_arm_out_and_keeps_the_turns_before(tmp_path: Path, faked: Faked) -> None:
    def happens(worker: FakeWorker, command: Command) -> Answer | None:
        small = isinstance(command, TakeTurn) and worker.arms[command.contestant][0].factors["m"] == 4
        if small and worker.turns[command.contestant, 0] == 4:
            return Failed("oom", "MemoryError")
        return None

    faked.happens = happens
    claim, _ = run(tmp_path, planned(tmp_path, 3, processes=1))
    failed = [one for one in claim.observations if one.status != "ok"]
    assert [(one.number("m"), one.status, one.reason) for one in failed] == [(4, "oom", "MemoryError")] * 2
    assert [[turn.time_s for turn in one.turns] for one in failed] == [list(TIMES_S)] * 2
    assert [one.samples_s for one in failed] == [[], []]
    assert all(len(one.turns) == 7 for one in claim.observations if one.status == "ok")


def test_a_dose_that_fails_leaves_the_others_on_the_same_work(tmp_path: Path, faked: Faked) -> None:
    def happens(worker: FakeWorker, command: Command) -> Answer | None:
        if isinstance(command, TakeTurn) and worker.arm_of(command).trade == "fma":
            return Failed("error", "CoRunnerError: it ended")
        return None

    faked.happens = happens
    claim, _ = run(tmp_path, planned(tmp_path, 4, processes=1))
    assert {(one.arm, one.status) for one in claim.observations} == {
        ("idle", "ok"),
        ("bandwidth", "ok"),
        ("fma", "error"),
    }


@pytest.mark.parametrize(
    ("error", "status", "reason"),
    [
        (WorkerTimeoutError("silent for 300 s"), "timeout", "while opening: silent for 300 s"),
        (dying(), "crashed", "while opening: SIGSEGV: bye"),
    ],
)
def test_a_worker_that_does_not_open_fails_all_its_arms_once(
    tmp_path: Path, faked: Faked, error: Exception, status: str, reason: str
) -> None:
    def happens(worker: FakeWorker, command: Command) -> Answer | None:
        if isinstance(command, Open):
            raise error
        return None

    faked.happens = happens
    backends = ("numba:cpu", "numpy:cpu")
    claim, _ = run(tmp_path, planned(tmp_path, 5, backends=backends))
    assert {(o.status, o.reason, o.replicate) for o in claim.observations} == {(status, reason, 0)}
    assert {one.backend for one in claim.observations} == {*backends}
    assert len({*map(key, claim.observations)}) == len(claim.observations)
    assert [(r.backend, r.status, r.reason) for r in claim.ceilings if r.status != "ok"] == [
        (backend, status, reason) for backend in backends
    ]
    assert len(faked.of(Open)) == 4  # to ask, and for the experiment, of each


def test_an_interpreter_that_cannot_be_started_ends_nothing_but_its_backend(
    tmp_path: Path, faked: Faked
) -> None:
    def starts(worker: FakeWorker) -> None:
        if worker.python == "no-such-python":
            raise WorkerUnavailableError("no-such-python cannot be started: No such file or directory")

    faked.starts = starts
    plan = planned(
        tmp_path, 5, backends=("numpy:cpu", "numba:cpu"), pythons={"numpy": "no-such-python"}, processes=1
    )
    claim, _ = run(tmp_path, plan)
    assert {(one.backend, one.status) for one in claim.observations} == {
        ("numpy:cpu", "unavailable"),
        ("numba:cpu", "ok"),
    }
    told = {one.reason for one in claim.observations if one.backend == "numpy:cpu"}
    assert told == {"no-such-python cannot be started: No such file or directory"}
    assert {row.status for row in claim.ceilings} == {"ok"}  # every arm says it


def test_what_cannot_be_done_is_not_tried_again(tmp_path: Path, faked: Faked) -> None:
    def happens(worker: FakeWorker, command: Command) -> Answer | None:
        picky = isinstance(command, Prepare) and command.arms[0]["name"] == "kv_format"
        return Failed("unsupported", "no") if picky else None

    faked.happens = happens
    claim, _ = run(tmp_path, planned(tmp_path, 2))
    seen = {(one.arm, one.replicate, one.status) for one in claim.observations}
    assert {one for one in seen if one[0] == "kv_format"} == {("kv_format", 0, "unsupported")}
    assert ("kv_heads", 2, "ok") in seen


@pytest.mark.parametrize("at", [0, 1, 5])
def test_ctrl_c_keeps_what_is_done(tmp_path: Path, faked: Faked, at: int) -> None:
    def happens(worker: FakeWorker, command: Command) -> Answer | None:
        if isinstance(command, Check) and len(faked.of(Check)) > at:
            raise KeyboardInterrupt
        return None

    faked.happens = happens
    claim, notes = run(tmp_path, planned(tmp_path, 1))
    assert claim.interrupted
    assert len(claim.observations) == at
    assert notes == [f"interrupted; {at} observations are kept"]
    assert {worker.state for worker, _ in faked.asked} == {"ended"}
    assert [row.work for row in claim.ceilings if "turns" in row.config] == ["read", "fma_f32"]


def test_without_ceilings_there_is_no_ridge_and_a_note(tmp_path: Path, faked: Faked) -> None:
    def happens(worker: FakeWorker, command: Command) -> Answer | None:
        if isinstance(command, MeasureMachine | MeasureBackend | OpenCeiling):
            raise dying("exit status 1: no OpenMP")
        return None

    faked.happens = happens
    claim, notes = run(tmp_path, planned(tmp_path, 1, 5))
    assert {row.status for row in claim.ceilings} == {"crashed"}
    assert notes[0] == "no ceilings: experiment 1 is left out, which needs a ridge"
    assert {one.experiment for one in claim.observations} == {5}
    assert {one.status for one in claim.observations} == {"ok"}
    assert {one.read_bytes_per_s for one in claim.observations} == {None}
    assert {(turn.ceiling("read")) for one in claim.observations for turn in one.turns} == {None}


def test_a_process_that_dies_takes_only_its_arm_with_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Real workers, and a backend that dies of a segmentation fault on m = 13."""
    fake_backends.install(tmp_path / "site", monkeypatch)
    arms = [Arm("linear", "one", Linear(33, 64, m, "f32").spec, {"m": m}) for m in (1, 13, 2)]
    monkeypatch.setattr(claim_execute, "arms_of", lambda number, scene: arms)
    monkeypatch.setattr(claim_execute, "measure_machine", lambda claim, threads: None)
    monkeypatch.setattr(claim_execute, "ask_backend", lambda claim, backend, asked: None)
    monkeypatch.setattr("membound.bench.claim.ceilings.TurningCeilings.between", lambda self, cell, arms: {})
    plan = planned(tmp_path, 3, backends=("segv:cpu",), processes=1, rounds=3)
    claim, _ = run(tmp_path, plan)
    found = {one.number("m"): one for one in claim.observations}
    assert {m: one.status for m, one in found.items()} == {1: "ok", 13: "crashed", 2: "ok"}
    assert found[13].reason == "while preparing: SIGSEGV: about to touch address zero"
    assert all(len(found[m].turns) == 3 and found[m].seconds > 0 for m in (1, 2))
