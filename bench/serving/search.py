"""The highest rate that keeps a service level: doubling or halving, then bisection, then confirmation.

>>> found = highest_rate(kept, start=1.0)
>>> found.rate, found.failed
(3.4, 3.5)

`kept(rate, attempt)` plays a point with other random numbers for each attempt. What a rate is held for, two of at most three of its
points say: a machine that stood still for a moment must not end the search below what the server keeps, and near the edge, where
chance decides, the highest of many lucky points would be too high.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import sqrt

from membound.results.serving.search import TIMES

CLOSE = 1.05
"""The rate that is kept and the one that is not are this near to each other in the end."""
MOST_POINTS = 40


@dataclass(frozen=True, slots=True)
class Found:
    """`rate`: the highest that was kept TIMES times, or None. `failed`: the lowest that was missed as often, or None."""

    rate: float | None
    failed: float | None
    points: int


@dataclass(slots=True)
class _Votes:
    """Of the points at a rate."""

    kept: int = 0
    missed: int = 0

    @property
    def unsure(self) -> bool:
        """Whether a point missed the level, and no other has said yet whether that was chance."""
        return 0 < self.missed < TIMES and self.kept < TIMES


def highest_rate(
    kept: Callable[[float, int], bool], start: float, lowest: float = 0.0, highest: float = float("inf")
) -> Found:
    """Search upwards or downwards from `start`, no further than `lowest` and `highest`, in MOST_POINTS at most."""
    votes: dict[float, _Votes] = {}
    rate: float | None = start
    points = 0
    while rate is not None and points < MOST_POINTS:
        points += 1
        of_rate = votes.setdefault(rate, _Votes())
        if kept(rate, of_rate.kept + of_rate.missed):
            of_rate.kept += 1
        else:
            of_rate.missed += 1
        rate = rate if of_rate.unsure else _next(votes, start, lowest, highest)
    passed, failed = _sides(votes)
    return Found(max((one for one in passed if votes[one].kept >= TIMES), default=None), failed, points)


def _sides(votes: dict[float, _Votes]) -> tuple[list[float], float | None]:
    """The rates that were kept, each below the lowest that was missed; and that one."""
    failed = min((rate for rate, of_rate in votes.items() if of_rate.missed >= TIMES), default=None)
    return [rate for rate in votes if failed is None or rate < failed], failed


def _next(votes: dict[float, _Votes], start: float, lowest: float, highest: float) -> float | None:
    """The rate to play next, once the last one is held for kept or missed; None when the search is over."""
    passed, failed = _sides(votes)
    best = max(passed, default=None)
    if best is None:
        below = (failed or start) / 2
        return below if below >= lowest else None
    if failed is None:
        if 2 * best <= highest:
            return 2 * best
    elif failed / best > CLOSE:
        return sqrt(best * failed)
    return best if votes[best].kept < TIMES else None
