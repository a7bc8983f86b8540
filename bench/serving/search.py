"""The highest rate that keeps a service level: doubling or halving, then bisection, then confirmation.

>>> found = highest_rate(kept, start=1.0)
>>> found.rate, found.failed
(3.4, 3.5)

`kept(rate, attempt)` plays a point with other random numbers for each attempt. A rate is found only if it was kept twice: near the
edge chance decides, and the highest of many lucky points would be too high.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import sqrt

from membound.results.serving.search import TIMES_KEPT

CLOSE = 1.05
"""The rate that is kept and the one that is not are this near to each other in the end."""
MOST_POINTS = 30


@dataclass(frozen=True, slots=True)
class Found:
    """`rate`: the highest that was kept TIMES_KEPT times, or None. `failed`: the lowest above it that was not, or None."""

    rate: float | None
    failed: float | None
    points: int


def highest_rate(
    kept: Callable[[float, int], bool], start: float, lowest: float = 0.0, highest: float = float("inf")
) -> Found:
    """Search upwards or downwards from `start`, no further than `lowest` and `highest`, in MOST_POINTS at most."""
    passed: dict[float, int] = {}
    failed: float | None = None
    rate = start
    for point in range(1, MOST_POINTS + 1):
        if kept(rate, passed.get(rate, 0)):
            passed[rate] = passed.get(rate, 0) + 1
        else:
            failed = rate
            passed = {one: times for one, times in passed.items() if one < rate}
        following = _next(passed, failed, start, lowest, highest)
        if following is None:
            return Found(_confirmed(passed), failed, point)
        rate = following
    return Found(_confirmed(passed), failed, MOST_POINTS)


def _confirmed(passed: dict[float, int]) -> float | None:
    return max((one for one, times in passed.items() if times >= TIMES_KEPT), default=None)


def _next(
    passed: dict[float, int], failed: float | None, start: float, lowest: float, highest: float
) -> float | None:
    """The rate to play next; None when the search is over."""
    best = max(passed, default=None)
    if best is None:
        below = (failed or start) / 2
        return below if below >= lowest else None
    if failed is None:
        if 2 * best <= highest:
            return 2 * best
    elif failed / best > CLOSE:
        return sqrt(best * failed)
    return best if passed[best] < TIMES_KEPT else None
