"""Rows of a base and a head that took turns, as pairs: for each case the ratio of each couple of fresh processes.

>>> sides = both_sides(rows)
>>> sides[Case("mine:cpu", "linear:n=4096,k=4096,m=1,weight=bf16,act=float", 2)].log_ratios
(0.012, -0.004, 0.007, ...)

A case of the base has the label ``#base``, one of the head ``#head``; processes of one replicate are a pair.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from math import log

import numpy as np

from membound.errors import MemboundError
from membound.results.ratios import process_medians, round_ratios
from membound.results.row import Row

BASE, HEAD = "base", "head"
SIDES = (BASE, HEAD)


class NotPaired(MemboundError, ValueError):
    """Base and head were not measured in turn, or have nothing in common; the message says which."""


@dataclass(frozen=True, slots=True, order=True)
class Case:
    """What is gated: a work on a backend with a number of threads. `backend` is without the label of a side."""

    backend: str
    work: str
    threads: int


@dataclass(slots=True)
class Pairs:
    """A case as base and head measured it."""

    case: Case
    log_ratios: tuple[float, ...] = ()
    """Of each pair that counts: log(time of head / time of base)."""
    aside: int = 0
    """Pairs with a process that was invalid."""
    rows: dict[str, list[Row]] = field(default_factory=lambda: {BASE: [], HEAD: []}, repr=False)
    """All rows by side, failures too."""

    def failure(self, side: str) -> str:
        """What failed there, with its reason and how often; '' if nothing did."""
        failed = [row for row in self.rows[side] if row.status != "ok"]
        if not failed:
            return ""
        worst = next((row for row in failed if row.status == "wrong"), failed[0])
        often = f" in {len(failed)} of {len(self.rows[side])} processes" if len(failed) > 1 else ""
        return f"{worst.status}{often}" + (f": {worst.reason}" if worst.reason else "")

    def time_s(self, side: str) -> float | None:
        """The median over processes, seconds a launch; None without a time."""
        medians = process_medians([row for row in self.rows[side] if row.status == "ok"])
        return float(np.median(medians)) if medians else None


def labelled(backend: str, side: str) -> str:
    """``mine:cpu`` as a contestant of that side; a label that it has already stays: ``mine:cpu#2.base``."""
    return f"{backend}{'.' if '#' in backend else '#'}{side}"


def side_of(row: Row) -> tuple[str, str]:
    """The backend without the label of a side, and the side; '' if it has none."""
    for side in SIDES:
        for mark in (f"#{side}", f".{side}"):
            if "#" in row.backend and row.backend.endswith(mark):
                return row.backend.removesuffix(mark), side
    return row.backend, ""


def both_sides(rows: Iterable[Row]) -> dict[Case, Pairs]:
    """Every case that either side has, with its pairs, in order of case. Raises NotPaired if no row has a side."""
    found: dict[Case, Pairs] = {}
    for row in rows:
        backend, side = side_of(row)
        if row.kind == "case" and side:
            case = Case(backend, row.work, row.threads)
            found.setdefault(case, Pairs(case)).rows[side].append(row)
    if not found:
        raise NotPaired("the rows have no sides: those of a base end in #base, those of a head in #head")
    for pairs in found.values():
        _pair(pairs)
    return dict(sorted(found.items()))


def _pair(pairs: Pairs) -> None:
    """Fill in the ratios, replicate by replicate of each run."""
    by_replicate: dict[tuple[str, int], dict[str, list[Row]]] = {}
    for side in SIDES:
        for row in pairs.rows[side]:
            if row.status == "ok" and row.times_s:
                key = (row.run_id, row.replicate)
                by_replicate.setdefault(key, {BASE: [], HEAD: []})[side].append(row)
    ratios = []
    for both in by_replicate.values():
        if not (both[BASE] and both[HEAD]):
            continue
        if any(row.grade == "invalid" for side in SIDES for row in both[side]):
            pairs.aside += 1
            continue
        ratios.append(log(_ratio(both[BASE], both[HEAD])))
    pairs.log_ratios = tuple(ratios)


def _ratio(base: Sequence[Row], head: Sequence[Row]) -> float:
    """Of the rounds where they took turns, else of the processes' medians."""
    found = round_ratios(base, head)
    if found:
        return float(np.median(found))
    return float(np.median(process_medians(head))) / float(np.median(process_medians(base)))
