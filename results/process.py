"""What a comparison needs of a row: who ran what, how it ended, and its time.

>>> condensed(row).times_s
[0.0123]

A row has two to five kilobytes, of which its median is eight bytes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import Any, NamedTuple
from zlib import crc32

from membound.results.fields import LARGEST_WHOLE
from membound.results.row import GRADES, SCHEMA_VERSION, Row, missed_reference
from membound.results.turns import NO_ROUNDS, SHORTEST_S, Rounds, StoredTurn, usable_times

LAST_MACHINE = ("the machine of the process before",)


class Shared(NamedTuple):
    """What many processes share: who ran what, and how it ended."""

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


@dataclass(slots=True)
class Process:
    """One row: what it shares with others, and the median of its times; the turns only where they are asked for."""

    shared: Shared
    replicate: int
    time_s: float | None = None
    """The median of its turns that count, or of its samples; None where it has none."""
    turns: Rounds = NO_ROUNDS
    content: int = field(default=0, compare=False)
    """CRC-32 of the row's text."""

    @property
    def run_id(self) -> str:
        """Its run."""
        return self.shared.run_id

    @property
    def work(self) -> str:
        """Its work."""
        return self.shared.work

    @property
    def times_s(self) -> list[float]:
        """Its time alone; empty where it has none."""
        return [] if self.time_s is None else [self.time_s]


def same_row(process: Process) -> int:
    """A number that is equal for copies of a row, and for no others: 64 bits of who ran what and how long, 32 of the whole text.

    What it shares has to be `interned`.
    """
    told = hash((id(process.shared), process.replicate, process.time_s))
    return told << 32 | process.content


def median_of(ordered: Sequence[float]) -> float | None:
    """As `statistics.median` has it, of times in order; None of none."""
    count = len(ordered)
    return float(ordered[(count - 1) // 2] + ordered[count // 2]) / 2 if count else None


def condensed(row: Row, turns: bool = True) -> Process:
    """What a comparison needs of a row."""
    times = row.times_s
    return Process(
        Shared(
            *(row.run_id, row.backend, row.work, row.threads, row.status, row.reason, row.grade, row.device),
            accelerated=bool(row.accelerator),
            imported="format" in row.config,
            machine=row.machine,
        ),
        replicate=row.replicate,
        time_s=median(times) if times else None,
        turns=Rounds.of(row.turns) if turns else NO_ROUNDS,
        content=crc32(row.to_json().encode()),
    )


def of_fields(stored: Mapping[str, Any], turns: bool, content: int) -> Process:
    """The process of a row as JSON has it. Raises KeyError, TypeError, ValueError where a field that it uses is not one."""
    played = [StoredTurn(**turn) for turn in stored.get("turns") or ()]
    times = usable_times(played) if played else stored["samples_s"]
    if not all(time >= SHORTEST_S for time in times):
        raise ValueError(f"a time of {min(times)} s")
    if type(stored["replicate"]) is not int or not 0 <= stored["replicate"] <= LARGEST_WHOLE:
        raise ValueError(f"a replicate that is no number of one: {stored['replicate']!r:.40}")
    return Process(
        shared_of(stored, missed_reference(stored.get("error"), stored.get("tolerance"))),
        stored["replicate"],
        median(times) if times else None,
        Rounds.of(played) if turns else NO_ROUNDS,
        content,
    )


def shared_of(stored: Mapping[str, Any], missed: str) -> Shared:
    """What a row that says so shares with others. `missed`: how it missed the reference, or ''. Raises KeyError, TypeError, ValueError."""
    if stored["schema_version"] > SCHEMA_VERSION or stored["grade"] not in GRADES:
        raise ValueError("another schema")
    status, reason = stored["status"], stored["reason"]
    if status == "ok" and missed:
        status, reason = "wrong", missed
    return Shared(
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
    )


def interned(shared: Shared, known: dict[Any, Any]) -> Shared:
    """The one that is equal and was asked for before, if there is one: a million rows name some hundreds.

    `known` has those before, their texts and their machine: rows of one machine follow each other.
    """
    *others, machine = shared
    last: Mapping[str, Any] = known.setdefault(LAST_MACHINE, machine)
    if machine is not last and machine == last:
        machine = last
    known[LAST_MACHINE] = machine
    key = (*others, id(machine))
    found: Shared | None = known.get(key)
    if found is None:
        texts = (known.setdefault(one, one) if isinstance(one, str) else one for one in others)
        found = known[key] = Shared._make((*texts, machine))  # which keeps the machine, and so its id
    return found


def sharing(process: Process, known: dict[Any, Any]) -> Process:
    """The process, what it shares `interned`."""
    process.shared = interned(process.shared, known)
    return process


def usable_processes(processes: Sequence[Process]) -> list[Process]:
    """Those that count, as `stats.usable` has them of rows."""
    if any(one.shared.status == "wrong" for one in processes):
        return []
    ok = [one for one in processes if one.time_s is not None and one.shared.status == "ok"]
    return [one for one in ok if one.shared.grade != "invalid"] or ok
