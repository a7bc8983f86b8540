"""The processes of a Parquet file, of which only the columns that a process has are read.

>>> list(processes_of_table(Path("rows.parquet"), turns=False, known={}))
[Process(run_id='20261128T210353-intel-xeon-d8e2', backend='numba:cpu', …), …]
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from membound.results.exchange import parquet
from membound.results.process import Process, digest, of_fields, with_times
from membound.results.process_columns import shared_machine
from membound.results.row import RowError
from membound.results.sealed_lines import times_of
from membound.results.turns import NO_ROUNDS, Rounds

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


def processes_of_table(path: Path, turns: bool, known: dict[Any, Any]) -> Iterator[Process]:
    """The cases of a file. `known` has the machine of earlier processes. Raises RowError, ParquetUnavailable, OSError."""
    shared: dict[tuple[Any, ...], tuple[dict[str, Any], bytes]] = {}
    for batch in parquet.batches(path, (*SHARED, *OWN), SHARED):
        if missing := {*SHARED, *OWN} - set(batch.schema.names):
            raise RowError(f"{path} has no column {min(missing)}")
        columns = [_decoded(batch.column(name)) for name in (*SHARED, *OWN)]
        for cells in zip(*columns, strict=True):
            key, own = cells[: len(SHARED)], dict(zip(OWN, cells[len(SHARED) :], strict=True))
            if key[1] != "case":
                continue
            try:
                if key not in shared:
                    if len(shared) >= MOST_KEPT:
                        shared.clear()
                    shared[key] = _fields(key), repr(key).encode()
                process = _process(*shared[key], own, turns)
                process.machine = shared_machine(process.machine, known)
                yield process
            except (KeyError, TypeError, ValueError) as error:
                raise RowError(f"{path}: a row of {key[3]} is damaged: {error!r}") from None


def _decoded(column: Any) -> list[Any]:
    """The values of a column; those that stand in its dictionary are made once each."""
    if not hasattr(column, "dictionary"):
        return list(column.to_pylist())
    words = column.dictionary.to_pylist()
    return [None if index is None else words[index] for index in column.indices.to_pylist()]


def _fields(key: tuple[Any, ...]) -> dict[str, Any]:
    return {
        name: json.loads(value) if name in NESTED else value for name, value in zip(SHARED, key, strict=True)
    }


def _process(fields: dict[str, Any], text: bytes, own: dict[str, Any], turns: bool) -> Process:
    """Raises KeyError, TypeError, ValueError."""
    samples, played = own["samples_s"].encode(), own["turns"].encode()
    content = digest(b"".join((text, repr([own[name] for name in SINGLE]).encode(), samples, played)))
    stored = fields | own
    try:
        found, times = times_of(played[1:-1], samples[1:-1])
    except ValueError:  # not as this membound writes them, or no times at all
        return of_fields(
            stored | {"samples_s": json.loads(samples), "turns": json.loads(played)}, turns, content
        )
    return with_times(stored, times, Rounds.of_times(found) if turns else NO_ROUNDS, content)
