"""The processes of a Parquet file, of which only the columns that a process has are read.

>>> list(processes_of_table(Path("rows.parquet"), turns=False, known={}))
[Process(shared=Shared(run_id='20261128T210353-intel-xeon-d8e2', backend='numba:cpu', …), …), …]
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any
from zlib import crc32

from membound.results.case_lines import played_in, rounds_of, times_of
from membound.results.exchange import parquet
from membound.results.exchange.row_table import HINTS
from membound.results.fields import LARGEST_WHOLE
from membound.results.process import (
    Process,
    Shared,
    interned,
    median_of,
    of_fields,
    shared_of,
    sharing,
)
from membound.results.row import RowError, missed_reference
from membound.results.turns import NO_ROUNDS

MOST_KEPT = 5000
"""Shared parts that are remembered."""

SHARED = (
    *(
        "schema_version",
        "kind",
        "run_id",
        "backend",
        "work",
        "threads",
        "status",
        "reason",
        "grade",
        "device",
    ),
    *("machine", "accelerator", "config"),
)
"""What many rows share: it is read once for all that have it."""
SINGLE = ("replicate", "error", "tolerance")
OWN = (*SINGLE, "samples_s", "turns")
NESTED = ("machine", "accelerator", "config", "samples_s", "turns")
"""Columns that hold JSON."""
Cells = tuple[Any, ...]


def processes_of_table(
    path: Path, turns: bool, known: dict[Any, Any], groups: Sequence[int] | None = None
) -> Iterator[Process]:
    """The cases of a file, or of some of its groups of rows. `known` has what those of other files share.

    Raises RowError, ParquetUnavailable, OSError.
    """
    kept = _Kept(known)
    for batch in parquet.batches(path, (*SHARED, *OWN), SHARED, groups):
        if missing := {*SHARED, *OWN} - set(batch.schema.names):
            raise RowError(f"{path} has no column {min(missing)}")
        if empty := [
            name for name in (*SHARED, *OWN) if batch.column(name).null_count and not _may_be_null(name)
        ]:
            raise RowError(f"{path}: {empty[0]} is empty in a row")
        columns = [_decoded(batch.column(name)) for name in (*SHARED, *OWN)]
        for cells in zip(*columns, strict=True):
            if cells[1] != "case":
                continue
            try:
                yield _process(kept, cells[: len(SHARED)], cells[len(SHARED) :], turns)
            except (AttributeError, KeyError, OverflowError, RecursionError, TypeError, ValueError) as error:
                raise RowError(f"{path}: a row of {cells[3]} is damaged: {error!r}") from None


def _may_be_null(name: str) -> bool:
    return HINTS[name] in (int | None, float | None)


class _Kept:
    """What rows share, by the cells that say it and how the reference was missed; and the text of those cells."""

    def __init__(self, known: dict[Any, Any]) -> None:
        self.known = known
        self._kept: dict[tuple[Cells, str], tuple[Shared, bytes]] = {}

    def of(self, cells: Cells, missed: str) -> tuple[Shared, bytes]:
        """Raises KeyError, TypeError, ValueError."""
        found = self._kept.get((cells, missed))
        if found is None:
            if len(self._kept) >= MOST_KEPT:
                self._kept.clear()
            shared = interned(shared_of(_fields(cells), missed), self.known)
            found = self._kept[cells, missed] = shared, repr(cells).encode()
        return found


def _decoded(column: Any) -> list[Any]:
    """The values of a column; those that stand in its dictionary are made once each."""
    if not hasattr(column, "dictionary"):
        return list(column.to_pylist())
    words = column.dictionary.to_pylist()
    return [None if index is None else words[index] for index in column.indices.to_pylist()]


def _fields(cells: Cells) -> dict[str, Any]:
    return {
        name: json.loads(value) if name in NESTED else value
        for name, value in zip(SHARED, cells, strict=True)
    }


def _process(kept: _Kept, cells: Cells, own: Cells, turns: bool) -> Process:
    """Raises KeyError, TypeError, ValueError."""
    replicate, error, tolerance, samples, played = own
    shared, text = kept.of(cells, missed_reference(error, tolerance))
    if not 0 <= replicate <= LARGEST_WHOLE:
        raise ValueError(f"a replicate that is no number of one: {replicate}")
    samples, played = samples.encode(), played.encode()
    content = crc32(b"".join((text, repr(own[: len(SINGLE)]).encode(), samples, played)))
    try:
        found, alone = played_in(played, samples)
        times = times_of(found, alone)
    except ValueError:  # not as this membound writes them, or no times at all
        stored = _fields(cells) | dict(zip(SINGLE, own[: len(SINGLE)], strict=True))
        stored |= {"samples_s": json.loads(samples), "turns": json.loads(played)}
        return sharing(of_fields(stored, turns, content), kept.known)
    rounds = rounds_of(found) if turns else NO_ROUNDS
    return Process(shared, replicate, median_of(times), rounds, content)
