"""What a fleet says while it is at work: on a terminal a table of nodes that is drawn anew, elsewhere lines.

>>> with view_on(Console(stderr=True)) as view:
...     view.show(assigned)
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Protocol

from rich.console import Console, Group, RenderableType
from rich.live import Live as Screen
from rich.table import Table
from rich.text import Text

from membound.bench.fleet.assignment import STATES, Assignment

EVERY_S, LINE_EVERY_S = 0.5, 10.0
"""How often the table is drawn, and a line printed, at most."""
SLOW_S = 60.0
"""A suite of which nothing was heard for that long is shown as a straggler, with what it waits for."""
ORDER = {state: number for number, state in enumerate(("failed", "measuring", "starting", "waiting", "done"))}
"""Of the lines of a table with less room than nodes."""


class View(Protocol):
    """What the driver tells."""

    def show(self, assigned: Sequence[Assignment]) -> None:
        """How far all are."""

    def rows(self, count: int) -> None:
        """That many rows were stored."""

    def ended(self, one: Assignment) -> None:
        """A suite came to its end."""

    def note(self, text: str) -> None:
        """Something worth a line."""


@contextmanager
def view_on(console: Console) -> Iterator[View]:
    """A live table if the console is a terminal, else lines."""
    if not console.is_terminal or console.is_dumb_terminal:
        yield Lines(console)
        return
    with Screen(console=console, auto_refresh=False, transient=True, vertical_overflow="crop") as screen:
        yield Live(console, screen)


class Pace:
    """Rows by time, and what they say of the time left."""

    def __init__(self) -> None:
        self._began = time.monotonic()
        self._first_done: float | None = None
        self._at_first = 0
        self.stored = 0

    def rows_per_s(self) -> float:
        """Rows stored a second since the beginning."""
        return self.stored / max(time.monotonic() - self._began, 1e-9)

    def left_s(self, assigned: Sequence[Assignment]) -> float | None:
        """Seconds left if the cases to come take as long as those so far did; None before the first ones."""
        got, planned = progress_of(assigned)
        if not got:
            return None
        if self._first_done is None:
            self._first_done, self._at_first = time.monotonic(), got
        since, more = time.monotonic() - self._first_done, got - self._at_first
        return since / more * max(planned - got, 0) if more else None


def likely_cases(assigned: Sequence[Assignment]) -> int:
    """Cases of a suite that has no plan yet: as many as the first one that has; 0 before that."""
    return next((len(one.cases) for one in assigned if one.cases), 0)


def planned_of(one: Assignment, likely: int) -> int:
    """Cases of a suite, by its plan or by `likely_cases`, which is asked once for all of them: a fleet may have ten thousand."""
    return len(one.cases) if one.cases or one.is_over else likely


def progress_of(assigned: Sequence[Assignment]) -> tuple[int, int]:
    """Cases of all suites that are there, and that are planned."""
    likely = likely_cases(assigned)
    return sum(len(one.got) for one in assigned), sum(planned_of(one, likely) for one in assigned)


def summary(assigned: Sequence[Assignment], pace: Pace) -> str:
    """All of it in one line."""
    states = Counter(one.state for one in assigned)
    parts = [", ".join(f"{states[state]} {state}" for state in STATES if states[state])]
    got, planned = progress_of(assigned)
    parts.append(f"{got} of {planned or '?'} cases")
    parts.append(f"{pace.rows_per_s():.2g} rows/s")
    left = pace.left_s(assigned)
    if left is not None and any(not one.is_over for one in assigned):
        parts.append(f"{int(left) // 60}:{int(left) % 60:02d} left")
    return " · ".join(parts)


def stragglers(assigned: Sequence[Assignment]) -> Iterator[str]:
    """Suites of which nothing was heard for long, a line each."""
    now = time.monotonic()
    for one in assigned:
        if one.state in ("starting", "measuring") and now - one.since > SLOW_S:
            yield f"{title(one)}: nothing for {now - one.since:.0f} s; {one.doing or one.state}"


def title(one: Assignment) -> str:
    """A suite's node and device."""
    return f"{one.node.name} {one.device}"


def end_of(one: Assignment) -> str:
    """A suite that has ended, in one line."""
    cases = f"{len(one.got)} case{'s' * (len(one.got) != 1)}"
    if one.state == "failed":
        return f"{title(one)}: failed: {one.doing} ({one.failures} case{'s' * (one.failures != 1)} without an answer)"
    return (
        f"{title(one)}: done: {cases}, {one.failures} failed"
        if one.failures
        else f"{title(one)}: done: {cases}"
    )


class Lines:
    """Plain lines: each suite's end, each failure, and now and then how far all are."""

    def __init__(self, console: Console) -> None:
        self._console, self._pace, self._said = console, Pace(), time.monotonic()

    def show(self, assigned: Sequence[Assignment]) -> None:
        """How far all are, every LINE_EVERY_S."""
        if time.monotonic() - self._said >= LINE_EVERY_S:
            self._said = time.monotonic()
            self.note(summary(assigned, self._pace))
            for line in stragglers(assigned):
                self.note(line)

    def rows(self, count: int) -> None:
        """That many rows were stored."""
        self._pace.stored += count

    def ended(self, one: Assignment) -> None:
        """A suite came to its end."""
        self.note(end_of(one))

    def note(self, text: str) -> None:
        """Something worth a line."""
        self._console.print(text, soft_wrap=True)


class Live:
    """A table of nodes by state; failures stay above it, a line each."""

    def __init__(self, console: Console, screen: Screen) -> None:
        self._console, self._screen, self._pace, self._drawn = console, screen, Pace(), 0.0

    def show(self, assigned: Sequence[Assignment]) -> None:
        """Draw it, every EVERY_S."""
        if time.monotonic() - self._drawn >= EVERY_S:
            self._drawn = time.monotonic()
            self._screen.update(self.table(assigned, self._console.height), refresh=True)

    def rows(self, count: int) -> None:
        """That many rows were stored."""
        self._pace.stored += count

    def ended(self, one: Assignment) -> None:
        """Failures are worth a line."""
        if one.state == "failed" or one.failures:
            self.note(end_of(one))

    def note(self, text: str) -> None:
        """Something worth a line."""
        self._console.print(text, soft_wrap=True)

    def table(self, assigned: Sequence[Assignment], height: int) -> RenderableType:
        """Nodes and what they are at, as many as there is room for, and the line below them."""
        table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, header_style="bold", expand=True)
        for name in ("node", "device", "state", "cases"):
            table.add_column(name, no_wrap=True, justify="right" if name == "cases" else "left")
        table.add_column("at", ratio=1, no_wrap=True, overflow="ellipsis")
        room = max(1, height - 5)
        shown = sorted(assigned, key=lambda one: ORDER[one.state])[:room]
        likely = likely_cases(assigned)
        for one in shown:
            style = {"failed": "red", "done": "dim"}.get(one.state, "")
            cases = f"{len(one.got)}/{planned_of(one, likely) or '?'}"
            silent = time.monotonic() - one.since
            late = f"nothing for {silent:.0f} s: " if one.state in STATES[1:3] and silent > SLOW_S else ""
            table.add_row(one.node.name, one.device, one.state, cases, Text(late + one.doing), style=style)
        below = [f"{len(assigned) - len(shown)} more"] if len(shown) < len(assigned) else []
        lines = [Text(text, style="dim") for text in (*below, summary(assigned, self._pace))]
        return Group(table, *lines)
