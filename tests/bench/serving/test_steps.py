"""An engine's step alone, measured after the load, in the same file."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import pytest
from null_engine import ENGINE
from rich.console import Console
from rows import case
from small_loads import SERVED, load

from membound.bench.machine.fingerprint import fingerprint
from membound.bench.planning.plan import Plan
from membound.bench.serving import point_rows, self_check, steps
from membound.bench.serving.engine import Engine, EngineOptions
from membound.bench.serving.running import Measured, Rounds, measure_load
from membound.bench.serving.truth import Truth
from membound.results.row import Row
from membound.results.serving.table import point_records
from membound.results.store import RunWriter, load_rows

pytest.importorskip("uvloop")


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(self_check, "CHECK_S", 0.1)
    monkeypatch.setattr(self_check, "TOKENS", 4)
    monkeypatch.setattr(point_rows, "truth_of", lambda *rest: Truth())  # it says the same token always


def measured(folder: Path, step_backend: str) -> Measured:
    engine = Engine(
        replace(ENGINE, step_backend=step_backend), SERVED, sys.executable, EngineOptions(threads=1)
    )
    quiet = Console(quiet=True)
    asked = load(served=SERVED)
    return measure_load(asked, folder, "membound load", quiet, quiet, [engine], Rounds(steps=True))


def test_the_step_of_each_point_is_a_case_of_the_run_and_a_part_of_a_token(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The run itself is faked: a case for each cell of its plan."""
    plans: list[Plan] = []

    def execute(plan: Plan, writer: RunWriter, progress: object) -> list[Row]:
        plans.append(plan)
        run_id = writer.path.name.removesuffix(".jsonl")
        cells = [(cell.backend, work) for cell in plan.cells for work in cell.works]
        machine = fingerprint()
        rows = [
            case(backend, work, (0.5,), run_id=run_id, threads=plan.threads, machine=machine)
            for backend, work in cells
        ]
        for row in rows:
            writer.append(row)
        writer.finish()
        return rows

    monkeypatch.setattr(steps, "execute", execute)
    done = measured(tmp_path, "numpy:cpu")
    assert done.troubles == []
    (plan,) = plans
    assert (plan.threads, plan.quick, plan.python_for("numpy:cpu")) == (1, True, sys.executable)
    rows = load_rows(done.path)
    assert [row.kind for row in rows] == ["serving", "case"]
    assert rows[1].work.startswith("step:model=tiny,batch=")
    (record,) = point_records(rows)
    assert (record["step_s"], record["step_work"]) == (0.5, rows[1].work)
    assert not list(tmp_path.glob("*.partial"))


def test_a_backend_that_is_not_there_is_told_and_the_points_stay(tmp_path: Path) -> None:
    done = measured(tmp_path, "no-such:{device}")
    (trouble,) = done.troubles
    assert trouble.startswith("steps of no-such:none alone were not measured: ")
    assert [row.kind for row in load_rows(done.path)] == ["serving"]
