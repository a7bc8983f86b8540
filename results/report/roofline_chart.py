"""The roofline of a place: measured ceilings with their spread, and every case on it.

>>> figures = list(roofline_figures(alt, shown, ceilings))

A case stands at the FLOPs that it must do for each byte that it must move, and at the FLOPs a second that it reached.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from math import log10
from typing import Any

import pandas as pd

from membound.results.frame import frame
from membound.results.report.cases import Place, ShownCase, marked
from membound.results.report.ceilings import Ceiling
from membound.results.report.drawing import INK, WIDTH, Figure, look_of_marks, ticks
from membound.results.report.room import places_with_room, with_room
from membound.results.roofline import compute_ceilings
from membound.results.wording import rate

FAMILY = "Roofline"
HEIGHT = 300
MARGIN = 2.0
"""Axes reach beyond the cases by this factor."""
CAPTION = (
    "FLOPs a second against FLOPs a byte, both of the work. Lines are the medians of the measured ceilings, bands reach from the "
    "lowest to the highest measurement; of each kind of arithmetic the best ceiling is drawn. What lies under the slope is "
    "bound by memory, under a level by arithmetic; the distance to the line is what a better kernel could gain. "
    "Lighter marks were disturbed."
)
ROOF_COLUMNS = ["roof", "slope", "intensity", "low", "middle", "high"]
COLUMNS = ["backend", "intensity", "flops_per_s", "validity", "tip"]


def roofline_figures(
    alt: Any, shown: Sequence[ShownCase], ceilings: Mapping[Place, Mapping[str, Ceiling]]
) -> Iterator[Figure]:
    """A chart for each place that has cases and a bandwidth."""
    placed = [one for one in shown if one.time_s and one.line["bytes"] and one.line["flops"]]
    places, more = places_with_room(placed)
    if not places:
        yield Figure("roofline", FAMILY, "", CAPTION, absent="no case has a time, bytes and FLOPs")
    for number, place in enumerate(places, 1):
        here = [one for one in placed if one.place == place]
        roofs = _roofs(here, ceilings.get(place, {}))
        if roofs.empty:
            why = "no read ceiling was measured on this device (membound run --ceilings)"
            yield Figure(f"roofline-{number}", FAMILY, place.label, CAPTION, absent=why)
            continue
        drawn, left_out = with_room(here)
        chart = _chart(alt, roofs, points_of(drawn))
        yield Figure(f"roofline-{number}", FAMILY, place.label, CAPTION + left_out, chart)
    if more:
        yield Figure("roofline-more", FAMILY, "", CAPTION, absent=more)


def points_of(shown: Sequence[ShownCase]) -> pd.DataFrame:
    """A line for each case."""
    lines = [
        {
            "backend": one.backend,
            "intensity": one.line["flops"] / one.line["bytes"],
            "flops_per_s": one.line["achieved_flops_per_s"],
            "validity": one.validity,
            "tip": marked(one),
        }
        for one in shown
    ]
    return frame(lines, COLUMNS)


def _roofs(shown: Sequence[ShownCase], known: Mapping[str, Ceiling]) -> pd.DataFrame:
    """Corners of the ceilings as lines with bands: bandwidth up to the highest level, each arithmetic from its ridge."""
    table = points_of(shown)
    names = dict.fromkeys(one.line["memory_ceiling"] for one in shown)
    memory = [known[name] for name in names if name in known]
    levels = _levels(shown, known)
    if not memory:
        return frame([], ROOF_COLUMNS)
    best = max(memory, key=lambda one: one.middle)
    ridges = [level.middle / best.middle for level in levels]
    left = min([float(table.intensity.min()) / MARGIN, *ridges]) / MARGIN
    right = max([float(table.intensity.max()), *(ridge * MARGIN for ridge in ridges)]) * MARGIN
    top = max((level.middle for level in levels), default=right * best.middle)
    corners = [_corner(one, x, slope=True) for one in memory for x in (left, top / one.middle)]
    for level, ridge in zip(levels, ridges, strict=True):
        corners += [_corner(level, x, slope=False) for x in (ridge, right)]
    return frame(corners, ROOF_COLUMNS)


def _corner(one: Ceiling, intensity: float, slope: bool) -> dict[str, Any]:
    times = intensity if slope else 1.0
    return {
        "roof": f"{one.name} {rate(one.middle, one.unit)}",
        "slope": slope,
        "intensity": intensity,
        "low": one.low * times,
        "middle": one.middle * times,
        "high": one.high * times,
    }


def _levels(shown: Sequence[ShownCase], known: Mapping[str, Ceiling]) -> list[Ceiling]:
    """The best ceiling of each kind of arithmetic that these works do."""
    kinds = dict.fromkeys(compute_ceilings(one.work) for one in shown)
    measured = ([known[name] for name in kind if name in known] for kind in kinds)
    return list(dict.fromkeys(max(some, key=lambda one: one.middle) for some in measured if some))


def _chart(alt: Any, roofs: pd.DataFrame, points: pd.DataFrame) -> Any:
    lowest = 10 ** (log10(float(points.flops_per_s.min())) - 0.3)
    highest = max(float(roofs.high.max()), float(points.flops_per_s.max())) * 1.5
    ends = [float(roofs.intensity.min()), float(roofs.intensity.max())]
    across = alt.Scale(type="log", nice=False, domain=ends)
    x = alt.X(
        "intensity:Q", title="FLOPs a byte", scale=across, axis=alt.Axis(format="~g", values=ticks(*ends))
    )
    scale = alt.Scale(type="log", domain=[lowest, highest], nice=False)
    axis = alt.Axis(format="~s", values=ticks(lowest, highest))
    y = alt.Y("flops_per_s:Q", title="FLOP/s", scale=scale, axis=axis)
    middle = alt.Y("middle:Q", scale=scale)
    base, detail = alt.Chart(roofs), alt.Detail("roof:N")
    band = base.mark_area(opacity=0.15, color=INK, clip=True, aria=False).encode(
        x, alt.Y("low:Q", scale=scale, title="FLOP/s"), alt.Y2("high:Q"), detail
    )
    line = base.mark_line(color=INK, strokeWidth=1.5, clip=True, aria=False).encode(x, middle, detail)
    slopes, levels = roofs[roofs.slope].groupby("roof").head(1), roofs[~roofs.slope].groupby("roof").tail(1)
    look = {"fontSize": 11, "color": INK, "aria": False}
    words = [
        alt.Chart(slopes).mark_text(align="left", dx=6, dy=-24, **look).encode(x, middle, text="roof:N"),
        alt.Chart(levels).mark_text(align="right", dy=-7, **look).encode(x, middle, text="roof:N"),
    ]
    marks = alt.Chart(points).mark_point(size=55, opacity=1).encode(x, y, *look_of_marks(alt, points))
    return alt.layer(band, line, *words, marks).properties(width=WIDTH, height=HEIGHT)
