"""Observations as tables for charts: a line for each point, with the spread over processes and both ceilings.

>>> free_compute_table(observations).columns
Index(['curve', 'k', 'time_ms', 'low_ms', 'high_ms', 'memory_ms', 'compute_ms'], dtype='object')
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import pandas as pd

from membound.results.claim.dose_table import Panel, counted, panel_of
from membound.results.claim.finding import Finding
from membound.results.claim.observation import Observation, ObservationError
from membound.results.claim.region import RegionCell
from membound.results.claim.rules_machine import THIEVES, slowdowns
from membound.results.frame import encodable, frame

FREE_COMPUTE, THEFT, RESIDENCY, BATCH = 1, 4, 5, 6
ELASTICITY = "d ln t / d ln"
"""The start of the name of every figure that is an elasticity."""


def dose_table(observations: Iterable[Observation], experiment: int, factor: str) -> pd.DataFrame:
    """Times of an experiment against a dose, a curve for each backend and arm; milliseconds.

    low and high are the fastest and the slowest process; memory and compute what the ceilings allow.
    """
    frames = [
        _curve(f"{backend} {arm}", factor, panel)
        for (backend, arm), seen in _curves(observations, experiment).items()
        for panel in _panels(seen, factor)
    ]
    columns = ["curve", factor, "time_ms", "low_ms", "high_ms", "memory_ms", "compute_ms"]
    return pd.concat(frames, ignore_index=True) if frames else pd.DataFrame(columns=columns)


def free_compute_table(observations: Iterable[Observation]) -> pd.DataFrame:
    """Experiment 1: time against k."""
    return dose_table(observations, FREE_COMPUTE, "k")


def batch_table(observations: Iterable[Observation]) -> pd.DataFrame:
    """Experiment 6: time against the batch."""
    return dose_table(observations, BATCH, "batch")


def residency_table(observations: Iterable[Observation]) -> pd.DataFrame:
    """Experiment 5: bytes per second, as a share of the measured read ceiling, against the working set."""
    lines = []
    for (backend, arm), seen in _curves(observations, RESIDENCY).items():
        for one in seen:
            if (
                one.read_bytes_per_s
                and one.factors.get("working_set_bytes")
                and one.factors.get("cache_bytes")
            ):
                lines.append(
                    {
                        "curve": f"{backend} {arm}",
                        "caches": one.number("working_set_bytes") / one.number("cache_bytes"),
                        "share": one.bytes / one.seconds / one.read_bytes_per_s,
                        "process": one.replicate,
                    }
                )
    return frame(lines, ["curve", "caches", "share", "process"])


def theft_table(observations: Iterable[Observation]) -> pd.DataFrame:
    """Experiment 4: slowdown of the victim against the share of the thief's core, one point for each process."""
    lines = []
    of = [one for one in observations if one.experiment == THEFT]
    for key in dict.fromkeys((one.backend, one.work) for one in of):
        seen = counted(one for one in of if (one.backend, one.work) == key)
        for thief in THIEVES:
            lines += [
                {"victim": " ".join(key), "thief": thief, "share": duty, "slowdown": slowed}
                for duty, slowed in slowdowns(seen, thief)
            ]
    return frame(lines, ["victim", "thief", "share", "slowdown"])


def elasticity_table(findings: Sequence[Finding]) -> pd.DataFrame:
    """Every elasticity of every finding with its interval."""
    lines = [
        {
            "figure": f"{one.experiment} {one.backend} {one.arm}".strip(),
            "kind": figure.name,
            "value": figure.value,
            "low": figure.low,
            "high": figure.high,
            "verdict": one.verdict,
        }
        for one in findings
        for figure in one.figures
        if figure.name.startswith(ELASTICITY) and np.isfinite(figure.value)
    ]
    return frame(lines, ["figure", "kind", "value", "low", "high", "verdict"])


def region_table(cells: Sequence[RegionCell]) -> pd.DataFrame:
    """The map, a line for each cell."""
    lines = [
        {
            "backend": cell.backend,
            "model": cell.point.model,
            "format": cell.point.format,
            "batch": cell.point.batch,
            "context": cell.point.context,
            "bound": cell.bound,
            "how": cell.how,
        }
        for cell in cells
    ]
    return frame(lines, ["backend", "model", "format", "batch", "context", "bound", "how"])


def _curves(observations: Iterable[Observation], experiment: int) -> dict[tuple[str, str], list[Observation]]:
    groups: dict[tuple[str, str], list[Observation]] = {}
    for one in observations:
        if one.experiment == experiment:
            groups.setdefault((one.backend, one.arm), []).append(one)
    found = {key: counted(seen) for key, seen in groups.items()}
    return {key: seen for key, seen in found.items() if seen}


def _panels(seen: Sequence[Observation], factor: str) -> list[Panel]:
    """The panel of a curve; none if its observations lack the factor, which the finding then says."""
    try:
        return [panel_of(seen, lambda one: one.number(factor))]
    except ObservationError:
        return []


def _curve(name: str, factor: str, panel: Panel) -> pd.DataFrame:
    return pd.DataFrame(
        {
            "curve": encodable(name),
            factor: panel.doses,
            "time_ms": 1e3 * panel.mean_s,
            "low_ms": 1e3 * np.exp(np.nanmin(panel.ln_time, axis=0)),
            "high_ms": 1e3 * np.exp(np.nanmax(panel.ln_time, axis=0)),
            "memory_ms": 1e3 * panel.memory_s,
            "compute_ms": 1e3 * panel.compute_s,
        }
    )
