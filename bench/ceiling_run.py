"""The machine's ceilings alone, measured as a run measures them: for whoever needs a scale and no cases.

>>> rows = measure_machine("20261122T010203-epyc-1f3a", threads=2)
>>> {row.work: row.value for row in rows}["read"]
30812345678.9
"""

from __future__ import annotations

import tempfile
from dataclasses import replace
from pathlib import Path

from membound.backends import registry
from membound.bench.machine import available_memory_bytes
from membound.bench.plan import Options, make_plan
from membound.bench.progress import Silent
from membound.bench.run import execute
from membound.results.row import Row
from membound.results.store import SUFFIX, RunWriter

SOME_WORK = "linear:n=32,k=32"
"""A plan is made for some work; its cells are left out."""


def measure_machine(run_id: str, threads: int) -> list[Row]:
    """Rows of the quick ceilings on so many threads, named as of `run_id`; a failure is a row as well.

    Raises PlanError beyond the CPUs at hand.
    """
    options = Options(threads=threads, quick=True)
    plan = make_plan(registry.names()[:1], [SOME_WORK], options, available_memory_bytes())
    with (
        tempfile.TemporaryDirectory() as folder,
        RunWriter(Path(folder) / f"{run_id}{SUFFIX}") as writer,
    ):
        return execute(replace(plan, cells=()), writer, Silent())
