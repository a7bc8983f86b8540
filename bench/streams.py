"""The three standard streams, whatever the command was started with: closed, full, or not to be written at all.

>>> opened()  # each is there; true if standard output was closed
False

Rows and exit statuses do not hang on standard error: what it does not take is lost, and the command goes on.
"""

from __future__ import annotations

import io
import os
import sys
from typing import Any


class Lossy(io.FileIO):
    """A file for which a write never fails: a full disk, a terminal that is gone, a number that is not open for writing."""

    def write(self, data: Any, /) -> int:
        """How much was taken, or lost: all of it."""
        try:
            return super().write(data) or memoryview(data).nbytes  # nothing at all: it would have to wait
        except OSError:
            return memoryview(data).nbytes


def opened() -> bool:
    """Open what is closed, on nothing, and have standard error lose what it cannot take. True if standard output was closed."""
    for number in range(3):  # else the next files to be opened get these numbers, and all that is printed
        try:
            os.fstat(number)
        except OSError:
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)  # it gets the lowest number that is free
    closed = sys.stdout is None
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:  # closed, but what is measured is stored all the same
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115
    ours, replaced = sys.__stderr__, sys.stderr is not sys.__stderr__
    if ours is not None and not replaced:
        sys.stderr = io.TextIOWrapper(
            io.BufferedWriter(Lossy(ours.fileno(), "w", closefd=False)),
            encoding=ours.encoding,
            errors=ours.errors,
            line_buffering=True,
            write_through=True,
        )
    return closed
