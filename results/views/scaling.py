"""Rates against threads and placements, for terminals: a table for each figure, and where it saturates.

>>> from rich.console import Console
>>> from membound.results.scaling.curve import curves_of
>>> Console().print(scaling_view(curves_of(rows)))
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from membound.results.fleet.device_run import BANDWIDTH
from membound.results.scaling.curve import FEWEST_COUNTS, Curve, Point
from membound.results.scaling.remote import Remote, remotes_of
from membound.results.stats import plain
from membound.results.views.timed import number_column
from membound.results.wording import amount, gigabytes_per_s, percent, short

ANYWHERE = "anywhere"
"""The placement of runs that name none: the system's choice."""
NO_INTERVAL = " (no interval: it takes three processes)"
LEGEND = (
    "GB/s: the median over processes, ±: half of its 95 % interval. of linear: of the rate with the fewest threads, times the "
    "threads; of best: of the highest rate of any placement. Counts and placements were measured one after the other."
)


def scaling_view(curves: Sequence[Curve]) -> Group:
    """Every figure with all its placements."""
    parts: list[RenderableType] = []
    for name in dict.fromkeys((one.machine, one.name) for one in curves):
        some = [one for one in curves if (one.machine, one.name) == name]
        parts += [Text(title(some[0]), style="bold"), _table(some), *map(Text, sentences(some)), Text()]
    return Group(*parts, Text(LEGEND, style="dim"))


def title(curve: Curve) -> str:
    """What was measured."""
    where = f"{curve.machine}: " if curve.machine else ""
    return f"{where}{curve.figure.backend} {short(curve.figure.work)}"


def sentences(curves: Sequence[Curve]) -> Iterator[str]:
    """Where each placement saturates, and what remote memory gives of what local memory does."""
    for one in curves:
        where = f"{one.placement or ANYWHERE}: " if len(curves) > 1 or one.placement else ""
        if len(one.points) < FEWEST_COUNTS:
            if len(one.points) > 1:
                yield f"{where}a knee takes {FEWEST_COUNTS} thread counts to be told"
        elif (knee := one.knee) is None:
            yield f"{where}no knee was found up to {one.points[-1].threads} threads"
        else:
            within = f" ({knee.ci[0]:.2g} to {knee.ci[1]:.2g})" if knee.ci else NO_INTERVAL
            yield f"{where}saturates at {knee.threads:.2g} threads{within}"
    last = {one.placement: one for one in remotes_of(curves)}  # of each the most threads
    yield from map(_remote, last.values())


def _remote(one: Remote) -> str:
    """What is left of a rate with memory elsewhere."""
    threads = f"{one.threads} thread{'s' * (one.threads != 1)}"
    within = f" ({percent(one.ci[0])} to {percent(one.ci[1])})" if one.ci else NO_INTERVAL
    return f"{one.placement}: {percent(one.share)} of the rate of {one.local} with {threads}{within}"


def _table(curves: Sequence[Curve]) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, header_style="dim")
    table.add_column("placement", overflow="fold")
    unit = "GB/s" if curves[0].figure.unit == BANDWIDTH else curves[0].figure.unit
    for name, size in (
        ("threads", 7),
        (unit, 8),
        ("±", 4),
        ("of linear", 9),
        ("interval", 11),
        ("of best", 7),
    ):
        number_column(table, name, size)
    best = max(one.best.rate for one in curves)
    for one in curves:
        for point in one.points:
            table.add_row(one.placement or ANYWHERE, *_cells(one, point, best))
    return table


def _cells(curve: Curve, point: Point, best: float) -> list[str]:
    share, ci = curve.of_linear(point)
    rate = gigabytes_per_s(point.rate) if curve.figure.unit == BANDWIDTH else amount(point.rate, "")
    half = "–" if point.ci is None else percent((point.ci[1] - point.ci[0]) / 2 / point.rate)
    between = "–" if ci is None else f"{percent(ci[0])}–{percent(ci[1])}"
    return [str(point.threads), rate, half, percent(share), between, percent(point.rate / best)]


def scaling_records(curves: Sequence[Curve]) -> list[dict[str, Any]]:
    """The curves as JSON can hold them."""
    remote = {(one.machine, one.figure, one.placement, one.threads): one for one in remotes_of(curves)}
    return [
        plain(
            {
                "machine": one.machine,
                "placement": one.placement,
                "backend": one.figure.backend,
                "work": one.figure.work,
                "unit": one.figure.unit,
                "points": [
                    {
                        "threads": point.threads,
                        "processes": len(point.rates),
                        "rate": point.rate,
                        "ci": point.ci,
                        "of_linear": one.of_linear(point)[0],
                        "of_linear_ci": one.of_linear(point)[1],
                    }
                    | _of_local(remote.get((one.machine, one.figure, one.placement, point.threads)))
                    for point in one.points
                ],
                "knee": None if one.knee is None else {"threads": one.knee.threads, "ci": one.knee.ci},
            }
        )
        for one in curves
    ]


def _of_local(one: Remote | None) -> dict[str, Any]:
    """Of a point with remote memory: its rate over that with local memory. Others have no such fields."""
    return {} if one is None else {"of_local": one.share, "of_local_ci": one.ci}
