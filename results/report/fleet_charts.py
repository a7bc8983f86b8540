"""Charts of a fleet: its devices where they stand, how far they lie apart, and how they went over the days.

>>> figures = list(fleet_figures(alt, fleet))
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from itertools import count
from math import floor
from typing import Any

import pandas as pd

from membound.results.change_points import FEWEST_RUNS
from membound.results.fleet.device_run import DeviceRun
from membound.results.fleet.drift import Drift, drift_of
from membound.results.fleet.outliers import LEAST, Group, Outlier
from membound.results.frame import frame
from membound.results.report.drawing import COLORS, LINE, WIDTH, Figure, scale_of
from membound.results.report.fleet import ShownFleet, share_of
from membound.results.views.fleet import group_title
from membound.results.wording import percent

FAMILY = "The fleet"
MOST_GROUPS = 4
"""Makes that are drawn; those with the most devices."""
MOST_CELLS = 2000
"""Devices of a map. Of more, nobody sees a single one; the table has all, the outliers first."""
MOST_RACKS = 40
COLUMNS_OF_A_GRID = 16
"""Of a map without racks."""
MOST_TRACKS = 6
"""Outliers whose days are drawn."""
CELL = 15
BINS = {
    "below 90 %": "#a83c00",
    "90 % to 97 %": "#c75300",
    "97 % to 103 %": "#8a9099",
    "103 % to 110 %": "#2f6fae",
    "above 110 %": "#0a4f8a",
}
"""Shares of the fleet's median by their colours: white marks are seen on each, in the light and in the dark."""
EDGES = (0.9, 1 - LEAST, 1 + LEAST, 1.1)
MAP = (
    "Each cell is a device, coloured by its share of the fleet's median (the geometric mean over all figures); a mark in it says "
    "that it is an outlier, slower (▼) or faster (▲). "
)
BY_RACK = "Columns are racks; in each, nodes and their devices in the order of their names."
BY_NAME = "No row names a rack, so devices follow each other by name, line by line."
SPREAD = (
    "How many devices have which share of the fleet's median. Outliers are marked, and named in their hints."
)
DAYS = (
    "The median of the fleet on each day and its quartiles, as shares of the median of all days, with outliers as lines. "
    f"A change from one day on takes {FEWEST_RUNS} days to be told."
)


def fleet_figures(alt: Any, fleet: ShownFleet) -> Iterator[Figure]:
    """A map, the shares and the days of each make; what is left out, with the reason."""
    groups = [group for group in fleet.comparison.groups if group.figures]
    if not groups:
        yield Figure("fleet", FAMILY, "", MAP, absent="no make has enough devices to compare")
    for number, group in enumerate(groups[:MOST_GROUPS], 1):
        mine = {(run.node, run.device) for run in group.runs}
        outliers = [one for one in fleet.comparison.outliers if (one.run.node, one.run.device) in mine]
        title = group_title(group)
        yield _map_figure(alt, fleet, group, outliers, f"fleet-map-{number}", title)
        yield Figure(f"fleet-spread-{number}", FAMILY, title, SPREAD, _spread(alt, fleet, group, outliers))
        yield _days_figure(alt, drift_of(group, fleet.runs), outliers, f"fleet-days-{number}", title)
    if len(groups) > MOST_GROUPS:
        why = f"{len(groups) - MOST_GROUPS} more makes; a report of fewer runs draws them"
        yield Figure("fleet-more", FAMILY, "", MAP, absent=why)


def bin_of(share: float) -> str:
    """The name of the bin that a share lies in."""
    return list(BINS)[sum(share > edge for edge in EDGES)]


# Where they stand


def _map_figure(
    alt: Any, fleet: ShownFleet, group: Group, outliers: list[Outlier], name: str, title: str
) -> Figure:
    racks = len({run.rack for run in group.runs if run.rack})
    if len(group.runs) > MOST_CELLS or racks > MOST_RACKS:
        why = f"{len(group.runs)} devices in {racks} racks are too many to see one; the table has them, outliers first"
        return Figure(name, FAMILY, title, MAP, absent=why)
    marks = {(one.run.node, one.run.device): "▼" if one.share < 1 else "▲" for one in outliers}
    lines = [_place(column, line, run, group, marks, fleet) for column, line, run in places(list(group.runs))]
    return Figure(name, FAMILY, title, MAP + (BY_RACK if racks else BY_NAME), _map(alt, lines, bool(racks)))


