"""Devices of a fleet that are not like the others of their make, by how fast they are.

>>> from membound.results.fleet.device_run import device_runs
>>> from membound.results.predict.catalogue import load_catalogue
>>> found = compare_fleet(device_runs(rows), load_catalogue())
>>> [(one.run.name, round(one.share, 2)) for one in found.outliers]
[('node-17 cuda:3', 0.93)]

Only devices of one make are compared (`Make`: hardware, membound, Python, instruction sets), and of each its last run. A rate
becomes a share of the fleet's median; how far a share lies out is measured in robust spreads over devices (`robust.py`). A
device is called an outlier where Holm's procedure over all devices and figures says so at ALPHA, most of which is spent on
what is most telling, the geometric mean of its shares over all figures; and where it differs by LEAST or more. In a single
figure it must also differ by more than its own processes leave open: one odd process of three is no odd device.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import exp, expm1, fsum, log, sqrt
from statistics import fmean, median

from membound.results.fleet.device_run import BANDWIDTH, DeviceRun, Figure, Make, last_runs
from membound.results.fleet.differences import Difference, differences
from membound.results.fleet.robust import FEWEST, Spread, spread_of
from membound.results.intervals import MOST_LOG
from membound.results.paired_test import holm
from membound.results.predict.catalogue import Catalogue
from membound.results.predict.recognition import recognised
from membound.results.spreads import variance_of

ALPHA = 0.05
"""The chance that of a fleet without an outlier any device at all is called one."""
OF_MEANS = 0.8
"""Part of ALPHA that is spent on means over all figures, where there are several."""
OWN_ERRORS = 2.0
"""Standard errors of a device's own processes by which it differs at least in a single figure."""
LEAST = 0.03
"""The least difference from the fleet's median that is called one, as a share: what the gate asks about, too."""
ALL = "all figures"
"""The geometric mean of a device's shares."""
COMMON = 0.5
"""Part of the devices that must have a figure for it to count in the mean; a device needs all of those."""


@dataclass(frozen=True, slots=True)
class FleetFigure:
    """One figure over the devices of a make. `least`: the smallest difference that is called one, as a share."""

    figure: Figure | None
    """None: the geometric mean of all."""
    devices: int
    median: float | None
    """Of the rates; None of the mean, which has none."""
    lowest: float
    highest: float
    """Shares of the median, of the slowest and the fastest device."""
    spread: float
    """A robust standard deviation over devices, as a share."""
    least: float
    of_catalogue: float | None
    """The median over what the catalogue says of the device's memory; None where it says nothing, or this is no bandwidth."""

    @property
    def name(self) -> str:
        """``backend work``, or what the mean is called."""
        return f"{self.figure.backend} {self.figure.work}" if self.figure else ALL


@dataclass(frozen=True, slots=True)
class Deviation:
    """A figure in which a device is called an outlier: its share of the fleet's median, its z, and the chance of that."""

    figure: Figure | None
    share: float
    z: float
    chance: float


@dataclass(frozen=True, slots=True)
class Outlier:
    """A device, in what it differs from its fleet, and what it has that the others have not."""

    run: DeviceRun
    share: float
    """Geometric mean over all its figures, or the share of the farthest one where it lacks some."""
    deviations: tuple[Deviation, ...]
    """The mean of all figures first, then the least likely."""
    differences: tuple[Difference, ...]


@dataclass(frozen=True, slots=True)
class Group:
    """The devices of a make with their shares of the group's median, by figure; None stands for the mean of all."""

    make: Make
    runs: tuple[DeviceRun, ...]
    figures: tuple[FleetFigure, ...]
    """Empty where there are too few devices."""
    shares: Mapping[tuple[str, str], Mapping[Figure | None, float]]
    """By (node, device)."""
    catalogue: str
    """What the catalogue calls the device, or ''."""


@dataclass(frozen=True, slots=True)
class FleetComparison:
    """What came of it. `tests` is how many pairs of a device and a figure were looked at."""

    groups: tuple[Group, ...]
    outliers: tuple[Outlier, ...]
    """The slowest first."""
    without_figures: tuple[DeviceRun, ...]
    """Devices that nothing was measured of."""
    tests: int


Logs = dict[Figure | None, dict[int, float]]
"""By figure, the logarithm of the rate (of the mean: of the share) by the number of the device in its group."""


@dataclass(frozen=True, slots=True)
class _Test:
    """A device of a group in a figure, with the spread of that figure."""

    group: int
    device: int
    figure: Figure | None
    spread: Spread
    value: float
    error: float = 0.0
    """Standard error of the mean of its processes; 0 of a single one, and of means."""

    @property
    def is_far(self) -> bool:
        """Far enough to matter, and further than its own processes leave open."""
        distance = abs(self.value - self.spread.middle)
        return abs(self.share - 1) >= LEAST and distance > OWN_ERRORS * self.error

    @property
    def share(self) -> float:
        """Of the fleet's median."""
        return exp(max(-MOST_LOG, min(MOST_LOG, self.value - self.spread.middle)))


