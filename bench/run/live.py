"""The table that fills on a terminal while a run goes on: works by backends, and what is being done.

>>> from membound.bench.run.scope import scope_of
>>> with Live(Console()) as live:
...     live.start(scope_of(plan))
...     live.turn("mine:cpu", work, replicate=0, turn=turn)

It is drawn between turns only, and never by a thread of its own: what draws takes a core from what is timed. Lines
appear in the plan's order and keep their place; notes scroll above.
"""

from __future__ import annotations

import re
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
from membound.results.views.table import ABSENT
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
        room = width - NARROWEST_WORK
        wide = room >= len(backends) * (CELL + SHARE + 2)
        column = CELL + (SHARE + 1 if wide else 0)
        fitting = backends[: max(1, room // (column + 1))]
        table = Table(box=None, padding=(0, 1, 0, 0), pad_edge=False, header_style="bold", expand=True)
        title = "time a launch" + (", share of memory" if wide else "")
        table.add_column(title, ratio=1, no_wrap=True, overflow="ellipsis")
        for heading in _headings(fitting, column):
            table.add_column(heading, justify="right", no_wrap=True, width=column)
        for work in self._shown(max(1, height - 5)):
            table.add_row(Text(short(work)), *(self._cell(work, b, backends, wide) for b in fitting))
        below = [f"not shown: {', '.join(backends[len(fitting) :])}"] if len(fitting) < len(backends) else []
        lines = [Text(t, style="dim", no_wrap=True, overflow="ellipsis") for t in (*below, self._status())]
        return Group(table, *lines)

    def _shown(self, most: int) -> list[str]:
        """Works that have come to something, in their order; the latest, if there are too many, and that at hand."""
        seen = self._turns.keys() | self._failed.keys()
        known = [work for work in self._works if any(work == one for one, _ in seen)]
        start = max(0, len(known) - most)
        if self._work in known:
            start = min(start, known.index(self._work))
        return known[start : start + most]

    def _cell(self, work: str, backend: str, backends: Sequence[str], wide: bool) -> Text:
        turns, failed = self._turns.get((work, backend)), self._failed.get((work, backend))
        if failed in ABSENT:
            return Text("–")
        if failed:
            return Text(failed, style="red")
        if not turns:
            return Text("")
        times = {
            b: median(t.time_s for t in self._turns[work, b])
            for b in backends
            if (work, b) in self._turns and (work, b) not in self._failed
        }
        text = duration(times[backend], 3)
        if wide:
            shares = [self._bytes[work] / t.time_s / read for t in turns if (read := t.ceiling("read"))]
            text += f" {median(shares):4.0%}" if shares else "     "
        return Text(text, style="bold" if times[backend] == min(times.values()) else "")

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


def _headings(backends: Sequence[str], width: int) -> list[str]:
    """Backends in few letters: without a device that all have in common, and cut in the middle."""
    one_device = len(set(map(device_class, backends))) == 1
    found = []
    for backend in backends:
        name, _, rest = backend.partition(":")
        text = name + re.sub(r"^[^+#]*", "", rest) if one_device else backend
        if len(text) > width:
            text = f"{text[: width // 2]}…{text[len(text) - (width - 1) // 2 :]}"
        found.append(text)
    return found
