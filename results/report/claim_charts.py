"""The charts of a claim, as SVG that loads nothing from outside.

>>> charts_of(claim.observations, findings, cells)["free compute"][:4]
'<svg'

They need the extra `report` (Altair draws, vl-convert renders without a browser).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pandas as pd

from membound.results.claim.finding import BROKEN, INCONCLUSIVE, REFUTED, SUPPORTED, Finding
from membound.results.claim.observation import Observation
from membound.results.claim.region import RegionCell
from membound.results.report.curves import (
    batch_table,
    elasticity_table,
    free_compute_table,
    region_table,
    residency_table,
    theft_table,
)
from membound.results.report.drawing import drawing_library, styled, svg_of

WIDTH, HEIGHT = 300, 200
COLUMNS = 2
BOUNDS = {
    "memory": "#4c78a8",
    "compute": "#e45756",
    "overhead": "#f2b134",
    "cache": "#72b7b2",
    "inconclusive": "#bab0ac",
}
"""The colours of the map. In grey print the letters in the cells distinguish them."""
VERDICT_COLORS = {
    SUPPORTED: BOUNDS["memory"],
    REFUTED: BOUNDS["compute"],
    INCONCLUSIVE: BOUNDS["inconclusive"],
    BROKEN: BOUNDS["overhead"],
}
CAPTIONS = {
    "free compute": "Time against extra multiply-adds for each loaded element, bytes fixed; band: fastest to slowest "
    "process. Dashed: what the measured ceilings of memory and of arithmetic allow. If memory is the limit, the line "
    "is flat until the two cross.",
    "elasticities": "d ln t / d ln dose with 95 % intervals over processes: 1 means that time is proportional to the "
    "dose, 0 that the dose is free.",
    "theft": "Slowdown of decoding against the share of another core that a thief uses; each point is a process.",
    "residency": "Bytes per second over the measured read ceiling, against the working set; left of 1 it fits the "
    "last-level cache.",
    "batch knee": "Time against the batch. Dashed: what the measured ceilings allow; they cross at the predicted knee.",
    "region": "What bounds a decode step, by batch and context. Letters: m memory, c compute, o overhead, "
    "l last-level cache, ? inconclusive; capitals were measured, the others are predicted from measured terms.",
}


def charts_of(
    observations: Sequence[Observation], findings: Sequence[Finding], cells: Sequence[RegionCell]
) -> dict[str, str]:
    """SVG by the name of the chart, for those that have data. Raises ReportUnavailable."""
    return {
        name: svg_of(styled(chart)) for name, chart in definitions_of(observations, findings, cells).items()
    }


def definitions_of(
    observations: Sequence[Observation], findings: Sequence[Finding], cells: Sequence[RegionCell]
) -> dict[str, Any]:
    """Altair's definitions by the name of the chart. Raises ReportUnavailable."""
    alt = drawing_library()
    drawn: dict[str, tuple[pd.DataFrame, Callable[[Any, pd.DataFrame], Any]]] = {
        "free compute": (free_compute_table(observations), lambda a, t: _ceilings(a, t, "k", log=False)),
        "elasticities": (elasticity_table(findings), _forest),
        "theft": (theft_table(observations), _theft),
        "residency": (residency_table(observations), _residency),
        "batch knee": (batch_table(observations), lambda a, t: _ceilings(a, t, "batch", log=True)),
        "region": (region_table(cells), _region),
    }
    return {name: draw(alt, table) for name, (table, draw) in drawn.items() if len(table)}


def _ceilings(alt: Any, table: pd.DataFrame, dose: str, log: bool) -> Any:
    """Time against a dose with both ceilings, one panel for each curve."""
    scale = alt.Scale(type="log", nice=False) if log else alt.Undefined
    x = alt.X(f"{dose}:Q", title=dose, scale=scale)
    bounds = table.melt(
        ["curve", dose], ["memory_ms", "compute_ms"], var_name="ceiling", value_name="bound_ms"
    ).replace({"ceiling": {"memory_ms": "bytes / bandwidth", "compute_ms": "FLOPs / peak"}})
    both = table.merge(bounds, on=["curve", dose])
    base = alt.Chart(both)
    y = alt.Y("time_ms:Q", title="time, ms", scale=scale)
    dashed = base.mark_line(strokeDash=[5, 3], clip=True).encode(
        x,
        alt.Y("bound_ms:Q", scale=scale),
        alt.Color(
            "ceiling:N",
            title="ceiling",
            scale=alt.Scale(
                domain=["bytes / bandwidth", "FLOPs / peak"], range=[BOUNDS["memory"], BOUNDS["compute"]]
            ),
        ),
    )
    band = base.mark_area(opacity=0.25, color="black").encode(
        x, alt.Y("low_ms:Q", scale=scale), y2="high_ms:Q"
    )
    line = base.mark_line(color="black", point={"color": "black", "size": 18}).encode(x, y)
    return _panels(alt, (dashed + band + line).properties(width=WIDTH, height=HEIGHT), "curve")


