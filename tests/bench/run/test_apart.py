"""Ceilings that take no turns: each is stored once, wherever a run was killed."""

from __future__ import annotations

from dataclasses import replace

import fake_workers
import pytest
from rows import case, ceiling
from small_runs import planned

from membound.bench.protocol import messages as m
from membound.bench.run.execute import execute
from membound.bench.run.progress import Silent
from membound.results.store import RunWriter

NAME = "numba:cpu"
WORKS = [f"linear:n=64,k=64,m={m},weight=f32,act=float" for m in (1, 2)]


@pytest.fixture
def plan():
    return planned([NAME], WORKS, ceilings=True)


@pytest.mark.parametrize(
    ("machine", "own", "cases"),
    [(0, 0, 0), (1, 0, 0), (2, 0, 0), (2, 1, 0), (2, 2, 0), (2, 2, 1), (2, 1, 1), (2, 0, 1)],
)
def test_ceilings_that_were_cut_short_are_completed_and_others_left_alone(
    tmp_path, plan, workers, machine, own, cases
):
    """Killed after so many rows of the machine, of the backend, of cases: each ceiling is there once in the end.

    A case before the backend's own ceilings: it could not be opened in the process before.
    """
    workers.acts = lambda worker, command: (
        m.Ceilings([fake_workers.ceiling(n, 1e-6, "s") for n in ("launch", "link")], {})
        if isinstance(command, m.MeasureBackend)
        else None
    )
    together = {"measured_together": 2}
    known = [ceiling(n, 1e9, "bytes/s", "cpu", config=dict(together)) for n in ("read", "fma_f32")][:machine]
    known += [ceiling(n, 1e-6, "s", NAME, config=dict(together)) for n in ("launch", "link")][:own]
    known += [case(NAME, WORKS[0])][:cases]
    with RunWriter(tmp_path / "run.jsonl") as writer:
        rows = execute(replace(plan, cells=plan.cells[:1], repeats=0), writer, Silent(), known=known)
    measured = (len(workers.said(m.MeasureMachine)), len(workers.said(m.MeasureBackend)))
    assert measured == (machine < 2, own < 2)
    apart = [(r.backend, r.work) for r in rows if r.kind == "ceiling" and "turns" not in r.config]
    assert sorted(apart) == [("cpu", "fma_f32"), ("cpu", "read"), (NAME, "launch"), (NAME, "link")]


def test_ceilings_that_failed_are_not_measured_again(tmp_path, plan, workers):
    failed = [replace(ceiling("ceilings", None, "", who), status="crashed") for who in ("cpu", NAME)]
    with RunWriter(tmp_path / "run.jsonl") as writer:
        execute(plan, writer, Silent(), known=failed)
    assert not workers.said(m.MeasureMachine) + workers.said(m.MeasureBackend)


def test_ceilings_that_died_while_they_took_turns_are_told_before_the_case(tmp_path, plan, workers):
    """So that a run killed after its last case knows why its turns have no neighbours."""
    workers.acts = lambda worker, command: (
        m.Failed("error", "lost the counters") if isinstance(command, m.TakeCeilingTurn) else None
    )
    with RunWriter(tmp_path / "run.jsonl") as writer:
        rows = execute(replace(plan, cells=plan.cells[:1]), writer, Silent())
    told = [(r.kind, r.work, r.reason) for r in rows[-3:]]
    assert told[0] == ("ceiling", "ceilings", "while they took turns: lost the counters")
    assert [kind for kind, *_ in told[1:]] == ["case", "case"]
