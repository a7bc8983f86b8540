"""What a run says while it runs: on a terminal a table that fills, elsewhere a line a work.

>>> from membound.bench.run.execute import execute
>>> with progress_on(Console(stderr=True)) as progress:
...     rows = execute(plan, writer, progress)

Nothing is drawn while a contestant works: a refresh would take the core that is being timed.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from math import inf
from statistics import median
from typing import Protocol

from rich.console import Console

from membound.bench.protocol.messages import COMPILING
from membound.bench.run.live import Live
from membound.bench.run.scope import Scope
from membound.kernels.cpu.kernel_cache import unkept_base
from membound.results.row import Row
from membound.results.turns import StoredTurn
from membound.results.wording import duration, short

PLAIN_EVERY_S = 10.0
"""Off a terminal a line on what is being done at most this often: a log, not a ticker."""


class Reporter(Protocol):
    """What `bench.run.execute` reports to."""

    def start(self, scope: Scope) -> None:
        """A run of that scope begins."""

    def cell(self, backend: str, work: str, replicate: int, phase: str) -> None:
        """A cell enters a phase."""

    def phase(self, backend: str, phase: str) -> None:
        """The worker of a backend, or that of the ceilings, has come to a phase."""

    def turn(self, backend: str, work: str, replicate: int, turn: StoredTurn) -> None:
        """A turn has been taken, and nobody is being timed now."""

    def done(self, row: Row) -> None:
        """A case or a ceiling ended with this row."""

    def worked(self, work: str, replicate: int) -> None:
        """All backends are through with a work of a replicate."""

    def note(self, text: str) -> None:
        """Something worth a line."""


@contextmanager
def progress_on(console: Console) -> Iterator[Reporter]:
    """A live table if the console is a terminal, else lines."""
    if not console.is_terminal or console.is_dumb_terminal:
        yield Lines(console)
        return
    with Live(console) as live:
        yield live


class Silent:
    """Says nothing."""

    def start(self, scope: Scope) -> None:
        """A run of that scope begins."""

    def cell(self, backend: str, work: str, replicate: int, phase: str) -> None:
        """A cell enters a phase."""

    def phase(self, backend: str, phase: str) -> None:
        """A worker has come to a phase."""

    def turn(self, backend: str, work: str, replicate: int, turn: StoredTurn) -> None:
        """A turn has been taken."""

    def done(self, row: Row) -> None:
        """A case or a ceiling ended with this row."""

    def worked(self, work: str, replicate: int) -> None:
        """All backends are through with a work of a replicate."""

    def note(self, text: str) -> None:
        """Something worth a line."""


class Lines:
    """Plain lines on a stream that is not a terminal: one a work, and what went wrong."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._total = self._done = 0
        self._said_at = self._began_at = time.monotonic()
        self._end_at = inf
        self._at = ("", "")
        self._compiled: set[tuple[str, str]] = set()
        self._rows: list[Row] = []

    def start(self, scope: Scope) -> None:
        """A run of that scope begins."""
        self._total, self._done, self._began_at = scope.cases, 0, time.monotonic()
        self._end_at = inf if scope.limit_s is None else self._began_at + scope.limit_s
        self._say(f"{scope.cases} case{'s' * (scope.cases != 1)} to measure")

    def cell(self, backend: str, work: str, replicate: int, phase: str) -> None:
        """A cell enters a phase."""
        self._at = (backend, work)
        self.phase(backend, phase)

    def phase(self, backend: str, phase: str) -> None:
        """A phase; compiling is reported at once, for each backend and work the first time."""
        work = self._at[1] if self._at[0] == backend else ""
        text = f"{self._count()} {backend} {short(work)}".rstrip()
        if phase.startswith(COMPILING):
            if (backend, work) not in self._compiled:
                self._compiled.add((backend, work))
                kept = " (kept for later runs)" if unkept_base() is None else ""
                self._say(f"{text}: compiling kernels{kept}")
        elif time.monotonic() - self._said_at >= PLAIN_EVERY_S:
            self._say(f"{text}: {phase.removeprefix(f'{backend}: ')}")

    def turn(self, backend: str, work: str, replicate: int, turn: StoredTurn) -> None:
        """A turn is no line."""

    def done(self, row: Row) -> None:
        """A case or a ceiling ended with this row; failures are reported at once."""
        self._done += row.kind == "case"
        if row.kind == "case":
            self._rows.append(row)
        if not self._done:
            self._began_at = time.monotonic()  # ceilings come first and say nothing about how long cases take
        if row.status not in ("ok", "unsupported"):
            self._say(f"{self._count()} {describe(row)}")

    def worked(self, work: str, replicate: int) -> None:
        """One line: the work, and what each backend took."""
        done = [r for r in self._rows if (r.work, r.replicate, r.status) == (work, replicate, "ok")]
        self._rows = []
        if done:
            self._say(f"{self._count()} {short(work)}: {', '.join(_times(done))}")

    def note(self, text: str) -> None:
        """Something worth a line, such as kernels being compiled."""
        self._say(text)

    def _count(self) -> str:
        now = time.monotonic()
        spent = now - self._began_at
        total = max(self._total, self._done)  # invalid cells are measured again, beyond the plan
        left = min(spent / self._done * (total - self._done), self._end_at - now) if self._done else 0.0
        return f"[{self._done}/{total}{f', {left:.0f} s left' if left >= 1 else ''}]"

    def _say(self, text: str) -> None:
        self._said_at = time.monotonic()
        self._console.print(text, markup=False, highlight=False, soft_wrap=True)


def _times(rows: Sequence[Row]) -> Iterator[str]:
    """Backends with their median times, the fastest first."""
    medians = {row.backend: median(row.times_s) for row in rows}
    for backend, seconds in sorted(medians.items(), key=lambda pair: pair[1]):
        yield f"{backend} {duration(seconds)}"


def describe(row: Row) -> str:
    """One line on a case that did not end well."""
    return f"{row.backend} {short(row.work)}: {row.status}" + (f": {row.reason}" if row.reason else "")
