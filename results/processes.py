"""What a comparison needs of each row, read line by line, so that a million rows fit into memory.

>>> for process in processes_of(Path("run.jsonl")):
...     process.backend, process.work, process.times_s

A row has two to five kilobytes, of which its median is eight bytes. Lines with a checksum were checked when they were
written and have not changed since, so of those only the fields here are looked at; a line without one is read as
`load_rows` reads it. Large files are read by two processes.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from pathlib import Path
from statistics import median
from typing import Any

from membound.results.exchange import parquet
from membound.results.file_kinds import OWN, kind_of
from membound.results.reader_processes import READERS, lists_of_parts
from membound.results.row import SCHEMA_VERSION, Row, RowError, missed_reference
from membound.results.store import StoreError, files_of, load_rows, unsealed, warn_of_copies
from membound.results.turns import SHORTEST_S, StoredTurn, usable

LARGE_BYTES = 64 << 20
"""Of a file. Starting a second process takes as long as reading this."""
CHUNK_BYTES = 8 << 20
NESTED = ("accelerator", "config", "samples_s", "turns")
"""Fields of a process's row that tables hold as JSON, beside the machine."""
COLUMNS = (
    *(
        "schema_version",
        "kind",
        "run_id",
        "backend",
        "work",
        "threads",
        "replicate",
        "status",
        "reason",
        "grade",
    ),
    *("device", "machine", "error", "tolerance"),
    *NESTED,
)
MOST_ENDS = 1000
"""Ends of lines that are kept: a file has one for each run in it."""
LAST_MACHINE = "the machine of the row before"


@dataclass(slots=True)
class Process:
    """One row: who ran what, how it ended, and the median of its times; the turns only where they are asked for."""

    run_id: str
    backend: str
    work: str
    threads: int
    replicate: int
    status: str
    reason: str
    grade: str
    device: str
    accelerated: bool
    """On a device with memory of its own."""
    imported: bool
    """From another tool's file, which may name no machine."""
    machine: Mapping[str, Any]
    times_s: list[float] = field(default_factory=list)
    """The median of its turns that count, or of its samples; empty where it has none."""
    turns: list[StoredTurn] = field(default_factory=list)
    content: bytes = field(default=b"", compare=False)
    """A digest of the row: one that is there twice counts once, as `load_rows` has it."""


def condensed(row: Row, turns: bool = True) -> Process:
    """What a comparison needs of a row."""
    times = row.times_s
    return Process(
        *(row.run_id, row.backend, row.work, row.threads, row.replicate, row.status, row.reason, row.grade),
        device=row.device,
        accelerated=bool(row.accelerator),
        imported="format" in row.config,
        machine=row.machine,
        times_s=[median(times)] if times else [],
        turns=row.turns if turns else [],
        content=_digest(row.to_json().encode()),
    )


def _digest(content: bytes) -> bytes:
    return blake2b(content, digest_size=16).digest()


def processes_of(paths: Path | str | Iterable[Path | str], turns: bool = False) -> Iterator[Process]:
    """The cases of the named files and folders, in any format that can be read, without their ceilings.

    `turns` keeps the single turns, which pairs of one run need. Raises RowError and StoreError as `load_rows`.
    """
    given = [paths] if isinstance(paths, Path | str) else paths
    shared: dict[Any, Any] = {}
    seen: set[bytes] = set()
    for path in (file for one in given for file in files_of(Path(one))):
        before, copies = len(seen), 0
        for process in _of_file(path, turns):
            if process.content in seen:
                copies += 1
                continue
            seen.add(process.content)
            yield _sharing(process, shared)
        warn_of_copies(path, copies, also=len(seen) > before)


def _of_file(path: Path, turns: bool) -> Iterator[Process]:
    try:
        kind = kind_of(path)
        if kind == "parquet":
            yield from _of_parquet(path, turns)
            return
        if kind != OWN:
            yield from (condensed(row, turns) for row in load_rows(path) if row.kind == "case")
            return
        size = path.stat().st_size
        if size < LARGE_BYTES or (os.cpu_count() or 1) < READERS:
            yield from _of_part(path, turns, (0, size))
            return
        parts = [(at, min(at + CHUNK_BYTES, size)) for at in range(0, size, CHUNK_BYTES)]
        for some in lists_of_parts(path, turns, parts):
            yield from some
    except OSError as error:
        raise (
            error
            if isinstance(error, StoreError)
            else StoreError(f"{path} cannot be read: {error.strerror or error}")
        ) from None


def _of_parquet(path: Path, turns: bool) -> Iterator[Process]:
    """The cases of a Parquet file, of which only the columns that a process has are read."""
    machines: dict[str, Any] = {}
    for batch in parquet.batches(path, COLUMNS):
        for cells in batch.to_pylist():
            if cells["kind"] != "case":
                continue
            try:
                text = cells["machine"]
                stored = cells | {name: json.loads(cells[name]) for name in NESTED}
                stored["machine"] = (
                    machines[text] if text in machines else machines.setdefault(text, json.loads(text))
                )
                yield _of_fields(stored, turns, _digest(repr(cells).encode()))
            except (KeyError, TypeError, ValueError) as error:
                raise RowError(f"{path}: a row of {cells.get('backend')} is damaged: {error!r}") from None