def _forest(alt: Any, table: pd.DataFrame) -> Any:
    """Elasticities with intervals, grouped by kind, and lines at 0 and 1."""
    table = table.assign(label=table.figure + ": " + table.kind).sort_values(["kind", "figure"])
    y = alt.Y("label:N", title=None, sort=list(table.label), axis=alt.Axis(labelLimit=500))
    scale = alt.Scale(domain=list(VERDICT_COLORS), range=list(VERDICT_COLORS.values()))
    color = alt.Color("verdict:N", scale=scale)
    base = alt.Chart(table)
    points = base.mark_point(filled=True, size=50).encode(
        alt.X("value:Q", title="elasticity of time, with 95 % interval"), y, color
    )
    rules = base.mark_rule(strokeWidth=2).encode(alt.X("low:Q"), y, color, x2="high:Q")
    marks = alt.Chart(pd.DataFrame({"at": [0.0, 1.0]})).mark_rule(strokeDash=[2, 2]).encode(x="at:Q")
    return alt.layer(marks, rules, points).properties(width=2 * WIDTH)


def _theft(alt: Any, table: pd.DataFrame) -> Any:
    """Slowdowns with a line through the means of each share."""
    color = alt.Color(
        "thief:N",
        scale=alt.Scale(domain=["bandwidth", "fma"], range=[BOUNDS["memory"], BOUNDS["compute"]]),
    )
    x = alt.X("share:Q", title="share of the thief's core", axis=alt.Axis(format="%"))
    base = alt.Chart(table)
    points = base.mark_circle(opacity=0.5).encode(
        x, alt.Y("slowdown:Q", title="slowdown", axis=alt.Axis(format="%")), color
    )
    lines = base.mark_line().encode(x, alt.Y("mean(slowdown):Q", title="slowdown"), color)
    return _panels(alt, (lines + points).properties(width=WIDTH, height=HEIGHT), "victim")


def _residency(alt: Any, table: pd.DataFrame) -> Any:
    """Share of the read ceiling against the working set, with 1 marked on both axes."""
    base = alt.Chart(table)
    x = alt.X("caches:Q", title="working set / last-level cache", scale=alt.Scale(type="log", nice=False))
    points = base.mark_circle(opacity=0.5, color="black").encode(
        x, alt.Y("share:Q", title="bytes a second / read ceiling", axis=alt.Axis(format="%"))
    )
    line = base.mark_line(color="black").encode(
        x, alt.Y("mean(share):Q", title="bytes a second / read ceiling")
    )
    cache = base.mark_rule(strokeDash=[2, 2], color="grey").encode(x=alt.datum(1))
    ceiling = base.mark_rule(strokeDash=[5, 3], color=BOUNDS["memory"]).encode(y=alt.datum(1))
    return _panels(alt, (cache + ceiling + line + points).properties(width=WIDTH, height=HEIGHT), "curve")


def _region(alt: Any, table: pd.DataFrame) -> Any:
    """The map: a row of panels for each backend and model, a column for each format."""
    letters = {"cache": "l", "inconclusive": "?"}
    short = table.bound.map(lambda bound: letters.get(bound, bound[0]))
    table = table.assign(
        letter=short.where(table.how == "predicted", short.str.upper()),
        place=table.backend + " " + table.model,
    )
    x = alt.X("context:O", title="context")
    y = alt.Y("batch:O", title="batch", sort="descending")
    base = alt.Chart(table)
    cells = base.mark_rect(stroke="white").encode(
        x, y, alt.Color("bound:N", scale=alt.Scale(domain=list(BOUNDS), range=list(BOUNDS.values())))
    )
    letters_ = base.mark_text(color="white", fontWeight="bold").encode(x, y, text="letter:N")
    return (
        (cells + letters_)
        .properties(width=170, height=150)
        .facet(
            row=alt.Row("place:N", title=None, header=alt.Header(labelLimit=300)),
            column=alt.Column("format:N", title=None),
        )
    )


def _panels(alt: Any, layers: Any, field: str) -> Any:
    return layers.facet(
        facet=alt.Facet(f"{field}:N", title=None, header=alt.Header(labelLimit=WIDTH)), columns=COLUMNS
    ).resolve_scale(x="independent", y="independent")
