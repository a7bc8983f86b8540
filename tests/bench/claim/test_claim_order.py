"""In which order a claim measures, and what it leaves out when minutes are short."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import claim_workers
import pytest
from claim_workers import REGISTER, Faked, FakeWorker, dying, number_of, run

from membound.bench.claim.claiming import Claiming
from membound.bench.claim.plan import ClaimPlan
from membound.bench.protocol.messages import Answer, AskOffers, Command, MeasureMachine, Offers, Prepare
from membound.results.claim.judge import judge_claim
from membound.results.claim.observation import NO_TIME, SKIPPED

FEW_ROUNDS = 5
"""Of turns: the order is that of processes, whatever each plays."""


def planned(folder: Path, *only: int, **more: Any) -> ClaimPlan:
    return claim_workers.planned(folder, *only, **({"rounds": FEW_ROUNDS} | more))


@pytest.fixture
def faked(monkeypatch: pytest.MonkeyPatch) -> Faked:
    return claim_workers.install(monkeypatch)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch, faked: Faked) -> list[float]:
    """Seconds that tests let pass."""
    return claim_workers.stop_clock(monkeypatch, faked)


def taking(faked: Faked, seconds: Callable[[str, int], float]) -> None:
    """Let each process of an experiment on a backend take that long."""

    def happens(worker: FakeWorker, command: Command) -> Answer | None:
        if isinstance(command, Prepare) and worker not in seen:
            seen.append(worker)
            faked.now_s[0] += seconds(worker.backend, number_of(worker.arms[command.contestant][0]))
        return None

    seen: list[FakeWorker] = []
    faked.happens = happens


def measured(claim: Claiming, backend: str) -> dict[int, set[int]]:
    """The processes of each experiment that has any on a backend."""
    found: dict[int, set[int]] = {}
    for one in claim.observations:
        if one.backend == backend and one.status == "ok":
            found.setdefault(one.experiment, set()).add(one.replicate)
    return found


def skipped(claim: Claiming) -> set[tuple[int, str, int, str]]:
    return {
        (o.experiment, o.backend, o.replicate, o.reason) for o in claim.observations if o.status == SKIPPED
    }


def test_a_backend_is_done_before_the_next_and_its_processes_come_in_rounds(
    tmp_path: Path, faked: Faked
) -> None:
    plan = planned(tmp_path, 2, 3, 5, 6, 7, 10, backends=("numba:cpu", "numpy:cpu"), time_limit_s=None)
    run(tmp_path, plan, faked=faked)
    order = faked.trials
    assert [(b, r) for b, r, _ in order[::6]] == [(b, r) for b in plan.backends for r in range(3)]
    rounds = [tuple(n for _, _, n in order[at : at + 6]) for at in range(0, 36, 6)]
    assert all(sorted(one) == [2, 3, 5, 6, 7, 10] for one in rounds)
    assert len(set(rounds)) == 6


def test_the_first_processes_of_all_come_by_preference_and_then_at_random(
    tmp_path: Path, faked: Faked, clock: list[float]
) -> None:
    taking(faked, lambda backend, number: 1.0)
    run(tmp_path, planned(tmp_path, 2, 3, 5, 6, 7, 10, backends=("numba:cpu", "numpy:cpu")), faked=faked)
    numbers = [n for _, _, n in faked.trials]
    assert numbers[:6] == [5, 2, 3, 6, 7, 10]
    assert all(numbers[at : at + 6] != numbers[:6] for at in range(6, 36, 6))


def test_what_has_no_time_for_all_its_processes_is_not_begun(
    tmp_path: Path, faked: Faked, clock: list[float]
) -> None:
    taking(faked, lambda backend, number: 20.0 if backend == "numpy:cpu" else 10.0)
    plan = planned(tmp_path, 2, 3, 5, 6, backends=("numba:cpu", "numpy:cpu"), time_limit_s=290.0)
    claim, notes = run(tmp_path, plan, faked=faked)
    assert measured(claim, "numba:cpu") == {key: {0, 1, 2} for key in (2, 3, 5, 6)}
    assert sum(len(of) for of in measured(claim, "numpy:cpu").values()) == 6  # 170 s, 60 s for each
    assert set(map(len, measured(claim, "numpy:cpu").values())) == {3}
    never = {2, 3, 5, 6} - set(measured(claim, "numpy:cpu"))
    assert skipped(claim) == {(n, "numpy:cpu", 0, NO_TIME) for n in never}
    listed = ", ".join(map(str, sorted(never)))
    assert notes == [
        f"time limit of 290 s: not begun: experiment {listed} on numpy:cpu; --rigor high measures them all"
    ]
    assert clock[0] <= 290
    findings = judge_claim(claim.observations, REGISTER, plan.experiments)
    said = {f.sentence for f in findings if f.backend == "numpy:cpu" and f.experiment in never}
    assert said == {"Not run: no time left."}
    assert all("processes" not in f.sentence for f in findings)


def test_on_the_first_backend_the_direct_experiments_are_preferred(
    tmp_path: Path, faked: Faked, clock: list[float]
) -> None:
    taking(faked, lambda backend, number: 30.0)
    claim, notes = run(tmp_path, planned(tmp_path, time_limit_s=300.0), faked=faked)
    assert measured(claim, "numba:cpu") == {key: {0, 1, 2} for key in (5, 1, 2)}
    assert "not begun: experiment 3, 4, 6, 7, 8, 10, 11, 12, 13 on numba:cpu" in notes[0]
    assert clock[0] == 270


def test_a_dear_experiment_gives_way_to_cheaper_ones(
    tmp_path: Path, faked: Faked, clock: list[float]
) -> None:
    taking(faked, lambda backend, number: 100.0 if number == 3 else 5.0)
    plan = planned(tmp_path, 3, 5, 6, backends=("numba:cpu", "numpy:cpu"), time_limit_s=500.0)
    claim, notes = run(tmp_path, plan, faked=faked)
    assert set(measured(claim, "numba:cpu")) == {3, 5, 6}
    assert measured(claim, "numpy:cpu") == {key: {0, 1, 2} for key in (5, 6)}
    assert len(notes) == 1


def test_a_process_that_took_longer_than_expected_ends_others_and_is_told(
    tmp_path: Path, faked: Faked, clock: list[float]
) -> None:
    def seconds(backend: str, number: int) -> float:
        return 90.0 if number == 6 and clock[0] > 20 else 10.0

    taking(faked, seconds)
    claim, notes = run(tmp_path, planned(tmp_path, 5, 6, time_limit_s=120.0), faked=faked)
    assert len(notes) == 1
    assert "fewer processes than planned: experiment" in notes[0]
    assert all(replicate > 0 for _, _, replicate, _ in skipped(claim))
    undecided = judge_claim(claim.observations, REGISTER, (5, 6))
    assert any("processes measured every dose; no time left" in f.sentence for f in undecided)


def test_a_process_that_outlasts_the_limit_leaves_out_what_it_had_not_begun(
    tmp_path: Path, faked: Faked, clock: list[float]
) -> None:
    taking(faked, lambda backend, number: 70.0 if faked.notes.replicate == 2 else 20.0)
    claim, notes = run(tmp_path, planned(tmp_path, 5, time_limit_s=100.0), faked=faked)
    late = [one for one in claim.observations if one.replicate == 2]
    assert {(one.status, one.reason) for one in late} == {(SKIPPED, NO_TIME)}
    assert notes == [
        "time limit of 100 s: cut short: experiment 5 on numba:cpu; --rigor high measures them all"
    ]
    (finding,) = judge_claim(claim.observations, REGISTER, (5,))
    assert finding.sentence == "Not decided: 2 of 3 processes measured every dose; no time left."


def test_without_a_limit_nothing_is_left_out(tmp_path: Path, faked: Faked, clock: list[float]) -> None:
    taking(faked, lambda backend, number: 1e6)
    claim, notes = run(tmp_path, planned(tmp_path, 5, 6, time_limit_s=None), faked=faked)
    assert notes == []
    assert {one.status for one in claim.observations} == {"ok"}
    assert measured(claim, "numba:cpu") == {key: {0, 1, 2} for key in (5, 6)}


def refusing(faked: Faked, **refused: dict[str, dict[str, str]]) -> None:
    """Have backends say what they cannot do: by name, experiment and arm."""

    def happens(worker: FakeWorker, command: Command) -> Answer | None:
        if not isinstance(command, AskOffers):
            return None
        name = worker.backend.partition(":")[0]
        return Offers({number: {} for number in command.asked} | refused.get(name, {}))

    faked.happens = happens


def test_the_backend_that_can_do_most_experiments_comes_first(tmp_path: Path, faked: Faked) -> None:
    few = {"2": dict.fromkeys(("kv_heads", "kv_format", "weight_format"), "no")}
    refusing(faked, numpy=few, numba={"2": {"kv_format": "no"}})
    names = ("numpy:cpu", "torch:cpu", "numba:cpu")
    claim, _ = run(tmp_path, planned(tmp_path, 2, 5, backends=names, processes=1), faked=faked)
    assert list(dict.fromkeys(b for b, _, _ in faked.trials)) == ["torch:cpu", "numba:cpu", "numpy:cpu"]
    assert ("numpy:cpu", 0, 2) not in faked.trials
    told = {
        (o.status, o.reason) for o in claim.observations if o.backend == "numpy:cpu" and o.experiment == 2
    }
    assert told == {("unsupported", "no")}


def test_a_backend_is_asked_about_every_arm_even_where_no_ridge_is_known(
    tmp_path: Path, faked: Faked
) -> None:
    def happens(worker: FakeWorker, command: Command) -> Answer | None:
        if isinstance(command, MeasureMachine):
            raise dying()
        return None

    faked.happens = happens
    run(tmp_path, planned(tmp_path, 1, 5, processes=1), faked=faked)
    (asked,) = faked.of(AskOffers)
    assert asked.asked.keys() == {"1", "5"}
    assert {arm["name"] for arm in asked.asked["1"]} == {
        f"{kind}_{fmt}" for kind in ("linear", "attention") for fmt in ("f32", "bf16")
    }


def test_a_backend_that_cannot_be_asked_comes_last_and_is_tried(tmp_path: Path, faked: Faked) -> None:
    def happens(worker: FakeWorker, command: Command) -> Answer | None:
        if isinstance(command, AskOffers) and worker.backend == "numpy:cpu":
            raise dying("SIGILL: bye")
        return None

    faked.happens = happens
    plan = planned(tmp_path, 5, backends=("numpy:cpu", "numba:cpu"), processes=1)
    claim, _ = run(tmp_path, plan, faked=faked)
    assert faked.trials == [("numba:cpu", 0, 5), ("numpy:cpu", 0, 5)]
    assert {one.status for one in claim.observations} == {"ok"}
    failed = [(row.backend, row.status, row.reason) for row in claim.ceilings if row.status != "ok"]
    assert failed == [("numpy:cpu", "crashed", "while asking: SIGILL: bye")]
