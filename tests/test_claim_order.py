"""In which order a claim measures, and what it leaves out when minutes are short."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import claim_workers
import pytest
from claim_workers import REGISTER, FakeWorker, honest, planned, run

from membound.bench.claim import execute as claim
from membound.bench.claim.claiming import Claiming
from membound.bench.protocol.process import WorkerDiedError
from membound.results.claim.judge import judge_claim
from membound.results.claim.observation import NO_TIME, SKIPPED


@pytest.fixture
def worker(monkeypatch: pytest.MonkeyPatch) -> type[FakeWorker]:
    return claim_workers.install(monkeypatch)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Seconds that tests let pass."""
    now = [0.0]
    monkeypatch.setattr(claim.time, "monotonic", lambda: now[0])
    return now


def number_of(job: dict[str, Any]) -> int:
    """The experiment of a trial, by its arms."""
    spec, factors = job["arms"][0]["work"], job["arms"][0]["factors"]
    if "duty" in factors or "k" in factors:
        return 4 if "duty" in factors else 1
    if "working_set_bytes" in factors:
        return 5
    named = {"m": 3, "batch": 6, "kv_heads": 2, "operations": 7, "dose": 10}
    return next((n for name, n in named.items() if name in factors), 8 if spec else 0)


def taking(clock: list[float], seconds: Any) -> Any:
    """A script whose trials let `seconds(backend, experiment)` pass."""

    def script(job: dict[str, Any]) -> Iterator[dict[str, Any]]:
        if job["job"] == "trial":
            clock[0] += seconds(job["backend"], number_of(job))
        yield from honest(job)

    return staticmethod(script)


def trials(worker: type[FakeWorker]) -> list[tuple[str, int, int]]:
    """Backend, process and experiment of each trial, in order."""
    return [(j["backend"], j["replicate"], number_of(j)) for j in worker.jobs if j["job"] == "trial"]


def measured(claiming: Claiming, backend: str) -> dict[int, set[int]]:
    """The processes of each experiment that has any on a backend."""
    found: dict[int, set[int]] = {}
    for one in claiming.observations:
        if one.backend == backend and one.status == "ok":
            found.setdefault(one.experiment, set()).add(one.replicate)
    return found


def skipped(claiming: Claiming) -> set[tuple[int, str, int, str]]:
    return {
        (o.experiment, o.backend, o.replicate, o.reason) for o in claiming.observations if o.status == SKIPPED
    }


def test_a_backend_is_done_before_the_next_and_its_processes_come_in_rounds(
    tmp_path: Path, worker: type[FakeWorker]
) -> None:
    plan = planned(tmp_path, 2, 3, 5, 6, 7, 10, backends=("numba:cpu", "numpy:cpu"), time_limit_s=None)
    run(tmp_path, plan)
    order = trials(worker)
    assert [(b, r) for b, r, _ in order[::6]] == [(b, r) for b in plan.backends for r in range(3)]
    rounds = [tuple(n for _, _, n in order[at : at + 6]) for at in range(0, 36, 6)]
    assert all(sorted(one) == [2, 3, 5, 6, 7, 10] for one in rounds)
    assert len(set(rounds)) == 6


def test_the_first_processes_of_all_come_by_preference_and_then_at_random(
    tmp_path: Path, worker: type[FakeWorker], clock: list[float]
) -> None:
    worker.script = taking(clock, lambda backend, number: 1.0)
    run(tmp_path, planned(tmp_path, 2, 3, 5, 6, 7, 10, backends=("numba:cpu", "numpy:cpu")))
    numbers = [n for _, _, n in trials(worker)]
    assert numbers[:6] == [5, 2, 3, 6, 7, 10]
    assert all(numbers[at : at + 6] != numbers[:6] for at in range(6, 36, 6))


def test_what_has_no_time_for_all_its_processes_is_not_begun(
    tmp_path: Path, worker: type[FakeWorker], clock: list[float]
) -> None:
    worker.script = taking(clock, lambda backend, number: 20.0 if backend == "numpy:cpu" else 10.0)
    plan = planned(tmp_path, 2, 3, 5, 6, backends=("numba:cpu", "numpy:cpu"), time_limit_s=290.0)
    claiming, notes = run(tmp_path, plan)
    assert measured(claiming, "numba:cpu") == {key: {0, 1, 2} for key in (2, 3, 5, 6)}
    assert sum(len(of) for of in measured(claiming, "numpy:cpu").values()) == 6  # 170 s, 60 s for each
    assert set(map(len, measured(claiming, "numpy:cpu").values())) == {3}
    never = {2, 3, 5, 6} - set(measured(claiming, "numpy:cpu"))
    assert skipped(claiming) == {(n, "numpy:cpu", 0, NO_TIME) for n in never}
    listed = ", ".join(map(str, sorted(never)))
    assert notes == [
        f"time limit of 290 s: not begun: experiment {listed} on numpy:cpu; --rigor high measures them all"
    ]
    assert clock[0] <= 290
    findings = judge_claim(claiming.observations, REGISTER, plan.experiments)
    said = {f.sentence for f in findings if f.backend == "numpy:cpu" and f.experiment in never}
    assert said == {"Not run: no time left."}
    assert all("processes" not in f.sentence for f in findings)


