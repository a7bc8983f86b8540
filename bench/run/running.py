"""A run and what it has so far: where rows and reports go, what is known of sizes and times.

>>> run.keep(row)           # completed with what the harness knows, written, reported
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from membound.bench.measure.contestant import Timeouts
from membound.bench.planning.plan import Plan
from membound.bench.run.journal import Journal
from membound.bench.run.minutes import Minutes
from membound.bench.run.progress import Reporter
from membound.results.row import Row
from membound.results.store import RunWriter


@dataclass(slots=True)
class Running:
    """The state of a run. Times are those of `time.perf_counter`."""

    plan: Plan
    writer: RunWriter
    journal: Journal
    progress: Reporter
    timeouts: Timeouts
    run_id: str
    machine: dict[str, Any]
    began: float
    minutes: Minutes
    rows: list[Row] = field(default_factory=list)
    sizes: dict[tuple[str, str], int] = field(default_factory=dict)
    """Bytes that a backend was seen to take for a work, preparing included."""
    launches_s: dict[tuple[str, str], float] = field(default_factory=dict)
    """Seconds a launch of a backend's, whatever its label, took in the first process."""
    with_ceilings: set[str] = field(default_factory=set)
    """Backends whose own ceilings were measured or tried."""
    products: tuple[str, ...] = ()
    """Formats whose arithmetic peaks take turns."""
    gemms: tuple[str, ...] = ()
    """Formats whose square products are measured through each backend; all if none is named."""
    skipped: int = 0
    said: set[str] = field(default_factory=set)
    """Notes that are worth one line in a run, however often they hold."""

    @property
    def cases(self) -> list[Row]:
        """Rows of works on backends."""
        return [row for row in self.rows if row.kind == "case"]

    def keep(self, row: Row) -> None:
        """Complete a row with what the harness knows, write it, report it."""
        row.run_id, row.machine, row.command = self.run_id, self.machine, self.plan.command
        row.seed, row.threads = self.plan.seed, self.plan.threads
        self.rows.append(row)
        self.writer.append(row)
        self.progress.done(row)

    def note_once(self, text: str) -> None:
        """Report what is worth a line, the first time."""
        if text not in self.said:
            self.said.add(text)
            self.progress.note(text)

    def on_phase(self, backend: str, phase: str) -> None:
        """A worker has come to a phase."""
        self.minutes.enter(phase)
        self.progress.phase(backend, phase)
