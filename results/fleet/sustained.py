"""What all devices of a make sustain: the sum of their rates in each figure.

>>> found = sustained(runs)
>>> found[0].figure.work, found[0].devices, found[0].total, found[0].ci
('read', 64, 2.6e14, (2.58e14, 2.63e14))

A sum of medians over each device's processes, with Student's interval over processes. Devices that were measured alone are not
slowed by each other: what they share (links, power, heat) shows in those that were measured beside others.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from math import fsum
from statistics import median

from membound.results.fleet.device_run import DeviceRun, Figure
from membound.results.intervals import FEWEST, sums_ratio_interval

ONE = ((1.0,) * FEWEST,)
"""What a sum is divided by to have its own interval: nothing is open about it."""


@dataclass(frozen=True, slots=True)
class Sustained:
    """A figure over all devices that have it. `ci`: 95 %, None where a device has fewer than three processes."""

    figure: Figure
    devices: int
    total: float
    """In the figure's unit."""
    ci: tuple[float, float] | None


def sustained(runs: Iterable[DeviceRun]) -> list[Sustained]:
    """Every figure that two devices or more have, in the order in which they come."""
    rates: dict[Figure, list[list[float]]] = {}
    for run in runs:
        for figure, some in run.rates.items():
            rates.setdefault(figure, []).append(some)
    return [
        Sustained(figure, len(each), fsum(map(median, each)), sums_ratio_interval(each, ONE))
        for figure, each in rates.items()
        if len(each) > 1
    ]