def test_on_the_first_backend_the_direct_experiments_are_preferred(
    tmp_path: Path, worker: type[FakeWorker], clock: list[float]
) -> None:
    worker.script = taking(clock, lambda backend, number: 30.0)
    claiming, notes = run(tmp_path, planned(tmp_path, time_limit_s=300.0))
    assert measured(claiming, "numba:cpu") == {key: {0, 1, 2} for key in (5, 1, 2)}
    assert "not begun: experiment 3, 4, 6, 7, 8, 10 on numba:cpu" in notes[0]
    assert clock[0] == 270


def test_a_dear_experiment_gives_way_to_cheaper_ones(
    tmp_path: Path, worker: type[FakeWorker], clock: list[float]
) -> None:
    worker.script = taking(clock, lambda backend, number: 100.0 if number == 3 else 5.0)
    plan = planned(tmp_path, 3, 5, 6, backends=("numba:cpu", "numpy:cpu"), time_limit_s=500.0)
    claiming, notes = run(tmp_path, plan)
    assert set(measured(claiming, "numba:cpu")) == {3, 5, 6}
    assert measured(claiming, "numpy:cpu") == {key: {0, 1, 2} for key in (5, 6)}
    assert len(notes) == 1


def test_a_process_that_took_longer_than_expected_ends_others_and_is_told(
    tmp_path: Path, worker: type[FakeWorker], clock: list[float]
) -> None:
    def seconds(backend: str, number: int) -> float:
        return 90.0 if number == 6 and clock[0] > 20 else 10.0

    worker.script = taking(clock, seconds)
    claiming, notes = run(tmp_path, planned(tmp_path, 5, 6, time_limit_s=120.0))
    assert len(notes) == 1
    assert "fewer processes than planned: experiment" in notes[0]
    assert all(replicate > 0 for _, _, replicate, _ in skipped(claiming))
    undecided = judge_claim(claiming.observations, REGISTER, (5, 6))
    assert any("processes measured every dose; no time left" in f.sentence for f in undecided)


def test_a_worker_is_told_how_much_time_is_left(
    tmp_path: Path, worker: type[FakeWorker], clock: list[float]
) -> None:
    worker.script = taking(clock, lambda backend, number: 40.0)
    run(tmp_path, planned(tmp_path, 5, time_limit_s=125.0))
    assert [job["left_s"] for job in worker.jobs if job["job"] == "trial"] == [125.0, 85.0, 45.0]
    worker.jobs.clear()
    (tmp_path / "unlimited").mkdir()
    run(tmp_path / "unlimited", planned(tmp_path, 5, time_limit_s=None))
    assert [job["left_s"] for job in worker.jobs if job["job"] == "trial"] == [None] * 3


def test_arms_that_a_worker_had_no_time_for_are_kept_as_such(
    tmp_path: Path, worker: type[FakeWorker]
) -> None:
    def script(job: dict[str, Any]) -> Iterator[dict[str, Any]]:
        for event in honest(job):
            late = event["event"] == "outcome" and job["replicate"] == 2
            lost = {"status": SKIPPED, "reason": NO_TIME, "samples_s": []}
            yield event | lost if late else event

    worker.script = staticmethod(script)
    claiming, _ = run(tmp_path, planned(tmp_path, 5))
    (finding,) = judge_claim(claiming.observations, REGISTER, (5,))
    assert finding.sentence == "Not decided: 2 of 3 processes measured every dose; no time left."


def refusing(**refused: dict[str, dict[str, str]]) -> Any:
    """A script whose backends say what they cannot do: by name, experiment and arm."""

    def script(job: dict[str, Any]) -> Iterator[dict[str, Any]]:
        if job["job"] == "measure":
            asked = {number: {} for number in map(str, job["asked"])}
            yield {"event": "offers", "refused": asked | refused.get(job["backend"].partition(":")[0], {})}
        yield from honest(job)

    return staticmethod(script)


def test_the_backend_that_can_do_most_experiments_comes_first(
    tmp_path: Path, worker: type[FakeWorker]
) -> None:
    few = {"2": dict.fromkeys(("kv_heads", "kv_format", "weight_format"), "no")}
    worker.script = refusing(numpy=few, numba={"2": {"kv_format": "no"}})
    names = ("numpy:cpu", "torch:cpu", "numba:cpu")
    claiming, _ = run(tmp_path, planned(tmp_path, 2, 5, backends=names, processes=1))
    assert list(dict.fromkeys(b for b, _, _ in trials(worker))) == ["torch:cpu", "numba:cpu", "numpy:cpu"]
    assert ("numpy:cpu", 0, 2) not in trials(worker)
    told = {
        (o.status, o.reason) for o in claiming.observations if o.backend == "numpy:cpu" and o.experiment == 2
    }
    assert told == {("unsupported", "no")}


def test_a_backend_that_cannot_be_asked_comes_last_and_is_tried(
    tmp_path: Path, worker: type[FakeWorker]
) -> None:
    asked = refusing()

    def script(job: dict[str, Any]) -> Iterator[dict[str, Any]]:
        if job["job"] == "measure" and job["backend"] == "numpy:cpu":
            raise WorkerDiedError("SIGILL: bye")
        yield from asked.__func__(job)

    worker.script = staticmethod(script)
    run(tmp_path, planned(tmp_path, 5, backends=("numpy:cpu", "numba:cpu"), processes=1))
    assert trials(worker) == [("numba:cpu", 0, 5), ("numpy:cpu", 0, 5)]
