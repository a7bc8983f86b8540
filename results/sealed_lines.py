"""What a comparison needs of a line with a checksum, found by the marks between its fields, without reading the rest.

>>> from membound.results.checksum import sealed_end
>>> lines = SealedLines(turns=False, known={})
>>> lines.process_of(line, sealed_end(line))
Process(shared=Shared(run_id='20261128T210353-intel-xeon-d8e2', backend='numba:cpu', …), …)

What many rows share (who ran what, the machine) is read as JSON once for all of them; of the rest of a row only its numbers
are looked at. Within a text of JSON a quote has a backslash before it, so that a mark such as ``,"samples_s":[`` stands in
no text; and an object of which half is taken is no JSON. No ceiling has the name of a turn's field.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from math import inf
from typing import Any, cast

import numpy as np

from membound.results.process import Process, Shared, digest, interned, median_of, shared_of
from membound.results.row import missed_reference
from membound.results.turns import NO_ROUNDS, SHORTEST_S, Rounds, usable_numbers

MOST_KEPT = 5000
"""Shared parts that are remembered: a file has one for each case of each run in it."""
CASE, REPLICATE = b',"kind":"case",', b',"replicate":'
AFTER_ACCELERATOR, SAMPLES, TURNS = b',"memory_ceiling":', b',"samples_s":[', b'],"turns":['
AFTER_TURNS, NO_REQUESTS = b'],"hot_samples_s":[', b'],"requests":['
"""From schema 4 on there are requests between the turns and what follows them; a case has none."""
ERROR, AFTER_CONFIG, GRADE, MACHINE = b',"error":', b',"telemetry":{', b',"grade":"', b',"machine":{'
OUTCOME = re.compile(rb',"error":([^,]+),"tolerance":([^,]+),"value":null,"unit":"","config":')
TURN = re.compile(
    rb'\{"round":(\d+),"at_s":[^,]+,"time_s":([^,]+),"launches":\d+(?:,"between":[^,}]+)?(?:,"before":\{[^}]*\})?'
    rb'(?:,"after":\{[^}]*\})?(?:,"device_s":[^,}]+)?(?:,"disturbance":([^,}]+))?(?:,"retaken_s":\[[^]]*\])?'
    rb'(?:,"process":\d+)?\}'
)
"""As `StoredTurn.as_json` has it: its round, seconds and disturbance."""
TURN_BEGINS = b'{"round":'

Parts = tuple[bytes, bytes, bytes, bytes, bytes, str]
Turns = list[tuple[bytes, bytes, bytes]]
"""What TURN finds, as text; no disturbance where there is none."""


class SealedLines:
    """Reads lines of one file, and remembers what they share. `known` has what those of other files do: `process.interned`."""

    def __init__(self, turns: bool, known: dict[Any, Any]) -> None:
        self.turns = turns
        self.known = known
        self._kept: dict[Parts, Shared] = {}
        self._ends: dict[bytes, dict[str, Any]] = {}

    def process_of(self, line: bytes, sealed: int) -> Process | None:
        """The process; None if the row is no case. `sealed`: where its checksum begins.

        Raises ValueError where the line is not as this membound writes them.
        """
        at = line.index(REPLICATE)
        if line.find(CASE, 0, at) < 0 and json.loads(line[:at] + b"}")["kind"] != "case":
            return None
        numbered = at + len(REPLICATE)
        others = line.index(b",", numbered)
        last = line.index(AFTER_ACCELERATOR, others)
        samples = line.index(SAMPLES, last)
        turns = line.index(TURNS, samples)
        end = line.index(AFTER_TURNS, turns)
        played = turns_in(line[turns + len(TURNS) : end].removesuffix(NO_REQUESTS))
        times = times_of(played, line[samples + len(SAMPLES) : turns])
        outcome = OUTCOME.match(line, line.index(ERROR, end))
        if outcome is None:
            raise ValueError("no outcome")
        config = line.index(AFTER_CONFIG, outcome.end())
        machine = line.rindex(MACHINE, config, sealed)
        grade = line.rindex(GRADE, config, machine) + len(GRADE)
        parts = (
            line[:at],
            line[others:last],
            line[outcome.end() : config],
            line[grade : line.index(b'"', grade)],
            line[machine:sealed],
            missed_reference(*map(_number, outcome.groups())),
        )
        return Process(
            self._kept.get(parts) or self._shared(parts),
            int(line[numbered:others]),
            median_of(times),
            rounds_of(played) if self.turns else NO_ROUNDS,
            digest(memoryview(line)[:sealed], b"}"),
        )

    def _shared(self, parts: Parts) -> Shared:
        """What a process with these parts shares. Raises ValueError if a part is no object, or lacks a field."""
        if len(self._kept) >= MOST_KEPT:
            self._kept.clear()
            self._ends.clear()
        found = self._kept[parts] = interned(self._read(parts), self.known)
        return found

    def _read(self, parts: Parts) -> Shared:
        head, others, config, grade, end, missed = parts
        if end not in self._ends:
            self._ends[end] = _object(b"{" + end[1:] + b"}")
        stored = _object(head + b"}") | _object(b"{" + others[1:] + b"}") | self._ends[end]
        stored |= {"config": _object(config), "grade": grade.decode()}
        try:
            return shared_of(stored, missed)
        except (KeyError, TypeError) as error:
            raise ValueError(repr(error)) from None


def _object(text: bytes) -> dict[str, Any]:
    found = json.loads(text)
    if not isinstance(found, dict):
        raise ValueError("no object")
    return found


def turns_in(text: bytes) -> Turns:
    """The turns between the brackets of their list. Raises ValueError where they are not as `StoredTurn` has them."""
    found = TURN.findall(text) if text else []
    if text.count(TURN_BEGINS) != len(found) or (text and not found):
        raise ValueError("no turns")
    return found


def times_of(turns: Turns, samples: bytes) -> Sequence[float]:
    """The times that count, in order: of turns, or what stands between the brackets of the samples. Raises ValueError."""
    times: Sequence[float] = _counted(turns) if turns else _numbers(samples)
    if len(times) and not (times[0] >= SHORTEST_S and times[-1] < inf):
        raise ValueError(f"times of {times[0]} to {times[-1]} s")
    return times


def _counted(turns: Turns) -> list[float]:
    counted = usable_numbers([float(one) if one else None for _, _, one in turns])
    return sorted(float(turns[number][1]) for number in counted)


def _numbers(text: bytes) -> Sequence[float]:
    """Numbers between commas, in order; old rows have hundreds, which NumPy reads in half of Python's time."""
    found = np.fromstring(text, sep=",")
    if len(found) != text.count(b",") + bool(text):
        raise ValueError("no numbers")
    found.sort()
    return cast(Sequence[float], found)


def rounds_of(turns: Turns) -> Rounds:
    """The same turns as comparisons keep them."""
    return Rounds.of_times(
        [(int(number), float(time), float(one) if one else None) for number, time, one in turns]
    )


def _number(text: bytes) -> float | None:
    return None if text == b"null" else float(text)
