"""The processes of files, read line by line, so that a million rows fit into memory.

>>> for process in processes_of(Path("run.jsonl")):
...     process.backend, process.work, process.times_s

Of lines with a checksum only the fields of a process are looked at, of those without one all of them (`case_lines`). Large files are read by two interpreters.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from membound.results.case_lines import CaseLines
from membound.results.checksum import ChangedLine, seal_of, unsealed
from membound.results.file_kinds import OWN, kind_of
from membound.results.process import Process, condensed, of_fields, same_row, sharing
from membound.results.process_columns import Columns, Packer
from membound.results.reader_processes import READERS, processes_of_parts
from membound.results.row import Row, RowError
from membound.results.run_files import StoreError, files_of
from membound.results.store import load_rows, warn_of_copies

LARGE_BYTES = 64 << 20
"""Of a file. Starting a second interpreter takes as long as reading this."""
LARGE_ROWS = 100_000
"""The same of a Parquet file."""
PARTS_A_READER = 4
"""Of a Parquet file: what rows share is made once for each part."""
LINES, PARQUET = "lines", "parquet"
CHUNK_BYTES = 8 << 20
BUFFER_BYTES = 1 << 20
"""Of a file that is read line by line; a line has kilobytes."""


def processes_of(paths: Path | str | Iterable[Path | str], turns: bool = False) -> Iterator[Process]:
    """The cases of the named files and folders, in any format that can be read, without their ceilings.

    `turns` keeps the single turns, which pairs of one run need. Raises RowError and StoreError as `load_rows`.
    """
    given = [paths] if isinstance(paths, Path | str) else paths
    known: dict[Any, Any] = {}
    seen: set[int] = set()
    for path in (file for one in given for file in files_of(Path(one))):
        before, copies = len(seen), 0
        for process in _of_file(path, turns, known):
            row = same_row(process)
            if row in seen:
                copies += 1
                continue
            seen.add(row)
            yield process
        warn_of_copies(path, copies, also=len(seen) > before)


def _of_file(path: Path, turns: bool, known: dict[Any, Any]) -> Iterator[Process]:
    """`known` has what earlier processes shared."""
    try:
        kind = kind_of(path)
        if kind == PARQUET:
            yield from _of_table(path, turns, known)
            return
        if kind != OWN:
            rows = load_rows(path)
            yield from (sharing(condensed(row, turns), known) for row in rows if row.kind == "case")
            return
        size = path.stat().st_size
        if size < LARGE_BYTES or (os.cpu_count() or 1) < READERS:
            yield from _of_part(path, CaseLines(turns, known), (0, size))
            return
        parts = [(at, min(at + CHUNK_BYTES, size)) for at in range(0, size, CHUNK_BYTES)]
        yield from processes_of_parts(path, turns, parts, LINES, known)
    except OSError as error:
        raise (
            error
            if isinstance(error, StoreError)
            else StoreError(f"{path} cannot be read: {error.strerror or error}")
        ) from None


def _of_table(path: Path, turns: bool, known: dict[Any, Any]) -> Iterator[Process]:
    from membound.results.exchange.parquet import group_sizes
    from membound.results.process_table import (
        processes_of_table,
    )  # it takes pandas, which readers of lines do without

    sizes = group_sizes(path)
    if sum(sizes) < LARGE_ROWS or len(sizes) < READERS or (os.cpu_count() or 1) < READERS:
        yield from processes_of_table(path, turns, known)
        return
    step = -(-len(sizes) // (PARTS_A_READER * READERS))
    parts = [(at, min(at + step, len(sizes))) for at in range(0, len(sizes), step)]
    yield from processes_of_parts(path, turns, parts, PARQUET, known)


def columns_of(path: str, turns: bool, kind: str) -> Callable[[tuple[int, int]], Columns]:
    """What reads a part of a file: the cases whose lines begin within these bytes, or of these groups of rows of a table.

    It raises RowError, OSError.
    """
    packer, known = Packer(), dict[Any, Any]()
    if kind == PARQUET:
        from membound.results.process_table import processes_of_table

        return lambda part: packer.columns(processes_of_table(Path(path), turns, known, range(*part)))
    lines = CaseLines(turns, known)
    return lambda part: packer.columns(_of_part(Path(path), lines, part))


def _of_part(path: Path, lines: CaseLines, part: tuple[int, int]) -> Iterator[Process]:
    """The cases whose lines begin within these bytes. A torn last line of the file is dropped."""
    at, end = part
    with path.open("rb", buffering=BUFFER_BYTES) as file:
        if at:
            file.seek(at - 1)
            # The rest of a line that began in a part before, no further than this part: it may be as long as the file.
            at += len(file.readline(end - at + 1)) - 1
            if at >= end:
                return
        for line in file:
            if at >= end:
                return
            if not line.isspace() and (process := _of_line(path, at, line, lines)) is not None:
                yield process
            at += len(line)


def _of_line(path: Path, at: int, line: bytes, lines: CaseLines) -> Process | None:
    try:
        try:
            return lines.process_of(line)
        except ChangedLine:
            raise
        except ValueError:
            return _of_unusual(line, lines)
    except (KeyError, TypeError, ValueError, RecursionError) as error:
        if not line.endswith(b"\n") and not (_is_whole(line) or _is_whole(line[:-1])):
            return None  # torn; one that is whole but for its last character is not: the newline itself has changed
        raise RowError(f"{path}, line {_number(path, at)}: {_wrong(line, error)}") from None


def _of_unusual(line: bytes, lines: CaseLines) -> Process | None:
    """The process of a line that is not as this membound writes them. Raises KeyError, TypeError, ValueError, RecursionError."""
    sealed, checksum = seal_of(line)
    if sealed < 0:  # no checksum: whoever wrote it
        row = Row.from_json(line.decode())
        return sharing(condensed(row, lines.turns), lines.known) if row.kind == "case" else None
    stored = json.loads(line[:sealed] + b"}")
    if stored["kind"] != "case":
        return None
    return sharing(of_fields(stored, lines.turns, checksum), lines.known)


def _is_whole(line: bytes) -> bool:
    try:
        json.loads(line)
    except (ValueError, RecursionError):
        return False
    return True


def _number(path: Path, at: int) -> int:
    """The number of the line that begins at this byte."""
    number, left = 1, at
    with path.open("rb") as file:
        while some := file.read(min(left, CHUNK_BYTES)):
            number, left = number + some.count(b"\n"), left - len(some)
    return number


def _wrong(line: bytes, error: Exception) -> str:
    """What is wrong with the line, in the words of the strict reader."""
    try:
        Row.from_json(unsealed(line).decode())
    except ValueError as told:
        return str(told)
    return repr(error)
