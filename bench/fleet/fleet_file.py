"""A fleet on the driver's disk: one row file of all nodes, and beside it what was asked for and who is through.

>>> with FleetFile(path, ask) as file:
...     file.keep((one, rows_of(one, handed.lines)))

A row is counted where it lies: the next call to its node asks for what follows it, and so does the next try and the next driver.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from sys import intern
from types import TracebackType
from typing import Any

from membound.bench.fleet.ask import Ask
from membound.bench.fleet.assignment import STATES, UNFIT, Assignment, Node
from membound.bench.fleet.fleet_error import FleetError
from membound.bench.run.resume import partial_of
from membound.results.checksum import unsealed
from membound.results.fields import read_json, short, wrong_field
from membound.results.row import Row, RowError
from membound.results.store import PARTIAL, SUFFIX, RunWriter, StoreError, parsed_lines
from membound.results.stored_runs import stored_runs
from membound.version import __version__

ASKED = ".fleet"
MOST = {"replicates": 1000, "threads": 4096, "passes": 1000, "nodes": 1_000_000}
"""What `membound fleet` lets anybody ask for."""
ANSWERED = ("ok", "unsupported")
"""Statuses of cases that are an answer."""


@dataclass(frozen=True, slots=True)
class _Assigned:
    """A line on an assignment: where it stands, or how it ended."""

    run_id: str
    node: dict[str, Any]
    device: str
    machine: str
    state: str
    doing: str


class FleetFile:
    """The row file, written as `RunWriter` does. Leaving it normally finishes it, if it `is_whole`."""

    def __init__(self, path: Path, ask: Ask, resume: bool = False) -> None:
        self.path = path
        self.is_whole = False
        self._writer = RunWriter(path, resume)
        self._asked = asked_path(path)
        self._resume = resume
        self._ask = ask

    def __enter__(self) -> FleetFile:
        self._writer.__enter__()
        if not self._resume:
            self._note({"membound": __version__, "ask": asdict(self._ask)})
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None and self.is_whole:
            self._writer.__exit__(None, None, None)
            self._asked.unlink(missing_ok=True)
            return
        self._writer.__exit__(KeyboardInterrupt, None, None)  # the partial file stays, for --resume
        if kind is not None and not self._writer.partial.stat().st_size:
            for path in (self._writer.partial, self._asked):  # there is nothing to go on with
                path.unlink(missing_ok=True)

    def keep(self, *batch: tuple[Assignment, Sequence[Row]]) -> None:
        """Store rows of several assignments, all of them at once, and count them. Raises StoreError."""
        for one, rows in batch:
            for row in rows:
                told = {"rack": one.node.rack, "beside": one.beside}
                row.machine |= {"node": one.node.name} | {name: text for name, text in told.items() if text}
        if stored := [row for _, rows in batch for row in rows]:
            self._writer.append(*stored)
        for one, rows in batch:
            for row in rows:
                count(one, row)

    def note(self, one: Assignment) -> None:
        """Store where an assignment stands. Raises StoreError."""
        node = asdict(one.node)
        self._note(asdict(_Assigned(one.run_id, node, one.device, one.machine, one.state, one.doing)))

    def _note(self, entry: dict[str, Any]) -> None:
        try:
            with self._asked.open("a", encoding="utf-8") as file:
                file.write(json.dumps(entry, separators=(",", ":")) + "\n")
        except OSError as error:
            raise StoreError(f"{self._asked} cannot be written: {error.strerror}") from None


def asked_path(path: Path) -> Path:
    """Where the notes of a fleet lie while it is not finished."""
    return path.with_name(path.name + ASKED)


def count(one: Assignment, row: Row) -> None:
    """One more row of an assignment is on the disk."""
    one.rows += 1
    if row.kind == "case":
        one.got.add((intern(row.backend), row.replicate, intern(row.work)))  # every node has the same works
    one.failures += row.status not in ANSWERED


def rows_of(one: Assignment, lines: Sequence[bytes]) -> list[Row]:
    """The rows that a node has handed over. Raises RowError if one has changed on its way, or is of another suite."""
    rows = []
    for line in lines:
        try:
            row = Row.from_json(unsealed(line).decode())
        except ValueError as error:
            raise RowError(f"{one.node.name} handed over what is no row: {error}") from None
        if row.run_id != one.run_id:
            raise RowError(f"{one.node.name} handed over a row of {row.run_id}, not of {one.run_id}")
        rows.append(row)
    return rows


def find_fleet(name: str, out: Path) -> tuple[Path, Ask, list[Assignment]]:
    """The fleet in `out` that `name` means, ``latest`` or how it begins, as far as it came. Raises StoreError, FleetError, RowError."""
    cut = sorted(path for path in stored_runs(out) if path.name.endswith(PARTIAL))
    cut = [path for path in cut if asked_path(_finished(path)).is_file()]
    found = cut[-1:] if name == "latest" else [one for one in cut if one.name.startswith(Path(name).name)]
    if len(found) != 1:
        known = ", ".join(path.name.removesuffix(SUFFIX + PARTIAL) for path in cut[-5:]) or "none"
        raise StoreError(f"{name!r} names {len(found)} of the fleets in {out} that were cut short: {known}")
    path = _finished(found[0])
    ask, assigned = _read(asked_path(path))
    for row in parsed_lines(partial_of(path), Row.from_json, RowError):
        if row.run_id in assigned:
            count(assigned[row.run_id], row)
    return path, ask, list(assigned.values())


def known_lines(path: Path, one: Assignment) -> Iterator[bytes]:
    """The lines that an assignment has on the driver's disk."""
    mark = f'{{"run_id":{json.dumps(one.run_id)},'.encode()
    with partial_of(path).open("rb") as file:
        yield from (line.rstrip(b"\n") for line in file if line.startswith(mark))


def _finished(partial: Path) -> Path:
    return partial.with_name(partial.name.removesuffix(PARTIAL))


def _read(path: Path) -> tuple[Ask, dict[str, Assignment]]:
    try:
        head, *lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
        stored = read_json(head)
        version, asked = stored["membound"], stored["ask"]
        entries = [read_json(line) for line in lines if line.endswith("\n")]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise FleetError(f"{path} cannot be read: {error!r}; start afresh") from None
    if version != __version__:
        raise FleetError(f"{path} was written by membound {version}, this is {__version__}: start afresh")
    if wrong := next(filter(None, _wrong(path, asked, entries)), ""):
        raise FleetError(f"{path} is none that membound writes ({wrong}): start afresh")
    found = {}
    for entry in entries:
        node = Node(**entry.pop("node"))
        found[entry["run_id"]] = Assignment(node=node, **entry)
    return Ask(**asked), found


def _wrong(path: Path, asked: Any, entries: Iterable[Any]) -> Iterator[str]:
    for cls, entry in [(Ask, asked), *((_Assigned, one) for one in entries)]:
        yield "no object" if not isinstance(entry, dict) else wrong_field(cls, entry)
    for name, most in MOST.items():
        yield f"{name}={asked[name]} is more than {most}" if asked[name] > most else ""
    fleet = path.name.removesuffix(SUFFIX + ASKED)
    for entry in entries:
        yield wrong_field(Node, entry["node"])
        if entry["state"] not in STATES:
            yield f"state={short(entry['state'])} is none of {', '.join(STATES)}"
        if not entry["run_id"].startswith(f"{fleet}.") or UNFIT.search(entry["run_id"]):
            yield f"run_id={short(entry['run_id'])} is of no suite of {fleet}"  # it is a file's name on nodes
