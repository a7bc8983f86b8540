"""A comparison of a fleet as JSON can hold it.

>>> import json
>>> from membound.results.fleet.outliers import compare_fleet
>>> json.dumps(fleet_record(compare_fleet(runs, catalogue)))
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from membound.results.fleet.device_run import DeviceRun, Figure
from membound.results.fleet.outliers import ALL, ALPHA, LEAST, Deviation, FleetComparison, Group, Outlier
from membound.results.fleet.robust import FEWEST
from membound.results.fleet.sustained import sustained
from membound.results.stats import plain


def fleet_record(found: FleetComparison) -> dict[str, Any]:
    """Groups with their figures and the shares of every device; outliers; devices without figures; the rule."""
    record: dict[str, Any] = plain(
        {
            "rule": {
                "false_alarms": ALPHA,
                "least_difference": LEAST,
                "fewest_devices": FEWEST,
                "tests": found.tests,
            },
            "groups": [_group(one) for one in found.groups],
            "outliers": [_outlier(one) for one in found.outliers],
            "without_figures": [
                _place(one) | {"reasons": list(one.failures)} for one in found.without_figures
            ],
        }
    )
    return record


def _place(run: DeviceRun) -> dict[str, Any]:
    return {
        "node": run.node,
        "device": run.device,
        "rack": run.rack,
        "run_id": run.run_id,
        "started_at": run.started_at,
    }


def _named(figure: Figure | None) -> dict[str, Any]:
    if figure is None:
        return {"work": ALL, "backend": None, "threads": None}
    return {"work": figure.work, "backend": figure.backend, "threads": figure.threads}


def _group(group: Group) -> dict[str, Any]:
    return {
        "make": group.make._asdict(),
        "devices": len(group.runs),
        "catalogue": group.catalogue,
        "figures": [
            _named(one.figure)
            | {
                "devices": one.devices,
                "median": one.median,
                "unit": one.figure.unit if one.figure else None,
                "of_catalogue": one.of_catalogue,
                "spread": one.spread,
                "lowest": one.lowest,
                "highest": one.highest,
                "least": one.least,
            }
            for one in group.figures
        ],
        "sustained": [
            _named(one.figure)
            | {"devices": one.devices, "total": one.total, "unit": one.figure.unit, "ci": one.ci}
            for one in sustained(group.runs)
        ],
        "members": [
            _place(run) | {"shares": _shares(group.shares.get((run.node, run.device), {}))}
            for run in group.runs
        ],
    }


def _shares(shares: Mapping[Figure | None, float]) -> list[dict[str, Any]]:
    return [_named(figure) | {"share": share} for figure, share in shares.items()]


def _outlier(one: Outlier) -> dict[str, Any]:
    return _place(one.run) | {
        "share": one.share,
        "make": one.run.make._asdict(),
        "deviations": [_deviation(x) for x in one.deviations],
        "differences": [
            {"field": x.field, "value": x.value, "usual": x.usual, "of": x.of} for x in one.differences
        ],
    }


def _deviation(one: Deviation) -> dict[str, Any]:
    return _named(one.figure) | {"share": one.share, "z": one.z, "chance": one.chance}
