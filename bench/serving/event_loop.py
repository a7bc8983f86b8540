"""An event loop that has less delay than asyncio's own.

>>> answer = on_uvloop(work)
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from importlib.util import find_spec
from typing import TypeVar

from membound.bench.serving.schedule import LoadError

T = TypeVar("T")
NEEDED = ("httptools", "uvloop")


def on_uvloop(work: Awaitable[T]) -> T:
    """The result of `work`."""
    import uvloop

    found: list[T] = []

    async def whole() -> None:
        found.append(
            await work
        )  # Python 3.11 writes a task's result as text when it ends: here millions of chunks

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(whole())
    return found[0]


def check_installed() -> None:
    """Raises LoadError, with what to install, where the extra `serving` is missing."""
    missing = [name for name in NEEDED if find_spec(name) is None]
    if missing:
        raise LoadError(f"{' and '.join(missing)} not installed: pip install 'membound[serving]'")
