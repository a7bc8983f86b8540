"""What a search for the highest rate came to, from its stored points.

>>> searched(rows)
Searched(slo='ttft=500,tpot=30', rate=3.4, failed=3.5)
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from membound.results.row import Row
from membound.results.serving.table import point_of_row

GOODPUT = 0.99
"""Share of the requests due that must keep the service level, as in MLPerf's server scenarios."""
TIMES = 2
"""Points at a rate that must keep it, or miss it: of three at most."""


@dataclass(frozen=True, slots=True)
class Searched:
    """`rate`: the highest that was kept TIMES times; `failed`: the lowest that was missed more often than kept."""

    slo: str
    rate: float | None
    failed: float | None
    client_limited: bool
    """Whether the client was the limit where the level was missed: the server may keep more."""


def keeps(row: Row) -> bool:
    """Whether a point kept its service level, in a window that is steady."""
    if row.status != "ok":
        return False
    point = point_of_row(row)
    steady = point.growth is None or point.growth.steady
    return steady and point.goodput_share is not None and point.goodput_share >= GOODPUT


def searched(rows: Sequence[Row]) -> Searched | None:
    """The outcome of the search among these rows of one run; None if there is none."""
    points = [(row, keeps(row)) for row in rows if row.kind == "serving" and row.config.get("search")]
    if not points:
        return None
    kept = Counter(row.config["rate"] for row, kept in points if kept)
    missed = Counter(row.config["rate"] for row, kept in points if not kept)
    failed = min((rate for rate in missed if missed[rate] > kept[rate]), default=None)
    found = [
        rate
        for rate in kept
        if kept[rate] >= TIMES and kept[rate] > missed[rate] and (failed is None or rate < failed)
    ]
    limited = any(
        row.config["rate"] == failed and row.grade == "invalid" and not kept for row, kept in points
    )
    return Searched(str(points[0][0].config.get("slo", "")), max(found, default=None), failed, limited)
