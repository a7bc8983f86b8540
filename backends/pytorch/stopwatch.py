"""What parts of a step take, added up: by a device's own events, or by the host's clock where it has none.

>>> exchanging = host_stopwatch()
>>> with exchanging:
...     distributed.all_reduce(summand)
>>> exchanging.seconds()
4.1e-05
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from membound.backends.pytorch.device import timed_event


class Stopwatch:
    """Adds up what happens within its context. `mark` notes a moment, `between` has the seconds from one to another."""

    def __init__(self, mark: Callable[[], Any], between: Callable[[Any, Any], float]) -> None:
        self._mark, self._between = mark, between
        self._spans: list[tuple[Any, Any]] = []
        self._start: Any = None

    def __enter__(self) -> None:
        self._start = self._mark()

    def __exit__(self, *_: object) -> None:
        self._spans.append((self._start, self._mark()))

    def seconds(self) -> float:
        """All that was added since the last call. An accelerator has to be waited for before."""
        found = sum(self._between(start, end) for start, end in self._spans)
        self._spans.clear()
        return found


def host_stopwatch() -> Stopwatch:
    """Of what is done when it returns."""
    return Stopwatch(time.perf_counter, lambda start, end: end - start)


def device_stopwatch(device: str) -> Stopwatch:
    """Of what is put on the current stream of an accelerator."""
    return Stopwatch(lambda: timed_event(device), lambda start, end: 1e-3 * start.elapsed_time(end))
