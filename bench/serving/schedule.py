"""When each request is due, drawn before the start, in one process.

>>> rng = np.random.default_rng(1)
>>> due = parse_pattern("poisson").due_s(rate=4.0, seconds=60.0, rng=rng)
>>> len(due), dispersion(due, seconds=60.0)
(247, 0.97)

An open loop sends when a request is due, whatever the server does; what it is late by is stored. Several processes
that draw from the same numbers would send in step: there is one generator, and what it drew is tested.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import sqrt

import numpy as np
import numpy.typing as npt

from membound.errors import MemboundError

F64 = npt.NDArray[np.float64]
KINDS = ("constant", "poisson", "gamma", "ramp")
MOST_REQUESTS = 5_000_000
"""More would take longer to draw and to hold than any measurement lasts."""
BIN_REQUESTS = 10
"""Requests that a bin of the dispersion test holds on average."""


class LoadError(MemboundError, ValueError):
    """A load that cannot be drawn, in one line."""


@dataclass(frozen=True, slots=True)
class Pattern:
    """How the gaps between requests are drawn.

    ``constant``: all alike. ``poisson``: exponential. ``gamma``: with `cv`, the coefficient of variation of the gaps:
    1 is Poisson, above it requests come in bursts. ``ramp``: Poisson at a rate that rises evenly from `start` times
    the rate asked for to the rate itself.
    """

    kind: str
    cv: float = 1.0
    start: float = 0.0

    def due_s(self, rate: float, seconds: float, rng: np.random.Generator) -> F64:
        """Moments in [0, seconds), ascending, at `rate` requests a second. Raises LoadError."""
        if not 0 < rate < 1e9 or not 0 < seconds < 1e9:
            raise LoadError(f"rate={rate:g} a second for {seconds:g} s: give both above 0")
        if rate * seconds > MOST_REQUESTS:
            raise LoadError(f"{rate:g} requests a second for {seconds:g} s are more than {MOST_REQUESTS}")
        if self.kind == "constant":
            return np.arange(np.ceil(rate * seconds)) / rate
        if self.kind == "ramp":
            return self._ramp(rate, seconds, rng)
        shape = 1 / self.cv**2
        return _until(seconds, lambda count: rng.gamma(shape, 1 / (shape * rate), count), rate)

    def _ramp(self, rate: float, seconds: float, rng: np.random.Generator) -> F64:
        """A Poisson process at the highest rate, thinned to the rate of each moment (Lewis and Shedler, 1979)."""
        due = _until(seconds, lambda count: rng.exponential(1 / rate, count), rate)
        kept: F64 = due[rng.random(len(due)) < self.start + (1 - self.start) * due / seconds]
        return kept


def _until(seconds: float, gaps: Callable[[int], F64], rate: float) -> F64:
    """Sums of gaps that are drawn until they pass the end."""
    parts, end = [np.zeros(0)], 0.0
    while end < seconds:
        more = end + np.cumsum(gaps(int(rate * seconds + 6 * sqrt(rate * seconds) + 16)))
        parts.append(more)
        end = float(more[-1])
    due = np.concatenate(parts)
    return due[due < seconds]


def parse_pattern(text: str) -> Pattern:
    """``constant``, ``poisson``, ``gamma:cv=2`` or ``ramp:start=0.1``. Raises LoadError."""
    kind, _, options = text.partition(":")
    wanted = {"gamma": "cv", "ramp": "start"}.get(kind, "")
    name, _, value = options.partition("=")
    if kind not in KINDS or (options and name != wanted):
        raise LoadError(f"pattern {text!r}: give constant, poisson, gamma:cv=2 or ramp:start=0.1")
    if not options:
        return Pattern(kind, cv=2.0 if kind == "gamma" else 1.0)
    number = _number(value)
    if kind == "gamma" and 0.05 <= number <= 20:
        return Pattern(kind, cv=number)
    if kind == "ramp" and 0 <= number < 1:
        return Pattern(kind, start=number)
    limits = "cv from 0.05 to 20" if kind == "gamma" else "start from 0 to below 1"
    raise LoadError(f"pattern {text!r}: give {limits}")


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return -1.0


def dispersion(due_s: Sequence[float] | F64, seconds: float) -> float | None:
    """Variance over mean of the requests in bins of equal length: 1 for Poisson, 0 for even, more for bursts.

    Of n bins its spread around 1 is sqrt(2 / (n - 1)) for a Poisson process (Cox and Lewis, 1966). None where there
    are too few requests for two bins.
    """
    bins = len(due_s) // BIN_REQUESTS
    if bins < 2:
        return None
    counts, _ = np.histogram(due_s, bins=bins, range=(0.0, seconds))
    return float(counts.var(ddof=1) / counts.mean())
