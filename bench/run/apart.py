"""Ceilings that take no turns: measured once in a run, and stored once however often the run is killed meanwhile.

>>> keep_apart(run, rows)               # those of `rows` that an earlier process has not written
>>> is_complete(run.rows, "mine:cpu")
True
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from math import inf

from membound.bench.run.running import Running
from membound.results.row import Row

TOGETHER = "measured_together"
"""Entry of a ceiling's config: how many rows its backend's ceilings are, so that it shows where some are missing."""
FAILED = "ceilings"
"""The row of ceilings that could not be measured goes by that name."""


def keep_apart(run: Running, rows: Sequence[Row]) -> None:
    """Write the ceilings of one backend, or of the machine, but for the first ones that are there already.

    They come in the same order each time; a row that says why there are none is always written.
    """
    failed = any(row.work == FAILED for row in rows)
    written = 0 if failed or not rows else len(_apart(run.rows, rows[0].backend))
    for row in rows[written:]:
        row.config |= {} if failed else {TOGETHER: len(rows)}
        run.keep(row)


def is_complete(rows: Iterable[Row], backend: str) -> bool:
    """Whether all ceilings of a backend (``cpu``: the machine's) are there, or the row that says why they are not."""
    written = _apart(rows, backend)
    wanted = min((row.config.get(TOGETHER, inf) for row in written), default=inf)
    return len(written) >= wanted or any(row.work == FAILED for row in written)


def _apart(rows: Iterable[Row], backend: str) -> list[Row]:
    return [r for r in rows if (r.kind, r.backend) == ("ceiling", backend) and "turns" not in r.config]
