"""Several threads for what a runtime does in one while it has let go of Python's lock: packing a matrix, say.

>>> from functools import partial
>>> with Background(threads=2) as background:
...     packed = [background.submit(partial(pack, weight)) for weight in weights]
>>> packed[0].result()

Meanwhile the caller makes the next inputs. At most `threads` tasks are under way at once, and no more inputs than that
wait in memory. The threads end with the context: none of them is there when something is measured.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from threading import BoundedSemaphore
from types import TracebackType
from typing import Any, TypeVar

Result = TypeVar("Result")


class Background:
    """Threads for tasks that do not depend on each other; a context manager that ends when all are done."""

    def __init__(self, threads: int) -> None:
        self._pool = ThreadPoolExecutor(threads)
        self._room = BoundedSemaphore(threads)
        self._under_way: list[Future[Any]] = []

    def submit(self, task: Callable[[], Result]) -> Future[Result]:
        """Start a task as soon as fewer than `threads` are under way. Raises the error of an earlier one."""
        for done in [future for future in self._under_way if future.done()]:
            done.result()
            self._under_way.remove(done)
        self._room.acquire()
        future = self._pool.submit(task)
        future.add_done_callback(lambda done: self._room.release())
        self._under_way.append(future)
        return future

    def wait(self) -> None:
        """Return when all tasks are done. Raises the error of the first that failed."""
        for future in self._under_way:
            future.result()
        self._under_way.clear()

    def __enter__(self) -> Background:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if kind is None:
                self.wait()
        finally:
            self._pool.shutdown()
