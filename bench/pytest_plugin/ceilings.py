"""The machine's ceilings alone, measured as a run measures them.

>>> rows = measure_machine("20261122T010203-epyc-1f3a", threads=2)
>>> {row.work: row.value for row in rows}["read"]
30812345678.9
"""

from __future__ import annotations

import tempfile
from dataclasses import replace
from pathlib import Path

from membound.backends import registry
from membound.bench.machine.fingerprint import available_memory_bytes
from membound.bench.planning.plan import Options, make_plan
from membound.bench.run.execute import execute
from membound.bench.run.progress import Silent
from membound.results.row import Row
from membound.results.store import SUFFIX, RunWriter

NULL_WORK = "linear:n=32,k=128,m=1,weight=f32"
"""The worker of a case measures the ceilings of its backend: this case costs next to nothing."""


def measure_machine(run_id: str, threads: int, backend: str = "") -> list[Row]:
    """Rows of the quick ceilings on that many threads, with `run_id` as their run; a failure is a row as well.

    With a backend (``torch:cuda``), those of its device too. Raises PlanError if there are fewer CPUs.
    """
    options = Options(threads=threads, quick=True)
    plan = make_plan(
        [backend or registry.names()[0]],
        [NULL_WORK],
        replace(options, replicates=1),
        available_memory_bytes(),
    )
    with (
        tempfile.TemporaryDirectory() as folder,
        RunWriter(Path(folder) / f"{run_id}{SUFFIX}") as writer,
    ):
        rows = execute(plan if backend else replace(plan, cells=()), writer, Silent())
    return [row for row in rows if row.kind == "ceiling"]
