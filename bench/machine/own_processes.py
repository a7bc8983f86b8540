"""Which processes on a device are not of this run: its other contestants, their ranks and the ceilings only take turns with each other.

>>> others_among((4711, 4712, 5000))           # 4711 and 4712 are workers of this harness
1
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from functools import lru_cache
from pathlib import Path

from membound.bench.protocol.guardian import HARNESS

PROC = Path("/proc")
DEVICE_FILES = ("/dev/nvidia", "/dev/kfd")
"""How the files begin that whoever uses an accelerator holds open."""
LISTS_KEPT = 64
"""Lists whose answers are remembered: they are asked for at every turn, and change when a process comes or goes."""


@lru_cache(LISTS_KEPT)
def others_among(pids: tuple[int, ...]) -> int:
    """How many of the processes that a driver names are not of this run.

    Drivers name them as the host does. In a container with ids of its own this process is not among them: of those that are
    named, as many are taken for this run's as its processes hold an accelerator open, those on another one too.
    """
    if len(pids) <= 1:
        return 0
    own = set(_own())
    if os.getpid() in pids:
        return sum(pid not in own for pid in pids)
    return max(0, len(pids) - max(1, sum(_holds_device(pid) for pid in own)))


def _own() -> Iterator[int]:
    """This process, and all that carry the mark of its harness."""
    yield os.getpid()
    if mark := os.environ.get(HARNESS, ""):
        entry = f"{HARNESS}={mark}".encode()
        for folder in PROC.glob("[0-9]*"):
            with suppress(OSError):  # another user's, or gone by now
                if entry in (folder / "environ").read_bytes().split(b"\0"):
                    yield int(folder.name)


def _holds_device(pid: int) -> bool:
    with suppress(OSError):
        for descriptor in (PROC / str(pid) / "fd").iterdir():
            with suppress(OSError):
                if os.readlink(descriptor).startswith(DEVICE_FILES):
                    return True
    return False
