"""How much of its machine's limit each backend reaches, by operation and format: a dot for each work, with its interval.

>>> figures = share_figures(alt, shown)
>>> svg = run_shares(shown)          # of one run, for the page of published runs
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import pandas as pd

from membound.results.frame import frame
from membound.results.report.cases import ShownCase, marked
from membound.results.report.drawing import (
    LINE,
    WIDTH,
    Figure,
    drawing_library,
    look_of_marks,
    scale_of,
)
from membound.results.report.pictures import file_svg
from membound.results.report.room import places_with_room, with_room
from membound.spec_text import settings

FAMILY = "Share of the machine's limit"
HIGHEST = 1.3
"""Shares are drawn up to here: a ceiling is a lower bound, and those far above it are of caches."""
STEP = 13
"""Height of a line for one backend, so that marks do not touch."""
CAPTION = (
    "Each mark is a work: the time that the ceilings of the same moments allow, over the time taken, with its 95 % interval "
    "over processes. The dashed line is the limit; shares above 130 % are drawn there. Lighter marks were disturbed."
)
COLUMNS = ["group", "backend", "share", "low", "high", "validity", "tip"]


def share_figures(alt: Any, shown: Sequence[ShownCase]) -> Iterator[Figure]:
    """A chart for each place."""
    known = [one for one in shown if one.line["of_bound"] is not None]
    if not known:
        why = "no case has a time and a measured ceiling of its device (membound run --ceilings)"
        yield Figure("shares", FAMILY, "", CAPTION, absent=why)
    places, more = places_with_room(known)
    for number, place in enumerate(places, 1):
        drawn, left_out = with_room([one for one in known if one.place == place])
        chart = _chart(alt, frame([_line(one) for one in drawn], COLUMNS))
        yield Figure(f"shares-{number}", FAMILY, place.label, CAPTION + left_out, chart)
    if more:
        yield Figure("shares-more", FAMILY, "", CAPTION, absent=more)


def format_of(work: str) -> str:
    """The operation, and the formats that it streams: ``linear int8 act int8``."""
    keys = settings(work)
    formats = [keys[name] for name in ("weight", "kv") if name in keys]
    act = ["act int8"] if keys.get("act") == "int8" else []
    return " ".join([work.partition(":")[0], *dict.fromkeys(formats), *act])


def _line(one: ShownCase) -> dict[str, Any]:
    share, ci = one.line["of_bound"], one.line["of_bound_ci"]
    low, high = ci if ci is not None else (share, share)
    return {
        "group": format_of(one.work),
        "backend": one.backend,
        "share": share,
        "low": low,
        "high": high,
        "validity": one.validity,
        "tip": marked(one),
    }


def _chart(alt: Any, table: pd.DataFrame) -> Any:
    groups = list(dict.fromkeys(table.group))
    y = alt.Y("group:N", title=None, sort=groups, axis=alt.Axis(labelLimit=180, grid=True, tickBand="extent"))
    several = len(set(table.backend)) > 1
    offset = [alt.YOffset("backend:N")] if several else []
    scale = alt.Scale(domain=[0, HIGHEST], clamp=True)
    x = alt.X(
        "share:Q",
        title="share of the limit",
        scale=scale,
        axis=alt.Axis(format="%", values=[0, 0.25, 0.5, 0.75, 1, 1.25]),
    )
    base = alt.Chart(table)
    color = alt.Stroke("backend:N", title="backend", scale=scale_of(alt, table.backend))
    rules = base.mark_rule(strokeWidth=1.5, aria=False).encode(
        alt.X("low:Q", scale=scale), y, color, *offset, x2="high:Q"
    )
    points = base.mark_point(size=45, opacity=1).encode(x, y, *offset, *look_of_marks(alt, table))
    limit = base.mark_rule(strokeDash=[5, 3], color=LINE, aria=False).encode(x=alt.datum(1))
    height = alt.Step(STEP, **{"for": "offset"}) if several else alt.Step(24)
    return alt.layer(limit, rules, points).properties(width=WIDTH, height=height)


def run_shares(shown: Sequence[ShownCase]) -> str:
    """SVG of the cases of one place. Raises ReportUnavailable."""
    alt = drawing_library()
    lines = [_line(one) for one in shown if one.line["of_bound"] is not None]
    return file_svg(_chart(alt, frame(lines, COLUMNS)))
