"""Worker processes that a test starts, and whether a process, or what it left, has gone."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import psutil

from membound.bench.protocol.process import Worker

SOON_S = 0.2
"""A limit for what never comes."""
LATE_S = 60.0
"""A limit for what comes at once, on however slow a machine."""


@contextmanager
def started(python: str) -> Iterator[Worker]:
    """A worker that has greeted; nothing of it is left when it ends."""
    with Worker(1, python) as worker:
        worker.greet(LATE_S)
        yield worker
    assert gone(worker.pid)


def gone(pid: int) -> bool:
    """Whether a process has ended, or does within ten seconds; one that init has not collected yet has."""
    for _ in range(1000):
        try:
            if psutil.Process(pid).status() == psutil.STATUS_ZOMBIE:
                return True
            psutil.Process(pid).wait(timeout=0.01)
        except psutil.NoSuchProcess:
            return True
        except psutil.TimeoutExpired:
            continue
    return False


def comes_true(holds: Callable[[], bool], seconds: float = 10.0) -> bool:
    """Whether something holds, or does within that time: what a guardian removes goes after the harness, not with it."""
    end = time.monotonic() + seconds
    while not holds() and time.monotonic() < end:
        time.sleep(0.02)
    return holds()
