"""What a comparison needs of a line: msgspec passes by all other fields at the speed of a scan.

>>> lines = CaseLines(turns=False, known={})
>>> lines.process_of(line)
Process(shared=Shared(run_id='20261128T210353-intel-xeon-d8e2', backend='numba:cpu', …), …)

A line with a checksum is what was written once; one without is checked field by field (`strict_line`). What many rows share (who ran what, the machine) becomes Python's objects once for all of them.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from math import inf
from typing import Annotated, Any
from zlib import crc32

from msgspec import DecodeError, Meta, Raw, Struct
from msgspec.json import Decoder

from membound.results.checksum import seal_of
from membound.results.fields import LARGEST_WHOLE
from membound.results.process import Process, Shared, interned, median_of, shared_of
from membound.results.row import missed_reference
from membound.results.strict_line import read_strictly
from membound.results.turns import NO_ROUNDS, SHORTEST_S, Rounds, usable_times

MOST_KEPT = 5000
"""Shared parts that are remembered: a file has one for each case of each run in it."""
SHARED = ("schema_version", "run_id", "backend", "work", "threads", "status", "reason", "grade", "device")
"""What rows share besides their objects."""


class Turn(Struct, gc=False):
    """What counts of a stored turn."""

    round: int
    time_s: float
    disturbance: float | None = None


class Line(Struct, gc=False):
    """The fields of a row that a comparison uses; objects as they stand in the line."""

    schema_version: int
    run_id: str
    kind: str
    backend: str
    work: str
    status: str
    reason: str
    replicate: Annotated[int, Meta(ge=0, le=LARGEST_WHOLE)]
    threads: int
    device: str
    grade: str
    accelerator: Raw
    samples_s: list[float]
    config: Raw
    machine: Raw
    turns: list[Turn] = []
    error: float | None = None
    tolerance: float | None = None


Parts = tuple[Any, ...]
LINE, TURNS, SAMPLES = Decoder(Line), Decoder(list[Turn]), Decoder(list[float])


class CaseLines:
    """Reads lines of one file, and remembers what they share. `known` has what those of other files do: `process.interned`."""

    def __init__(self, turns: bool, known: dict[Any, Any]) -> None:
        self.turns = turns
        self.known = known
        self._kept: dict[Parts, Shared] = {}
        self._machines: dict[bytes, dict[str, Any]] = {}

    def process_of(self, line: bytes) -> Process | None:
        """The process; None if the row is no case.

        Raises ChangedLine of a line that does not fit its checksum, ValueError where it is not as this membound writes them.
        """
        sealed, checksum = seal_of(line)
        if sealed < 0:
            return self._process(read_strictly(line), crc32(line.rstrip()))
        try:
            return self._process(LINE.decode(line), checksum)
        except DecodeError as error:
            raise ValueError(str(error)) from None

    def _process(self, read: Line, content: int) -> Process | None:
        if read.kind != "case":
            return None
        times = times_of(read.turns, read.samples_s)
        parts = (
            read.schema_version,
            read.run_id,
            read.backend,
            read.work,
            read.threads,
            read.status,
            read.reason,
            read.grade,
            read.device,
            bytes(read.accelerator),
            bytes(read.config),
            bytes(read.machine),
            missed_reference(read.error, read.tolerance),
        )
        return Process(
            self._kept.get(parts) or self._shared(parts),
            read.replicate,
            median_of(times),
            rounds_of(read.turns) if self.turns else NO_ROUNDS,
            content,
        )

    def _shared(self, parts: Parts) -> Shared:
        """What a process with these parts shares. Raises ValueError if a part is no object."""
        if len(self._kept) >= MOST_KEPT:
            self._kept.clear()
            self._machines.clear()
        *texts, accelerator, config, machine, missed = parts
        if machine not in self._machines:
            self._machines[machine] = _object(machine)
        stored = dict(zip(SHARED, texts, strict=True)) | {"machine": self._machines[machine]}
        stored |= {"accelerator": _object(accelerator), "config": _object(config)}
        found = self._kept[parts] = interned(shared_of(stored, missed), self.known)
        return found


def _object(text: bytes) -> dict[str, Any]:
    found = json.loads(text)
    if not isinstance(found, dict):
        raise ValueError("no object")
    return found


def played_in(turns: bytes, samples: bytes) -> tuple[list[Turn], list[float]]:
    """The turns and the samples of a row whose fields stand alone, as JSON. Raises ValueError."""
    try:
        return TURNS.decode(turns), SAMPLES.decode(samples)
    except DecodeError as error:
        raise ValueError(str(error)) from None


def times_of(turns: Sequence[Turn], samples: Sequence[float]) -> Sequence[float]:
    """The times that count, in order: of turns, or the samples where there are none. Raises ValueError."""
    times = sorted(usable_times(turns) if turns else samples)
    if times and not (times[0] >= SHORTEST_S and times[-1] < inf):
        raise ValueError(f"times of {times[0]} to {times[-1]} s")
    return times


def rounds_of(turns: Sequence[Turn]) -> Rounds:
    """The same turns as comparisons keep them."""
    return Rounds.of_times((turn.round, turn.time_s, turn.disturbance) for turn in turns)
