"""The time limit: first replicates always run, later ones share what is left, and what was left out is said."""

from __future__ import annotations

import random
from dataclasses import dataclass
from math import inf
from pathlib import Path
from typing import Any

import pytest
from fake_workers import Workers
from small_runs import cases, executed, planned

from membound.bench.measure.rounds import Pace
from membound.bench.protocol import messages as m
from membound.bench.run import minutes as module
from membound.bench.run.minutes import Minutes
from membound.kernels.work import parse

SHORT, LONG = (parse(f"linear:n=8,k=32,m={m},weight=f32").spec for m in (1, 2))
BACKENDS = ["numba:cpu+a", "numba:cpu+b"]


@dataclass
class Clock:
    """Stands still but for what is added."""

    now: float = 1000.0


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(module.time, "perf_counter", lambda: made.now)
    return made


def test_a_work_that_was_never_played_gets_what_it_wants(clock: Clock) -> None:
    minutes, wanted = Minutes(100.0, clock.now), Pace(9, 4.0, 3)
    assert minutes.pace("a", wanted, ["a", "b"], 3) == wanted
    assert minutes.has_time("a", 3)
    minutes.learn("a", 1.0, 0.1)
    assert Minutes(None, clock.now).pace("a", wanted, ["a"], 0) == wanted
    assert Minutes(None, clock.now).left_s == inf


def test_what_is_left_is_shared_among_the_works_to_come(clock: Clock) -> None:
    minutes, wanted = Minutes(100.0, clock.now, start_s=5.0), Pace(9, 4.0, 3)
    minutes.learn("a", 6.0, 0.5)
    minutes.learn("b", 2.0, 1.0)
    clock.now += 55  # of 45 s, 5 are kept back, 5 for a start, 16 around works, 9 are least rounds, 10 are shared by 4 works
    assert minutes.pace("a", wanted, ["a", "b", "a", "b"], 1) == Pace(9, 1.5 + 10 / 4, 3)
    assert minutes.pace("b", wanted, ["b", "a", "b", "a"], 1) == Pace(9, 4.0, 3), "no more than was wanted"
    clock.now += 35
    assert minutes.pace("a", wanted, ["a", "b", "a", "b"], 1) == Pace(9, 1.5, 3), (
        "its least rounds, at any rate"
    )


def test_paces_together_never_exceed_what_is_left(clock: Clock) -> None:
    rng = random.Random()
    for _ in range(200):
        limit_s = rng.uniform(1, 300)
        minutes = Minutes(limit_s, clock.now, start_s=rng.uniform(0, 5))
        works = [f"w{i}" for i in range(rng.randint(1, 6))]
        for work in works:
            minutes.learn(work, rng.uniform(0, 5), rng.uniform(0, 2))
        coming = works * rng.randint(1, 4)
        starts, wanted = rng.randint(0, 3), Pace(99, rng.uniform(0, 60), rng.randint(1, 5))
        fixed = starts * minutes.start_s + sum(minutes.around_s[w] for w in coming)
        least = sum(wanted.least * minutes.round_s[w] for w in coming)
        seconds = sum(minutes.pace(work, wanted, coming, starts).seconds for work in coming)
        assert seconds <= max(least, limit_s - fixed) * (1 + 1e-9)


def test_compiling_is_done_once_and_does_not_count(clock: Clock) -> None:
    minutes = Minutes(10.0, clock.now)
    for phase, seconds in (
        ("opening", 1),
        ("compiling a", 30),
        ("compiling b", 20),
        ("checking", 2),
        ("", 1),
    ):
        minutes.enter(phase)
        clock.now += seconds
    assert minutes.once_s == 50
    assert minutes.left_s == 10 - 4


def test_a_work_has_time_if_its_least_rounds_have(clock: Clock) -> None:
    minutes = Minutes(10.0, clock.now)
    minutes.learn("a", 4.0, 2.0)
    assert minutes.has_time("a", 3)
    clock.now += 0.1
    assert not minutes.has_time("a", 3)
    assert minutes.has_time("a", 2)


# In a run


def taking(workers: Workers, clock: Clock, turn_s: dict[str, float], prepare_s: float = 0.0) -> None:
    """Turns and preparations take that many seconds by the clock."""

    def acts(worker: Any, command: Any) -> None:
        if isinstance(command, m.TakeTurn):
            clock.now += turn_s[worker.works[0]]
        elif isinstance(command, m.Prepare):
            clock.now += prepare_s

    workers.acts = acts


def counts(rows: list[Any]) -> dict[tuple[int, str], int]:
    """Turns of each work in each replicate, the same for all backends."""
    found: dict[tuple[int, str], set[int]] = {}
    for row in rows:
        found.setdefault((row.replicate, row.work), set()).add(len(row.turns))
    assert all(len(numbers) == 1 for numbers in found.values())
    return {key: numbers.pop() for key, numbers in found.items()}


