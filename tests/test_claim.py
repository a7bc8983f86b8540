"""Running the experiments: everything that happens to a worker is an observation, and nothing measured is lost."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import claim_workers
import fake_backends
import pytest
from claim_workers import PEAK, READ, FakeWorker, ceilings, honest, outcome, planned, run

from membound.bench.claim import execute as claim
from membound.bench.claim.arms import Arm
from membound.bench.claim.execute import Claiming
from membound.bench.protocol.process import WorkerDiedError, WorkerTimeoutError, WorkerUnavailableError
from membound.kernels.work import Linear, parse
from membound.results.claim.observation import Observation


@pytest.fixture
def worker(monkeypatch: pytest.MonkeyPatch) -> type[FakeWorker]:
    return claim_workers.install(monkeypatch)


def test_every_arm_in_every_process_with_the_ceilings_it_is_held_against(
    tmp_path: Path, worker: type[FakeWorker]
) -> None:
    claiming, notes = run(tmp_path, planned(tmp_path, 1, 4))
    assert notes == []
    assert [j["job"] for j in worker.jobs[:3]] == ["ceilings", "ceilings", "measure"]
    assert [j["threads"] for j in worker.jobs[:3]] == [1, 2, 2]
    first = [o for o in claiming.observations if o.experiment == 1]
    assert {o.replicate for o in first} == {0, 1, 2}
    assert len(first) == 3 * len({(o.arm, o.number("k")) for o in first})
    one = next(o for o in first if o.arm == "linear_bf16" and o.number("k") > 0)
    assert (one.time_s, one.samples_s, one.validity) == (0.2, [0.3, 0.1, 0.2], "clean")
    assert (one.read_bytes_per_s, one.compute_flops_per_s, one.launch_s) == (2 * READ, 2 * PEAK, 1e-6)
    work = parse(one.work)
    assert one.bytes == work.traffic.total_bytes
    assert one.flops == work.flops * (1 + one.number("k"))
    victims = [o for o in claiming.observations if o.experiment == 4]
    assert {(o.threads, o.read_bytes_per_s) for o in victims} == {(1, READ)}
    assert {o.number("machine_read_bytes_per_s") for o in victims} == {2 * READ}


def test_captured_launches_are_arms_of_a_backend_that_has_them(
    tmp_path: Path, worker: type[FakeWorker]
) -> None:
    backends = ("numba:cpu", "numpy:cpu")
    plan = planned(tmp_path, 7, backends=backends, variants={"numpy:cpu": ("graph",)}, processes=1)
    claiming, _ = run(tmp_path, plan)
    seen = {(o.backend, o.arm) for o in claiming.observations}
    assert seen == {("numba:cpu", "plain"), ("numpy:cpu", "plain"), ("numpy:cpu", "graph")}
    # What launching costs was measured of the plain device alone.
    assert {o.launch_s for o in claiming.observations if o.arm == "graph"} == {None}
    assert {o.read_bytes_per_s for o in claiming.observations} == {2 * READ}


def test_what_was_measured_beside_a_dose_is_kept(tmp_path: Path, worker: type[FakeWorker]) -> None:
    def script(job: dict[str, Any]) -> Iterator[dict[str, Any]]:
        for event in honest(job):
            yield event | {"factors": {"stolen_bytes_per_s": 5e9}} if event["event"] == "outcome" else event

    worker.script = staticmethod(script)
    claiming, _ = run(tmp_path, planned(tmp_path, 4))
    assert {o.number("stolen_bytes_per_s") for o in claiming.observations} == {5e9}
    assert {o.number("duty") for o in claiming.observations} == {0.0, 0.25, 0.5, 1.0}


def test_a_crash_blames_the_arm_that_was_at_it_and_the_others_go_on(
    tmp_path: Path, worker: type[FakeWorker]
) -> None:
    def script(job: dict[str, Any]) -> Iterator[dict[str, Any]]:
        if job["job"] != "trial":
            yield from ceilings(job)
            return
        for index, arm in enumerate(job["arms"]):
            yield {"event": "phase", "phase": "preparing", "arms": [index]}
            if arm["factors"]["m"] == 8:
                raise WorkerDiedError("SIGSEGV: bye")
            yield outcome(index)

    worker.script = staticmethod(script)
    claiming, _ = run(tmp_path, planned(tmp_path, 3))
    crashed = [o for o in claiming.observations if o.status != "ok"]
    assert {(o.number("m"), o.status, o.reason) for o in crashed} == {
        (8, "crashed", "while preparing: SIGSEGV: bye")
    }
    assert len(crashed) == 6  # two formats, three processes: a crash may have had an outer cause
    assert all(o.time_s is None for o in crashed)
    keys = [(o.replicate, o.arm, o.number("m")) for o in claiming.observations]
    assert len(keys) == len(set(keys)) == 3 * 2 * 10


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (WorkerTimeoutError("silent for 300 s"), "timeout"),
        (WorkerUnavailableError("no python"), "unavailable"),
    ],
)
def test_a_worker_that_says_nothing_fails_all_its_arms_once(
    tmp_path: Path, worker: type[FakeWorker], error: Exception, status: str
) -> None:
    def script(job: dict[str, Any]) -> Iterator[dict[str, Any]]:
        if job["job"] == "trial":
            raise error
        yield from ceilings(job)

    worker.script = staticmethod(script)
    claiming, _ = run(tmp_path, planned(tmp_path, 5, backends=("numba:cpu", "numpy:cpu")))
    assert {(o.status, o.reason, o.replicate) for o in claiming.observations} == {(status, str(error), 0)}
    assert len([j for j in worker.jobs if j["job"] == "trial"]) == 2


def test_what_cannot_be_done_is_not_tried_again(tmp_path: Path, worker: type[FakeWorker]) -> None:
    def script(job: dict[str, Any]) -> Iterator[dict[str, Any]]:
        for event in honest(job):
            picky = event["event"] == "outcome" and job["arms"][event["index"]]["name"] == "kv_format"
            yield event | {"status": "unsupported", "reason": "no", "samples_s": []} if picky else event

    worker.script = staticmethod(script)
    claiming, _ = run(tmp_path, planned(tmp_path, 2))
    seen = {(o.arm, o.replicate) for o in claiming.observations}
    assert ("kv_format", 0) in seen
    assert ("kv_format", 1) not in seen
    assert ("kv_heads", 2) in seen


@pytest.mark.parametrize("at", [0, 1, 5])
def test_ctrl_c_keeps_what_is_done(tmp_path: Path, worker: type[FakeWorker], at: int) -> None:
    seen: list[Any] = []

    def script(job: dict[str, Any]) -> Iterator[dict[str, Any]]:
        for event in honest(job):
            if event["event"] == "outcome":
                seen.append(event)
                if len(seen) > at:
                    raise KeyboardInterrupt
            yield event

    worker.script = staticmethod(script)
    claiming, notes = run(tmp_path, planned(tmp_path, 1))
    assert claiming.interrupted
    assert len(claiming.observations) == at
    assert notes == [f"interrupted; {at} observations are kept"]


def test_what_is_kept_on_disk_does_not_count_as_a_cost(
    tmp_path: Path, worker: type[FakeWorker], monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [0.0]
    monkeypatch.setattr(claim.time, "monotonic", lambda: now[0])

    def script(job: dict[str, Any]) -> Iterator[dict[str, Any]]:
        if job["job"] == "trial":
            for phase, seconds in (("compiling x", 100.0), ("preparing", 7.0), ("checking", 20.0)):
                yield {"event": "phase", "phase": phase, "arms": [0]}
                now[0] += seconds
        yield from honest(job)

    worker.script = staticmethod(script)
    claiming, notes = run(tmp_path, planned(tmp_path, 5, processes=1))
    assert claiming.budget.costs_s == {(5, "numba:cpu"): 7.0}
    assert notes == []


def test_without_ceilings_there_is_no_ridge_and_a_note(tmp_path: Path, worker: type[FakeWorker]) -> None:
    def script(job: dict[str, Any]) -> Iterator[dict[str, Any]]:
        if job["job"] != "trial":
            raise WorkerDiedError("exit status 1: no OpenMP")
        yield from honest(job)

    worker.script = staticmethod(script)
    claiming, notes = run(tmp_path, planned(tmp_path, 1, 5))
    assert {r.status for r in claiming.ceilings} == {"crashed"}
    assert notes == ["no ceilings: experiment 1 is left out, which needs a ridge"]
    assert {o.experiment for o in claiming.observations} == {5}
    assert {o.read_bytes_per_s for o in claiming.observations} == {None}


def test_clocks_count_only_where_both_can_be_read(tmp_path: Path, worker: type[FakeWorker]) -> None:
    def script(job: dict[str, Any]) -> Iterator[dict[str, Any]]:
        clocks = {"frequency_hz": 3e9, "device_clock_hz": 1.5e9}
        if job.get("backend") == "torch:cuda:1":
            clocks |= {"device_memory_clock_hz": 2.5e9}
        for event in honest(job):
            yield event | {"telemetry": clocks} if event["event"] == "outcome" else event

    worker.script = staticmethod(script)
    names = ("numba:cpu", "torch:cuda:0", "torch:cuda:1")
    claiming, _ = run(tmp_path, planned(tmp_path, 8, backends=names))
    blind = [o for o in claiming.observations if o.backend != "torch:cuda:1"]
    assert {(o.status, o.replicate) for o in blind} == {("unsupported", 0)}
    assert {o.backend for o in blind} == set(names[:2])
    assert all("cannot both be read" in o.reason for o in blind)
    assert [j["backend"] for j in worker.jobs if j["job"] == "trial"] == [
        "torch:cuda:0",
        *["torch:cuda:1"] * 8,
    ]
    seen = [o for o in claiming.observations if o.backend == "torch:cuda:1"]
    assert {o.status for o in seen} == {"ok"}
    assert (seen[0].number("core_clock_hz"), seen[0].number("memory_clock_hz")) == (1.5e9, 2.5e9)


def test_a_process_that_dies_takes_only_its_arm_with_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Real workers, and a backend that dies of a segmentation fault on m = 13."""
    fake_backends.install(tmp_path / "site", monkeypatch)
    arms = [Arm("linear", "one", Linear(33, 64, m, "f32").spec, {"m": m}) for m in (1, 13, 2)]
    monkeypatch.setattr(claim, "arms_of", lambda number, scene: arms)
    monkeypatch.setattr(Claiming, "_measure_ceilings", lambda self: None)
    claiming, _ = run(tmp_path, planned(tmp_path, 3, backends=("segv:cpu",), processes=1, rounds=3))
    found = {o.number("m"): o for o in claiming.observations}
    assert {m: o.status for m, o in found.items()} == {1: "ok", 13: "crashed", 2: "ok"}
    assert found[13].reason == "while preparing: SIGSEGV: about to touch address zero"
    assert all(len(found[m].samples_s) >= 3 and found[m].seconds > 0 for m in (1, 2))


def test_stored_observations_come_first(tmp_path: Path, worker: type[FakeWorker]) -> None:
    old = Observation(9, "numba:cpu", "decode", 0, {"machine": "A"}, "linear:n=1,k=1", 1, 1, 1.0, [1.0])
    claiming, _ = run(tmp_path, planned(tmp_path, 9), (old,))
    assert claiming.observations == [old]
