"""The view of a load while it runs: a table that a process of its own draws, or plain lines where there is no terminal.

    python -m membound.bench.serving.live               # draws what it is told by JSON lines on standard input

Drawing takes milliseconds, in which a client that draws sends nothing; so the client only writes a line to a pipe, and drops it
if the pipe is full. The process that draws ends when the pipe does, however the client ended.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from types import TracebackType
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from membound.results.views.console import PlainConsole
from membound.results.wording import duration

PLAIN_EVERY_S = 5.0
END_S = 5.0


class LiveLoad:
    """A context manager; `show` takes what `Glance.look` gives, about once a second."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._drawing: subprocess.Popen[bytes] | None = None
        self._printed = float("-inf")

    def __enter__(self) -> LiveLoad:
        if self._console.is_terminal:
            self._drawing = subprocess.Popen(
                [sys.executable, "-m", "membound.bench.serving.live"],
                stdin=subprocess.PIPE,
                stdout=sys.stderr,
            )
            if self._drawing.stdin is not None:
                os.set_blocking(self._drawing.stdin.fileno(), False)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._drawing is not None and self._drawing.stdin is not None:
            with suppress(OSError):
                self._drawing.stdin.close()
            try:
                self._drawing.wait(END_S)
            except subprocess.TimeoutExpired:
                self._drawing.kill()
                self._drawing.wait()

    def show(self, told: Mapping[str, Any]) -> None:
        """Draw it, or print it if it is time."""
        if self._drawing is not None and self._drawing.stdin is not None:
            with suppress(OSError):  # full, or gone: nobody measures for a picture
                os.write(self._drawing.stdin.fileno(), json.dumps(told).encode() + b"\n")
        elif time.monotonic() - self._printed >= PLAIN_EVERY_S:
            self._printed = time.monotonic()
            self._console.print(line_of(told), markup=False, highlight=False, soft_wrap=True)


def line_of(told: Mapping[str, Any]) -> str:
    """A look in one line."""
    parts = [
        f"{told['point']}: {told['left_s']:.0f} s left",
        f"{told['sent']} sent ({_asked(told)})",
        f"{told['under_way']} under way",
        *(f"{count} {_word(end)}" for end, count in told["ends"].items()),
    ]
    if told["ttft_p50_s"] is not None:
        parts.append(f"first token {duration(told['ttft_p50_s'], 3)}")
    return ", ".join(parts)


def view_of(told: Mapping[str, Any]) -> RenderableType:
    """A look as a table."""
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, header_style="bold")
    for name in ("so far, roughly", "median", "99 %"):
        table.add_column(name, justify="left" if name.startswith("so far") else "right")
    for name, words in (("ttft", "first token, from due"), ("gap", "between chunks")):
        table.add_row(words, *(_time(told[f"{name}_p{p}_s"]) for p in (50, 99)))
    table.add_row("the client's own lag", "", _time(told["lag_p99_s"]))
    ends = ", ".join(f"{count} {_word(end)}" for end, count in told["ends"].items()) or "none ended yet"
    return Group(
        Text(f"{told['point']}: {told['left_s']:.0f} s left, {_asked(told)}", style="bold"),
        Text(f"{told['sent']} sent, {told['under_way']} under way, {ends}"),
        table,
    )


def _asked(told: Mapping[str, Any]) -> str:
    reached = f"{told['sent_per_s']:.3g}/s"
    return reached if told["asked_per_s"] is None else f"{reached} of {told['asked_per_s']:.3g}/s"


def _word(end: str) -> str:
    return "done" if end == "complete" else end


def _time(seconds: float | None) -> str:
    return "–" if seconds is None else duration(seconds, 3)


def draw_forever() -> None:
    """Draw each line of standard input until its end; Ctrl-C is the client's to act on."""
    from rich.live import Live

    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with Live(console=PlainConsole(), auto_refresh=False, transient=True) as live:
        for line in sys.stdin:
            live.update(view_of(json.loads(line)), refresh=True)


if __name__ == "__main__":
    draw_forever()
