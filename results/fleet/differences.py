"""What an outlier has that its fleet has not: settings that differ from the most common ones, counters far from the others'.

>>> differences(outlier, peers)
[Difference(field='accelerator.ecc', value='on', usual='off', of='63 of 64')]

They are candidates for an explanation and no proof. A setting counts if at least half of the fleet agree on it, so that
serial numbers and addresses, which differ everywhere, are passed by; a counter if it lies further out than 3.5 spreads
(B. Iglewicz and D. C. Hoaglin, How to Detect and Handle Outliers, 1993).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from statistics import fmean, median

from membound.results.fleet.device_run import DeviceRun
from membound.results.fleet.robust import FEWEST, spread_of

AGREED = 0.5
"""Part of the fleet that must agree on a setting."""
FAR = 3.5
"""Spreads from the median."""
TO_DEVIATION = 1.2533
"""The standard deviation of a normal distribution over its mean absolute deviation: √(π/2)."""
LEAST = 0.01
"""Part of the median by which a counter differs at least: a clock that is 0.1 % off explains nothing."""


@dataclass(frozen=True, slots=True)
class Difference:
    """A field, what the outlier has, what is usual, and how many have that: ``63 of 64``, or ``median of 64``."""

    field: str
    value: str
    usual: str
    of: str


def differences(outlier: DeviceRun, fleet: Sequence[DeviceRun]) -> list[Difference]:
    """Settings first, then counters, the farthest first. `fleet` are the devices of its make, the outlier among them."""
    return [*_settings(outlier, fleet), *_counters(outlier, fleet)]


def _settings(outlier: DeviceRun, fleet: Sequence[DeviceRun]) -> Iterator[Difference]:
    for name in sorted({name for one in fleet for name in one.facts}):
        seen = Counter(one.facts.get(name) for one in fleet)
        (usual, count), *_ = seen.most_common(1)
        value = outlier.facts.get(name)
        if value != usual and count >= AGREED * len(fleet):
            yield Difference(name, _shown(value), _shown(usual), f"{count} of {len(fleet)}")


def _shown(value: str | None) -> str:
    return "not told" if value is None else value or "none"


def _counters(outlier: DeviceRun, fleet: Sequence[DeviceRun]) -> list[Difference]:
    found = []
    for name, readings in outlier.counters.items():
        values = [median(one.counters[name]) for one in fleet if one.counters.get(name)]
        own, usual = median(readings), median(values)
        far = _far(own, values)
        if far > FAR and abs(own - usual) > LEAST * abs(usual):
            found.append((far, Difference(name, f"{own:.3g}", f"{usual:.3g}", f"median of {len(values)}")))
    return [one for _, one in sorted(found, key=lambda pair: -pair[0])]


def _far(value: float, values: Sequence[float]) -> float:
    """Spreads between a value and the median of them; where most are the same, by their mean deviation."""
    if len(values) < FEWEST:
        return 0.0
    spread = spread_of(values)
    if spread.deviation:
        return abs(spread.z(value))
    deviation = TO_DEVIATION * fmean(abs(one - spread.middle) for one in values)
    return abs(value - spread.middle) / deviation if deviation else 0.0
