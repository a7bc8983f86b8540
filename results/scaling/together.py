"""Devices of one machine alone and together: what is left of each one's rate while all others are busy.

>>> from membound.results.store import each_row
>>> found = together_of(each_row(paths))
>>> found[0].device, found[0].efficiency, found[0].ci
('node0', 0.83, (0.81, 0.85))

The interval is Student's (Welch) over processes. The devices of a figure together: the sum of their rates together over the
sum of their rates alone, with the interval of both sums.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import median

from membound.results.fleet.device_run import BESIDE, READS, Figure, device_runs
from membound.results.intervals import ratio_interval, sums_ratio_interval
from membound.results.row import Row
from membound.results.scaling.curve import PLACEMENT


@dataclass(frozen=True, slots=True)
class Together:
    """A device in one figure: the rates of its processes alone, and while the others were busy."""

    device: str
    work: str
    unit: str
    alone: tuple[float, ...]
    together: tuple[float, ...]

    @property
    def efficiency(self) -> float:
        """Rate together over rate alone, medians over processes."""
        return median(self.together) / median(self.alone)

    @property
    def ci(self) -> tuple[float, float] | None:
        """Its 95 % interval; None with fewer than three processes on a side."""
        return ratio_interval(self.together, self.alone)


def together_of(rows: Iterable[Row]) -> list[Together]:
    """Every device and figure that was measured both ways, by figure, in the order of the rows.

    The backend of a device is named with the work: devices of a kind differ in their backends' names alone.
    """
    found: dict[tuple[str, str, str], tuple[list[float], list[float]]] = {}
    for run in device_runs(rows):
        device = run.facts.get(PLACEMENT, run.device)
        for figure, rates in run.rates.items():
            key = (_work(figure), device, figure.unit)
            both = found.setdefault(key, ([], []))
            both[bool(run.facts.get(BESIDE))].extend(rates)
    order = list(dict.fromkeys(work for work, _, _ in found))
    return [
        Together(device, work, unit, tuple(alone), tuple(together))
        for (work, device, unit), (alone, together) in sorted(
            found.items(), key=lambda one: order.index(one[0][0])
        )
        if alone and together
    ]


def _work(figure: Figure) -> str:
    """Backend and work, without the number of the device."""
    backend, _, device = figure.backend.partition(":")
    if figure.work in READS:  # a ceiling is of a device, whatever the backend
        return f"{backend} {figure.work}"
    kind = device.partition(":")[0]
    variant = device.partition("+")[2]
    named = f"{backend}:{kind.partition('+')[0]}" if kind else backend
    return f"{named}{f'+{variant}' if variant else ''} {figure.work}"


def whole(devices: Sequence[Together]) -> float:
    """All devices of one figure: the sum of their rates together over that of their rates alone."""
    return sum(median(one.together) for one in devices) / sum(median(one.alone) for one in devices)


def whole_ci(devices: Sequence[Together]) -> tuple[float, float] | None:
    """Its 95 % interval, over the processes of all devices; None with fewer than three of one on a side."""
    return sums_ratio_interval([one.together for one in devices], [one.alone for one in devices])
