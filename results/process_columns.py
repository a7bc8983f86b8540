"""Processes in columns, to hand them from one interpreter to another: what many share crosses once.

>>> packer, unpacker = Packer(), Unpacker({})
>>> for some in (processes, more):
...     assert list(unpacker.processes(packer.columns(some))) == some
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import chain, repeat
from math import isnan, nan
from typing import Any

from membound.results.process import Process, Shared, interned
from membound.results.turns import NO_ROUNDS, Rounds


@dataclass(slots=True)
class Columns:
    """`shared` has what many processes share and no columns before these had; the others a value for each process."""

    shared: list[tuple[Any, ...]] = field(default_factory=list)
    """The fields of `Shared`: plain tuples cross faster."""
    of_shared: array[int] = field(default_factory=lambda: array("L"))
    """Its number among those of all columns until now."""
    replicates: array[int] = field(default_factory=lambda: array("q"))
    times_s: array[float] = field(default_factory=lambda: array("d"))
    """NaN where a process has none."""
    contents: array[int] = field(default_factory=lambda: array("L"))
    turns: list[Rounds] = field(default_factory=list)
    """Of every process that has any, and of those before it."""


class Packer:
    """Makes columns, one after the other, of processes whose shared parts are `interned`."""

    def __init__(self) -> None:
        self._known: dict[int, tuple[int, Shared]] = {}

    def columns(self, processes: Iterable[Process]) -> Columns:
        """Those of the next processes."""
        columns, known = Columns(), self._known
        for one in processes:
            shared = one.shared
            if id(shared) not in known:
                known[id(shared)] = len(known), shared  # kept, so that no other one gets its id
                columns.shared.append(tuple(shared))
            columns.of_shared.append(known[id(shared)][0])
            columns.replicates.append(one.replicate)
            columns.times_s.append(nan if one.time_s is None else one.time_s)
            columns.contents.append(one.content)
            if one.turns is not NO_ROUNDS:
                columns.turns += [NO_ROUNDS] * (len(columns.contents) - 1 - len(columns.turns))
                columns.turns.append(one.turns)
        return columns


class Unpacker:
    """Makes processes of one packer's columns, in its order. `known` has what other processes share."""

    def __init__(self, known: dict[Any, Any]) -> None:
        self._known = known
        self._shared: list[Shared] = []

    def processes(self, columns: Columns) -> Iterator[Process]:
        """Those of the next columns."""
        shared = self._shared
        shared += [interned(Shared(*fields), self._known) for fields in columns.shared]
        played = chain(columns.turns, repeat(NO_ROUNDS))
        lines = zip(columns.of_shared, columns.replicates, columns.times_s, columns.contents, strict=True)
        for (of_shared, replicate, time_s, content), rounds in zip(lines, played, strict=False):
            yield Process(
                shared[of_shared],
                replicate,
                None if isnan(time_s) else time_s,
                rounds,
                content,
            )
