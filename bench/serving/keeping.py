"""What a load keeps while it runs: its file of rows, the live view, and what the client was measured to add.

>>> with Keeping(path, rows, talk, progress) as keeping:
...     keeping.begin(prepared)
...     keeping.keep(row)

The file is opened with its first row or when a first server is ready, so that a load that never began leaves none. Leaving the
context in order gives it its final name.
"""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any

from rich.console import Console

from membound.bench.serving.client import Played
from membound.bench.serving.drawing import Schedule
from membound.bench.serving.glance import Glance
from membound.bench.serving.live import LiveLoad
from membound.bench.serving.load import Load, LoadPoint
from membound.bench.serving.self_check import measure_client
from membound.bench.serving.session import Prepared
from membound.results.row import Row
from membound.results.store import RunWriter
from membound.results.wording import duration


class Keeping:
    """A context manager. `rows` gets every row that is on disk."""

    def __init__(self, path: Path, rows: list[Row], talk: Console, progress: Console) -> None:
        self.rows = rows
        self.measured: dict[str, Any] | None = None
        """What the client adds on this machine; None before a first server is ready."""
        self._path, self._talk, self._progress = path, talk, progress
        self._stack = ExitStack()
        self._writer: RunWriter | None = None
        self._live: LiveLoad | None = None
        self._load: Load | None = None
        self._glance: tuple[Played, Glance] | None = None

    def __enter__(self) -> Keeping:
        self._stack.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.__exit__(kind, error, trace)

    @property
    def opened(self) -> bool:
        """Whether there is a file."""
        return self._writer is not None

    def begin(self, prepared: Prepared) -> None:
        """A server is ready. Before the first of them is played against, the client is measured."""
        self._load = prepared.load
        if self.measured is None:
            if prepared.facts.fields.dropped:
                self._talk.print(
                    f"the server does not take {', '.join(prepared.facts.fields.dropped)}", soft_wrap=True
                )
            first = prepared.schedules[0]
            self.measured = measure_client(first.point, due_per_s(first, prepared.load))
            self._talk.print(_told(self.measured), soft_wrap=True)
        self.writer()

    def writer(self) -> RunWriter:
        """The file of rows."""
        if self._writer is None:
            self._writer = self._stack.enter_context(RunWriter(self._path))
        return self._writer

    def keep(self, row: Row) -> None:
        """Write a row; it is on disk when this returns."""
        self.writer().append(row)
        self.rows.append(row)

    def watch(self, point: LoadPoint, played: Played) -> None:
        """Show how a point is going."""
        if self._load is None:
            raise AssertionError("a point is played, and no server is ready")
        if self._live is None:
            self._live = self._stack.enter_context(LiveLoad(self._progress))
        if self._glance is None or self._glance[0] is not played:
            self._glance = played, glance_of(point, self._load)
        self._live.show(self._glance[1].look(played))


def glance_of(point: LoadPoint, load: Load) -> Glance:
    """What is looked at while a point goes on."""
    return Glance(point.label, point.value if point.kind == "rate" else None, load.total_s)


def due_per_s(schedule: Schedule, load: Load) -> float:
    """Mean rate of a schedule; 0 of a closed loop."""
    return len(schedule.arrivals) / load.total_s


def _told(measured: dict[str, Any]) -> str:
    added = [measured[name] for name in ("added_ttft_p99_s", "added_itl_p99_s")]
    if None in added:
        return "the client could not be measured: the server that computes nothing gave no tokens"
    ttft, itl = (duration(abs(one), 3) for one in added)
    return f"the client adds {ttft} to first tokens and {itl} to gaps between tokens on this machine (99 %)"
