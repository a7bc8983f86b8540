"""Which backends exist: entry points of the group ``membound.backends``, listed without importing them.

>>> names()
('numba', 'numpy', 'onnxruntime', 'torch')
>>> create("torch:cpu+compile")        # imports membound.backends.pytorch.backend, not yet torch
"""

from __future__ import annotations

import difflib
from functools import cache
from importlib.metadata import EntryPoint, entry_points

from membound.backends.api import Backend
from membound.errors import BackendUnavailable, MemboundError

GROUP = "membound.backends"


class UnknownBackend(MemboundError):
    """No backend of that name is registered."""


@cache
def _entry_points() -> dict[str, EntryPoint]:
    return {point.name: point for point in entry_points(group=GROUP)}


def entries() -> tuple[str, ...]:
    """Registered entry points; ``numba.cpu`` and ``numba.cuda`` are two entries of the backend numba."""
    return tuple(sorted(_entry_points()))


def names() -> tuple[str, ...]:
    """The names of backends, as before the colon."""
    return tuple(sorted({entry.partition(".")[0] for entry in entries()}))


def entry_for(name: str) -> str:
    """The entry that serves ``backend:device``. Raises UnknownBackend that lists what is known."""
    backend, _, device = unlabelled(name).partition(":")
    kind = device.partition("+")[0].partition(":")[0] or "cpu"
    for candidate in (f"{backend}.{kind}", backend):
        if candidate in _entry_points():
            return candidate
    near = difflib.get_close_matches(backend, names(), 1)
    hint = f" (did you mean {near[0]}?)" if near else ""
    if backend in names():
        kinds = sorted(e.partition(".")[2] for e in entries() if e.startswith(f"{backend}."))
        raise UnknownBackend(f"backend {backend} has no device {kind!r}; it has: {', '.join(kinds)}")
    raise UnknownBackend(f"unknown backend {backend!r}{hint}; known: {', '.join(names())}")


def load(entry: str) -> type[Backend]:
    """Import an entry's class. Raises BackendUnavailable if its module cannot be imported."""
    point = _entry_points()[entry]
    try:
        cls = point.load()
    except (ImportError, AttributeError) as error:
        raise BackendUnavailable(f"{point.value} cannot be imported: {error}") from error
    if not (isinstance(cls, type) and issubclass(cls, Backend)):
        raise BackendUnavailable(f"{point.value} is not a subclass of membound.backends.api.Backend")
    return cls


def create(name: str) -> Backend:
    """A new backend for ``backend:device``; the caller opens its device."""
    return load(entry_for(name))()


def device_of(name: str) -> str:
    """The part after the first colon, without a label; ``cpu`` when there is none."""
    return unlabelled(name).partition(":")[2] or "cpu"


def unlabelled(name: str) -> str:
    """``mine:cpu#2`` is mine:cpu once more, a contestant of its own."""
    return name.partition("#")[0]