def list_of_part(path: Path, turns: bool, part: tuple[int, int]) -> list[Process]:
    """The cases whose lines begin within these bytes. Raises RowError, OSError."""
    shared: dict[Any, Any] = {}
    return [_sharing(process, shared) for process in _of_part(path, turns, part)]


def _of_part(path: Path, turns: bool, part: tuple[int, int]) -> Iterator[Process]:
    """The cases whose lines begin within these bytes. A torn last line of the file is dropped."""
    start, end = part
    ends: dict[bytes, dict[str, Any]] = {}
    with path.open("rb") as file:
        if start:
            file.seek(start - 1)
            file.readline()  # the rest of a line that began in the part before
        while (at := file.tell()) < end:
            line = file.readline()
            if line.strip() and (process := _of_line(path, at, line, turns, ends)) is not None:
                yield process


def _of_line(
    path: Path, at: int, line: bytes, turns: bool, ends: dict[bytes, dict[str, Any]]
) -> Process | None:
    try:
        content = unsealed(line)
        if content is line:  # no checksum: whoever wrote it
            row = Row.from_json(line.decode())
            return condensed(row, turns) if row.kind == "case" else None
        stored = _loaded(content, ends)
        return _of_fields(stored, turns, _digest(content)) if stored["kind"] == "case" else None
    except (KeyError, TypeError, ValueError, RecursionError) as error:
        if not line.endswith(b"\n") and not (_is_whole(line) or _is_whole(line[:-1])):
            return None  # torn; one that is whole but for its last character is not: the newline itself has changed
        raise RowError(f"{path}, line {_number(path, at)}: {_wrong(line, error)}") from None


def _loaded(content: bytes, ends: dict[bytes, dict[str, Any]]) -> dict[str, Any]:
    """The object of a line. All rows of a run end alike, with its machine and its packages: half of what there is to read.

    A quote within a text has a backslash before it, so the mark is no text; one deeper inside leaves two halves of which
    neither is an object, and then the line is read as a whole.
    """
    cut = content.rfind(b',"machine":{')
    found: dict[str, Any]
    if cut > 0:
        end = content[cut + 1 :]
        try:
            if end not in ends:
                if len(ends) >= MOST_ENDS:
                    ends.clear()
                ends[end] = json.loads(b"{" + end)
            found = json.loads(content[:cut] + b"}")
            return found | ends[end]
        except ValueError:
            pass  # below
    found = json.loads(content)
    return found


def _of_fields(stored: Mapping[str, Any], turns: bool, content: bytes) -> Process:
    """The process of a row as JSON has it. Raises KeyError, TypeError, ValueError where a field that it uses is not one."""
    played = [StoredTurn(**turn) for turn in stored.get("turns") or ()]
    times = [turn.time_s for turn in usable(played)] if played else stored["samples_s"]
    if times and not min(times) >= SHORTEST_S:
        raise ValueError(f"a time of {min(times)} s")
    if stored["schema_version"] > SCHEMA_VERSION:
        raise ValueError("a newer schema")
    status, reason = stored["status"], stored["reason"]
    if status == "ok" and (missed := missed_reference(stored.get("error"), stored.get("tolerance"))):
        status, reason = "wrong", missed
    return Process(
        run_id=stored["run_id"],
        backend=stored["backend"],
        work=stored["work"],
        threads=stored["threads"],
        replicate=stored["replicate"],
        status=status,
        reason=reason,
        grade=stored["grade"],
        device=stored["device"],
        accelerated=bool(stored.get("accelerator")),
        imported="format" in stored["config"],
        machine=stored["machine"],
        times_s=[median(times)] if times else [],
        turns=played if turns else [],
        content=content,
    )


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


def _sharing(process: Process, shared: dict[Any, Any]) -> Process:
    """The same process, its texts and its machine those of earlier ones: a million rows name some dozens of them."""
    for name in ("run_id", "backend", "work", "status", "reason", "grade", "device"):
        text = getattr(process, name)
        setattr(process, name, shared.setdefault(text, text))
    if process.machine == shared.get(LAST_MACHINE):
        process.machine = shared[LAST_MACHINE]
    shared[LAST_MACHINE] = process.machine
    return process


def usable_processes(processes: Sequence[Process]) -> list[Process]:
    """Those that count, as `stats.usable` has them of rows."""
    if any(one.status == "wrong" for one in processes):
        return []
    ok = [one for one in processes if one.status == "ok" and one.times_s]
    return [one for one in ok if one.grade != "invalid"] or ok
