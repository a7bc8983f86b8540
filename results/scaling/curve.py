"""Rates against threads, for each placement: how they grow with the threads, and from how many on they do not.

>>> from membound.results.store import each_row
>>> curves = curves_of(each_row(paths))
>>> curves[0].name, curves[0].knee
('cpu read', Knee(threads=5.3, ci=(4.9, 5.8)))

Rates that grow with the threads up to a knee and stay there beyond it: the knee is the plateau over the rate of one thread, and
which points lie on which side is chosen by least squares of the logarithms. Its interval is Student's (Welch) of the processes
on both sides, and reaches over all ways to part them that fit as well. Counts follow each other, so that what the machine does in the meantime is in it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import exp, fsum, log
from statistics import fmean, median

from membound.results.fleet.device_run import Figure, device_runs
from membound.results.intervals import interval, ratio_interval
from membound.results.row import Row

PLACEMENT = "placement"
FEWEST_COUNTS = 3
"""Thread counts of which a knee can be told: of two, less than twice the rate may be a knee or a slow second thread."""
LIKELY = 3.84
"""Splits whose logarithm of the likelihood is within half of this of the best are as good: the 95 % quantile of χ² with one degree of freedom."""
FEWEST_BEYOND = 2
"""Counts on the plateau: one alone does not show that rates stay."""


@dataclass(frozen=True, slots=True)
class Point:
    """A thread count: the rates of its processes, in the unit of the figure."""

    threads: int
    rates: tuple[float, ...]

    @property
    def rate(self) -> float:
        """The median over processes."""
        return median(self.rates)

    @property
    def ci(self) -> tuple[float, float] | None:
        """Its 95 % interval; None with fewer than three processes."""
        return interval(self.rates)


@dataclass(frozen=True, slots=True)
class Knee:
    """The threads from which on the rate stays, with the 95 % interval; None with fewer than three processes on a side."""

    threads: float
    ci: tuple[float, float] | None


@dataclass(frozen=True, slots=True)
class Curve:
    """One figure of one placement of a machine."""

    machine: str
    """Its node or, where rows name none, ''."""
    placement: str
    figure: Figure
    """Its `threads` are 0."""
    points: tuple[Point, ...]
    """By threads."""

    @property
    def name(self) -> str:
        """``backend work``."""
        return f"{self.figure.backend} {self.figure.work}"

    def of_linear(self, point: Point) -> tuple[float, tuple[float, float] | None]:
        """The rate of a point over that of the fewest threads times their ratio, and its interval."""
        first = self.points[0]
        ratio = point.threads / first.threads
        if point is first:
            return 1.0, None
        ci = ratio_interval([rate / ratio for rate in point.rates], first.rates)
        return point.rate / ratio / first.rate, ci

    @property
    def knee(self) -> Knee | None:
        """Where the rate saturates; None where it does not, up to the most threads, or where that cannot be told."""
        return knee_of(self.points)

    @property
    def best(self) -> Point:
        """The point of the highest rate."""
        return max(self.points, key=lambda point: point.rate)


def curves_of(rows: Iterable[Row]) -> list[Curve]:
    """The curves of what was measured with two thread counts or more, or in two placements, in the order of the rows."""
    found: dict[tuple[str, str, Figure], dict[int, list[float]]] = {}
    for run in device_runs(rows):
        node = run.node if run.node != run.run_id else ""
        for figure, rates in run.rates.items():
            key = (node, run.facts.get(PLACEMENT, ""), figure._replace(threads=0))
            if figure.threads:
                found.setdefault(key, {}).setdefault(figure.threads, []).extend(rates)
    curves = [
        Curve(*key, tuple(Point(threads, tuple(rates)) for threads, rates in sorted(by_threads.items())))
        for key, by_threads in found.items()
    ]
    places: dict[tuple[str, Figure], int] = {}
    for one in curves:
        places[one.machine, one.figure] = places.get((one.machine, one.figure), 0) + 1
    return [one for one in curves if len(one.points) > 1 or places[one.machine, one.figure] > 1]


def knee_of(points: Sequence[Point]) -> Knee | None:
    """The knee of a curve, by threads; None without one: fewer than FEWEST_COUNTS, or a rate that goes on growing.

    Its interval must end below the most threads: else they may just be reached there.
    """
    if len(points) < FEWEST_COUNTS:
        return None
    left = {split: _squares(points, split) for split in range(1, len(points) - FEWEST_BEYOND + 1)}
    at = min(left, key=left.__getitem__)
    if left[at] >= _squares(points, len(points)):
        return None
    threads, ci = _crossing(points, at)
    count = sum(len(point.rates) for point in points)
    close = [split for split, squares in left.items() if squares <= left[at] * exp(LIKELY / count)]
    others = [other for split in close if (other := _crossing(points, split)[1]) is not None]
    if ci is not None:  # a count at the knee may lie on either side
        ci = min(threads, *(low for low, _ in others)), max(threads, *(high for _, high in others))
    return None if (ci[1] if ci else threads) >= points[-1].threads else Knee(threads, ci)


def _crossing(points: Sequence[Point], split: int) -> tuple[float, tuple[float, float] | None]:
    """The plateau over the rate of one thread, for points that lie before and beyond a split, with its interval."""
    alone = [rate / point.threads for point in points[:split] for rate in point.rates]
    beyond = [rate for point in points[split:] for rate in point.rates]
    return exp(fmean(map(log, beyond)) - fmean(map(log, alone))), ratio_interval(beyond, alone)


def _squares(points: Sequence[Point], split: int) -> float:
    """What is left if rates grow with the threads up to a split and stay beyond it: the squares of logarithms."""
    left = 0.0
    for some, power in ((points[:split], 1), (points[split:], 0)):
        logs = [log(rate) - power * log(point.threads) for point in some for rate in point.rates]
        if logs:
            middle = fmean(logs)
            left += fsum((value - middle) ** 2 for value in logs)
    return left