def test_first_replicates_run_however_long_they_take(tmp_path: Path, workers: Workers, clock: Clock) -> None:
    taking(workers, clock, {SHORT: 50.0, LONG: 50.0})
    plan = planned(BACKENDS, [SHORT, LONG], time_limit_s=100.0, pace=Pace(5, 1e9, 2))
    rows, heard = executed(tmp_path, plan)
    assert counts(rows) == {(0, SHORT): 5, (0, LONG): 5}
    (note,) = heard.notes
    assert note.startswith("time limit of 100 s reached: 4 times a work was left out of a replicate")
    assert "--replicates N" in note


def test_later_replicates_take_fewer_rounds_to_fit_the_limit(
    tmp_path: Path, workers: Workers, clock: Clock
) -> None:
    """Two backends, a second a turn and another for the hot one: ten rounds and a hot turn take 22 s the first time."""
    taking(workers, clock, {SHORT: 1.0, LONG: 1.0})
    began = clock.now
    plan = planned(BACKENDS, [SHORT, LONG], time_limit_s=90.0, pace=Pace(10, 1e9, 2), replicates=3)
    rows, heard = executed(tmp_path, plan)
    found = counts(rows)
    assert {found[0, w] for w in (SHORT, LONG)} == {10}
    later = [found[n, w] for n in (1, 2) for w in (SHORT, LONG)]
    assert all(2 <= number < 10 for number in later), later
    assert max(later) - min(later) <= 2, "shared out evenly"
    assert clock.now - began <= 90.0 + 4 * 2, "a round is never broken off"
    assert heard.notes == []


def test_a_work_without_time_leaves_the_others_their_processes_and_ceilings(
    tmp_path: Path, workers: Workers, clock: Clock
) -> None:
    """Whichever comes first in a replicate, the long one is left out of it and the short one is measured in full."""
    taking(workers, clock, {SHORT: 0.01, LONG: 20.0})
    plan = planned(
        BACKENDS, [SHORT, LONG], time_limit_s=260.0, pace=Pace(4, 1e9, 4), replicates=8, ceilings=True
    )
    rows, heard = executed(tmp_path, plan)
    found = counts(cases(rows))
    assert found == {(0, LONG): 4} | {(n, SHORT): 4 for n in range(8)}
    assert all(t.ceiling("read") for r in cases(rows) for t in r.turns)
    assert {r.replicate for r in rows if r.kind == "ceiling" and "turns" in r.config} == set(range(8))
    assert "7 times a work was left out" in heard.notes[0]


def test_a_replicate_without_time_for_anything_starts_no_process(
    tmp_path: Path, workers: Workers, clock: Clock
) -> None:
    taking(workers, clock, {SHORT: 50.0})
    executed(tmp_path, planned(BACKENDS, [SHORT], time_limit_s=100.0, ceilings=True))
    assert len(workers.said(m.Open)) == len(BACKENDS)


def test_kernels_compiled_for_later_runs_cost_no_replicate(
    tmp_path: Path, workers: Workers, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two minutes of compiling in the first process of each backend, a second of everything else."""
    compiled: set[str] = set()
    ask = workers.kind.ask

    def slow(self: Any, command: Any, limit_s: float, on_phase: Any = lambda phase: None) -> Any:
        if isinstance(command, m.Prepare) and self.who not in compiled:
            compiled.add(self.who)
            on_phase(m.Phase("compiling a kernel"))
            clock.now += 120
            on_phase(m.Phase("checking"))
        return ask(self, command, limit_s, on_phase)

    monkeypatch.setattr(workers.kind, "ask", slow)
    taking(workers, clock, {SHORT: 0.5}, prepare_s=1.0)
    plan = planned(BACKENDS, [SHORT], time_limit_s=60.0, pace=Pace(4, 1e9, 2))
    rows, heard = executed(tmp_path, plan)
    assert counts(rows) == {(n, SHORT): 4 for n in range(3)}
    assert heard.notes == []


def test_the_start_of_the_ceilings_takes_no_works_seconds(
    tmp_path: Path, workers: Workers, clock: Clock
) -> None:
    """Opening them takes minutes where kernels are compiled; a work of four seconds has its rounds all the same."""

    def acts(worker: Any, command: Any) -> None:
        clock.now += 100 if isinstance(command, m.OpenCeiling) else 0.1 * isinstance(command, m.TakeTurn)

    workers.acts = acts
    rows, _ = executed(
        tmp_path, planned(BACKENDS, [SHORT], pace=Pace(8, 4.0, 2), ceilings=True, replicates=2)
    )
    assert {len(r.turns) for r in cases(rows)} == {8}