def compare_fleet(runs: Iterable[DeviceRun], catalogue: Catalogue) -> FleetComparison:
    """Groups by make, the largest first, and the outliers of all of them."""
    last = last_runs(runs)
    made: dict[Make, list[DeviceRun]] = {}
    for one in last:
        if one.rates:
            made.setdefault(one.make, []).append(one)
    members = sorted(made.values(), key=lambda some: -len(some))
    tests = [test for number, some in enumerate(members) for test in _tests(number, some)]
    groups = [
        _group(some, [test for test in tests if test.group == number], _reckoned(tests), catalogue)
        for number, some in enumerate(members)
    ]
    called: dict[tuple[int, int], list[_Test]] = {}
    for test in _fallen(tests):
        called.setdefault((test.group, test.device), []).append(test)
    outliers = [_outlier(groups[group], device, some) for (group, device), some in called.items()]
    return FleetComparison(
        tuple(groups),
        tuple(sorted(outliers, key=lambda one: one.share)),
        tuple(one for one in last if not one.rates),
        len(tests),
    )


def _tests(group: int, runs: Sequence[DeviceRun]) -> list[_Test]:
    """Every device in every figure that FEWEST of its group have."""
    tests = []
    for figure, values in _logs(runs).items():
        if len(values) >= FEWEST:
            spread = spread_of(list(values.values()))
            tests += [
                _Test(group, device, figure, spread, value, _error(runs[device], figure))
                for device, value in values.items()
            ]
    return tests


def _error(run: DeviceRun, figure: Figure | None) -> float:
    """Of the mean of the logarithms of a device's processes."""
    rates = run.rates[figure] if figure is not None else []
    return sqrt(variance_of([log(rate) for rate in rates]) / len(rates)) if len(rates) > 1 else 0.0


def _logs(runs: Sequence[DeviceRun]) -> Logs:
    """Of every figure, and of the mean of those that most devices have, where these are several."""
    found: Logs = {}
    for number, run in enumerate(runs):
        for figure, rates in run.rates.items():
            found.setdefault(figure, {})[number] = fmean(map(log, rates))
    common = [values for values in found.values() if len(values) >= max(FEWEST, COMMON * len(runs))]
    if len(common) > 1:
        middles = [median(values.values()) for values in common]
        found[None] = {
            number: fsum(v[number] - m for v, m in zip(common, middles, strict=True)) / len(common)
            for number in range(len(runs))
            if all(number in values for values in common)
        }
    return found


def _reckoned(tests: Sequence[_Test]) -> dict[bool, float]:
    """The chance at which the first device is called one, of means (True) and of single figures: Holm's first step."""
    means = sum(test.figure is None for test in tests)
    parts = _parts(tests)
    return {True: parts[True] / max(1, means), False: parts[False] / max(1, len(tests) - means)}


def _parts(tests: Sequence[_Test]) -> dict[bool, float]:
    """What is spent of ALPHA on means (True) and on single figures."""
    means = any(test.figure is None for test in tests)
    return {True: OF_MEANS * ALPHA, False: (1 - OF_MEANS) * ALPHA} if means else {True: 0.0, False: ALPHA}


def _fallen(tests: Sequence[_Test]) -> list[_Test]:
    """Those that are too far out for chance, and far enough to matter."""
    found = []
    for is_mean, part in _parts(tests).items():
        some = [test for test in tests if (test.figure is None) == is_mean]
        fell = holm([test.spread.chance(test.value) for test in some], part)
        found += [test for test, called in zip(some, fell, strict=True) if called]
    return [test for test in found if test.is_far]


def _group(
    runs: Sequence[DeviceRun], tests: Sequence[_Test], reckoned: Mapping[bool, float], catalogue: Catalogue
) -> Group:
    known = recognised(runs[0].make.device, _cpu_model(runs[0]), catalogue)
    of_figure: dict[Figure | None, list[_Test]] = {}
    shares: dict[tuple[str, str], dict[Figure | None, float]] = {}
    for test in tests:
        of_figure.setdefault(test.figure, []).append(test)
        run = runs[test.device]
        shares.setdefault((run.node, run.device), {})[test.figure] = test.share
    paper = known.bandwidth_bytes_per_s if known else None
    figures = [_figure(figure, some, reckoned[figure is None], paper) for figure, some in of_figure.items()]
    figures.sort(key=lambda one: one.figure is not None)
    return Group(runs[0].make, tuple(runs), tuple(figures), shares, known.name if known else "")


def _cpu_model(run: DeviceRun) -> str:
    return run.facts.get("cpu_model", "") if run.device == "cpu" else ""


def _figure(
    figure: Figure | None, tests: Sequence[_Test], chance: float, paper_bytes_per_s: float | None
) -> FleetFigure:
    spread = tests[0].spread
    rate = exp(spread.middle) if figure is not None else None
    of_memory = figure is not None and figure.unit == BANDWIDTH and paper_bytes_per_s
    return FleetFigure(
        figure,
        len(tests),
        rate,
        min(test.share for test in tests),
        max(test.share for test in tests),
        spread.deviation,
        max(LEAST, -expm1(-spread.distance(chance))),
        rate / paper_bytes_per_s if rate and of_memory and paper_bytes_per_s else None,
    )


def _outlier(group: Group, device: int, tests: Sequence[_Test]) -> Outlier:
    run = group.runs[device]
    deviations = sorted(
        (Deviation(t.figure, t.share, t.spread.z(t.value), t.spread.chance(t.value)) for t in tests),
        key=lambda one: (one.figure is not None, one.chance, -abs(one.z)),
    )
    shares = group.shares[run.node, run.device]
    return Outlier(
        run,
        shares.get(None, deviations[0].share),
        tuple(deviations),
        tuple(differences(run, group.runs)),
    )
