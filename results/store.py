"""Row files: one JSON object to a line, one file to a run. No measurement is lost, and no damaged line is read.

>>> with RunWriter(new_run_path(Path("results/runs"), new_run_id("AMD EPYC 9654"))) as writer:
...     writer.append(row)                  # on disk, in <path>.partial, when the call returns
>>> rows = load_rows("results/runs")        # files, folders, and runs that were cut short

A run is written to ``<run>.jsonl.partial`` and gets its final name when it is finished. A line that was
torn by a kill or a full disk can only be the last one; it is dropped on load. Anything else that cannot
be read is an error that names file and line.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import re
import secrets
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Protocol, TypeVar, cast

from membound.results.checksum import sealed, unsealed
from membound.results.file_kinds import FOREIGN, OWN, kind_of
from membound.results.file_kinds import PARTIAL as PARTIAL
from membound.results.file_kinds import SUFFIX as SUFFIX
from membound.results.row import Row, RowError
from membound.results.run_files import StoreError as StoreError
from membound.results.run_files import files_of, no_folder

NO_LOCKS = (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP, errno.EINVAL)

Parsed = TypeVar("Parsed")


class Line(Protocol):
    """What a file of JSON lines holds: rows, observations."""

    def to_json(self) -> str:
        """One line of JSON without its end."""
        ...


def new_run_id(cpu: str, now: datetime | None = None) -> str:
    """A run's name: UTC time, the processor, four random hex digits, as ``20261121T221501-epyc-9654-1f3a``."""
    words = re.sub(r"\((r|tm|c)\)|\b(cpu|processor|\d+-core)\b|@.*", " ", cpu.lower())
    slug = re.sub(r"[^a-z0-9]+", "-", words).strip("-")[:32].strip("-") or "unknown"
    time = (now or datetime.now(UTC)).strftime("%Y%m%dT%H%M%S")
    return f"{time}-{slug}-{secrets.token_hex(2)}"


def new_run_path(out: Path, run_id: str) -> Path:
    """The path of a new run in folder `out`, which is made. Raises StoreError if it cannot be written."""
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        why = no_folder(out) if isinstance(error, FileExistsError) else None
        raise StoreError(
            f"results folder {out} cannot be made: {why or error.strerror}; name another with --out"
        ) from None
    if not os.access(out, os.W_OK | os.X_OK):
        raise StoreError(f"results folder {out} is not writable; name another with --out")
    return out / f"{run_id}{SUFFIX}"


