"""What a report shows of a fleet: its comparison, and every run of its devices.

>>> fleet, others = fleet_of(rows)
>>> len(fleet.comparison.outliers), len(others)
(1, 0)
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import exp, log
from statistics import fmean

from membound.results.fleet.device_run import DeviceRun, device_runs, node_of
from membound.results.fleet.outliers import FleetComparison, Group, compare_fleet
from membound.results.predict.catalogue import load_catalogue
from membound.results.row import Row

FEWEST = 2
"""Devices of nodes with names that make a fleet of rows."""


@dataclass(frozen=True, slots=True)
class ShownFleet:
    """A comparison of the last run of each device, and all runs, for their drift over days."""

    comparison: FleetComparison
    runs: Sequence[DeviceRun]
    anchors: Mapping[tuple[str, str], str]
    """Of the rows of devices in the page, by (node, device): those that were compared by group, then the others."""

    @property
    def devices(self) -> list[tuple[Group | None, DeviceRun]]:
        """Every device with its group, in the order of the anchors."""
        compared = [(group, run) for group in self.comparison.groups for run in group.runs]
        return [*compared, *((None, run) for run in self.comparison.without_figures)]


def fleet_of(rows: Sequence[Row]) -> tuple[ShownFleet | None, list[Row]]:
    """The fleet that the rows of named nodes are, and all other rows. None, and all rows, where these name fewer than two devices."""
    runs = device_runs(row for row in rows if node_of(row))
    if len({(one.node, one.device) for one in runs}) < FEWEST:
        return None, list(rows)
    found = ShownFleet(compare_fleet(runs, load_catalogue()), runs, {})
    anchors = {(run.node, run.device): f"d{number}" for number, (_, run) in enumerate(found.devices, 1)}
    return replace(found, anchors=anchors), [row for row in rows if not node_of(row)]


def share_of(group: Group, run: DeviceRun) -> float | None:
    """The geometric mean of a device's shares; None where it has none."""
    shares = group.shares.get((run.node, run.device), {})
    if None in shares or not shares:
        return shares.get(None)
    return exp(fmean(map(log, shares.values())))
