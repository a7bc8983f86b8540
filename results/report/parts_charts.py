"""Where the bytes of a step go, and where its time goes.

>>> figures = [*bytes_figures(alt, shown), *time_figures(alt, shown)]
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import pandas as pd

from membound.results.frame import frame
from membound.results.report.cases import Place, ShownCase, marked
from membound.results.report.drawing import COLORS, WIDTH, Figure
from membound.results.report.room import places_with_room
from membound.results.row import EXCHANGED
from membound.results.wording import amount, duration, percent, short

BYTES, TIME = "Where the bytes go", "Where the time goes"
MOST = 40
"""Bars of a chart. More of them nobody compares."""
STEP = 22
WHOLE = ("step", "onnx", "prefill")
PARTS = {
    "weights": ("weights_bytes",),
    "scales": ("scales_bytes",),
    "cache": ("kv_read_bytes", "kv_written_bytes", "kv_scales_bytes"),
    "activations": ("activations_read_bytes", "activations_written_bytes"),
    "other": (),
}
"""What is drawn as one, and the names of it in `Row.traffic`."""
BOUND, LAUNCH, REST = "what the ceilings allow", "launching", "the rest"
BYTES_CAPTION = "Bytes that a work must move once, by what they are; they follow from the work alone."
TIME_CAPTION = (
    "The median time of a launch: what the ceilings of the same moments allow, the measured launch overhead of the backend, "
    "and the rest, which a better kernel could gain. Where the first part fills the bar, the machine is the limit."
)


def bytes_figures(alt: Any, shown: Sequence[ShownCase]) -> Iterator[Figure]:
    """One chart, a bar for each work: whole steps and prompts, or all works if there are none."""
    works = {one.work: one for one in _whole(shown) if any(count for _, count in _of_memory(one))}
    if not works:
        yield Figure("bytes", BYTES, "", BYTES_CAPTION, absent="no case says of what its bytes are made")
        return
    largest = sorted(works.values(), key=lambda one: -sum(count for _, count in _of_memory(one)))[:MOST]
    lines = [line for one in largest for line in _bytes_lines(one)]
    table = frame(lines, ["bar", "part", "order", "amount", "tip"])
    caption = _with_rest(BYTES_CAPTION, len(works), "works with fewer bytes")
    yield Figure("bytes", BYTES, "", caption, _bars(alt, table, list(PARTS), "bytes", "~s"))


def time_figures(alt: Any, shown: Sequence[ShownCase]) -> Iterator[Figure]:
    """A chart for each place, a bar for each backend on each work."""
    known = [one for one in _whole(shown) if one.time_s and one.line["bound_s"] is not None]
    if not known:
        why = "no case has a time and a measured ceiling of its device"
        yield Figure("time", TIME, "", TIME_CAPTION, absent=why)
    places, more = places_with_room(known)
    for number, place in enumerate(places, 1):
        yield _time_figure(alt, f"time-{number}", place, [one for one in known if one.place == place])
    if more:
        yield Figure("time-more", TIME, "", TIME_CAPTION, absent=more)


def _time_figure(alt: Any, name: str, place: Place, here: Sequence[ShownCase]) -> Figure:
    ranked = sorted(here, key=lambda one: -(one.time_s or 0.0))[:MOST]
    lines = [line for one in ranked for line in _time_lines(one)]
    table = frame(lines, ["bar", "part", "order", "amount", "tip"])
    caption = _with_rest(TIME_CAPTION, len(here), "cases with shorter times")
    return Figure(
        name, TIME, place.label, caption, _bars(alt, table, [BOUND, LAUNCH, REST], "share of the time", "%")
    )


def _whole(shown: Sequence[ShownCase]) -> list[ShownCase]:
    """Steps and prompts; everything where there are none."""
    steps = [one for one in shown if one.work.partition(":")[0] in WHOLE]
    return steps or list(shown)


def _with_rest(caption: str, count: int, what: str) -> str:
    return f"{caption} {count - MOST} {what} are left out." if count > MOST else caption


def _of_memory(one: ShownCase) -> list[tuple[str, int]]:
    """The parts of a work's bytes, without what goes over links between ranks."""
    return [(name, count) for name, count in one.traffic.items() if name != EXCHANGED]


def _bytes_lines(one: ShownCase) -> Iterator[dict[str, Any]]:
    of = {name: part for part, names in PARTS.items() for name in names}
    sums = dict.fromkeys(PARTS, 0)
    for name, count in _of_memory(one):
        sums[of.get(name, "other")] += count
    whole = sum(sums.values())
    for order, (part, count) in enumerate(sums.items()):
        if count:
            tip = f"#{one.key} {short(one.work)}\n{part}: {amount(count, 'B')}, {percent(count / whole)} of {amount(whole, 'B')}"
            yield {"bar": short(one.work), "part": part, "order": order, "amount": count, "tip": tip}


def _time_lines(one: ShownCase) -> Iterator[dict[str, Any]]:
    """Shares of the time. Above a ceiling nothing is left for the other parts."""
    time_s, bound_s = one.time_s or 0.0, min(one.line["bound_s"], one.time_s or 0.0)
    launch_s = min(one.line["launch_s"] or 0.0, time_s - bound_s)
    parts = {BOUND: bound_s, LAUNCH: launch_s, REST: max(0.0, time_s - bound_s - launch_s)}
    for order, (part, seconds) in enumerate(parts.items()):
        if seconds > 0:
            tip = marked(one).replace(
                "\n", f"\n{part}: {duration(seconds)}, {percent(seconds / time_s)}\n", 1
            )
            bar = f"{one.backend} {short(one.work)} ({duration(time_s, 3)})"
            yield {"bar": bar, "part": part, "order": order, "amount": seconds / time_s, "tip": tip}


def _bars(alt: Any, table: pd.DataFrame, parts: list[str], title: str, axis: str) -> Any:
    """Stacked bars under their labels, which are as long as the plot is wide."""
    present = [part for part in parts if part in set(table.part)]
    colors = alt.Scale(domain=present, range=[COLORS[parts.index(part) % len(COLORS)] for part in present])
    bars = list(dict.fromkeys(table.bar))
    y = alt.Y("bar:N", title=None, sort=bars, axis=None)
    x = alt.X("amount:Q", title=title, axis=alt.Axis(format=axis, tickCount=5))
    base = alt.Chart(table)
    drawn = base.mark_bar(stroke="white", strokeWidth=1, size=11, yOffset=9).encode(
        x, y, alt.Fill("part:N", title=None, scale=colors), alt.Order("order:O"), alt.Description("tip:N")
    )
    words = alt.Chart(pd.DataFrame({"bar": bars})).mark_text(
        align="left", x=0, dy=-5, fontSize=11, limit=WIDTH, aria=False
    ).encode(y, text="bar:N")  # fmt: skip
    return alt.layer(drawn, words).properties(width=WIDTH, height=alt.Step(2 * STEP - 6))
