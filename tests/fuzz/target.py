"""What a target of fuzzing is, and what its check may pass over.

>>> with refusing(RowError):
...     Row.from_json("{}")                         # refused as documented: nothing happens
"""

from __future__ import annotations

import atexit
import os
import shutil
import tempfile
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from random import Random
from zlib import crc32

Check = Callable[[bytes], None]
Change = Callable[[Random, bytes], bytes]
MEMORY_BYTES = 10**9
"""The memory of a machine on which works are planned."""
EXPORTED = 32
"""Tables and pages take twenty to fifty times as long as reading: of this many inputs one, chosen by its content, is shown too."""


@dataclass(frozen=True, slots=True)
class Target:
    """Seeds, how one of them is changed, and the check of what comes out."""

    name: str
    seeds: Callable[[], Sequence[bytes]]
    change: Change
    check: Check

    def input(self, rng: Random) -> bytes:
        """One input: a seed with changes."""
        return self.change(rng, rng.choice(self.known))

    @property
    def known(self) -> tuple[bytes, ...]:
        """The seeds, made once."""
        return _made(self.seeds)


@cache
def _made(make: Callable[[], Sequence[bytes]]) -> tuple[bytes, ...]:
    return tuple(make())


@contextmanager
def refusing(*documented: type[Exception]) -> Iterator[None]:
    """Passes over the documented errors, which must have a message."""
    try:
        yield
    except documented as error:
        if not str(error).strip():
            raise AssertionError(f"{type(error).__name__} without a message") from error


@contextmanager
def strict_warnings() -> Iterator[None]:
    """Makes exceptions of the warnings of libraries; those for users say what was passed by."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.simplefilter("ignore", UserWarning)
        yield


@cache
def folder() -> Path:
    """Where this process writes its inputs: in memory, if the system has such a place."""
    shm = Path("/dev/shm")
    place = tempfile.mkdtemp(prefix="membound-fuzz-", dir=shm if os.access(shm, os.W_OK) else None)
    atexit.register(shutil.rmtree, place, ignore_errors=True)
    return Path(place)


def written(name: str, content: bytes) -> Path:
    """A file of that name with this content."""
    path = folder() / name
    path.write_bytes(content)
    return path


def shown(content: bytes) -> bool:
    """Whether an input is one of those that are exported or shown too."""
    return crc32(content) % EXPORTED == 0
