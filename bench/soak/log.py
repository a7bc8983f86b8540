"""The passes of a soak as a table on disk, a line each, on disk when `write` returns.

>>> with Log(Path("results/soaks/20261129T121500-soak-1f3a/passes.csv")) as log:
...     log.write(one)
"""

from __future__ import annotations

import csv
from contextlib import suppress
from dataclasses import asdict, fields
from pathlib import Path
from types import TracebackType

from membound.results.soak.reading import Pass, Reading
from membound.results.store import StoreError

OF_PASS = ("run_id", "seconds", "expected", "stored", "twice", "failed")
OF_READING = tuple(one.name for one in fields(Reading))


class Log:
    """A new file with a line of names. Raises StoreError where it cannot be written."""

    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = path.open("x", newline="", encoding="utf-8")
        except OSError as error:
            raise self._refused(error) from None
        self._table = csv.writer(self._file)
        self._line((*OF_PASS, *OF_READING))

    def __enter__(self) -> Log:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with suppress(OSError):  # what could not be written was said when it was tried
            self._file.close()

    def write(self, one: Pass) -> None:
        """Add a pass. Raises StoreError."""
        held = asdict(one.reading)
        self._line((*(getattr(one, name) for name in OF_PASS), *(held[name] for name in OF_READING)))

    def _line(self, cells: tuple[object, ...]) -> None:
        try:
            self._table.writerow(cells)
            self._file.flush()
        except OSError as error:
            raise self._refused(error) from None

    def _refused(self, error: OSError) -> StoreError:
        return StoreError(f"{self._path} cannot be written: {error.strerror}")
