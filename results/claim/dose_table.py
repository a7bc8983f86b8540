"""Observations of one arm as a table of processes by doses, the form that the statistics need.

>>> panel = panel_of(observations, lambda seen: seen.number("k"))
>>> panel.doses, panel.ln_time.shape
(array([0., 1., 2., 4.]), (5, 4))
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from membound.results.claim.finding import TooLittle
from membound.results.claim.inference import Floats
from membound.results.claim.observation import Observation
from membound.results.shares import middle

Chosen = npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Panel:
    """Times by process and dose, with doses ascending. A dose moves and computes the same in all processes."""

    processes: tuple[int, ...]
    doses: Floats
    """[dose]"""
    ln_time: Floats
    """[process, dose], ln of seconds; NaN where a process lacks a dose."""
    moved_bytes: Floats
    """[dose]"""
    flops: Floats
    """[dose]"""
    memory_s: Floats
    """[dose], bytes over the read ceiling; NaN without a ceiling."""
    compute_s: Floats
    """[dose], FLOPs over the compute ceiling; NaN without a ceiling."""

    @property
    def mean_s(self) -> Floats:
        """Geometric mean over processes, [dose]."""
        mean: Floats = np.exp(np.nanmean(self.ln_time, axis=0))
        return mean

    @property
    def ln_flops(self) -> Floats:
        """[dose]. Raises TooLittle where a dose computes nothing."""
        self._computing()
        logs: Floats = np.log(self.flops)
        return logs

    @property
    def ln_compute_s(self) -> Floats:
        """[dose], ln of `compute_s`. Raises TooLittle where a dose computes nothing."""
        self._computing()
        logs: Floats = np.log(self.compute_s)
        return logs

    def _computing(self) -> None:
        if not self.flops.all():
            raise TooLittle("an observation computed nothing")

    def complete(self, least: int = 0) -> Panel:
        """Only the processes that have every dose or, if they are fewer than `least`, only the doses that all have."""
        measured = ~np.isnan(self.ln_time)
        whole = np.asarray(measured.all(axis=1))
        if whole.sum() < min(least, len(self.processes)):
            return self.at(np.asarray(measured.all(axis=0)))
        return self._of(whole)

    def _of(self, whole: Chosen) -> Panel:
        kept = tuple(self.processes[row] for row in np.flatnonzero(whole))
        return Panel(
            kept,
            self.doses,
            self.ln_time[whole],
            self.moved_bytes,
            self.flops,
            self.memory_s,
            self.compute_s,
        )

    def at(self, keep: Chosen) -> Panel:
        """Only the doses that are chosen, [dose]."""
        return Panel(
            self.processes,
            self.doses[keep],
            self.ln_time[:, keep],
            self.moved_bytes[keep],
            self.flops[keep],
            self.memory_s[keep],
            self.compute_s[keep],
        )


def counted(observations: Iterable[Observation]) -> list[Observation]:
    """The observations that count: those with a time, without invalid ones if the same dose has others.

    There are none if any gave a wrong answer: a backend that is sometimes wrong has no time.
    """
    seen = list(observations)
    if any(o.status == "wrong" for o in seen):
        return []
    timed = [o for o in seen if o.status == "ok"]
    sound = {_dose(o) for o in timed if o.validity != "invalid"}
    return [o for o in timed if o.validity != "invalid" or _dose(o) not in sound]


def panel_of(observations: Sequence[Observation], dose: Callable[[Observation], float]) -> Panel:
    """The table of these observations; if a process measured a dose twice, the mean of ln t counts."""
    processes = sorted({o.replicate for o in observations})
    doses = sorted({dose(o) for o in observations})
    cells: dict[tuple[int, float], list[Observation]] = {}
    for one in observations:
        cells.setdefault((one.replicate, dose(one)), []).append(one)
    ln_time = np.full((len(processes), len(doses)), np.nan)
    for (process, at), same in cells.items():
        ln_time[processes.index(process), doses.index(at)] = np.mean([np.log(o.seconds) for o in same])
    first = {at: next(o for o in observations if dose(o) == at) for at in doses}
    limits = {at: _limits([o for o in observations if dose(o) == at]) for at in doses}
    moved = np.array([first[at].bytes for at in doses], np.float64)
    flops = np.array([first[at].flops for at in doses], np.float64)
    return Panel(
        tuple(processes),
        np.array(doses, np.float64),
        ln_time,
        moved,
        flops,
        moved / np.array([limits[at][0] for at in doses]),
        flops / np.array([limits[at][1] for at in doses]),
    )


def _limits(observations: list[Observation]) -> tuple[float, float]:
    """Read and compute ceilings, NaN where none was measured; medians, as each is of the moments of its time."""
    read = middle(one.read_bytes_per_s for one in observations)
    peak = middle(one.compute_flops_per_s for one in observations)
    return read or np.nan, peak or np.nan


def _dose(one: Observation) -> tuple[object, ...]:
    """The factors that were set. Rates are measured with them and differ in every process."""
    setting = sorted((name, str(value)) for name, value in one.factors.items() if not name.endswith("_per_s"))
    return (one.experiment, one.backend, one.arm, one.work, tuple(setting))
