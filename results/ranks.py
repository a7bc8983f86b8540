"""A step that ranks share, predicted: the slowest rank's own time, and its exchanges by the link that was measured between them.

>>> shared = shared_by(row)
>>> shared.predicted_s, shared.working_s, shared.exchanging_s
(0.0113, 0.0108, 0.0005)

t = max over ranks + all-reduces + gather, each exchange with the link's latency and its bytes, by a ring (`predict.ring`).
What a rank took without exchanges is of the launches that were timed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

from membound.results.fields import is_amount
from membound.results.predict.ring import ring_bytes
from membound.results.row import Row

NUMBERS = (
    *("count", "all_reduces", "all_reduce_bytes", "gather_bytes"),
    *("link_latency_s", "link_bytes_per_s"),
)


@dataclass(frozen=True, slots=True)
class SharedStep:
    """What the slowest rank takes alone, and what the exchanges take by the link's ceiling, in seconds."""

    working_s: float
    exchanging_s: float

    @property
    def predicted_s(self) -> float:
        """Both: they do not overlap."""
        return self.working_s + self.exchanging_s


def shared_by(row: Row) -> SharedStep | None:
    """That of one process; None where no ranks share a step, or what the row says of them cannot be."""
    told = row.config.get("ranks")
    if not isinstance(told, dict) or not all(is_amount(told.get(name)) for name in NUMBERS):
        return None
    working = told.get("working_s")
    if not isinstance(working, list) or not working or not all(map(is_amount, working)):
        return None
    if told["count"] < 2 or told["link_bytes_per_s"] <= 0:
        return None
    return SharedStep(max(working), _exchanging_s(told))


def _exchanging_s(told: dict[str, Any]) -> float:
    """Seconds of all all-reduces and of the gather, in which every rank but one sends its part to that one."""
    latency_s, rate = told["link_latency_s"], told["link_bytes_per_s"]
    moved = ring_bytes(told["count"], told["all_reduce_bytes"])
    gather_s = latency_s + told["gather_bytes"] / rate
    return float(told["all_reduces"] * (latency_s + moved / rate) + gather_s)


def predicted_s(rows: Sequence[Row]) -> float | None:
    """The median over the processes of a case; None where no ranks share it."""
    found = [one.predicted_s for one in map(shared_by, rows) if one is not None]
    return median(found) if found else None
