"""Who is told that a kernel is being compiled. Numba itself is imported only by what compiles (compile.py).

>>> with watch_compilation(print):
...     backend.prepare(work, inputs)
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

_WATCHERS: list[tuple[Callable[[str], None], Callable[[], None]]] = []


@contextmanager
def watch_compilation(tell: Callable[[str], None], done: Callable[[], None] = lambda: None) -> Iterator[None]:
    """Call `tell(name)` whenever a kernel is compiled (not when it is loaded from the cache), then `done()`."""
    watcher = (tell, done)
    _WATCHERS.append(watcher)
    try:
        yield
    finally:
        _WATCHERS.remove(watcher)


def begun(name: str) -> None:
    """Tell all: a function of that name is being compiled."""
    for tell, _ in list(_WATCHERS):
        tell(name)


def done() -> None:
    """Tell all: that is done."""
    for _, end in list(_WATCHERS):
        end()
