"""Remote memory against local: the same works, CPUs and threads with their arrays on another NUMA node.

>>> from membound.results.scaling.curve import curves_of
>>> one = remotes_of(curves_of(rows))[-1]
>>> one.placement, one.local, one.threads, one.share, one.ci
('node0:node1', 'node0', 8, 0.62, (0.60, 0.64))

The interval is Student's (Welch) over the processes of both. Placements were measured one after the other, as counts are.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from membound.results.fleet.device_run import Figure
from membound.results.intervals import ratio_interval
from membound.results.scaling.curve import Curve


@dataclass(frozen=True, slots=True)
class Remote:
    """A figure of a machine with its arrays elsewhere: the rate over that with the memory of its own nodes."""

    machine: str
    figure: Figure
    placement: str
    local: str
    """The placement of the same CPUs with local memory."""
    threads: int
    share: float
    """Of the medians over processes."""
    ci: tuple[float, float] | None
    """Its 95 % interval; None with fewer than three processes on a side."""


def remotes_of(curves: Sequence[Curve]) -> list[Remote]:
    """Every remote placement by its threads, where its CPUs were measured with local memory and as many threads, too."""
    return [one for curve in curves for one in _remotes(curve, curves)]


def _remotes(curve: Curve, curves: Sequence[Curve]) -> Iterator[Remote]:
    place, colon, _ = curve.placement.partition(":")
    wanted = (curve.machine, curve.figure, place)
    local = next((one for one in curves if (one.machine, one.figure, one.placement) == wanted), None)
    if not colon or local is None:
        return
    rates = {point.threads: point for point in local.points}
    for point in curve.points:
        if beside := rates.get(point.threads):
            ci = ratio_interval(point.rates, beside.rates)
            share = point.rate / beside.rate
            yield Remote(curve.machine, curve.figure, curve.placement, place, point.threads, share, ci)