def places(runs: list[DeviceRun]) -> list[tuple[str, int, DeviceRun]]:
    """Column, line and device: by rack where one is named, else in a grid."""
    ordered = sorted(runs, key=lambda one: (one.rack, one.node, one.device))
    if not any(one.rack for one in ordered):
        return [
            (str(number % COLUMNS_OF_A_GRID + 1), number // COLUMNS_OF_A_GRID + 1, one)
            for number, one in enumerate(ordered)
        ]
    lines: dict[str, count[int]] = {}
    return [(one.rack or "no rack", next(lines.setdefault(one.rack, count(1))), one) for one in ordered]


def _place(
    column: str,
    line: int,
    run: DeviceRun,
    group: Group,
    marks: dict[tuple[str, str], str],
    fleet: ShownFleet,
) -> dict[str, Any]:
    share = share_of(group, run)
    return {
        "column": column,
        "line": line,
        "share": "nothing comparable" if share is None else bin_of(share),
        "mark": marks.get((run.node, run.device), ""),
        "tip": _tip(fleet, run, share),
    }


def _tip(fleet: ShownFleet, run: DeviceRun, share: float | None) -> str:
    rack = f", rack {run.rack}" if run.rack else ""
    said = "nothing that others have, too" if share is None else f"{100 * share:.1f} % of the fleet's median"
    return f"#{fleet.anchors[run.node, run.device]} {run.name}{rack}\n{said}"


def _map(alt: Any, lines: list[dict[str, Any]], racks: bool) -> Any:
    table = frame(lines, ["column", "line", "share", "mark", "tip"])
    columns = list(dict.fromkeys(table.column))
    if not racks:
        columns.sort(key=int)
    names = [*BINS, "nothing comparable"] if "nothing comparable" in set(table.share) else list(BINS)
    colors = [*BINS.values(), "#ffffff"][: len(names)]
    x = alt.X(
        "column:N",
        sort=columns,
        title="rack" if racks else None,
        axis=alt.Axis(labelAngle=-40, labelLimit=90) if racks else None,
    )
    y = alt.Y("line:O", title=None, axis=None)
    base = alt.Chart(table)
    cells = base.mark_rect(stroke="white", strokeWidth=1.5).encode(
        x,
        y,
        alt.Fill("share:N", title="share of the median", scale=alt.Scale(domain=names, range=colors)),
        alt.Description("tip:N"),
    )
    marked = alt.Chart(table[table["mark"] != ""])
    marks = marked.mark_text(fontSize=10, color="white", aria=False).encode(x, y, text="mark:N")
    width = min(WIDTH, max(CELL * 2, round(WIDTH / COLUMNS_OF_A_GRID)) * len(columns))
    return alt.layer(cells, marks).properties(width=width, height=alt.Step(CELL))


# How far apart


def _spread(alt: Any, fleet: ShownFleet, group: Group, outliers: list[Outlier]) -> Any:
    known = [(run, share) for run in group.runs if (share := share_of(group, run)) is not None]
    step = _step([share for _, share in known])
    counts = Counter(floor(share / step) for _, share in known)
    bars = pd.DataFrame(
        {
            "low": [n * step for n in counts],
            "high": [(n + 1) * step for n in counts],
            "devices": counts.values(),
        }
    )
    axis = alt.Axis(format=".0%" if step >= 0.01 else ".1%", tickCount=6)
    scale = alt.Scale(zero=False, nice=True)
    x = alt.X("low:Q", title="share of the fleet's median", scale=scale, axis=axis)
    layers = [
        alt.Chart(bars)
        .mark_rect(fill=COLORS[0], stroke="white", aria=False)
        .encode(x, alt.Y("devices:Q", title="devices"), x2="high:Q", y2=alt.datum(0)),
        alt.Chart(bars).mark_rule(strokeDash=[5, 3], color=LINE, aria=False).encode(x=alt.datum(1)),
    ]
    if outliers:
        lines = [{"low": one.share, "devices": 0, "tip": _tip(fleet, one.run, one.share)} for one in outliers]
        marks = frame(lines, ["low", "devices", "tip"])
        layers.append(
            alt.Chart(marks)
            .mark_point(shape="triangle-down", size=70, filled=True, color=COLORS[1], opacity=1, yOffset=-6)
            .encode(x, alt.Y("devices:Q"), alt.Description("tip:N"))
        )
    return alt.layer(*layers).properties(width=WIDTH, height=180)


def _step(shares: list[float]) -> float:
    """The width of a bar: about thirty of them, and 0.1, 0.2, 0.5, 1 … % wide."""
    wanted = (max(shares) - min(shares)) / 30
    return next((step for step in (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1) if step >= wanted), wanted)


# Over the days


def _days_figure(alt: Any, drift: Drift, outliers: list[Outlier], name: str, title: str) -> Figure:
    if len(drift.days) < 2:
        why = "all its devices were measured on one day"
        return Figure(name, FAMILY, title, DAYS, absent=why)
    told = (
        f"The median is {percent(change.ratio)} of what it was from {drift.days[change.at].day} on"
        for change in drift.changes
    )
    said = "; ".join(told) or (
        "No change is found"
        if len(drift.days) >= FEWEST_RUNS
        else f"{len(drift.days)} days are too few to tell changes"
    )
    return Figure(name, FAMILY, title, f"{DAYS} {said}.", _days(alt, drift, outliers[:MOST_TRACKS]))


def _days(alt: Any, drift: Drift, outliers: list[Outlier]) -> Any:
    fleet = pd.DataFrame(
        [
            {"day": d.day, "share": d.median, "low": d.low, "high": d.high, "device": "the fleet"}
            for d in drift.days
        ]
    )
    tracks = [
        {"day": day, "share": share, "device": one.run.name}
        for one in outliers
        for day, share in drift.devices.get((one.run.node, one.run.device), {}).items()
    ]
    middles = [{"day": d.day, "share": d.median, "device": "the fleet"} for d in drift.days]
    lines = frame([*middles, *tracks], ["day", "share", "device"])
    x = alt.X("day:O", title=None, axis=alt.Axis(labelAngle=-40))
    scale = alt.Scale(zero=False, nice=True)
    axis = alt.Axis(format=".0%")
    names = list(dict.fromkeys(lines.device))
    look = alt.Stroke(
        "device:N", title=None, scale=scale_of(alt, names), legend=alt.Legend(columns=1, labelLimit=WIDTH)
    )
    dash = alt.StrokeDash("device:N", title=None, sort=names, legend=None)
    band = alt.Chart(fleet).mark_rule(strokeWidth=7, color=LINE, opacity=0.5, aria=False).encode(
        x, alt.Y("low:Q", scale=scale), y2="high:Q"
    )  # fmt: skip
    drawn = alt.Chart(lines).mark_line(strokeWidth=1.8, point=False, aria=False).encode(
        x, alt.Y("share:Q", title="share", scale=scale, axis=axis), look, dash
    )  # fmt: skip
    return alt.layer(band, drawn).properties(width=WIDTH, height=180)
