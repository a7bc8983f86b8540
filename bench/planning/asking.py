"""Asking every backend the same, each in a worker of its own, all at once.

>>> ask_all(ask_in_worker, registry.entries())
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import Any, TypeVar

from membound.bench.protocol.guardian import HARNESS, end_marked, harness_mark
from membound.bench.protocol.interrupts import deferred

AGAIN_S = 0.1
"""A worker may be starting while the others are ended."""

Answer = TypeVar("Answer")


def ask_all(ask: Callable[[str], list[Answer]], entries: Sequence[str]) -> list[Answer]:
    """What `ask` says of each entry point, in their order. Ctrl-C ends all workers at once and goes through."""
    with ThreadPoolExecutor(max_workers=len(entries) or 1) as pool:  # the slowest is not to begin last
        asked = [pool.submit(ask, entry) for entry in entries]
        try:
            return [answer for one in asked for answer in one.result()]
        except KeyboardInterrupt:
            _break_off(pool, asked)
            raise


def _break_off(pool: ThreadPoolExecutor, asked: Sequence[Future[Any]]) -> None:
    """Nobody who presses Ctrl-C waits until runtimes have been imported."""
    with deferred():
        pool.shutdown(wait=False, cancel_futures=True)
        begun = [one for one in asked if not one.cancelled()]
        while wait(begun, AGAIN_S).not_done:
            end_marked(HARNESS, harness_mark())
