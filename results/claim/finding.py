"""What an experiment found on one backend: a verdict, its figures with intervals, one plain sentence.

>>> finding.verdict, finding.figures[0].value, finding.sentence
('supported', 0.98, 'Time follows bytes: …')
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from membound.results.claim.experiments import Experiment
from membound.results.claim.inference import Estimate
from membound.results.claim.observation import Observation
from membound.results.stats import plain

SUPPORTED = "supported"
REFUTED = "refuted"
INCONCLUSIVE = "inconclusive"
BROKEN = "instrument broken"
NOT_RUN = "not run"
VERDICTS = {
    SUPPORTED: "the hypothesis could have failed here and did not",
    REFUTED: "the rule that was written down beforehand says that the hypothesis is wrong here",
    INCONCLUSIVE: "the data decide neither way; the sentence says what is missing",
    BROKEN: "the control failed: nothing that this backend shows about memory counts",
    NOT_RUN: "nothing was measured; the sentence says why",
}
"""Verdicts and what they mean."""


@dataclass(frozen=True, slots=True)
class Figure:
    """One number of a finding; low and high are its 95 % interval over processes, None without one."""

    name: str
    value: float
    low: float | None = None
    high: float | None = None
    unit: str = ""
    """Empty for ratios and elasticities; "%" for shares, which are stored as 0–1; else the unit."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One verdict on one backend."""

    experiment: int
    name: str
    backend: str
    arm: str
    """The operation, format or work, if the experiment judges each separately; empty otherwise."""
    verdict: str
    sentence: str
    figures: tuple[Figure, ...] = ()
    processes: int = 0
    disturbed: int = 0
    """The number of observations behind the verdict that were not graded clean."""
    observations: int = 0

    def figure(self, name: str) -> Figure:
        """The figure of that name. Raises KeyError."""
        for one in self.figures:
            if one.name == name:
                return one
        raise KeyError(name)

    def to_dict(self) -> dict[str, Any]:
        """As values for JSON: NaN and infinity become None."""
        found: dict[str, Any] = plain(asdict(self))
        return found


Rule = Callable[[Experiment, Sequence[Observation]], "Ruling"]
"""From the counted observations of one backend (and arm) to a ruling; raises `TooLittle`."""


@dataclass(frozen=True, slots=True)
class Ruling:
    """What a rule says."""

    verdict: str
    sentence: str
    figures: tuple[Figure, ...] = ()


class TooLittle(ValueError):
    """The observations cannot decide: processes, doses or ceilings are missing; the message says which."""


def estimated(name: str, estimate: Estimate, unit: str = "") -> Figure:
    """A figure from an estimate."""
    return Figure(name, estimate.value, estimate.low, estimate.high, unit)


def require(experiment: Experiment, processes: int, doses: int, which: str = "were measured") -> None:
    """Raises TooLittle if there are fewer processes or doses than the experiment asks for. `which` says what counts of these."""
    if processes < experiment.processes:
        raise TooLittle(f"{processes} of {experiment.processes} processes measured every dose")
    if doses < experiment.doses:
        raise TooLittle(f"{doses} of {experiment.doses} doses {which}")


def span(estimate: Estimate) -> str:
    """``0.98 (0.95 to 1.01)``."""
    return f"{estimate.value:.2f} ({estimate.low:.2f} to {estimate.high:.2f})"


def percent(estimate: Estimate) -> str:
    """``4 % (1 % to 7 %)``."""
    return f"{estimate.value:.0%} ({estimate.low:.0%} to {estimate.high:.0%})"
