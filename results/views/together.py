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
from membound.results.scaling.together import Together, whole
from membound.results.stats import plain
from membound.results.views.timed import number_column
from membound.results.wording import amount, gigabytes_per_s, percent, short

LEGEND = (
    "alone, together: medians over processes, GB/s where bytes are known; together: while every other device read its memory as "
    "fast as it could. efficiency: together over alone, with its 95 % interval over processes."
)


def together_view(found: Sequence[Together]) -> Group:
    """Every figure with its devices, and all of them together."""
    parts: list[RenderableType] = []
    for work in dict.fromkeys(one.work for one in found):
        some = [one for one in found if one.work == work]
        backend, _, spec = work.partition(" ")
        parts += [Text(f"{backend} {short(spec)}", style="bold"), _table(some), Text()]
    return Group(*parts, Text(LEGEND, style="dim"))


def _table(devices: Sequence[Together]) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, header_style="dim")
    table.add_column("device", overflow="fold")
    for name, size in (("alone", 8), ("together", 8), ("efficiency", 10), ("interval", 11)):
        number_column(table, name, size)
    for one in devices:
        ci = one.ci
        between = "–" if ci is None else f"{percent(ci[0])}–{percent(ci[1])}"
        rates = (_rate(one, median(rates)) for rates in (one.alone, one.together))
        table.add_row(one.device, *rates, percent(one.efficiency), between)
    if len(devices) > 1:
        sums = (
            _rate(devices[0], sum(median(side) for side in sides))
            for sides in ([one.alone for one in devices], [one.together for one in devices])
        )
        table.add_row("all", *sums, percent(whole(devices)), "")
    return table


def _rate(one: Together, rate: float) -> str:
    return gigabytes_per_s(rate) if one.unit == BANDWIDTH else amount(rate, "")


def together_records(found: Sequence[Together]) -> list[dict[str, Any]]:
    """The same as JSON can hold it."""
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
