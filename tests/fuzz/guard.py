"""What no input may do, whoever checks it: hang, or take memory without bound.

>>> with memory_bound(), time_bound():
...     check(content)
"""

from __future__ import annotations

import resource
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

MEMORY_BYTES = 4 << 30
"""What checking inputs may add to the addresses of the process: more than it uses, as allocators reserve ahead."""
SECONDS = 20.0
"""What checking one input may take: a thousand times what the dearest does, on a machine that others use too."""


class Hang(BaseException):
    """An input took longer than its bound."""


@contextmanager
def time_bound(seconds: float = SECONDS) -> Iterator[Callable[[], None]]:
    """Raises Hang within what takes longer. What it gives begins the time anew, for the next input of many.

    The alarm rings twice in that time and the first ring is forgiven: it is all that a process hears of the time in
    which it was stopped.
    """
    rings = 0

    def ring(number: int, frame: FrameType | None) -> None:
        nonlocal rings
        rings += 1
        if rings > 1:
            raise Hang(f"longer than {seconds:g} s")

    def begin() -> None:
        nonlocal rings
        rings = 0
        signal.setitimer(signal.ITIMER_REAL, seconds / 2, seconds / 2)

    before = signal.signal(signal.SIGALRM, ring)
    begin()
    try:
        yield begin
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


@contextmanager
def memory_bound(more: int = MEMORY_BYTES) -> Iterator[None]:
    """Allocations beyond `more` bytes above what the process has now raise MemoryError."""
    pages = int(Path("/proc/self/statm").read_text(encoding="utf-8").split()[0])
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + more, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
