"""Time against the batch, with the knee that the ceilings predict, and against the context.

>>> figures = [*batch_figures(alt, shown), *context_figures(alt, shown)]

A curve is a backend on works that differ in that one number alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise
from math import exp, log
from statistics import median
from typing import Any

import pandas as pd

from membound.results.frame import frame
from membound.results.report.cases import ShownCase, marked
from membound.results.report.drawing import COLORS, INK, LINE, WIDTH, Figure, look_of_marks, scale_of, ticks
from membound.results.report.room import of_leading_backends
from membound.results.wording import short
from membound.spec_text import pieces, settings

BATCH, CONTEXT = "Time against the batch", "Time against the context"
BATCH_KEYS = {"linear": "m", "attention": "batch", "mla": "batch", "step": "batch", "onnx": "batch"}
CONTEXT_KEYS = {"attention": "context", "mla": "context", "step": "context", "onnx": "context"} | {
    "prefill": "tokens"
}
FEWEST = 3
"""Points of a curve: two make a line of anything."""
MOST = 8
"""Charts of each kind; those with the most points are drawn."""
HEIGHT = 220
BANDWIDTH, PEAK = "bytes / bandwidth", "FLOPs / peak"
CAPTION = (
    "Time with its 95 % interval over processes, both axes logarithmic. Dashed: what the measured ceilings of memory and of "
    "arithmetic allow, the medians over the backends."
    " Lighter marks were disturbed."
)
COLUMNS = ["backend", "at", "time_ms", "low_ms", "high_ms", "memory_ms", "compute_ms", "validity", "tip"]


def batch_figures(alt: Any, shown: Sequence[ShownCase]) -> Iterator[Figure]:
    """A chart for each work that was measured at three or more batches."""
    for figure, table in _figures(alt, shown, BATCH, BATCH_KEYS, "batch"):
        if table is None:
            yield figure
            continue
        at = predicted_knee(table)
        words = (
            "No knee is predicted: the ceilings do not cross within these batches."
            if at is None
            else f"The ceilings cross at batch {at:.3g}, the predicted knee: from there on arithmetic bounds."
        )
        chart = figure.chart if at is None else _with_knee(alt, figure.chart, at)
        yield Figure(figure.name, BATCH, figure.title, f"{figure.caption} {words}", chart)


def context_figures(alt: Any, shown: Sequence[ShownCase]) -> Iterator[Figure]:
    """A chart for each work that was measured at three or more contexts."""
    for figure, _ in _figures(alt, shown, CONTEXT, CONTEXT_KEYS, "context"):
        yield figure


def predicted_knee(table: pd.DataFrame) -> float | None:
    """Where FLOPs / peak overtakes bytes / bandwidth, between the points by logarithms; None if nowhere."""
    known = table.dropna(subset=["memory_ms", "compute_ms"])
    ratios = known.assign(ln=(known.compute_ms / known.memory_ms).map(log)).groupby("at").ln.median()
    ends = list(zip(ratios.index, ratios, strict=True))
    for (a, low), (b, high) in pairwise(ends):
        if low < 0 <= high:
            return exp(log(a) + (log(b) - log(a)) * -low / (high - low))
    return None


def _figures(
    alt: Any, shown: Sequence[ShownCase], family: str, keys: dict[str, str], name: str
) -> Iterator[tuple[Figure, pd.DataFrame | None]]:
    curves: dict[tuple[Any, str], list[tuple[float, ShownCase]]] = {}
    for one in shown:
        found = _split(one.work, keys)
        if found is not None and one.time_s:
            curves.setdefault((one.place, found[0]), []).append((found[1], one))
    swept = {key: some for key, some in curves.items() if len({at for at, _ in some}) >= FEWEST}
    if not swept:
        why = f"no work was measured at {FEWEST} or more values of {', '.join(dict.fromkeys(keys.values()))}"
        yield Figure(name, family, "", CAPTION, absent=why), None
    ranked = sorted(swept.items(), key=lambda pair: -len(pair[1]))
    for number, ((place, rest), some) in enumerate(ranked[:MOST], 1):
        drawn, left_out = of_leading_backends([one for _, one in some])
        kept = {one.key for one in drawn}
        table = frame([_line(at, one) for at, one in some if one.key in kept], COLUMNS)
        title = f"{short(rest)}, {place.label}"
        yield Figure(f"{name}-{number}", family, title, CAPTION + left_out, _chart(alt, table, name)), table
    if len(ranked) > MOST:
        why = f"{len(ranked) - MOST} more works; a report of fewer runs draws them"
        yield Figure(f"{name}-more", family, "", CAPTION, absent=why), None


def _split(work: str, keys: dict[str, str]) -> tuple[str, float] | None:
    """The spec without the number that is swept, and that number; None where it has none."""
    kind, _, rest = work.partition(":")
    key = keys.get(kind, "")
    value = settings(work).get(key, "")
    if not value.isdecimal() or not 0 < int(value) < 10**12:
        return None
    return f"{kind}:{','.join(part for part in pieces(rest) if not part.startswith(f'{key}='))}", float(value)


def _line(at: float, one: ShownCase) -> dict[str, Any]:
    line, time_s = one.line, one.time_s or 0.0
    low, high = line["time_ci_s"] or (time_s, time_s)
    read, peak = line["read_ceiling_bytes_per_s"], line["compute_ceiling_flops_per_s"]
    return {
        "backend": one.backend,
        "at": at,
        "time_ms": 1e3 * time_s,
        "low_ms": 1e3 * low,
        "high_ms": 1e3 * high,
        "memory_ms": 1e3 * line["bytes"] / read if read and line["bytes"] else None,
        "compute_ms": 1e3 * line["flops"] / peak if peak and line["flops"] else None,
        "validity": one.validity,
        "tip": marked(one),
    }


def _chart(alt: Any, table: pd.DataFrame, name: str) -> Any:
    scale = alt.Scale(type="log", nice=False)
    x = alt.X("at:Q", title=name, scale=scale, axis=alt.Axis(values=sorted(set(table["at"])), format="~s"))
    y = alt.Y(
        "time_ms:Q", title="time, ms", scale=scale, axis=alt.Axis(format="~g", values=ticks(*_span(table)))
    )
    base = alt.Chart(table)
    color = alt.Stroke("backend:N", title="backend", scale=scale_of(alt, table.backend))
    layers = [
        base.mark_line(strokeWidth=1.5, aria=False).encode(x, alt.Y("median(time_ms):Q", scale=scale), color),
        base.mark_rule(strokeWidth=1.5, aria=False).encode(
            x, alt.Y("low_ms:Q", scale=scale), color, y2="high_ms:Q"
        ),
        base.mark_point(size=45, opacity=1).encode(x, y, *look_of_marks(alt, table)),
    ]
    bounds = _bounds(table)
    if len(bounds):
        dashes = alt.StrokeDash(
            "ceiling:N", scale=alt.Scale(domain=[BANDWIDTH, PEAK], range=[[6, 3], [2, 2]])
        )
        layers.insert(
            0,
            alt.Chart(bounds)
            .mark_line(color=INK, strokeWidth=1.2, aria=False)
            .encode(x, alt.Y("bound_ms:Q", scale=scale), dashes),
        )
    return alt.layer(*layers).properties(width=WIDTH, height=HEIGHT)


def _span(table: pd.DataFrame) -> tuple[float, float]:
    """The shortest and the longest time that is drawn, ms."""
    drawn = table[["low_ms", "high_ms", "memory_ms", "compute_ms"]].astype(float)
    return float(drawn.min().min()), float(drawn.max().max())


def _bounds(table: pd.DataFrame) -> pd.DataFrame:
    """What each ceiling allows, by the number that is swept."""
    lines = [
        {"at": at, "ceiling": ceiling, "bound_ms": median(known)}
        for ceiling, column in ((BANDWIDTH, "memory_ms"), (PEAK, "compute_ms"))
        for at, some in table.groupby("at")[column]
        if (known := list(some.dropna()))
    ]
    return frame(lines, ["at", "ceiling", "bound_ms"])


def _with_knee(alt: Any, chart: Any, at: float) -> Any:
    place = alt.Chart(pd.DataFrame({"at": [at], "words": [f"knee {at:.3g}"]}))
    rule = place.mark_rule(color=LINE, strokeWidth=1.5, aria=False).encode(x="at:Q")
    words = place.mark_text(align="left", dx=4, y=8, color=COLORS[-1], aria=False).encode(
        x="at:Q", text="words:N"
    )
    return (chart + rule + words).properties(width=WIDTH, height=HEIGHT)
