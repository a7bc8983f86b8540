"""Devices alone and together, for terminals: a table for each figure.

>>> from rich.console import Console
>>> from membound.results.scaling.together import together_of
>>> Console().print(together_view(together_of(rows)))
"""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from membound.results.fleet.device_run import BANDWIDTH
from membound.results.scaling.together import Together, whole, whole_ci
from membound.results.stats import plain
from membound.results.views.timed import number_column
from membound.results.wording import amount, gigabytes_per_s, percent, short

ALL = "all"
"""The line of all devices of a figure."""
LEGEND = (
    "alone, together: medians over processes, GB/s where bytes are known; together: while every other device read its memory as "
    "fast as it could. efficiency: together over alone, with its 95 % interval over processes. all: sums over the devices."
)


def together_view(found: Sequence[Together]) -> Group:
    """Every figure with its devices, and all of them together."""
    parts: list[RenderableType] = []
    for work, some in by_work(found).items():
        backend, _, spec = work.partition(" ")
        parts += [Text(f"{backend} {short(spec)}", style="bold"), _table(some), Text()]
    return Group(*parts, Text(LEGEND, style="dim"))


def _table(devices: Sequence[Together]) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, header_style="dim")
    table.add_column("device", overflow="fold")
    for name, size in (("alone", 8), ("together", 8), ("efficiency", 10), ("interval", 11)):
        number_column(table, name, size)
    for one in devices:
        rates = (_rate(one, median(rates)) for rates in (one.alone, one.together))
        table.add_row(one.device, *rates, percent(one.efficiency), _between(one.ci))
    if len(devices) > 1:
        sums = (
            _rate(devices[0], sum(median(side) for side in sides))
            for sides in ([one.alone for one in devices], [one.together for one in devices])
        )
        table.add_row(ALL, *sums, percent(whole(devices)), _between(whole_ci(devices)))
    return table


def _between(ci: tuple[float, float] | None) -> str:
    return "–" if ci is None else f"{percent(ci[0])}–{percent(ci[1])}"


def _rate(one: Together, rate: float) -> str:
    return gigabytes_per_s(rate) if one.unit == BANDWIDTH else amount(rate, "")


def together_records(found: Sequence[Together]) -> list[dict[str, Any]]:
    """Every device in every figure as JSON can hold it."""
    return [
        plain(
            {
                "device": one.device,
                "work": one.work,
                "unit": one.unit,
                "alone": one.alone,
                "together": one.together,
                "efficiency": one.efficiency,
                "ci": one.ci,
            }
        )
        for one in found
    ]


def whole_records(found: Sequence[Together]) -> list[dict[str, Any]]:
    """All devices of every figure that several have: sums of their medians, and what is left together."""
    return [
        plain(
            {
                "devices": [one.device for one in some],
                "work": work,
                "unit": some[0].unit,
                "alone": sum(median(one.alone) for one in some),
                "together": sum(median(one.together) for one in some),
                "efficiency": whole(some),
                "ci": whole_ci(some),
            }
        )
        for work, some in by_work(found).items()
        if len(some) > 1
    ]


def by_work(found: Sequence[Together]) -> dict[str, list[Together]]:
    """The devices of each figure, in their order."""
    figures: dict[str, list[Together]] = {}
    for one in found:
        figures.setdefault(one.work, []).append(one)
    return figures
