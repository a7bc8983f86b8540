"""The part of a load that counts: between warm-up and drain, and whether the server was steady in it.

>>> window = Window(warm_s=5.0, end_s=65.0)
>>> counted = window.of(requests)
>>> growth_of(counted, window)
Growth(ratio=1.04, significant=False)

Requests count by when they were due. Those of the warm-up fill the server's queues and caches; what is still under way
at the end is waited for. Under a rate that the server cannot keep, latencies grow as long as one cares to measure: such a
window has no latency, only a growth.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import sqrt
from statistics import median

from membound.results.serving.latency import latency_of
from membound.results.serving.request import Request

BLOCKS = 8
"""Equal parts of a window, whose medians its trend and its intervals rest on."""
SIGNIFICANT_Z = 2.576
"""Two-sided 1 %."""
GROWS = 1.25
"""A latency that rises by less from the first quarter of a window to the last is steady, however certain the rise is."""


@dataclass(frozen=True, slots=True)
class Window:
    """Seconds of the run's clock."""

    warm_s: float
    end_s: float

    @property
    def seconds(self) -> float:
        """How long it is."""
        return self.end_s - self.warm_s

    def of(self, requests: Sequence[Request]) -> list[Request]:
        """Those that were due in it."""
        return [one for one in requests if self.warm_s <= one.due_s < self.end_s]

    def blocks(self, requests: Sequence[Request]) -> list[list[Request]]:
        """Its requests by parts of equal length, those without any left out."""
        found: list[list[Request]] = [[] for _ in range(BLOCKS)]
        for one in self.of(requests):
            found[min(BLOCKS - 1, int(BLOCKS * (one.due_s - self.warm_s) / self.seconds))].append(one)
        return [block for block in found if block]


@dataclass(frozen=True, slots=True)
class Growth:
    """`ratio`: the end-to-end latency of the last quarter over that of the first, medians."""

    ratio: float
    significant: bool

    @property
    def steady(self) -> bool:
        """Whether the window's latencies are the server's and not those of a queue that grows."""
        return not self.significant or self.ratio < GROWS


def growth_of(requests: Sequence[Request], window: Window) -> Growth | None:
    """Whether end-to-end latency rises through the window (Mann, 1945, on the medians of its blocks). None with too few."""
    medians = []
    for block in window.blocks(requests):
        times = [latency_of(one).e2e_s for one in block if one.ok]
        if times:
            medians.append(median(times))
    count = len(medians)
    if count < BLOCKS // 2:
        return None
    signs = sum(
        int(later > earlier) - int(later < earlier)
        for i, earlier in enumerate(medians)
        for later in medians[i + 1 :]
    )
    spread = sqrt(count * (count - 1) * (2 * count + 5) / 18)
    z = (abs(signs) - 1) / spread if signs else 0.0
    quarter = max(1, count // 4)
    ratio = median(medians[-quarter:]) / median(medians[:quarter])
    return Growth(ratio, z > SIGNIFICANT_Z and signs > 0)