class RunWriter:
    """Appends rows to ``<path>.partial``, each on disk before `append` returns; `finish` gives the final name.

    A context manager: leaving it normally finishes the run, an exception leaves the partial file, which
    `load_rows` reads. Raises StoreError if the file system refuses; what was written stays readable.
    With `resume` it continues the partial file, after removing a torn last line.
    """

    def __init__(self, path: Path, resume: bool = False) -> None:
        self.path = path
        self._mode = "r+b" if resume else "xb"
        self.partial = path.with_name(path.name + PARTIAL)
        self._file: BinaryIO | None = None

    def __enter__(self) -> RunWriter:
        if self.path.exists():
            raise StoreError(f"{self.path} exists already; a run is never overwritten")
        try:
            self._file = cast(BinaryIO, self.partial.open(self._mode, buffering=0))
            with suppress_missing_locks():
                fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self._file.truncate(self.partial.read_bytes().rfind(b"\n") + 1)
            self._file.seek(0, os.SEEK_END)
        except BlockingIOError:
            self._close()
            raise StoreError(f"{self.partial} is being written by another process") from None
        except OSError as error:
            self._close()
            raise StoreError(f"{self.partial} cannot be written: {error.strerror}") from None
        return self

    def append(self, *rows: Line) -> None:
        """Write rows or other lines, all of them or none, and wait until they are on disk."""
        if self._file is None:
            raise StoreError(f"{self.path} is finished or was never opened; no row can be added")
        end = self._file.tell()
        line = memoryview(b"".join(sealed(row.to_json().encode()) + b"\n" for row in rows))
        try:
            while line:
                line = line[self._file.write(line) :]
            os.fsync(self._file.fileno())
        except OSError as error:
            # Shrinking needs no space, and keeps later rows from following a torn line.
            self._file.truncate(end)
            self._file.seek(end)
            raise StoreError(
                f"{self.partial} cannot be written: {error.strerror}; the rows before this one are kept"
            ) from None

    def finish(self) -> Path:
        """Give the run its final name, atomically. Further calls do nothing."""
        if self._file is not None:
            self._close()
            try:
                self.partial.rename(self.path)
                _sync_folder(self.path.parent)
            except OSError as error:
                raise StoreError(f"{self.path} cannot be written: {error.strerror}") from None
        return self.path

    def _close(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if kind is None:
            self.finish()
        self._close()


@contextmanager
def suppress_missing_locks() -> Iterator[None]:
    """Network file systems may know no locks; there nobody is kept from writing into a run that another one writes."""
    try:
        yield
    except OSError as error:
        if error.errno not in NO_LOCKS:
            raise


def _sync_folder(folder: Path) -> None:
    """Make a rename in `folder` durable."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def load_rows(paths: Path | str | Iterable[Path | str]) -> list[Row]:
    """All rows of the named files, and of every run below the named folders, in order of name.

    A file of another tool is recognised by its content (results/exchange/formats.py). In a row
    file a torn last line is dropped. Raises RowError with file and line number on any other line that cannot
    be read and on a newer schema; StoreError if a path does not exist or cannot be read. A row that is there twice,
    in a copy of its file or in the same one, is counted once, with a warning.
    """
    return list(each_row(paths))


def each_row(paths: Path | str | Iterable[Path | str]) -> Iterator[Row]:
    """The same one at a time, for those who keep little of each. Raises as `load_rows`."""
    given = [paths] if isinstance(paths, Path | str) else paths
    return _once(file for path in given for file in files_of(Path(path)))


def _once(files: Iterable[Path]) -> Iterator[Row]:
    """The rows of all files, each once: what they hold makes them one, and not where they lie."""
    seen: set[bytes] = set()
    for file in files:
        before, copies = len(seen), 0
        for row in _rows(file):
            content = sha256(row.to_json().encode()).digest()
            if content in seen:
                copies += 1
                continue
            seen.add(content)
            yield row
        warn_of_copies(file, copies, also=len(seen) > before)


def warn_of_copies(file: Path, copies: int, also: bool) -> None:
    """Say that a file holds rows that were read before, `also` or nothing but; silent if there are none."""
    if copies:
        whole = "also" if also else "nothing but"
        warnings.warn(
            f"{file} holds {whole} {copies} rows that were read before: they count once", stacklevel=4
        )


def _rows(path: Path) -> Iterator[Row]:
    """The rows of a file in whatever format it has. Importers load pandas, so they are imported where one is needed."""
    try:
        kind = kind_of(path)
        if kind == OWN:
            return parsed_lines(path, Row.from_json, RowError)
        from membound.results.exchange import formats, parquet, sqlite

        if kind == FOREIGN:
            return iter(formats.read_foreign(path).rows)
        return iter(parquet.rows_from(path) if kind == "parquet" else sqlite.rows_from(path))
    except OSError as error:
        raise StoreError(f"{path} cannot be read: {error.strerror or error}") from None


def parsed_lines(path: Path, parse: Callable[[str], Parsed], malformed: type[ValueError]) -> Iterator[Parsed]:
    """Every line of a file as `parse` makes it; a torn last line is dropped.

    Raises `malformed` with file and line number if `parse` raised a ValueError, and StoreError if the file
    cannot be read.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise StoreError(f"{path} cannot be read: {error.strerror}") from None
    *lines, last = content.split(b"\n")
    if last.strip() and (_is_whole(last) or _is_whole(last[:-1])):
        lines.append(last)  # whole but for its last character: the newline itself has changed
    for number, line in enumerate(lines, 1):
        if line.strip():
            try:
                yield parse(unsealed(line).decode())
            except ValueError as error:
                raise malformed(f"{path}, line {number}: {error}") from None


def _is_whole(line: bytes) -> bool:
    """Whether a line without a newline is complete: one that was cut off cannot end with its closing brace."""
    try:
        json.loads(line.decode())
    except ValueError:
        return False
    except RecursionError:
        return True  # so that reading it says what is wrong
    return True
