"""Row files of a base and of a head that were made in turn, process by process, as the two sides of a gate.

>>> from membound.results.store import load_rows
>>> rows = alternated(load_rows("base"), load_rows("head"))
>>> {side_of(row) for row in rows}
{('mine:cpu', 'base'), ('mine:cpu', 'head')}

Two runs that followed each other tell of two quarters of an hour, not of two commits: they are refused.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

from membound.results.pairs import BASE, HEAD, NotPaired, labelled, side_of
from membound.results.row import Row

Process = tuple[str, int]
"""A run and a replicate in it."""


def alternated(base: Sequence[Row], head: Sequence[Row]) -> list[Row]:
    """The cases of both, labelled by side, processes that followed each other under one number.

    Rows that have their side already, as those that the gate stores, stay as they are. Raises NotPaired where they
    were not made in turn on one machine.
    """
    if any(side_of(row)[1] for row in (*base, *head)):
        named = {BASE: base, HEAD: head}
        kept = {id(row): row for side, rows in named.items() for row in rows if side_of(row)[1] == side}
        return list(kept.values())
    _refuse_other_machine(base, head)
    numbers = _numbers(_starts(base), _starts(head))
    return [
        in_turn(row, side, numbers[side][row.run_id, row.replicate])
        for side, rows in ((BASE, base), (HEAD, head))
        for row in rows
        if row.kind == "case" and (row.run_id, row.replicate) in numbers[side]
    ]


def in_turn(row: Row, side: str, number: int, run_id: str = "alternated") -> Row:
    """A row of a process that played alone, as one of a pair: its rounds are not those of the other."""
    backend = labelled(row.backend, side)
    return replace(
        row, backend=backend, replicate=number, run_id=run_id, samples_s=list(row.times_s), turns=[]
    )


def _starts(rows: Iterable[Row]) -> dict[Process, str]:
    """When each process began, as ISO 8601."""
    found: dict[Process, str] = {}
    for row in rows:
        if row.kind == "case":
            key = row.run_id, row.replicate
            found[key] = min(found.get(key, row.started_at), row.started_at)
    return found


def _numbers(base: dict[Process, str], head: dict[Process, str]) -> dict[str, dict[Process, int]]:
    """The pair of each process."""
    order = sorted(
        [(at, BASE, one) for one, at in base.items()] + [(at, HEAD, one) for one, at in head.items()]
    )
    if not order or not all(at for at, _, _ in order):
        raise NotPaired("the files hold no cases that say when they were measured")
    found: dict[str, dict[Process, int]] = {BASE: {}, HEAD: {}}
    for number, couple in enumerate(zip(order[::2], order[1::2], strict=False)):
        if {side for _, side, _ in couple} != {BASE, HEAD}:
            break
        for _, side, one in couple:
            found[side][one] = number
    if len(found[BASE]) < min(len(base), len(head)):
        raise NotPaired(
            f"base ({len(base)} processes) and head ({len(head)}) were not measured in turn: of each two processes that "
            "follow each other one must be of the base and one of the head; `membound gate` with two commits or two "
            "commands measures them so"
        )
    return found


def _refuse_other_machine(base: Sequence[Row], head: Sequence[Row]) -> None:
    cpus = [
        next((str(row.machine["cpu"]) for row in rows if row.machine.get("cpu")), "") for rows in (base, head)
    ]
    if cpus[0] != cpus[1]:
        raise NotPaired(f"base and head are from different machines: {cpus[0]!r} and {cpus[1]!r}")
