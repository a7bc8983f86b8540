"""Where inputs have their arrays from: made here, or by another process that prepares the same work.

>>> from membound.kernels.seeded import make_inputs
>>> with Making("/proc/4711/fd/9", threads=2) as making:
...     inputs = make_inputs(work, seed=1, slots=2, take=making.take)
...     backend.prepare(work, inputs)

What a `Take` returns is the same either way: the caller's own arrays, C-contiguous and writable.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from threading import RLock
from types import TracebackType
from typing import Protocol

import numpy as np

from membound.kernels.weights.array_file import WAIT_S, ArrayFile, ArrayFileError, Line, name_of
from membound.kernels.weights.formats import Array, Layout, layout_bytes

Make = Callable[[], Sequence[Array]]

SHARED = ("bf16", "f16", "fp8", "int4g32")
"""Formats in which a process that needs an array reads it rather than draw it, if another one has.

Seconds of a core for a gigabyte, on two cores of a Xeon with AMX (08/2026): reading 0.65 to 0.75 and writing 0.5 in every
format; drawing bf16 1.0, f16 1.1, fp8 1.8, int4g32 1.0 (its scales), but f32 0.6, int4g128 0.75, int8 0.4.
"""
LEAST_BYTES = 1 << 20
"""Smaller arrays are made by everybody: that takes half a millisecond, and finding one in the file a tenth."""


class Take(Protocol):
    """How inputs get their arrays: `Making.take`, or `make_here`."""

    def __call__(self, name: str, layout: Layout, make: Make, share: bool) -> Sequence[Array]:
        """What `make` returns, described by `layout`, from whoever has made it. Raises what `make` raises.

        `name` says all that the numbers depend on. `share`: whether reading them is cheaper than making them.
        """
        ...


def make_here(name: str, layout: Layout, make: Make, share: bool) -> Sequence[Array]:
    """The `Take` of a process that shares nothing."""
    return make()


class Making:
    """Makes arrays, or reads those that another process has made. A context manager; once it is left, all are made here.

    `path` is empty where nothing is shared. `unshared` says why sharing ended early, if it did. `seconds` is the time in
    which arrays were made, written, waited for or read.
    """

    def __init__(self, path: str = "", threads: int = 1, wait_s: float = WAIT_S) -> None:
        self._path, self._threads, self._wait_s = path, threads, wait_s
        self._file: ArrayFile | None = None
        self._one = RLock()
        self.unshared, self.seconds = "", 0.0

    def __enter__(self) -> Making:
        if self._path:
            try:
                self._file = ArrayFile(self._path, self._threads, self._wait_s)
            except (OSError, ArrayFileError) as error:
                self._stop(error)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._one:
            self._close()

    def take(self, name: str, layout: Layout, make: Make, share: bool) -> Sequence[Array]:
        """As `Take`."""
        with self._one:  # a lock on a file does not hold the threads of a process apart
            start = time.perf_counter()
            try:
                if self._file is None or not share or layout_bytes(layout) < LEAST_BYTES:
                    return make()
                return self._taken(self._file, name, layout, make)
            finally:
                self.seconds += time.perf_counter() - start

    def _taken(self, file: ArrayFile, name: str, layout: Layout, make: Make) -> Sequence[Array]:
        mine: Line | None = None
        try:
            line = file.claim(name_of(f"{name} {layout}"), layout_bytes(layout))
            if line is not None and line.complete:
                arrays = [np.empty(shape, dtype) for shape, dtype in layout]
                file.read(line, arrays)
                return arrays
            mine = line
        except (OSError, ArrayFileError) as error:
            self._stop(error)
        if mine is None:
            return make()
        try:
            made = make()
            self._write(file, mine, made)
        finally:
            if self._file is not None:
                file.release(mine)
        return made

    def _write(self, file: ArrayFile, line: Line, arrays: Sequence[Array]) -> None:
        try:
            file.write(line, arrays)
        except (OSError, ArrayFileError) as error:
            self._stop(error)

    def _stop(self, error: OSError | ArrayFileError) -> None:
        """Make all further arrays here."""
        self.unshared = (error.strerror or "") if isinstance(error, OSError) else str(error)
        self._close()

    def _close(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None
