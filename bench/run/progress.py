"""What a run says while it runs: bars with the time left on a terminal, plain lines elsewhere.

>>> with progress_on(Console(stderr=True)) as progress:
...     rows = execute(plan, writer, progress)
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

from rich import progress as bars
from rich.console import Console
from rich.markup import escape

from membound.results.row import Row
from membound.results.wording import short

PLAIN_EVERY_S = 10.0
"""Off a terminal a line at most this often, but for notes and failures: a log, not a ticker."""


class Reporter(Protocol):
    """What `bench.run.execute` tells."""

    def start(self, total_cells: int) -> None:
        """A run of that many cells begins."""

    def cell(self, backend: str, work: str, replicate: int, phase: str) -> None:
        """A cell enters a phase."""

    def done(self, row: Row) -> None:
        """A cell ended with this row."""

    def note(self, text: str) -> None:
        """Something worth a line."""


@contextmanager
def progress_on(console: Console) -> Iterator[Reporter]:
    """Bars if the console is a terminal, else lines."""
    if not console.is_terminal:
        yield Lines(console)
        return
    columns = (
        bars.SpinnerColumn(),
        bars.BarColumn(bar_width=16),
        bars.MofNCompleteColumn(),
        bars.TimeElapsedColumn(),
        bars.TextColumn("left"),
        bars.TimeRemainingColumn(),
        bars.TextColumn("{task.description}"),
    )
    with bars.Progress(*columns, console=console, transient=True) as display:
        yield Bars(display)


class Silent:
    """Says nothing."""

    def start(self, total_cells: int) -> None:
        """A run of that many cells begins."""

    def cell(self, backend: str, work: str, replicate: int, phase: str) -> None:
        """A cell enters a phase."""

    def done(self, row: Row) -> None:
        """A cell ended with this row."""

    def note(self, text: str) -> None:
        """Something worth a line."""


class Lines:
    """Plain lines on a stream that is not a terminal."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._total = self._done = 0
        self._said_at = self._began_at = time.monotonic()
        self._compiled: set[tuple[str, str]] = set()

    def start(self, total_cells: int) -> None:
        """A run of that many cells begins."""
        self._total, self._done, self._began_at = total_cells, 0, time.monotonic()
        self._say(f"{total_cells} cells to measure")

    def cell(self, backend: str, work: str, replicate: int, phase: str) -> None:
        """A cell enters a phase; compiling is told at once, for each backend and work the first time."""
        text = f"{self._count()} {backend} {short(work)}".rstrip()
        if phase.startswith("compiling"):
            if (backend, work) not in self._compiled:
                self._compiled.add((backend, work))
                self._say(f"{text}: compiling kernels (kept for later runs)")
        elif time.monotonic() - self._said_at >= PLAIN_EVERY_S:
            self._say(f"{text}: {phase.removeprefix(f'{backend}: ')}")

    def done(self, row: Row) -> None:
        """A cell ended with this row; failures are told at once."""
        self._done += row.kind == "case"
        if not self._done:
            self._began_at = time.monotonic()  # ceilings come first and say nothing about how long cases take
        if row.status not in ("ok", "unsupported"):
            self._say(f"{self._count()} {describe(row)}")

    def note(self, text: str) -> None:
        """Something worth a line, such as kernels being compiled."""
        self._say(text)

    def _count(self) -> str:
        spent = time.monotonic() - self._began_at
        total = max(self._total, self._done)  # disturbed cells are measured again, beyond the plan
        left = spent / self._done * (total - self._done) if self._done else None
        return f"[{self._done}/{total}{f', {left:.0f} s left' if left else ''}]"

    def _say(self, text: str) -> None:
        self._said_at = time.monotonic()
        self._console.print(text, markup=False, highlight=False, soft_wrap=True)


class Bars:
    """One bar for the whole run on a terminal; failures and notes scroll above it."""

    def __init__(self, display: bars.Progress) -> None:
        self._display = display
        self._task = display.add_task("", total=None)

    def start(self, total_cells: int) -> None:
        """A run of that many cells begins."""
        self._display.reset(self._task, total=total_cells)

    def cell(self, backend: str, work: str, replicate: int, phase: str) -> None:
        """A cell enters a phase."""
        self._display.update(
            self._task, description=escape(f"{backend} {short(work)}".rstrip() + f": {phase}")
        )

    def done(self, row: Row) -> None:
        """A cell ended with this row; failures are told at once."""
        if row.kind == "case":
            self._display.advance(self._task)
        if row.status not in ("ok", "unsupported"):
            self.note(describe(row))

    def note(self, text: str) -> None:
        """Something worth a line, such as kernels being compiled."""
        self._display.console.print(text, markup=False, highlight=False)


def describe(row: Row) -> str:
    """One line on a cell that did not end well."""
    return f"{row.backend} {short(row.work)}: {row.status}" + (f": {row.reason}" if row.reason else "")
