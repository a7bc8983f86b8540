"""The table that fills on a terminal while a run goes on: works by backends, and what is being done.

>>> with Live(Console()) as live:
...     live.start(scope_of(plan))
...     live.turn("mine:cpu", work, replicate=0, turn=turn)

It is drawn between turns only, and never by a thread of its own: what draws takes a core from what is timed. Lines
appear in the plan's order and keep their place; notes scroll above.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from statistics import median
from types import TracebackType

from rich.console import Console, Group, RenderableType
from rich.live import Live as Screen
from rich.table import Table
from rich.text import Text

from membound.bench.run.scope import Scope
from membound.kernels.work import parse
from membound.results.roofline import device_class
from membound.results.row import Row
from membound.results.turns import StoredTurn
from membound.results.wording import duration, short

EVERY_S = 0.25
"""Drawing takes some milliseconds, and nobody reads faster."""
NARROWEST_WORK = 22
CELL = 8
SHARE = 5
"""Columns of a time, and of a share beside it."""


class Live:
    """A reporter with a live table. A context manager: leaving it wipes the table, which the final one replaces."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._screen = Screen(console=console, auto_refresh=False, transient=True, vertical_overflow="crop")
        self._scope: Scope | None = None
        self._works: list[str] = []
        self._turns: dict[tuple[str, str], list[StoredTurn]] = {}
        self._failed: dict[tuple[str, str], str] = {}
        self._bytes: dict[str, int] = {}
        self._done, self._began, self._drawn, self._first = 0, time.monotonic(), 0.0, 0.0
        self._doing = "starting"
        self._replicate = 0
        self._work = ""

    def __enter__(self) -> Live:
        self._screen.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._screen.__exit__(kind, error, trace)

    # What is reported

    def start(self, scope: Scope) -> None:
        """A run of that scope begins."""
        self._scope, self._works = scope, list(scope.works)
        self._bytes = {work: parse(work).traffic.total_bytes for work in self._works}
        self._draw(force=True)

    def cell(self, backend: str, work: str, replicate: int, phase: str) -> None:
        """A cell enters a phase."""
        self._replicate, self._work = replicate, work
        self.phase(backend, phase)

    def phase(self, backend: str, phase: str) -> None:
        """A worker has come to a phase."""
        what = short(self._work) if self._work else ""
        self._doing = f"{backend} {what}".strip() + f": {phase.removeprefix(f'{backend}: ')}"
        self._draw(force=True)

    def turn(self, backend: str, work: str, replicate: int, turn: StoredTurn) -> None:
        """A turn has been taken, and nobody is being timed now."""
        self._turns.setdefault((work, backend), []).append(turn)
        self._replicate, self._work = replicate, work
        self._doing = f"{short(work)}: round {turn.round + 1}"
        self._draw()

    def done(self, row: Row) -> None:
        """A case or a ceiling ended with this row; failures scroll above the table."""
        if row.kind == "case":
            self._done += 1
            if self._done == 1:
                self._first = time.monotonic()
            if row.status != "ok":
                self._failed[row.work, row.backend] = row.status
        if row.status not in ("ok", "unsupported"):
            what = f"{row.backend} {short(row.work)}: {row.status}"
            self.note(what + (f": {row.reason}" if row.reason else ""))

    def worked(self, work: str, replicate: int) -> None:
        """All backends are through with a work of a replicate."""
        self._draw(force=True)

    def note(self, text: str) -> None:
        """Something worth a line, such as kernels being compiled."""
        self._console.print(text, markup=False, highlight=False)

    # How it looks

    def _draw(self, force: bool = False) -> None:
        now = time.monotonic()
        if force or now - self._drawn >= EVERY_S:
            self._drawn = now
            self._screen.update(self.view(self._console.width, self._console.height), refresh=True)

    def view(self, width: int, height: int) -> RenderableType:
        """The table at that size, and the line below it."""
        if self._scope is None or not self._works:
            return Text(self._status(), style="dim", no_wrap=True, overflow="ellipsis")
        backends = list(self._scope.backends)
        shown = [work for work in self._works if any((work, b) in self._turns for b in backends)]
        shown = shown[-max(1, height - 5) :]
        room = width - NARROWEST_WORK
        wide = room >= len(backends) * (CELL + SHARE + 2)
        fitting = backends[: max(1, room // (CELL + 1 + (SHARE + 1 if wide else 0)))]
        table = Table(box=None, padding=(0, 1, 0, 0), pad_edge=False, header_style="bold", expand=True)
        table.add_column(
            "time a launch" + (", share of memory" if wide else ""),
            ratio=1,
            no_wrap=True,
            overflow="ellipsis",
        )
        size, on_cpus = CELL + (SHARE + 1 if wide else 0), all(device_class(b) == "cpu" for b in backends)
        for backend in fitting:
            table.add_column(_heading(backend, size, on_cpus), justify="right", no_wrap=True, width=size)
        for work in shown:
            table.add_row(Text(short(work)), *(self._cell(work, b, backends, wide) for b in fitting))
        hidden = backends[len(fitting) :]
        more = [Text(f"not shown: {', '.join(hidden)}", style="dim")] if hidden else []
        return Group(table, *more, Text(self._status(), style="dim", no_wrap=True, overflow="ellipsis"))

    def _cell(self, work: str, backend: str, backends: Sequence[str], wide: bool) -> Text:
        turns = self._turns.get((work, backend))
        if not turns:
            return Text(
                {"unsupported": "–", "unavailable": "–"}.get(self._failed.get((work, backend), ""), "")
            )
        times = {
            b: median(t.time_s for t in self._turns[work, b]) for b in backends if (work, b) in self._turns
        }
        text = duration(times[backend], 3)
        if wide:
            shares = [self._bytes[work] / t.time_s / read for t in turns if (read := t.ceiling("read"))]
            text += f" {median(shares):4.0%}" if shares else "     "
        failed = self._failed.get((work, backend))
        style = "red" if failed else "bold" if times[backend] == min(times.values()) else ""
        return Text(failed or text, style=style)

    def _status(self) -> str:
        if self._scope is None:
            return self._doing
        total = max(self._scope.cases, self._done)
        parts = [f"{self._done}/{total} cases"]
        if self._scope.replicates > 1:
            parts.append(
                f"process {self._replicate + 1} of {max(self._scope.replicates, self._replicate + 1)}"
            )
        left = self._left_s(total)
        if left is not None:
            parts.append(f"{int(left) // 60}:{int(left) % 60:02d} left")
        return " · ".join([*parts, self._doing])

    def _left_s(self, total: int) -> float | None:
        """Seconds left, going by the cases so far, and never beyond the plan's limit."""
        if self._done < 2 or self._scope is None:
            return None
        now = time.monotonic()
        left = (now - self._first) / (self._done - 1) * (total - self._done)
        limit_s = self._scope.limit_s
        return left if limit_s is None else max(0.0, min(left, self._began + limit_s - now))


def _heading(backend: str, width: int, on_cpus: bool) -> str:
    """A backend in few letters; the device is left out where all have the same."""
    name = backend.replace(":cpu", "", 1) if on_cpus else backend
    return name if len(name) <= width else name[: width - 1] + "…"
