"""What goes wrong in a run: every failure is a row, the others play on, ceilings cost no case."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from fake_workers import Workers, ceiling
from small_runs import BACKENDS, SPECS, WORKS, cases, executed, planned

from membound.bench.protocol import messages as m
from membound.bench.protocol.process import WorkerDiedError, WorkerTimeoutError
from membound.kernels.work import parse
from membound.results.stats import records, summarize


def test_failures_are_not_tried_again_but_crashes_are(tmp_path: Path, workers: Workers) -> None:
    crashing = SPECS[0]

    def acts(worker: Any, command: Any) -> Any:
        if isinstance(command, m.Prepare) and command.work == crashing:
            raise WorkerDiedError("SIGBUS: bye")
        return m.Failed("unsupported", "no such thing") if isinstance(command, m.Prepare) else None

    workers.acts = acts
    rows, _ = executed(tmp_path, planned(BACKENDS[:1]))
    found = sorted((r.replicate, r.status, r.reason) for r in rows)
    crash = ("crashed", "while at Prepare: SIGBUS: bye")
    assert found == [(0, *crash), (0, "unsupported", "no such thing"), (1, *crash), (2, *crash)]
    assert {r.bytes for r in rows if r.work == crashing} == {parse(crashing).traffic.total_bytes}
    assert not workers.alive


@pytest.mark.parametrize(
    ("answer", "status", "reason"),
    [
        (WorkerDiedError("SIGSEGV"), "crashed", "while at TakeTurn: SIGSEGV"),
        (WorkerTimeoutError("silent for 60 s"), "timeout", "while at TakeTurn: silent for 60 s"),
        (m.Failed("oom", "MemoryError"), "oom", "MemoryError"),
        (m.Failed("error", "RuntimeError: x"), "error", "RuntimeError: x"),
        (m.Done(), "crashed", "it broke the protocol: Done answers timing"),
    ],
)
def test_who_fails_in_its_second_turn_is_a_row_and_the_others_play_on(
    tmp_path: Path, workers: Workers, answer: Any, status: str, reason: str
) -> None:
    bad = "numba:cpu+b"

    def acts(worker: Any, command: Any) -> Any:
        mine = isinstance(command, m.TakeTurn) and worker.who == bad
        if not mine or len(workers.said(m.TakeTurn, bad)) != 2:
            return None
        if isinstance(answer, Exception):
            raise answer
        return answer

    workers.acts = acts
    rows, _ = executed(tmp_path, planned([f"numba:cpu+{x}" for x in "abc"], replicates=1))
    failed = [r for r in rows if r.status != "ok"]
    assert [(r.backend, r.status, r.reason) for r in failed] == [(bad, status, reason)]
    assert len(failed[0].turns) == 1, "kept, and never summarised"
    played = {(r.backend, r.work): len(r.turns) for r in rows if r.status == "ok"}
    assert len(played) == 5
    assert set(played.values()) == {4}, "its own next work is measured too"


def test_an_answer_that_turns_wrong_is_a_row_without_a_time(tmp_path: Path, workers: Workers) -> None:
    def acts(worker: Any, command: Any) -> Any:
        if isinstance(command, m.Check) and worker.who == BACKENDS[0]:
            return m.Failed("wrong", "error 0.5 exceeds 1e-05", 0.5)
        return None

    workers.acts = acts
    rows, _ = executed(tmp_path, planned(works=WORKS[:1], replicates=2))
    assert [(r.backend, r.status, r.error) for r in rows if r.status != "ok"] == [(BACKENDS[0], "wrong", 0.5)]
    assert [r.replicate for r in rows if r.status == "ok"] == [0, 1]
    assert all(len(r.turns) == 4 for r in rows)


def test_death_between_works_blames_none(tmp_path: Path, workers: Workers) -> None:
    def acts(worker: Any, command: Any) -> Any:
        if isinstance(command, m.Release):
            raise WorkerDiedError("SIGSEGV")
        return None

    workers.acts = acts
    rows, _ = executed(tmp_path, planned(BACKENDS[:1], replicates=1))
    assert [(r.status, len(r.turns)) for r in rows] == [("ok", 4)] * 2
    assert len(workers.said(m.Open)) == 2


def test_a_device_that_cannot_be_opened_is_a_row_for_each_work(tmp_path: Path, workers: Workers) -> None:
    def acts(worker: Any, command: Any) -> Any:
        absent = isinstance(command, m.Open) and command.backend == BACKENDS[1]
        return m.Failed("unavailable", "no device; buy one") if absent else None

    workers.acts = acts
    rows, _ = executed(tmp_path, planned(replicates=2))
    absent = [(r.status, r.reason, r.replicate) for r in rows if r.backend == BACKENDS[1]]
    assert absent == [("unavailable", "no device; buy one", 0)] * 2
    assert [r.status for r in rows if r.backend == BACKENDS[0]] == ["ok"] * 4


def test_interpreters_are_those_of_the_plan(tmp_path: Path, workers: Workers) -> None:
    pythons: dict[str, str] = {}

    def acts(worker: Any, command: Any) -> None:
        if isinstance(command, m.Open):
            pythons[command.backend] = worker.python

    workers.acts = acts
    backends = ["numba:cpu", "numba:cpu#2", "numpy:cpu"]
    executed(tmp_path, planned(backends, pythons={"numba": "/env/python"}, replicates=1))
    assert pythons["numba:cpu"] == pythons["numba:cpu#2"] == "/env/python"
    assert pythons["numpy:cpu"] != "/env/python"


# Ceilings that take no turns


def test_failed_ceilings_are_a_row_and_cases_go_on(tmp_path: Path, workers: Workers) -> None:
    def acts(worker: Any, command: Any) -> Any:
        if isinstance(command, m.MeasureMachine):
            raise WorkerDiedError("exit status 1: no OpenMP")
        return None

    workers.acts = acts
    rows, _ = executed(tmp_path, planned(BACKENDS[:1], ceilings=True, replicates=1))
    assert (rows[0].kind, rows[0].work, rows[0].status, rows[0].reason) == (
        *("ceiling", "ceilings", "crashed"),
        "exit status 1: no OpenMP",
    )
    assert [r.status for r in cases(rows)] == ["ok"] * 2
    assert all(t.ceiling("read") for r in cases(rows) for t in r.turns)


def test_a_backends_own_ceilings_are_measured_once_and_their_crash_costs_no_case(
    tmp_path: Path, workers: Workers
) -> None:
    def acts(worker: Any, command: Any) -> Any:
        if not isinstance(command, m.MeasureBackend):
            return None
        if worker.who == BACKENDS[0]:
            raise WorkerDiedError("SIGILL")
        return m.Ceilings([ceiling("gemm_f32", 1e11, "FLOP/s"), ceiling("launch", 1e-6, "s")], {})

    workers.acts = acts
    rows, _ = executed(tmp_path, planned(ceilings=True))
    own = [r for r in rows if r.kind == "ceiling" and r.backend in BACKENDS]
    assert sorted((r.backend, r.work, r.status, r.reason, r.value) for r in own) == [
        (BACKENDS[0], "ceilings", "crashed", "while at MeasureBackend: SIGILL", None),
        (BACKENDS[1], "gemm_f32", "ok", "", 1e11),
        (BACKENDS[1], "launch", "ok", "", 1e-6),
    ]
    assert [r.status for r in cases(rows)] == ["ok"] * 12
    assert workers.said(m.MeasureBackend) == [m.MeasureBackend(True)] * 2, "products of every format"
    assert workers.said(m.MeasureMachine) == [m.MeasureMachine(True)]


def test_a_quick_run_rests_on_the_ceilings_that_take_turns(tmp_path: Path, workers: Workers) -> None:
    rows, _ = executed(tmp_path, planned(ceilings=True, quick=True, replicates=1))
    assert not workers.said(m.MeasureMachine)
    assert {(r.work, r.backend) for r in rows if r.kind == "ceiling"} == {
        *((name, "cpu") for name in ("read", "fma_f32")),
        *(("launch", backend) for backend in BACKENDS),
    }
    assert workers.said(m.MeasureBackend) == [m.MeasureBackend(True, ["bf16", "f32"])] * 2, (
        "no work has another format"
    )
    assert all(t.ceiling("read") for r in cases(rows) for t in r.turns)
    lines = records(summarize(rows))
    assert all(line["mbu"] > 0 and line["verdict"] for line in lines)


def test_nothing_is_timed_while_a_runtime_is_still_being_imported(tmp_path: Path, workers: Workers) -> None:
    executed(tmp_path, planned(ceilings=True))
    for backend in BACKENDS:
        assert len(workers.said(m.Open, backend)) == 3
    log = [type(command) for _, command in workers.log]
    first = log.index(m.MeasureBackend)
    opening = {m.Open: len(BACKENDS), m.OpenCeiling: 1}
    assert Counter(kind for kind in log[:first] if kind in opening) == opening
    assert m.TakeCeilingTurn not in log[:first]


def test_without_ceilings_none_is_measured(tmp_path: Path, workers: Workers) -> None:
    rows, _ = executed(tmp_path, planned(replicates=1))
    assert {r.kind for r in rows} == {"case"}
    assert not workers.said(m.TakeCeilingTurn)
    assert all(t.before == t.after == {} for r in rows for t in r.turns)
