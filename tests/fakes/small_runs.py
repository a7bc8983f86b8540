"""Runs of two small works, for tests of what becomes of them.

>>> rows, heard = executed(tmp_path, planned(replicates=1))     # with `workers` of conftest.py, at once
>>> heard.notes
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from membound.bench.measure.rounds import Pace
from membound.bench.planning.plan import Options, Plan, make_plan
from membound.bench.run.execute import execute
from membound.bench.run.journal import journal_of
from membound.bench.run.progress import Silent
from membound.bench.run.scope import Scope
from membound.kernels.work import parse
from membound.results.row import Row
from membound.results.store import RunWriter, load_rows
from membound.results.turns import StoredTurn

WORKS = [f"linear:n=37,k=64,m={m},weight={w}" for m, w in ((1, "f32"), (3, "int4g32"))]
SPECS = [parse(w).spec for w in WORKS]
BACKENDS = ["numba:cpu", "numba:cpu+x"]
OPTIONS = Options(threads=1, pace=Pace(4, 1e9, 2), command="membound run …", ceilings=False)


class Heard(Silent):
    """A progress that remembers."""

    def __init__(self) -> None:
        self.scopes: list[Scope] = []
        self.rows: list[Row] = []
        self.phases: list[str] = []
        self.notes: list[str] = []
        self.worked_on: list[tuple[str, int]] = []
        self.turns: list[tuple[str, str, int, StoredTurn]] = []

    def start(self, scope: Scope) -> None:
        self.scopes.append(scope)

    def phase(self, backend: str, phase: str) -> None:
        self.phases.append(phase)

    def turn(self, backend: str, work: str, replicate: int, turn: StoredTurn) -> None:
        self.turns.append((backend, work, replicate, turn))

    def done(self, row: Row) -> None:
        self.rows.append(row)

    def worked(self, work: str, replicate: int) -> None:
        self.worked_on.append((work, replicate))

    def note(self, text: str) -> None:
        self.notes.append(text)


def planned(backends: list[str] = BACKENDS, works: list[str] = WORKS, **options: Any) -> Plan:
    """Three processes of each, four rounds of each work, nothing measured again."""
    return replace(make_plan(backends, works, replace(OPTIONS, **options), 10**9), repeats=0)


def executed(folder: Path, plan: Plan, **more: Any) -> tuple[list[Row], Heard]:
    """The rows of a run, which are those of its file, and what was reported."""
    heard, path = Heard(), folder / "run.jsonl"
    with RunWriter(path) as writer:
        rows = execute(plan, writer, heard, **more)
    assert load_rows(path) == rows
    assert not journal_of(path).exists()
    return rows, heard


def cases(rows: list[Row]) -> list[Row]:
    """Rows of works on backends."""
    return [row for row in rows if row.kind == "case"]
