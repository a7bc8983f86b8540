"""How the devices of a make went over the days: the middle of the fleet, its quartiles, and single devices.

>>> days = drift_of(group, runs).days
>>> days[0].day, days[0].devices, days[0].median
('2026-11-28', 64, 1.0)

A share is a geometric mean over the figures that most devices have, of the median of all days.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import exp, fsum, log
from statistics import fmean, median, quantiles

from membound.results.change_points import Change, change_points
from membound.results.fleet.device_run import DeviceRun, Figure
from membound.results.fleet.outliers import COMMON, Group
from membound.results.intervals import MOST_LOG

DAY = len("2026-11-28")


@dataclass(frozen=True, slots=True)
class Day:
    """A day: how many devices were measured, the median of their shares, and the quartiles."""

    day: str
    devices: int
    median: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Drift:
    """The days in order; the share of every device by day; days from which on the median differs (`change_points`)."""

    days: tuple[Day, ...]
    devices: Mapping[tuple[str, str], Mapping[str, float]]
    changes: tuple[Change, ...]


def drift_of(group: Group, runs: Iterable[DeviceRun]) -> Drift:
    """Of the runs of that make that say when they began. The last run of a device on a day counts."""
    mine = sorted(
        (one for one in runs if one.make == group.make and one.rates and len(one.started_at) >= DAY),
        key=lambda one: one.started_at,
    )
    shares: dict[tuple[str, str], dict[str, float]] = {}
    by_day: dict[str, dict[tuple[str, str], float]] = {}
    middles = _middles(group, mine)
    for one in mine:
        if middles and middles.keys() <= one.rates.keys():
            logs = [fmean(map(log, one.rates[figure])) - middle for figure, middle in middles.items()]
            share = exp(max(-MOST_LOG, min(MOST_LOG, fsum(logs) / len(logs))))
            by_day.setdefault(one.started_at[:DAY], {})[one.node, one.device] = share
            shares.setdefault((one.node, one.device), {})[one.started_at[:DAY]] = share
    days = tuple(_day(day, list(found.values())) for day, found in by_day.items())
    return Drift(days, shares, tuple(change_points([day.median for day in days])))


def _middles(group: Group, runs: Sequence[DeviceRun]) -> dict[Figure, float]:
    """The median of the logarithms of each figure that most of the devices have."""
    values: dict[Figure, list[float]] = {}
    for one in runs:
        for figure, rates in one.rates.items():
            values.setdefault(figure, []).append(fmean(map(log, rates)))
    common = {one.figure for one in group.figures if one.figure and one.devices >= COMMON * len(group.runs)}
    return {figure: median(some) for figure, some in values.items() if figure in common}


def _day(day: str, shares: Sequence[float]) -> Day:
    low, _, high = quantiles(shares, n=4, method="inclusive") if len(shares) > 1 else (shares[0],) * 3
    return Day(day, len(shares), median(shares), low, high)
