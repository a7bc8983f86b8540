"""Turns of the works at hand, on disk before their rows are: a run that is killed loses none of them.

>>> with Journal(path) as journal:
...     journal.add("mine:cpu", 0, "linear:n=8,k=32", turn)
>>> read_journal(path)[("mine:cpu", 0, "linear:n=8,k=32")]
[StoredTurn(round=0, ...)]

A row is written when its work is done and its last output was right; until then its turns lie here, beside the rows.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import TextIO

from membound.results.store import StoreError
from membound.results.turns import StoredTurn

JOURNAL = ".turns"
Key = tuple[str, int, str]
"""Backend, replicate, work."""


def journal_of(path: Path) -> Path:
    """Where the turns of the run with that row file lie."""
    return path.with_name(path.name + JOURNAL)


class Journal:
    """Appends turns; `clear` when their rows are on disk. A context manager: leaving it normally removes the file."""

    def __init__(self, path: Path) -> None:
        self._path = journal_of(path)
        self._file: TextIO | None = None

    def __enter__(self) -> Journal:
        try:
            self._file = self._path.open("a", encoding="utf-8")
        except OSError as error:
            raise StoreError(f"{self._path} cannot be written: {error.strerror}") from None
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._file is not None:
            with suppress(OSError):
                self._file.close()
        if kind is None:
            self._path.unlink(missing_ok=True)

    def add(self, backend: str, replicate: int, work: str, turn: StoredTurn) -> None:
        """Write a turn. Raises StoreError."""
        assert self._file is not None
        line = {"backend": backend, "replicate": replicate, "work": work, "turn": turn.as_json()}
        try:
            self._file.write(json.dumps(line, separators=(",", ":"), allow_nan=False) + "\n")
            self._file.flush()
        except OSError as error:
            raise StoreError(
                f"{self._path} cannot be written: {error.strerror}; the rows so far are kept"
            ) from None

    def clear(self) -> None:
        """Forget the turns so far: their rows are on disk."""
        assert self._file is not None
        self._file.truncate(0)


def read_journal(path: Path) -> Mapping[Key, list[StoredTurn]]:
    """The turns that a killed run has left, by case; a torn last line is dropped, and so is what cannot be read."""
    found: dict[Key, list[StoredTurn]] = {}
    try:
        lines = journal_of(path).read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return found
    for line in lines:
        with suppress(ValueError, KeyError, TypeError):
            stored = json.loads(line)
            key = (str(stored["backend"]), int(stored["replicate"]), str(stored["work"]))
            found.setdefault(key, []).append(StoredTurn.from_fields(stored["turn"]))
    return found
