"""The section of a fleet in the page: the outliers, every figure over the devices, every device.

>>> "".join(fleet_section(fleet))
"""

from __future__ import annotations

from collections.abc import Iterator

from membound.results.fleet.device_run import DeviceRun, Figure
from membound.results.fleet.outliers import Group
from membound.results.plain_text import as_html
from membound.results.report.fleet import ShownFleet, share_of
from membound.results.report.tables import NUMBER, SHORT, WIDE, Cell, Column, Line, table_html
from membound.results.views.fleet import (
    HEADINGS,
    LEGEND,
    figure_cells,
    figure_name,
    group_title,
    headline,
    outlier_lines,
    remarks,
    sustained_lines,
)

MOST_DEVICES = 5000
"""Rows of the table of devices: a page of more opens slowly. Outliers stand first."""


def fleet_section(fleet: ShownFleet) -> Iterator[str]:
    """HTML, with the heading."""
    found = fleet.comparison
    yield f"<section id=fleet><h2>The fleet</h2><p class=lead>{as_html(headline(found))}</p>"
    for one in found.outliers:
        first, *rest = outlier_lines(one)
        link = f'<a href="#{fleet.anchors[one.run.node, one.run.device]}">{as_html(first)}</a>'
        items = "".join(f"<li>{as_html(line)}</li>" for line in rest)
        yield f"<article class=card><h3>{link}</h3><ul>{items}</ul></article>"
    yield from (f"<p class=note>{as_html(line)}</p>" for line in remarks(found))
    for number, group in enumerate(found.groups, 1):
        yield f"<h3>{as_html(group_title(group))}</h3>"
        yield from (f"<p>{as_html(line)}</p>" for line in sustained_lines(group))
        if group.figures:
            columns = [Column(HEADINGS[0], WIDE), *(Column(name, NUMBER) for name in HEADINGS[1:])]
            lines = [Line([Cell(text) for text in figure_cells(one)]) for one in group.figures]
            yield from table_html(f"fleet-figures-{number}", "Every figure over the devices", columns, lines)
    yield f"<h3>Devices</h3><p class=note>{as_html(LEGEND)}</p>"
    yield from (*_devices(fleet), "</section>")


def _devices(fleet: ShownFleet) -> Iterator[str]:
    outliers = {(one.run.node, one.run.device) for one in fleet.comparison.outliers}
    ordered = sorted(fleet.devices, key=lambda pair: (pair[1].node, pair[1].device) not in outliers)
    columns = [Column("node", SHORT), Column("device", SHORT), Column("rack", SHORT, chooses=True)]
    columns += [Column("outlier", SHORT, chooses=True), Column("share", NUMBER), Column("hardware", WIDE)]
    columns += [Column("measured", SHORT)]
    lines = [
        _line(fleet, group, run, (run.node, run.device) in outliers) for group, run in ordered[:MOST_DEVICES]
    ]
    more = len(ordered) - MOST_DEVICES
    caption = "Every device in its last run" + (f"; {more} more are left out" if more > 0 else "")
    yield from table_html("fleet-devices", caption, columns, lines, filters=True)


def _line(fleet: ShownFleet, group: Group | None, run: DeviceRun, outlier: bool) -> Line:
    share = share_of(group, run) if group else None
    why = "; ".join(run.failures) or "no other devices of its make have the same figures"
    hint = why if share is None or group is None else _shares(group, run)
    cells = [
        Cell(run.node),
        Cell(run.device),
        Cell(run.rack or "–"),
        Cell(("slower" if (share or 1) < 1 else "faster") if outlier else "–"),
        Cell("–" if share is None else f"{100 * share:.1f}%", share, hint),
        Cell(run.make.device or "not named"),
        Cell(run.started_at[:16].replace("T", " ") or "–"),
    ]
    return Line(cells, fleet.anchors[run.node, run.device])


def _shares(group: Group, run: DeviceRun) -> str:
    shares: dict[Figure | None, float] = dict(group.shares[run.node, run.device])
    return "\n".join(f"{figure_name(figure)}: {100 * share:.1f} %" for figure, share in shares.items())
