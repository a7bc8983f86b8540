"""Processes in columns, to hand them from one interpreter to another: what many share stands in them once.

>>> columns = packed(processes)
>>> list(unpacked(columns, {})) == processes
True
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from math import isnan, nan
from typing import Any, cast

from membound.results.process import DIGEST_BYTES, Process, Shared
from membound.results.turns import NO_ROUNDS, Rounds

LAST_MACHINE = ("the machine of the process before",)


@dataclass(slots=True)
class Columns:
    """`shared` has what many processes share, once; the others a value for each process."""

    shared: list[Shared] = field(default_factory=list)
    of_shared: array[int] = field(default_factory=lambda: array("L"))
    replicates: array[int] = field(default_factory=lambda: array("q"))
    times_s: array[float] = field(default_factory=lambda: array("d"))
    """NaN where a process has none."""
    contents: bytes = b""
    turns: list[Rounds] = field(default_factory=list)
    """Of every process that has any, and of those before it."""


def packed(processes: Iterable[Process]) -> Columns:
    """The columns of these processes."""
    columns, known, contents = Columns(), dict[Any, int](), list[bytes]()
    for one in processes:
        fields = (one.run_id, one.backend, one.work, one.threads, one.status, one.reason, one.grade, one.device,
                  one.accelerated, one.imported)  # fmt: skip
        key = (*fields, id(one.machine))
        if key not in known:
            known[key] = len(known)
            columns.shared.append((*fields, one.machine))  # which keeps the machine, and so its id
        columns.of_shared.append(known[key])
        columns.replicates.append(one.replicate)
        columns.times_s.append(nan if one.time_s is None else one.time_s)
        contents.append(one.content)
        if one.turns:
            columns.turns += [NO_ROUNDS] * (len(contents) - 1 - len(columns.turns))
            columns.turns.append(one.turns)
    columns.contents = b"".join(contents)
    return columns


def unpacked(columns: Columns, known: dict[Any, Any]) -> Iterator[Process]:
    """The processes. `known` has texts and machines of earlier columns, which are used again: a million rows name some dozens."""
    shared = [_sharing(fields, known) for fields in columns.shared]
    lines = zip(columns.of_shared, columns.replicates, columns.times_s, strict=True)
    for number, (of_shared, replicate, time_s) in enumerate(lines):
        yield Process(
            *shared[of_shared],
            replicate,
            None if isnan(time_s) else time_s,
            columns.turns[number] if number < len(columns.turns) else NO_ROUNDS,
            columns.contents[number * DIGEST_BYTES : (number + 1) * DIGEST_BYTES],
        )


def _sharing(fields: Shared, known: dict[Any, Any]) -> Shared:
    *others, machine = fields
    shared = (known.setdefault(one, one) if isinstance(one, str) else one for one in others)
    return cast(Shared, (*shared, shared_machine(machine, known)))


def shared_machine(machine: Mapping[str, Any], known: dict[Any, Any]) -> Mapping[str, Any]:
    """That of the last process where it is equal: rows of one machine follow each other."""
    last: Mapping[str, Any] = known.get(LAST_MACHINE, machine)
    if machine is not last and machine == last:
        return last
    known[LAST_MACHINE] = machine
    return machine
