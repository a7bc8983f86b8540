"""The limits of the processor that take no turns, measured in a worker of their own, as rows.

>>> rows = machine_ceilings("20261128T101500-epyc-1f3a", threads=2, quick=True, limit_s=300)
>>> [(row.work, row.value, row.unit) for row in rows]
[('read', 4.9e10, 'bytes/s'), ('copy', 4.1e10, 'bytes/s'), ...]
"""

from __future__ import annotations

from collections.abc import Callable

from membound.bench.measure.contestant import BROKEN
from membound.bench.measure.failures import failure_of
from membound.bench.protocol.messages import Ceilings, Failed, MeasureMachine, Phase
from membound.bench.protocol.process import Worker
from membound.bench.run.ceiling_rows import ceiling_rows, failed_ceilings
from membound.results.row import Row

MACHINE = "cpu"
"""Stands for the machine itself where a ceiling's row names a backend."""


def machine_ceilings(
    run_id: str,
    threads: int,
    quick: bool,
    limit_s: float,
    on_phase: Callable[[Phase], None] = lambda phase: None,
) -> list[Row]:
    """A row for each limit, or one that says why there are none. `limit_s`: between two signs of the worker's life."""
    about = (run_id, MACHINE, 0, threads)
    try:
        with Worker(threads) as worker:
            worker.greet()
            answer = worker.ask(MeasureMachine(quick), limit_s, on_phase)
            worker.close()
    except BROKEN as error:
        failure = failure_of(error)
        return [failed_ceilings(*about, failure.status, failure.reason)]
    if isinstance(answer, Ceilings):
        return ceiling_rows(answer, *about)
    if isinstance(answer, Failed):
        return [failed_ceilings(*about, answer.status, answer.reason)]
    return [failed_ceilings(*about, "error", f"{type(answer).__name__} is no answer to MeasureMachine")]
