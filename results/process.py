"""What a comparison needs of a row: who ran what, how it ended, and its time.

>>> condensed(row).times_s
[0.0123]

A row has two to five kilobytes, of which its median is eight bytes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from statistics import median
from typing import Any

from membound.results.row import SCHEMA_VERSION, Row, missed_reference
from membound.results.turns import NO_ROUNDS, SHORTEST_S, Rounds, StoredTurn, usable

Shared = tuple[str, str, str, int, str, str, str, str, bool, bool, Mapping[str, Any]]
"""What many processes share: the first fields of one, up to its machine."""
DIGEST_BYTES = 16
"""Enough to tell rows apart: of a billion, two have the same with a chance of 10⁻²¹."""


@dataclass(slots=True)
class Process:
    """One row: who ran what, how it ended, and the median of its times; the turns only where they are asked for.

    All before `replicate` is what many rows share.
    """

    run_id: str
    backend: str
    work: str
    threads: int
    status: str
    reason: str
    grade: str
    device: str
    accelerated: bool
    """On a device with memory of its own."""
    imported: bool
    """From another tool's file, which may name no machine."""
    machine: Mapping[str, Any]
    replicate: int
    time_s: float | None = None
    """The median of its turns that count, or of its samples; None where it has none."""
    turns: Rounds = NO_ROUNDS
    content: bytes = field(default=b"", compare=False)
    """A digest of the row: one that is there twice counts once, as `load_rows` has it."""

    @property
    def times_s(self) -> list[float]:
        """Its time alone; empty where it has none."""
        return [] if self.time_s is None else [self.time_s]


def digest(content: bytes) -> bytes:
    """DIGEST_BYTES that no other content has."""
    return sha256(content).digest()[:DIGEST_BYTES]


def condensed(row: Row, turns: bool = True) -> Process:
    """What a comparison needs of a row."""
    times = row.times_s
    return Process(
        *(row.run_id, row.backend, row.work, row.threads, row.status, row.reason, row.grade, row.device),
        accelerated=bool(row.accelerator),
        imported="format" in row.config,
        machine=row.machine,
        replicate=row.replicate,
        time_s=median(times) if times else None,
        turns=Rounds.of(row.turns) if turns else NO_ROUNDS,
        content=digest(row.to_json().encode()),
    )


def of_fields(stored: Mapping[str, Any], turns: bool, content: bytes) -> Process:
    """The process of a row as JSON has it. Raises KeyError, TypeError, ValueError where a field that it uses is not one."""
    played = [StoredTurn(**turn) for turn in stored.get("turns") or ()]
    times = [turn.time_s for turn in usable(played)] if played else stored["samples_s"]
    if times and not min(times) >= SHORTEST_S:
        raise ValueError(f"a time of {min(times)} s")
    return with_times(stored, times, Rounds.of(played) if turns else NO_ROUNDS, content)


def with_times(stored: Mapping[str, Any], times: Sequence[float], turns: Rounds, content: bytes) -> Process:
    """The same where the times that count are known. Raises as `of_fields`."""
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
        status=status,
        reason=reason,
        grade=stored["grade"],
        device=stored["device"],
        accelerated=bool(stored.get("accelerator")),
        imported="format" in stored["config"],
        machine=stored["machine"],
        replicate=stored["replicate"],
        time_s=median(times) if times else None,
        turns=turns,
        content=content,
    )


def usable_processes(processes: Sequence[Process]) -> list[Process]:
    """Those that count, as `stats.usable` has them of rows."""
    if any(one.status == "wrong" for one in processes):
        return []
    ok = [one for one in processes if one.status == "ok" and one.time_s is not None]
    return [one for one in ok if one.grade != "invalid"] or ok
