"""Works too large for all backends at once: they play in groups, and everybody has turns and rows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from fake_workers import Workers, prepared
from small_runs import cases, executed, planned

from membound.bench.measure.rounds import Pace
from membound.bench.protocol import messages as m
from membound.bench.run import replicate
from membound.bench.run.room import COPIES, EVICTING_BYTES, FREE_SHARE, expected_bytes
from membound.kernels.slots import SET_BYTES
from membound.kernels.work import parse
from membound.results.stats import records, summarize

WORK = parse("linear:n=37,k=64,m=1,weight=f32").spec
BACKENDS = [f"numba:cpu+{letter}" for letter in "abc"]


def groups(workers: Workers) -> list[set[str]]:
    """Who was prepared at the same time."""
    found: list[set[str]] = []
    fresh = True
    for who, command in workers.log:
        if isinstance(command, m.Prepare):
            found += [set()] if fresh else []
            found[-1].add(who)
            fresh = False
        elif isinstance(command, m.Release):
            fresh = True
    return found


def free(monkeypatch: pytest.MonkeyPatch, workers: Workers, room: int, size: int) -> None:
    """Memory of `room` bytes, of which everything that is prepared holds `size`."""

    def available() -> int:
        held = len(workers.said(m.Prepare)) - len(workers.said(m.Release))
        return room - held * size

    monkeypatch.setattr(replicate, "available_memory_bytes", available)


@pytest.mark.parametrize(
    ("room", "sizes"),
    [(1, [1, 1, 1]), (2, [2, 1]), (3, [3])],
    ids=["one", "two", "all"],
)
def test_where_memory_is_short_groups_play_and_everybody_has_all_turns(
    tmp_path: Path, workers: Workers, monkeypatch: pytest.MonkeyPatch, room: int, sizes: list[int]
) -> None:
    one = expected_bytes(parse(WORK), 10**9) / FREE_SHARE
    free(monkeypatch, workers, int(room * one) + 100, int(one))
    rows, heard = executed(tmp_path, planned(BACKENDS, [WORK], replicates=1, ceilings=True))
    played = {row.backend: row for row in cases(rows)}
    assert set(played) == set(BACKENDS)
    assert all(r.status == "ok" and len(r.turns) == 4 for r in played.values())
    assert all(t.ceiling("read") for r in played.values() for t in r.turns)
    assert [len(group) for group in groups(workers)] == sizes
    rounds = [
        sorted({t.round for t in played[backend].turns}) for group in groups(workers) for backend in group
    ]
    assert sorted({r for found in rounds for r in found}) == list(range(4 * len(sizes)))
    assert heard.worked_on == [(WORK, 0)], "one work, however many groups"
    ratios = [line["ratio_to_fastest"] for line in records(summarize(rows))]
    assert min(ratios) == 1.0, "those that never met have a ratio all the same"


def test_what_is_expected_covers_the_input_sets_of_a_small_work_and_the_copies_of_a_large_one() -> None:
    """Before, 8 MB were expected of a product that then took 100 MB: in a container of 512 MB the kernel ended a process."""
    small, large = (parse(f"linear:n={n},k=1024,weight=f32") for n in (1024, 65536))
    room = 10**9
    of_sets = expected_bytes(small, room) - EVICTING_BYTES
    assert of_sets == 25 * (small.footprint_bytes + SET_BYTES) > 100 * 10**6
    assert expected_bytes(small, 10**7) == EVICTING_BYTES + COPIES * small.footprint_bytes
    assert expected_bytes(large, room) == EVICTING_BYTES + COPIES * large.footprint_bytes
    model = parse("step:model=tiny")
    assert expected_bytes(model, room) == EVICTING_BYTES + COPIES * model.footprint_bytes


def test_what_was_seen_to_be_smaller_than_thought_joins_the_next_time(
    tmp_path: Path, workers: Workers, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before a work has been prepared, all its input sets are expected; it took one."""
    workers.acts = lambda worker, c: prepared(c.work, slots=1) if isinstance(c, m.Prepare) else None
    expected = expected_bytes(parse(WORK), 10**9)
    free(monkeypatch, workers, int(1.1 * expected / FREE_SHARE), expected // 2)
    executed(tmp_path, planned(BACKENDS[:2], [WORK], replicates=2))
    assert [len(group) for group in groups(workers)] == [1, 1, 2]


@pytest.mark.parametrize("always", [False, True])
def test_who_runs_out_of_memory_beside_others_is_tried_again_alone(
    tmp_path: Path, workers: Workers, monkeypatch: pytest.MonkeyPatch, always: bool
) -> None:
    monkeypatch.setattr(replicate, "available_memory_bytes", lambda: 1 << 40)
    hungry, held = "", set[str]()

    def acts(worker: Any, command: Any) -> Any:
        nonlocal hungry
        if isinstance(command, m.Release):
            held.discard(worker.who)
        elif isinstance(command, m.Prepare):
            hungry = hungry or (worker.who if held else "")
            if worker.who == hungry and (held or always):
                return m.Failed("oom", "MemoryError")
            held.add(worker.who)
        return None

    workers.acts = acts
    rows, _ = executed(tmp_path, planned(BACKENDS, [WORK], replicates=1))
    outcomes = {row.backend: (row.status, len(row.turns)) for row in rows}
    assert outcomes == dict.fromkeys(BACKENDS, ("ok", 4)) | {hungry: ("oom", 0) if always else ("ok", 4)}
    assert len(rows) == 3
    tries = [who for who, c in workers.log if isinstance(c, m.Prepare)]
    assert [i for i, who in enumerate(tries) if who == hungry] == [1, 3]
    assert len(workers.said(m.Open, hungry)) == 2, "a fresh process has nothing left of what was too much"


@pytest.mark.parametrize("compiles", [True, False])
@pytest.mark.parametrize("failures", [1, 5])
def test_who_lacks_the_memory_that_compiling_took_is_tried_again_once_in_a_fresh_process(
    tmp_path: Path, workers: Workers, compiles: bool, failures: int
) -> None:
    """It is alone: nobody else's memory was in its way."""

    def acts(worker: Any, command: Any) -> Any:
        tries = len(workers.said(m.Prepare))
        if isinstance(command, m.Prepare) and tries <= failures:
            return m.Failed("oom", "CeilingMemoryError: no room")
        return None

    workers.acts, workers.compiles = acts, compiles
    rows, _ = executed(tmp_path, planned(BACKENDS[:1], [WORK], replicates=1))
    assert [row.status for row in rows] == ["ok" if compiles and failures == 1 else "oom"]
    assert len(workers.said(m.Prepare)) == len(workers.said(m.Open)) == (2 if compiles else 1)


def test_everybody_is_prepared_alone_if_nobody_fits_beside_another(
    tmp_path: Path, workers: Workers, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(replicate, "available_memory_bytes", lambda: 0)
    rows, _ = executed(tmp_path, planned(BACKENDS, [WORK], replicates=2))
    assert [r.status for r in rows] == ["ok"] * 6
    assert [len(group) for group in groups(workers)] == [1] * 6


def test_groups_share_the_seconds_of_a_work_by_their_heads(
    tmp_path: Path, workers: Workers, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody has more turns because it plays alone: three groups have a third of the seconds each."""
    now, shares = [0.0], list[float]()
    monkeypatch.setattr(replicate.time, "perf_counter", lambda: now[0])

    def play(group: Any, ceilings: Any, pace: Pace, *rest: Any) -> int:
        shares.append(pace.seconds)
        now[0] += 1.1 * pace.seconds
        return 1

    monkeypatch.setattr(replicate, "play", play)
    monkeypatch.setattr(replicate, "available_memory_bytes", lambda: 0)
    executed(tmp_path, planned(BACKENDS, [WORK], replicates=1, pace=Pace(2, 900.0, 1)))
    assert shares == pytest.approx([300, (900 - 330) / 2, 900 - 330 - 1.1 * 285])
