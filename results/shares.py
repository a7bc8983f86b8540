"""How near a process came to the ceilings: each turn against those of its own moment.

>>> shares_of(row, limits).mbu
0.93

Rows without turns, of older versions and of pytest-benchmark, are compared with the ceilings of their run instead.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from membound.results.roofline import Limits, compute_ceilings
from membound.results.row import Row
from membound.results.turns import usable


@dataclass(frozen=True, slots=True)
class Shares:
    """Medians over the turns of one process, or over processes; None where a ceiling is missing.

    of_bound is what both ceilings together allow, over the time taken. The ceilings are those of the same turns.
    """

    mbu: float | None
    mfu: float | None
    of_bound: float | None
    device_of_bound: float | None
    read_bytes_per_s: float | None
    read_lowest_bytes_per_s: float | None
    read_highest_bytes_per_s: float | None
    compute_flops_per_s: float | None


def shares_of(row: Row, limits: Limits) -> Shares:
    """The shares of one measured process. `limits` are those of its run, for ceilings that took no turns."""
    return _of_turns(row, limits) if row.turns else _of_samples(row, limits)


def _of_turns(row: Row, limits: Limits) -> Shares:
    turns = usable(row.turns)
    names = compute_ceilings(row.work)
    others = limits.compute_by_name or {}
    read = [turn.ceiling(row.memory_ceiling) for turn in turns]
    compute = [turn.best_ceiling(names, others) for turn in turns]
    moved_bytes, flops = _known(row)
    moved = [_over(moved_bytes, r) for r in read]
    done = [_over(flops, c) for c in compute]
    bound = [_largest(m, d) for m, d in zip(moved, done, strict=True)]
    seen = [r for r in (side.get(row.memory_ceiling) for t in row.turns for side in (t.before, t.after)) if r]
    return Shares(
        mbu=middle(_over(m, turn.time_s) for m, turn in zip(moved, turns, strict=True)),
        mfu=middle(_over(d, turn.time_s) for d, turn in zip(done, turns, strict=True)),
        of_bound=middle(_over(b, turn.time_s) for b, turn in zip(bound, turns, strict=True)),
        device_of_bound=middle(_over(b, turn.device_s) for b, turn in zip(bound, turns, strict=True)),
        read_bytes_per_s=middle(read),
        read_lowest_bytes_per_s=min(seen, default=None),
        read_highest_bytes_per_s=max(seen, default=None),
        compute_flops_per_s=middle(compute),
    )


def _of_samples(row: Row, limits: Limits) -> Shares:
    time_s = float(np.median(row.times_s))
    device_s = float(np.median(row.device_samples_s)) if row.device_samples_s else None
    moved_bytes, flops = _known(row)
    memory_s = _over(moved_bytes, limits.read_bytes_per_s)
    compute_s = _over(flops, limits.compute_flops_per_s)
    bound_s = _largest(memory_s, compute_s)
    return Shares(
        mbu=_over(memory_s, time_s),
        mfu=_over(compute_s, time_s),
        of_bound=_over(bound_s, time_s),
        device_of_bound=_over(bound_s, device_s),
        read_bytes_per_s=limits.read_bytes_per_s,
        read_lowest_bytes_per_s=limits.read_lowest_bytes_per_s,
        read_highest_bytes_per_s=limits.read_bytes_per_s,
        compute_flops_per_s=limits.compute_flops_per_s,
    )


def _known(row: Row) -> tuple[int | None, int | None]:
    """Bytes and FLOPs. A work that moves no bytes is one whose file does not say how many; no FLOPs there may be."""
    return row.bytes or None, row.flops if row.bytes or row.flops else None


def middle(values: Iterable[float | None]) -> float | None:
    """The median of those that are there; None of none."""
    known = [value for value in values if value is not None]
    return float(np.median(known)) if known else None


def _over(part: float | None, whole: float | None) -> float | None:
    return part / whole if part is not None and whole else None


def _largest(*values: float | None) -> float | None:
    return max((value for value in values if value is not None), default=None)
