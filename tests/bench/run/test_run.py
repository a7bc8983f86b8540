"""A run from its plan to its rows: with real workers once, else with workers that answer at once."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any

import fake_backends
import pytest
from fake_workers import CEILINGS, Workers, prepared, turned
from small_runs import BACKENDS, OPTIONS, SPECS, WORKS, cases, executed, planned

from membound.bench.planning.plan import Cell, make_plan
from membound.bench.planning.probe import probe, probe_devices
from membound.bench.protocol import messages as m
from membound.bench.run import rounds
from membound.bench.run.scope import Scope
from membound.kernels.work import parse


@pytest.fixture
def fakes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    fake_backends.install(tmp_path / "site", monkeypatch)
    return tmp_path


# Real workers


def test_real_workers_fill_a_run(fakes: Path) -> None:
    plan = replace(
        planned(["ok:cpu", "ok:cpu+twin"], reference_dir=fakes / "reference", replicates=1),
        memory_bytes=50_000,
    )
    rows, heard = executed(fakes, plan)
    assert heard.rows == rows
    assert [(r.status, r.reason) for r in rows] == [("ok", "")] * 4
    assert {(r.backend, r.work) for r in rows} == {(b, s) for b in ("ok:cpu", "ok:cpu+twin") for s in SPECS}
    assert {(r.run_id, r.command, r.seed, r.threads) for r in rows} == {("run", "membound run …", 1, 1)}
    for row in rows:
        assert (row.device, row.versions["fake"]) == ("a fake processor", "1.2")
        assert [t.round for t in row.turns] == [0, 1, 2, 3]
        assert all(t.launches == row.launches >= 1 and t.time_s > 0 for t in row.turns)
        assert row.slots >= 2
        assert row.working_set_bytes >= row.slots * parse(row.work).footprint_bytes
        assert row.machine["last_level_cache_bytes"] > 0
        assert row.telemetry["wall_s"] > 0
        assert row.hot_samples_s[0] > 0
        assert row.error is not None
        assert 0 <= row.error < 1e-6
        assert min(row.prepare_s, row.first_s) > 0
        assert row.started_at.startswith("20")
    assert heard.scopes == [Scope(4, tuple(sorted(SPECS)), ("ok:cpu", "ok:cpu+twin"), 1, None)]
    shown = [p for p in heard.phases if not p.startswith("compiling")]
    assert shown[:4] == ["opening", "preparing", "checking", "fitting the burst"]


def test_probe_finds_devices_and_reasons(fakes: Path) -> None:
    found = {f.id: f for f in probe(["ok", "missing", "exits"], threads=1, pythons={"missing": "/no/python"})}
    assert list(found) == ["ok:cpu", "ok:cpu+twin", "ok:npu", "missing", "exits"]
    assert (found["ok:cpu"].available, found["ok:cpu"].name) == (True, "a fake processor")
    assert (found["ok:npu"].reason, found["ok:npu"].remedy) == (
        "no device 'npu'",
        "pip install another-machine",
    )
    assert found["missing"].reason.endswith("/no/python cannot be started: No such file or directory")
    assert found["exits"].reason.endswith("exit status 3: licence server not found")
    assert found["exits"].entry == "exits"


def test_a_device_that_a_backend_does_not_list_is_opened_by_name(fakes: Path) -> None:
    there, absent, broken = probe_devices(["ok:cpu+twin", "ok:gpu7", "missing:cpu"], threads=1)
    assert (there.id, there.available) == ("ok:cpu+twin", True)
    assert (absent.id, absent.available, absent.reason) == ("ok:gpu7", False, "no device 'gpu7'")
    assert absent.remedy == "pip install another-machine"
    assert (broken.id, broken.available) == ("missing", False)
    assert "no_such_module" in broken.reason


# Who does what when


def test_every_backend_takes_a_turn_in_every_round_with_a_ceiling_between_any_two(
    tmp_path: Path, workers: Workers
) -> None:
    rows, heard = executed(tmp_path, planned(ceilings=True, replicates=2))
    players = [who for who, command in workers.log if isinstance(command, m.TakeTurn | m.TakeCeilingTurn)]
    timed = [(who, c) for who, c in workers.log if isinstance(c, m.TakeTurn)]
    assert not [1 for a, b in pairwise(players) if a == b != CEILINGS]
    assert len([1 for _, c in timed if not c.hot]) == 2 * 2 * 2 * 4
    assert len([1 for _, c in timed if c.hot]) == 2 * 2 * 2, "a second figure, once a case"
    for row in cases(rows):
        assert [t.round for t in row.turns] == [0, 1, 2, 3]
        assert all({"read"} <= t.before.keys() == t.after.keys() for t in row.turns)
        assert all(0 <= t.between <= 1 for t in row.turns)
        assert row.hot_samples_s
    ceilings = [t.after for *_, t in heard.turns]
    assert all(ceilings[i] == heard.turns[i + 1][3].before for i in range(3)), "neighbours share a moment"
    assert sorted(heard.worked_on) == sorted((s, n) for s in SPECS for n in range(2))


def test_order_is_shuffled_by_the_seed(tmp_path: Path, workers: Workers) -> None:
    orders = []
    for number, seed in enumerate((1, 1, 2)):
        workers.log.clear()
        folder = tmp_path / str(number)
        folder.mkdir()
        backends = [f"numba:cpu+{letter}" for letter in "abcde"]
        executed(folder, planned(backends, seed=seed))
        orders.append([who for who, c in workers.log if isinstance(c, m.TakeTurn) and not c.hot])
    assert orders[0] == orders[1] != orders[2]
    firsts = {order[i] for order in orders for i in range(0, len(order), 5)}
    assert len(firsts) == 5, "nobody always plays first"


def test_a_process_serves_all_works_of_a_replicate_and_no_other(tmp_path: Path, workers: Workers) -> None:
    executed(tmp_path, planned(replicates=3))
    assert [c.backend for c in workers.said(m.Open)].count("numba:cpu") == 3
    assert len(workers.said(m.Prepare, "numba:cpu")) == 3 * 2
    assert len(workers.said(m.Release, "numba:cpu")) == 3 * 2
    assert len(workers.said(m.Close)) == 3 * 2
    assert not workers.alive


def test_what_others_moved_through_the_caches_is_told_with_the_turn(tmp_path: Path, workers: Workers) -> None:
    """100 bytes a turn and 1000 of the ceilings: between two turns of one backend lie those of all others."""
    executed(tmp_path, planned(works=WORKS[:1], ceilings=True, replicates=1))
    moved, seen = 0, dict.fromkeys(BACKENDS, 0)
    for who, command in workers.log:
        if isinstance(command, m.TakeCeilingTurn):
            moved += 1000
        elif isinstance(command, m.TakeTurn):
            assert command.passed_bytes == moved - seen[who]
            moved += 100
            seen[who] = moved
    assert min(seen.values()) > 4 * 1000


def test_cases_that_memory_bandwidth_alone_binds_meet_the_read_ceiling_alone(
    tmp_path: Path, workers: Workers
) -> None:
    """1 GB/s and 10 GFLOP/s: one row of x is far below a fifth of the ridge, 2000 are above it."""
    many = "linear:n=64,k=64,m=2000,weight=f32"
    rows, _ = executed(tmp_path, planned(BACKENDS[:1], [WORKS[0], many], ceilings=True, replicates=1))
    played = {parse(r.work).m: set(r.turns[0].after) for r in cases(rows)}  # type: ignore[union-attr]
    assert played == {1: {"read"}, 2000: {"read", "fma_f32"}}
    assert workers.said(m.OpenCeiling) == [m.OpenCeiling(["f32"])]


# Again


def test_an_invalid_process_is_kept_and_repeated(tmp_path: Path, workers: Workers) -> None:
    bad, opened = SPECS[0], workers.said

    def acts(worker: Any, command: Any) -> Any:
        if isinstance(command, m.TakeTurn) and worker.works[0] == bad:
            share = 0.5 if len(opened(m.Open)) in (2, 4) else 0.0
            return turned(0.01, disturbance=share)
        return None

    workers.acts = acts
    for repeats, expected in ((0, 6), (1, 7), (3, 8)):
        folder = tmp_path / str(repeats)
        folder.mkdir()
        workers.log.clear()
        rows, _ = executed(folder, replace(planned(BACKENDS[:1]), repeats=repeats))
        assert len(rows) == expected
        assert [(r.work, r.replicate) for r in rows[6:]] == [(bad, 3), (bad, 4)][: expected - 6]
        assert sum(r.grade == "invalid" for r in rows) == min(2, 1 + min(repeats, 1))


def test_a_case_that_was_invalid_twice_is_measured_twice_more(tmp_path: Path, workers: Workers) -> None:
    """In two processes: one has room for a work once."""

    def acts(worker: Any, command: Any) -> Any:
        bad = isinstance(command, m.TakeTurn) and len(workers.said(m.Open)) <= 2
        return turned(0.01, disturbance=0.5) if bad else None

    workers.acts = acts
    rows, _ = executed(tmp_path, replace(planned(BACKENDS[:1]), repeats=1))
    assert [r.grade for r in rows].count("invalid") == 4
    assert sorted((r.replicate, r.work) for r in rows) == sorted((n, s) for n in range(5) for s in SPECS)


def test_high_rigor_adds_replicates_until_the_mean_is_known(tmp_path: Path, workers: Workers) -> None:
    noisy = SPECS[0]

    def acts(worker: Any, command: Any) -> Any:
        if isinstance(command, m.TakeTurn):
            odd = worker.works[0] == noisy and len(workers.said(m.Open)) % 2
            return turned(0.01 * (1.05 if odd else 1.0))
        return None

    workers.acts = acts
    rows, _ = executed(tmp_path, make_plan(BACKENDS[:1], WORKS, replace(OPTIONS, rigor="high"), 10**9))
    counts = {spec: sum(r.work == spec for r in rows) for spec in SPECS}
    assert counts[SPECS[1]] == 10
    times = [median(r.times_s) for r in rows if r.work == noisy]
    assert 10 < len(times) < 40
    assert rounds.half_width(times) <= 0.01 < rounds.half_width(times[:-1])


def test_half_width_is_students() -> None:
    assert rounds.half_width([1.0, 2.0, 3.0]) == pytest.approx(4.302652729911275 / 3**0.5 / 2)
    assert rounds.half_width([1.0]) == rounds.half_width([]) == float("inf")


def test_a_cell_of_one_backend_runs_alone(tmp_path: Path, workers: Workers) -> None:
    plan = replace(planned(), cells=(Cell(BACKENDS[1], 5, (SPECS[1],)),))
    rows, _ = executed(tmp_path, plan)
    assert [(r.backend, r.replicate, r.work, r.status) for r in rows] == [(BACKENDS[1], 5, SPECS[1], "ok")]


def test_settings_and_prepared_figures_reach_the_row(tmp_path: Path, workers: Workers) -> None:
    def acts(worker: Any, command: Any) -> Any:
        if isinstance(command, m.Prepare):
            return prepared(command.work, stored_bytes=123, slots=1, launches=7)
        if isinstance(command, m.Check):
            return m.Checked(3e-6, {"greedy_tokens": [3], "working_set_bytes": 999}, {"wall_s": 1.5})
        return None

    workers.acts = acts
    (row,), _ = executed(tmp_path, planned(BACKENDS[:1], WORKS[:1], replicates=1))
    assert (row.stored_bytes, row.slots, row.launches, row.error) == (123, 1, 7, 3e-6)
    assert (row.config, row.working_set_bytes) == ({"greedy_tokens": [3]}, 999)
    assert row.telemetry == {"wall_s": 1.5}
    assert row.hot_samples_s == [], "one input set is hot anyway"
