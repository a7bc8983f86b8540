"""When Ctrl-C may end a run: while it measures, and never while its files are made or finished.

>>> with deferred() as interrupts:
...     try:                            # files are made before
...         with interrupts:
...             print("measuring")
...     except KeyboardInterrupt:
...         print("interrupted")        # and finished after it

TERM and HUP are treated alike. The first one ends measuring in good order, the second at once; further ones, and those
that come while files are finished, change nothing any more.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import FrameType, TracebackType
from typing import Any

ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
"""Signals that end a run in good order."""
MOST = 2


@dataclass(slots=True)
class Heeded:
    """A signal handler, and the context in which it hands on to the handlers that it replaced.

    Signals that came before raise on entering.
    """

    before: dict[int, Callable[[int, FrameType | None], Any]]
    waiting: list[int] = field(default_factory=list)
    handed_on: int = 0
    open: bool = False

    def __call__(self, number: int, frame: FrameType | None) -> None:
        """A signal has come."""
        if not self.open:
            self.waiting.append(number)
            return
        self.handed_on += 1
        self.open = self.handed_on < MOST  # whoever is impatient must not cut the finish short
        self.before[number](number, frame)

    def __enter__(self) -> None:
        if self.waiting and self.handed_on < MOST:
            self.handed_on += 1
            number = self.waiting.pop(0)
            self.before[number](number, None)
        self.open = self.handed_on < MOST

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.open = False


@contextmanager
def deferred() -> Iterator[Heeded]:
    """Keep signals waiting, but within the context that this gives. Nested, it is the outer one.

    In a thread other than the main one, to which signals go, nothing waits.
    """
    handlers: dict[int, Any] = {one: signal.getsignal(one) for one in ENDING}
    for handler in handlers.values():  # in a shell's background INT is ignored, under nohup HUP
        if isinstance(handler, Heeded):
            yield handler
            return
    heeded = Heeded({one: handler for one, handler in handlers.items() if callable(handler)})
    if threading.current_thread() is not threading.main_thread():  # signals go to the main one
        yield heeded
        return
    try:
        for one in heeded.before:
            signal.signal(one, heeded)
        yield heeded
    finally:
        for one in heeded.before:
            signal.signal(one, handlers[one])
