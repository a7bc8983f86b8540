"""How a point is going, while it goes: counts, and latencies so far, at the price of some microseconds a second.

>>> glance = Glance("rate 2", asked_per_s=2.0, total_s=65.0)
>>> glance.look(played)
{'point': 'rate 2', 'left_s': 53.0, 'sent': 24, 'under_way': 3, 'ttft_p50_s': 0.05, ...}

Each look takes only what is new since the last. Nothing is parsed: a first token is taken to be the first read with an event that
names no role, a gap that between two reads. The figures that count are made after the point.
"""

from __future__ import annotations

import time
from collections import Counter, deque
from itertools import pairwise
from typing import Any

import numpy as np

from membound.bench.serving.client import Played
from membound.bench.serving.clocks import NS
from membound.bench.serving.raw import RawAnswer

MOST_LOOKED_AT = 20
"""Answers whose reads are gone through at one look."""
KEPT = 2000
EVENT, ROLE = b"data:", b'"role"'
RECENT_LAGS = 100
"""A second of the loop's lag."""


class Glance:
    """One point. `asked_per_s` is None for a closed loop."""

    def __init__(self, label: str, asked_per_s: float | None, total_s: float) -> None:
        self._label, self._asked, self._total_s = label, asked_per_s, total_s
        self._seen = 0
        self._open: list[RawAnswer] = []
        self._ends: Counter[str] = Counter()
        self._ttft: deque[float] = deque(maxlen=KEPT)
        self._gaps: deque[float] = deque(maxlen=KEPT)

    def look(self, played: Played) -> dict[str, Any]:
        """What there is by now."""
        self._take(played)
        passed_s = (time.monotonic_ns() - played.started_ns) / NS
        lags = played.lag_ns[-RECENT_LAGS:]
        return {
            "point": self._label,
            "left_s": max(0.0, self._total_s - passed_s),
            "asked_per_s": self._asked,
            "sent_per_s": self._seen / passed_s if passed_s > 0 else 0.0,
            "sent": self._seen,
            "under_way": len(self._open),
            "ends": dict(self._ends),
            **_percentiles("ttft", self._ttft),
            **_percentiles("gap", self._gaps),
            "lag_p99_s": float(np.percentile(lags, 99)) / NS if lags else 0.0,
        }

    def _take(self, played: Played) -> None:
        candidates = [*self._open, *played.answers[self._seen :]]
        self._seen = len(played.answers)
        self._open = [one for one in candidates if not one.end]
        ended = [one for one in candidates if one.end]
        self._ends.update(_end_of(one) for one in ended)
        for one in [one for one in ended if _end_of(one) == "complete"][:MOST_LOOKED_AT]:
            times = [at for at, _, data in one.reads if EVENT in data and ROLE not in data]
            if times:
                self._ttft.append((times[0] - one.due_ns) / NS)
            self._gaps.extend((b - a) / NS for a, b in pairwise(times))


def _end_of(raw: RawAnswer) -> str:
    return f"HTTP {raw.status}" if raw.end == "complete" and raw.status != 200 else raw.end


def _percentiles(name: str, values: deque[float]) -> dict[str, float | None]:
    if not values:
        return {f"{name}_p50_s": None, f"{name}_p99_s": None}
    middle, high = np.percentile(values, [50, 99])
    return {f"{name}_p50_s": float(middle), f"{name}_p99_s": float(high)}
