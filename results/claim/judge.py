"""The judge: observations in, a finding for each experiment, backend and arm out.

>>> from membound.results.claim.experiments import load_experiments
>>> findings = judge_claim(claim.observations, load_experiments())
>>> [(f.experiment, f.backend, f.verdict) for f in findings]

A rule sees the observations of one backend that count, and raises TooLittle if they cannot decide. The residency
control comes first: a backend on which it fails has no other verdict.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

from membound.results.claim.dose_table import counted
from membound.results.claim.experiments import Experiment, Register
from membound.results.claim.finding import (
    BROKEN,
    INCONCLUSIVE,
    NOT_RUN,
    Finding,
    Rule,
    Ruling,
    TooLittle,
)
from membound.results.claim.observation import SKIPPED, Observation, ObservationError
from membound.results.claim.rules_context import context_dose
from membound.results.claim.rules_dose import (
    byte_dose,
    counterexamples,
    expert_dose,
    flop_dose,
    free_compute,
)
from membound.results.claim.rules_knee import batch_knee, residency
from membound.results.claim.rules_machine import clocks, overhead, pair, theft
from membound.results.claim.rules_queries import query_dose

RULES: dict[int, Rule] = {
    1: free_compute,
    2: byte_dose,
    3: flop_dose,
    4: theft,
    5: residency,
    6: batch_knee,
    7: overhead,
    8: clocks,
    9: pair,
    10: counterexamples,
    11: expert_dose,
    12: query_dose,
    13: context_dose,
}
BY_WORK = (4,)
"""Experiments whose arms are compared with each other, separately for each work."""
BY_BACKEND = (8, 9)
"""Experiments that take all arms and works of a backend together."""
CONTROL = 5
NEEDS_CONTROL = (1, 2, 3, 4, 6, 7, 10, 11, 12, 13)
"""Experiments that mean nothing on a backend whose control failed. 8 and 9 are based on the rows of other runs."""
MOST_INVALID = 0.25
"""If a larger share of the observations is invalid, nothing is decided."""


def judge_claim(
    observations: Iterable[Observation], register: Register, only: Sequence[int] = ()
) -> list[Finding]:
    """A finding for each experiment, backend and arm, in the order of the experiments.

    An experiment (of those in `only`, or of all) without any observation is "not run".
    """
    seen = list(observations)
    findings: list[Finding] = []
    for experiment in register:
        of = [one for one in seen if one.experiment == experiment.id]
        if not of and (not only or experiment.id in only):
            findings.append(
                _finding(experiment, "", "", Ruling(NOT_RUN, "Not run: nothing was measured."), [])
            )
        for (backend, arm), group in _groups(experiment.id, of).items():
            findings.append(judge_group(experiment, backend, arm, group))
    return [_controlled(one, findings) for one in findings]


def judge_group(
    experiment: Experiment, backend: str, arm: str, observations: Sequence[Observation]
) -> Finding:
    """The finding of one group of observations: those of a backend or, where they are judged separately, of one arm or work."""
    used = counted(observations)
    if not used:
        return _finding(experiment, backend, arm, _nothing(observations), [])
    invalid = sum(one.validity == "invalid" for one in used)
    try:
        ruling = RULES[experiment.id](experiment, used)
    except (TooLittle, ObservationError) as error:
        ruling = _undecided(experiment, observations, error)
    if invalid > MOST_INVALID * len(used) and ruling.verdict != NOT_RUN:
        why = f"Not decided: {invalid} of {len(used)} observations were disturbed too much to count. "
        ruling = Ruling(INCONCLUSIVE, why + ruling.sentence, ruling.figures)
    return _finding(experiment, backend, arm, ruling, used)


def _groups(number: int, seen: list[Observation]) -> dict[tuple[str, str], list[Observation]]:
    groups: dict[tuple[str, str], list[Observation]] = {}
    for one in seen:
        arm = one.work if number in BY_WORK else "" if number in BY_BACKEND else one.arm
        groups.setdefault((one.backend, arm), []).append(one)
    return groups


def _undecided(experiment: Experiment, observations: Sequence[Observation], error: Exception) -> Ruling:
    """What is missing, and whether time ran out before it could be measured."""
    passive = experiment.id == 8  # it sets no clocks, so clocks that do not move are no failed attempt
    reasons = {one.reason for one in observations if one.status == SKIPPED}
    why = "; ".join((str(error), *sorted(reasons)))
    return Ruling(NOT_RUN, f"Not run: {why}.") if passive else Ruling(INCONCLUSIVE, f"Not decided: {why}.")


def _nothing(observations: Sequence[Observation]) -> Ruling:
    """Why no observation of a group counts: wrong answers if there are any, else the first failure."""
    wrong = (one for one in observations if one.status == "wrong")
    tried = (one for one in observations if one.status != SKIPPED)
    worst = next(wrong, next(tried, observations[0]))
    reason = worst.reason or "no reason was given"
    status = "" if worst.status == SKIPPED else f"{worst.status}: "
    return Ruling(NOT_RUN, f"Not run: {status}{reason}.")


def _finding(
    experiment: Experiment, backend: str, arm: str, ruling: Ruling, used: Sequence[Observation]
) -> Finding:
    return Finding(
        experiment.id,
        experiment.name,
        backend,
        arm,
        ruling.verdict,
        ruling.sentence,
        ruling.figures,
        len({one.replicate for one in used}),
        sum(one.validity != "clean" for one in used),
        len(used),
    )


def _controlled(finding: Finding, findings: Iterable[Finding]) -> Finding:
    """The finding itself, or "instrument broken" if all controls of its backend failed."""
    controls = [
        f.verdict for f in findings if f.experiment == CONTROL and f.backend == finding.backend and f.figures
    ]
    broken = bool(controls) and all(verdict == BROKEN for verdict in controls)
    if not broken or finding.experiment not in NEEDS_CONTROL or finding.verdict == NOT_RUN:
        return finding
    why = f"It does not count, as the residency control failed. It would have been: {finding.verdict}. "
    return replace(finding, verdict=BROKEN, sentence=why + finding.sentence)
