"""What of a case can be counted: more of it at the head than at the base needs no statistics.

>>> changes(pairs)
[Change(name='bytes streamed', base=33570816, head=67125248)]

Counts stand in rows, from whoever can tell: what a runtime does not count is not gated.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from membound.results.fields import is_amount
from membound.results.pairs import BASE, HEAD, Pairs
from membound.results.row import Row

PAGE_BYTES = 4096
"""Memory within a launch is told apart by pages: a small object of the interpreter is no finding."""


def _entry(name: str) -> Callable[[Row], int | None]:
    def read(row: Row) -> int | None:
        found = row.config.get(name)
        return found if type(found) is int and is_amount(found) else None

    return read


COUNTS: Mapping[str, tuple[Callable[[Row], int | None], int]] = {
    "bytes streamed": (lambda row: row.stored_bytes or row.bytes or None, 0),
    "graph nodes": (_entry("graph_nodes"), 0),
    "kernel launches": (_entry("kernel_launches"), 0),
    "bytes allocated": (_entry("allocated_bytes"), PAGE_BYTES),
}
"""By what it is called: how to read it from a row, and by how much it may differ without being another."""


@dataclass(frozen=True, slots=True)
class Change:
    """A count that is not the same on both sides."""

    name: str
    base: int
    head: int

    @property
    def worse(self) -> bool:
        """Whether the head needs more."""
        return self.head > self.base


def counted(pairs: Pairs) -> dict[str, tuple[int, int]]:
    """What both sides can count, as (base, head): of each side the most over its processes."""
    found = {}
    for name, (read, _) in COUNTS.items():
        sides = [[read(row) for row in pairs.rows[side] if row.status == "ok"] for side in (BASE, HEAD)]
        base, head = ([value for value in values if value is not None] for values in sides)
        if base and head:
            found[name] = (max(base), max(head))
    return found


def changes(pairs: Pairs) -> list[Change]:
    """The counts that differ by more than they may."""
    return [
        Change(name, base, head)
        for name, (base, head) in counted(pairs).items()
        if abs(head - base) > COUNTS[name][1]
    ]
