"""A group of arms in a process: rounds in random order, what time cuts off, works that are shared."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import claim_workers
import pytest
from claim_workers import Faked, FakeWorker, planned, run

from membound.bench.claim.plan import LEAST_ROUNDS
from membound.bench.protocol.messages import (
    Answer,
    Check,
    Command,
    Failed,
    OpenCeiling,
    Prepare,
    Release,
    TakeTurn,
)
from membound.results.claim.observation import NO_TIME, SKIPPED


@pytest.fixture
def faked(monkeypatch: pytest.MonkeyPatch) -> Faked:
    shared = claim_workers.install(monkeypatch)
    claim_workers.stop_clock(monkeypatch, shared)
    return shared


def taking(faked: Faked, seconds: Callable[[Command], float]) -> None:
    """Let commands take that long."""

    def happens(worker: FakeWorker, command: Command) -> Answer | None:
        faked.now_s[0] += seconds(command)
        return None

    faked.happens = happens


def timed(faked: Faked) -> list[tuple[int, int]]:
    """The contestants and arms of all turns."""
    return [(command.contestant, command.arm) for command in faked.of(TakeTurn)]


def test_every_arm_has_a_turn_in_every_round_and_the_order_is_random_but_repeatable(
    tmp_path: Path, faked: Faked
) -> None:
    plan = planned(tmp_path, 5, processes=2, rounds=5)
    run(tmp_path, plan)
    order = timed(faked)
    arms = len(faked.of(Prepare)) // 2
    rounds = [tuple(order[at : at + arms]) for at in range(0, len(order), arms)]
    assert len(rounds) == 2 * 5
    assert {frozenset(one) for one in rounds} == {frozenset((number, 0) for number in range(arms))}
    assert len({*rounds}) == len(rounds)
    faked.asked.clear()
    (tmp_path / "again").mkdir()
    run(tmp_path / "again", plan)
    assert timed(faked) == order


def test_arms_on_one_work_share_what_is_prepared_and_groups_follow_each_other(
    tmp_path: Path, faked: Faked
) -> None:
    run(tmp_path, planned(tmp_path, 4, processes=1, rounds=3))
    kinds = [type(command).__name__ for command in faked.of(Prepare, TakeTurn, Check, Release)]
    doses = 7
    assert kinds == ["Prepare", *["TakeTurn"] * 3 * doses, *["Check"] * doses, "Release"] * 2
    assert {*timed(faked)} == {(0, arm) for arm in range(doses)}
    for command in faked.of(Prepare):
        assert sorted((arm["trade"], arm["duty"]) for arm in command.arms) == [
            ("bandwidth", 0.25),
            ("bandwidth", 0.5),
            ("bandwidth", 1.0),
            ("fma", 0.25),
            ("fma", 0.5),
            ("fma", 1.0),
            ("idle", 0.0),
        ]


def test_time_ends_a_group_after_a_few_rounds(tmp_path: Path, faked: Faked) -> None:
    taking(faked, lambda command: 1.0 if isinstance(command, TakeTurn) else 0.0)
    plan = planned(tmp_path, 5, processes=1, rounds=50, group_s=2.0, time_limit_s=None)
    claim, notes = run(tmp_path, plan)
    assert {len(one.turns) for one in claim.observations} == {LEAST_ROUNDS}
    assert notes == []


def test_where_no_time_is_left_nothing_more_is_begun(tmp_path: Path, faked: Faked) -> None:
    taking(faked, lambda command: 60.0 if isinstance(command, Check) else 0.0)
    claim, notes = run(tmp_path, planned(tmp_path, 3, processes=1, time_limit_s=100.0), faked=faked)
    statuses = {one.arm: (one.status, one.reason) for one in claim.observations}
    assert statuses == {"linear_f32": ("ok", ""), "linear_bf16": (SKIPPED, NO_TIME)}
    assert {command.work.partition("weight=")[2][:3] for command in faked.of(Prepare)} == {"f32"}
    cut = "time limit of 100 s: cut short: experiment 3 on numba:cpu; --rigor high measures them all"
    assert notes == [cut]


def test_time_that_ends_while_a_group_is_prepared_leaves_all_of_it_out(tmp_path: Path, faked: Faked) -> None:
    taking(faked, lambda command: 10.0 if isinstance(command, Prepare) else 0.0)
    claim, notes = run(tmp_path, planned(tmp_path, 5, processes=1, time_limit_s=15.0), faked=faked)
    assert {(one.status, one.reason) for one in claim.observations} == {(SKIPPED, NO_TIME)}
    assert len(claim.observations) == len({one.work for one in claim.observations}) > 2
    assert len(faked.of(Prepare)) == 2
    assert faked.of(TakeTurn, Check) == []
    assert {command.contestant for command in faked.of(Release)} >= {0, 1}
    assert "cut short: experiment 5 on numba:cpu" in notes[0]


def test_time_that_ends_while_a_group_is_timed_ends_it_with_its_first_round(
    tmp_path: Path, faked: Faked
) -> None:
    taking(faked, lambda command: 10.0 if isinstance(command, TakeTurn) else 0.0)
    plan = planned(tmp_path, 3, processes=1, time_limit_s=5.0, rounds=9, group_s=1e9)
    claim, _ = run(tmp_path, plan, faked=faked)
    first, second = ([o for o in claim.observations if o.arm == f"linear_{w}"] for w in ("f32", "bf16"))
    assert {(one.status, len(one.turns)) for one in first} == {("ok", 1)}
    assert {(one.status, len(one.turns)) for one in second} == {(SKIPPED, 0)}


def test_starting_the_ceilings_is_no_cost_of_the_experiment_that_happens_to_be_first(
    tmp_path: Path, faked: Faked
) -> None:
    """Were it one, each of two more processes would be thought to take 50 s, and none begun."""
    taking(faked, lambda command: {OpenCeiling: 40.0, Release: 10.0 / 7}.get(type(command), 0.0))
    claim, notes = run(tmp_path, planned(tmp_path, 5, processes=3, time_limit_s=100.0), faked=faked)
    assert notes == []
    assert {one.status for one in claim.observations} == {"ok"}
    assert {one.replicate for one in claim.observations} == {0, 1, 2}
    assert faked.now_s[0] == pytest.approx(70.0)


def test_compiling_and_computing_references_are_no_cost_of_later_processes(
    tmp_path: Path, faked: Faked
) -> None:
    """Were they, two more processes would be thought to take 800 s each, and none begun."""
    done: set[str] = set()

    def phases(worker: FakeWorker, command: Command) -> list[str]:
        if not isinstance(command, Prepare) or command.work in done:
            return []
        done.add(command.work)
        return ["opening", "compiling a kernel", "checking", "fitting the burst"]

    def phase(backend: str, name: str) -> None:
        faked.now_s[0] += {"compiling a kernel": 100.0, "checking": 10.0}.get(name, 1.0)

    faked.phases = phases
    faked.notes.phase = phase  # type: ignore[method-assign]
    claim, notes = run(tmp_path, planned(tmp_path, 5, processes=3, time_limit_s=1000.0), faked=faked)
    assert notes == []
    assert {one.replicate for one in claim.observations if one.status == "ok"} == {0, 1, 2}
    assert 1000.0 > faked.now_s[0] > 700.0


@pytest.mark.parametrize("kind", [TakeTurn, Release])
def test_what_follows_a_check_is_a_cost_again(tmp_path: Path, faked: Faked, kind: type[Command]) -> None:
    """A process takes 100 s: after the first of three there is no time for two more."""
    count = 2 * 10 * (3 if kind is TakeTurn else 1)  # two groups of ten arms
    taking(faked, lambda command: 100.0 / count if type(command) is kind else 0.0)
    faked.phases = lambda worker, command: ["checking"] if isinstance(command, Prepare | Check) else []
    plan = planned(tmp_path, 3, processes=3, rounds=3, time_limit_s=250.0)
    claim, notes = run(tmp_path, plan, faked=faked)
    assert faked.now_s[0] == pytest.approx(100.0)
    assert {one.replicate for one in claim.observations if one.status == "ok"} == {0}
    assert notes[0].startswith("time limit of 250 s: fewer processes than planned: experiment 3 on numba:cpu")


def test_a_work_that_cannot_be_prepared_leaves_the_others_their_turns(tmp_path: Path, faked: Faked) -> None:
    def happens(worker: FakeWorker, command: Command) -> Answer | None:
        large = isinstance(command, Prepare) and command.contestant == 2
        return Failed("oom", "MemoryError: too much") if large else None

    faked.happens = happens
    claim, _ = run(tmp_path, planned(tmp_path, 5, processes=1, rounds=3))
    failed = [one for one in claim.observations if one.status != "ok"]
    assert [(one.status, one.reason) for one in failed] == [("oom", "MemoryError: too much")]
    assert {len(one.turns) for one in claim.observations if one.status == "ok"} == {3}
    assert 2 not in {number for number, _ in timed(faked)}
