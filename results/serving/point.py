"""The figures of one point of load: rates, latencies with intervals, what failed, whether it holds.

>>> point = point_of(requests, Window(5.0, 65.0), Slo(ttft_s=0.5, tpot_s=0.03))
>>> point.latency["ttft"].at[50], point.outcomes, point.goodput_share
(0.041, {'ok': 239, 'refused': 1}, 0.996)

Percentiles are of requests that are whole, each with the interval of the same percentile over the blocks of the window, where
there are enough; how many were refused or lost stands beside them, and goodput counts those as missed.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from membound.results.intervals import interval
from membound.results.serving.latency import Latency, latency_of, seen_share
from membound.results.serving.request import Request
from membound.results.serving.slo import Slo, goodput
from membound.results.serving.window import Growth, Window, growth_of

PERCENTILES = (50, 90, 99)
FEWEST_BEYOND = 5
"""A percentile needs so many values beyond it: the 99th of fewer than 500 is a handful of requests."""

FIGURES: dict[str, Callable[[Latency], Sequence[float | None]]] = {
    "ttft": lambda one: [one.ttft_s],
    "ttft_sent": lambda one: [one.ttft_sent_s],
    "tpot": lambda one: [one.tpot_s],
    "itl": lambda one: one.itl_s,
    "e2e": lambda one: [one.e2e_s],
}


@dataclass(frozen=True, slots=True)
class Distribution:
    """Seconds, by percentile. `ci`: the 95 % interval over the blocks of the window."""

    count: int
    at: dict[int, float]
    ci: dict[int, tuple[float, float]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Point:
    """One rate or concurrency, over its window."""

    due: int
    """Requests that were due."""
    seconds: float
    outcomes: dict[str, int]
    output_tokens: int
    """Of whole answers."""
    prompt_tokens: int
    latency: dict[str, Distribution]
    seen_itl_share: float | None
    """Share of the gaps between tokens that were seen as such; the others came several at once."""
    goodput_per_s: float | None
    goodput_share: float | None
    """Share of the requests due that kept the service level."""
    growth: Growth | None

    @property
    def ok(self) -> int:
        """Whole answers."""
        return self.outcomes.get("ok", 0)

    @property
    def due_per_s(self) -> float:
        """The rate that was asked for, as it came out."""
        return self.due / self.seconds

    @property
    def ok_per_s(self) -> float:
        """Whole answers a second."""
        return self.ok / self.seconds

    @property
    def output_tokens_per_s(self) -> float:
        """Tokens of whole answers a second."""
        return self.output_tokens / self.seconds


def point_of(requests: Sequence[Request], window: Window, slo: Slo | None = None) -> Point:
    """Raises ValueError if no request was due in the window."""
    counted = window.of(requests)
    if not counted:
        raise ValueError("no request was due in the window")
    whole = [one for one in counted if one.ok]
    latencies = [latency_of(one) for one in whole]
    blocks = [[latency_of(one) for one in block if one.ok] for block in window.blocks(requests)]
    kept = goodput(counted, slo, window.seconds) if slo is not None else (None, None)
    return Point(
        due=len(counted),
        seconds=window.seconds,
        outcomes=dict(Counter(one.outcome for one in counted)),
        output_tokens=sum(one.output_tokens for one in whole),
        prompt_tokens=sum(one.prompt_tokens for one in whole),
        latency={name: _distribution(pick, latencies, blocks) for name, pick in FIGURES.items()},
        seen_itl_share=seen_share(latencies),
        goodput_per_s=kept[0],
        goodput_share=kept[1],
        growth=growth_of(counted, window),
    )


def _distribution(
    pick: Callable[[Latency], Sequence[float | None]],
    latencies: Sequence[Latency],
    blocks: Sequence[Sequence[Latency]],
) -> Distribution:
    """The percentiles that so many values can tell, each with its interval where the blocks can tell it too."""
    values = _values(pick, latencies)
    at = {p: float(np.percentile(values, p)) for p in PERCENTILES if _tells(len(values), p)}
    ci = {}
    for p in at:
        found = [_values(pick, block) for block in blocks]
        parts = [float(np.percentile(part, p)) for part in found if _tells(len(part), p)]
        if min(parts, default=0.0) > 0 and (around := interval(parts)) is not None:
            ci[p] = around
    return Distribution(len(values), at, ci)


def _values(pick: Callable[[Latency], Sequence[float | None]], latencies: Sequence[Latency]) -> list[float]:
    return [value for one in latencies for value in pick(one) if value is not None]


def _tells(count: int, percentile: int) -> bool:
    """Whether so many values have a percentile; a median needs one."""
    return count > 0 if percentile == 50 else count * (100 - percentile) >= 100 * FEWEST_BEYOND
