"""Turns of the works at hand, on disk before their rows are: a run that is killed loses none of them.

>>> with Journal(path) as journal:
...     journal.add("mine:cpu", 0, "linear:n=8,k=32", turn)

A run that is resumed finds them in `left`, by backend, replicate and work.

A row is written when its work is done and its last output was right; until then its turns lie here, beside the rows.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, cast

from membound.results.checksum import sealed
from membound.results.fields import read_json, wrong_field
from membound.results.row import RowError
from membound.results.store import StoreError, parsed_lines
from membound.results.turns import StoredTurn

JOURNAL = ".turns"
Key = tuple[str, int, str]
"""Backend, replicate, work."""


def journal_of(path: Path) -> Path:
    """Where the turns of the run with that row file lie."""
    return path.with_name(path.name + JOURNAL)


@dataclass(frozen=True, slots=True)
class _Line:
    """What a line of the file holds besides its checksum."""

    backend: str
    replicate: int
    work: str
    turn: dict[str, Any]


class Journal:
    """Appends turns; `settle` when their rows are on disk. A context manager: leaving it normally removes the file.

    Entering it reads what a killed run has left: a torn last line is cut off, any other that cannot be read raises
    RowError. Raises StoreError where the file system refuses.
    """

    def __init__(self, path: Path) -> None:
        self._path = journal_of(path)
        self._file: BinaryIO | None = None
        self._open: set[Key] = set()
        self.left: dict[Key, list[StoredTurn]] = {}
        """Turns that an earlier process took of cases that have no row yet."""

    def __enter__(self) -> Journal:
        try:
            self._file = cast(BinaryIO, self._path.open("ab", buffering=0))
            self._file.truncate(self._path.read_bytes().rfind(b"\n") + 1)
        except OSError as error:
            self._close()
            raise StoreError(f"{self._path} cannot be written: {error.strerror}") from None
        try:
            for key, turn in parsed_lines(self._path, _parsed, RowError):
                self.left.setdefault(key, []).append(turn)
                self._open.add(key)
        except RowError as error:
            self._close()
            raise RowError(f"{error}; remove that file to go on without the turns in it") from None
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._close()
        if kind is None:
            self._path.unlink(missing_ok=True)

    def add(self, backend: str, replicate: int, work: str, turn: StoredTurn) -> None:
        """Write a turn, which then outlives this process. Raises StoreError."""
        if self._file is None:
            raise AssertionError("the journal is not open")
        fields = {"backend": backend, "replicate": replicate, "work": work, "turn": turn.as_json()}
        self._open.add((backend, replicate, work))
        line = memoryview(sealed(json.dumps(fields, separators=(",", ":"), allow_nan=False).encode()) + b"\n")
        try:
            while line:
                line = line[self._file.write(line) :]
        except OSError as error:
            raise StoreError(
                f"{self._path} cannot be written: {error.strerror}; the rows so far are kept"
            ) from None

    def settle(self, done: Iterable[Key]) -> None:
        """The rows of these cases are on disk: their turns are forgotten as soon as none of other cases lie among them."""
        for key in done:
            self.left.pop(key, None)
            self._open.discard(key)
        if not self._open:
            if self._file is None:
                raise AssertionError("the journal is not open")
            with suppress(OSError):  # turns whose rows are on disk are passed by as well
                self._file.truncate(0)

    def _close(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None


def _parsed(line: str) -> tuple[Key, StoredTurn]:
    """A line as `Journal.add` writes it. Raises ValueError."""
    stored = read_json(line)
    if not isinstance(stored, dict):
        raise ValueError("not a turn: no JSON object")
    if wrong := wrong_field(_Line, stored):
        raise ValueError(f"not a turn: {wrong}")
    key = (stored["backend"], stored["replicate"], stored["work"])
    return key, StoredTurn.from_fields(stored["turn"])
