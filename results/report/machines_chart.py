"""Machines side by side: the fastest backend of each on the works that several of them did.

>>> figures = list(machine_figures(alt, shown))
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from math import exp, log
from typing import Any

import pandas as pd

from membound.results.frame import frame
from membound.results.report.answer import fastest_of
from membound.results.report.cases import Place, ShownCase, latest, marked
from membound.results.report.drawing import WIDTH, Figure, look_of_marks, ticks
from membound.results.report.room import places_with_room
from membound.results.wording import short

FAMILY = "Machines side by side"
MOST = 30
STEP = 34
NEAR, APART, ROOM = 0.02, 7, 14
"""Marks of one work that are nearer than this share of the axis would hide one another: pixels between them, and for all of them."""
CAPTION = (
    "Time of the fastest backend of each machine on the works that two or more of them did, in their last run of it; the axis is "
    "logarithmic. Which backend that is, and its share of that machine's limit, is in the hint of each mark."
    " Lighter marks were disturbed."
)


def machine_figures(alt: Any, shown: Sequence[ShownCase]) -> Iterator[Figure]:
    """One chart of all places."""
    best: dict[str, dict[Place, ShownCase]] = {}
    fastest = fastest_of(latest(shown))
    places, more = places_with_room(fastest)
    for one in fastest:
        if one.place in places:
            best.setdefault(one.work, {})[one.place] = one
    common = {work: some for work, some in best.items() if len(some) > 1}
    if not common:
        yield Figure("machines", FAMILY, "", CAPTION, absent="no work was measured on two machines")
        return
    chosen = sorted(common.items(), key=lambda pair: -len(pair[1]))[:MOST]
    rest = f" {len(common) - MOST} more works are left out." if len(common) > MOST else ""
    lines = [
        {
            "work": short(work),
            "machine": place.label,
            "time_ms": 1e3 * (one.time_s or 0.0),
            "validity": one.validity,
            "tip": marked(one),
        }
        for work, some in chosen
        for place, one in some.items()
    ]
    drop(lines)
    table = frame(lines, ["work", "machine", "time_ms", "validity", "tip", "drop"])
    yield Figure("machines", FAMILY, "", CAPTION + rest, _chart(alt, table))
    if more:
        yield Figure("machines-more", FAMILY, "", CAPTION, absent=more)


def drop(lines: Sequence[dict[str, Any]]) -> None:
    """Give each mark its `drop`: pixels below the upper edge of its work's row, whose middle is for one that stands alone."""
    times = [line["time_ms"] for line in lines]
    near = NEAR * log(max(times) / min(times)) if min(times) > 0 else 0.0
    groups: list[list[dict[str, Any]]] = []
    for line in sorted(lines, key=lambda line: (line["work"], line["time_ms"])):
        last = groups[-1][-1] if groups else None
        if (
            last is not None
            and last["work"] == line["work"]
            and line["time_ms"] <= last["time_ms"] * exp(near)
        ):
            groups[-1].append(line)
        else:
            groups.append([line])
    for group in groups:
        step = min(APART, ROOM / max(1, len(group) - 1))
        for number, line in enumerate(group):
            line["drop"] = STEP / 2 + step * number


def _chart(alt: Any, table: pd.DataFrame) -> Any:
    works = list(dict.fromkeys(table.work))
    y = alt.Y("work:N", title=None, sort=works, axis=None)
    scale = alt.Scale(type="log", nice=False, padding=12)
    x = alt.X(
        "time_ms:Q",
        title="time, ms",
        scale=scale,
        axis=alt.Axis(
            format="~g", values=ticks(float(table.time_ms.min()) / 2, float(table.time_ms.max()) * 2)
        ),
    )
    rules = alt.Chart(table).mark_rule(color="#888888", aria=False).encode(
        alt.X("min(time_ms):Q", scale=scale), y, x2="max(time_ms):Q"
    )  # fmt: skip
    marks = (
        alt.Chart(table)
        .mark_point(size=55, opacity=1)
        .encode(x, y, *look_of_marks(alt, table, "machine"), yOffset=alt.YOffset("drop:Q", scale=None))
    )
    words = alt.Chart(pd.DataFrame({"work": works})).mark_text(
        align="left", x=0, dy=-13, fontSize=11, limit=WIDTH, aria=False
    ).encode(y, text="work:N")  # fmt: skip
    return alt.layer(rules, marks, words).properties(width=WIDTH, height=alt.Step(STEP))
