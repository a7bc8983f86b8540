"""What a comparison needs of a line with a checksum, found by the marks between its fields, without reading the rest.

>>> lines = SealedLines(turns=False)
>>> lines.process_of(content)  # `checksum.unsealed` of the line
Process(run_id='20261128T210353-intel-xeon-d8e2', backend='numba:cpu', work='linear:n=4096,…', …)

What many rows share (who ran what, the machine) is read as JSON once for all of them; of the rest of a row only its numbers
are looked at. Within a text of JSON a quote has a backslash before it, so that a mark such as ``,"samples_s":[`` stands in
no text; and an object of which half is taken is no JSON. No ceiling has the name of a turn's field.
"""

from __future__ import annotations

import json
import re
from statistics import median
from typing import Any

from membound.results.process import Process, Shared, digest
from membound.results.row import GRADES, SCHEMA_VERSION, missed_reference
from membound.results.turns import NO_ROUNDS, SHORTEST_S, Rounds, usable_numbers

MOST_KEPT = 5000
"""Shared parts that are remembered: a file has one for each case of each run in it."""
CASE, REPLICATE, ACCELERATOR = b',"kind":"case",', b',"replicate":', b',"accelerator":'
AFTER_ACCELERATOR, SAMPLES, TURNS = b',"memory_ceiling":', b',"samples_s":[', b'],"turns":['
AFTER_TURNS, NO_REQUESTS = b'],"hot_samples_s":[', b'],"requests":['
"""From schema 4 on there are requests between the turns and what follows them; a case has none."""
ERROR, AFTER_CONFIG, GRADE, MACHINE = b',"error":', b',"telemetry":{', b',"grade":"', b',"machine":{'
OUTCOME = re.compile(rb',"error":([^,]+),"tolerance":([^,]+),"value":null,"unit":"","config":')
TURN, TIME, LAUNCHES, DISTURBANCE = b'{"round":', b',"time_s":', b',"launches":', b',"disturbance":'

Turn = tuple[int, float, float | None]
"""Round, seconds, disturbance."""
Parts = tuple[bytes, ...]


class SealedLines:
    """Reads lines of one file, and remembers what they share."""

    def __init__(self, turns: bool) -> None:
        self._turns = turns
        self._kept: dict[Parts, Shared] = {}

    def process_of(self, content: bytes) -> Process | None:
        """The process; None if the row is no case. Raises ValueError where the line is not as this membound writes them."""
        at = content.index(REPLICATE)
        if content.find(CASE, 0, at) < 0 and json.loads(content[:at] + b"}")["kind"] != "case":
            return None
        accelerator = content.index(ACCELERATOR, at)
        replicate, _, others = content[at + len(REPLICATE) : accelerator].partition(b",")
        last = content.index(AFTER_ACCELERATOR, accelerator)
        samples = content.index(SAMPLES, last)
        turns = content.index(TURNS, samples)
        end = content.index(AFTER_TURNS, turns)
        played, times = times_of(
            content[turns + len(TURNS) : end].removesuffix(NO_REQUESTS),
            content[samples + len(SAMPLES) : turns],
        )
        outcome = OUTCOME.match(content, content.index(ERROR, end))
        if outcome is None:
            raise ValueError("no outcome")
        config = content.index(AFTER_CONFIG, outcome.end())
        machine = content.rindex(MACHINE)
        grade = content.rindex(GRADE, config, machine) + len(GRADE)
        shared = self._shared(
            (
                *(content[:at], others, content[accelerator + len(ACCELERATOR) : last]),
                *(
                    content[outcome.end() : config],
                    content[grade : content.index(b'"', grade)],
                    content[machine:],
                ),
                missed_reference(*map(_number, outcome.groups())).encode(),
            )
        )
        return Process(
            *shared,
            int(replicate),
            median(times) if times else None,
            Rounds.of_times(played) if self._turns else NO_ROUNDS,
            digest(content),
        )

    def _shared(self, parts: Parts) -> Shared:
        """The first fields of a process, up to its machine. Raises ValueError if a part is no object, or lacks a field."""
        found = self._kept.get(parts)
        if found is None:
            if len(self._kept) >= MOST_KEPT:
                self._kept.clear()
            found = self._kept[parts] = _shared_of(parts)
        return found


def _shared_of(parts: Parts) -> Shared:
    head, others, accelerator, config, grade, end, missed = parts
    who, what, how = (_object(text) for text in (head + b"}", b"{" + others + b"}", b"{" + end[1:]))
    try:
        run_id, backend, work, status = (who[name] for name in ("run_id", "backend", "work", "status"))
        reason, threads, device, machine = who["reason"], what["threads"], what["device"], how["machine"]
        newer = how["schema_version"] > SCHEMA_VERSION
    except KeyError as error:
        raise ValueError(f"no {error}") from None
    if grade.decode() not in GRADES or newer:
        raise ValueError("another schema")
    if status == "ok" and missed:
        status, reason = "wrong", missed.decode()
    accelerated, imported = bool(_object(accelerator)), "format" in _object(config)
    return (
        run_id,
        backend,
        work,
        threads,
        status,
        reason,
        grade.decode(),
        device,
        accelerated,
        imported,
        machine,
    )


def _object(text: bytes) -> dict[str, Any]:
    found = json.loads(text)
    if not isinstance(found, dict):
        raise ValueError("no object")
    return found


def times_of(turns: bytes, samples: bytes) -> tuple[list[Turn], list[float]]:
    """The turns and the times that count, from what stands between the brackets of both lists. Raises ValueError."""
    played = _turns(turns) if turns else []
    if played:
        times = [played[number][1] for number in usable_numbers([turn[2] for turn in played])]
    else:
        times = list(map(float, samples.split(b","))) if samples else []
    if times and not min(times) >= SHORTEST_S:
        raise ValueError(f"a time of {min(times)} s")
    return played, times


def _turns(text: bytes) -> list[Turn]:
    """Raises ValueError where they are not as `StoredTurn` has them."""
    found = []
    before, *pieces = text.split(TIME)
    count = len(pieces)
    alike = text.count(TURN) == text.count(LAUNCHES) == count and text.count(DISTURBANCE) <= count
    if not (alike and text.startswith(TURN)) or NO_REQUESTS in text:
        raise ValueError("no turns")
    for piece in pieces:
        number = before.rindex(TURN) + len(TURN)
        disturbance = piece.find(DISTURBANCE)
        found.append(
            (
                int(before[number : before.index(b",", number)]),
                float(piece[: piece.index(b",")]),
                None if disturbance < 0 else _leading(piece, disturbance + len(DISTURBANCE)),
            )
        )
        before = piece
    return found


def _leading(text: bytes, start: int) -> float | None:
    """The number there, which a comma or the end of its object ends."""
    end = text.index(b"}", start)
    comma = text.find(b",", start, end)
    return _number(text[start : end if comma < 0 else comma])


def _number(text: bytes) -> float | None:
    return None if text == b"null" else float(text)
