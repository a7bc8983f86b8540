"""The rule of the gate: which cases of the head are slower than those of the base, and of which it cannot tell.

>>> suspected = suspects(first, noise, rule)                    # the first stage
>>> judged = judge(first, fresh, noise, rule)                   # `fresh`: pairs of new processes of the suspected
>>> exit_status(judged)
1

A case has regressed if two independent samples of fresh processes say that it is slower by more than the effect: the first
with Holm's correction over all cases, the second alone. What can be counted (`counts`) needs no second sample.
The rule and the figures behind it: docs/ci.md.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import exp, log1p
from pathlib import Path

from membound.results.counts import Change, changes
from membound.results.noise import Noise, noise_of
from membound.results.paired_test import CONFIRM_ALPHA, holm, p_slower, trimmed
from membound.results.pairs import BASE, HEAD, Case, Pairs

PAIRS = 12
"""Pairs of fresh processes in each stage."""
FEWEST_PAIRS = 6
"""With fewer that count, a case cannot be judged."""
EFFECT = 0.03
"""The least slowdown that is asked about; a case whose pairs are known to lie further apart is asked about that spread."""
UNSEEN = 0.25
"""Where a slowdown of this size cannot be excluded, a case is not called fine."""
BOUND_CHANCE = 0.95
STATUSES = ("regressed", "cannot tell", "fine", "faster", "left out")
ABSENT = ("unsupported", "unavailable")


@dataclass(frozen=True, slots=True)
class Rule:
    """What is asked: the least effect, what must not go unseen, both as shares (0.03: 3 %), and pairs a stage."""

    effect: float = EFFECT
    unseen: float = UNSEEN
    pairs: int = PAIRS


@dataclass(frozen=True, slots=True)
class Measured:
    """The pairs of a stage: how many count, the ratio head / base with its 95 % interval, p against the effect."""

    pairs: int
    ratio: float
    ci: tuple[float, float]
    p: float


@dataclass(frozen=True, slots=True)
class Judged:
    """A case with its status, of STATUSES, and why. Times are seconds a launch, effects shares."""

    case: Case
    status: str
    reason: str
    base_s: float | None
    head_s: float | None
    aside: int
    """Pairs that a disturbed process made useless."""
    effect: float | None
    """What it was tested against."""
    detectable: float | None
    """The smallest slowdown that would be found 19 times of 20."""
    learnt: bool
    """Whether that is known from `membound noise`; else it is from these pairs."""
    first: Measured | None
    confirmation: Measured | None
    changes: tuple[Change, ...] = ()


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a gate came to. `rows` are the files that it rests on."""

    base: str
    head: str
    rule: Rule
    judged: tuple[Judged, ...]
    rows: tuple[Path, ...]
    notes: tuple[str, ...] = ()

    @property
    def exit_status(self) -> int:
        """As `exit_status` says of the cases."""
        return exit_status(self.judged)


def suspects(first: Mapping[Case, Pairs], noise: Mapping[Case, Noise], rule: Rule) -> list[Case]:
    """The cases to measure again: slower than the effect, Holm's correction applied, or failing at the head alone."""
    tested = [case for case, pairs in first.items() if _can_be_tested(pairs)]
    chances = [_chance(first[case], noise.get(case), rule) for case in tested]
    slower = [case for case, fell in zip(tested, holm(chances), strict=True) if fell]
    return slower + [case for case, pairs in first.items() if _broke(pairs)]


def judge(
    first: Mapping[Case, Pairs], fresh: Mapping[Case, Pairs], noise: Mapping[Case, Noise], rule: Rule
) -> list[Judged]:
    """Every case with its status. `fresh` has the pairs that were measured for `suspects`."""
    suspected = set(suspects(first, noise, rule))
    tested = [case for case, pairs in first.items() if _can_be_tested(pairs)]
    chances = [_chance(first[case], noise.get(case), rule, sign=-1) for case in tested]
    faster = {case for case, fell in zip(tested, holm(chances), strict=True) if fell}
    found = []
    for case, pairs in first.items():
        known = noise.get(case)
        again = fresh.get(case)
        if not _can_be_tested(pairs):
            status, reason = _untested(pairs, again)
        elif case in suspected:
            status, reason = _confirmed(again, known, rule)
        else:
            status, reason = _unsuspected(pairs, rule)
        if case in faster:
            status, reason = "faster", ""
        found.append(_judged(pairs, again, known, rule, len(tested), status, reason))
    return found


def exit_status(judged: Sequence[Judged]) -> int:
    """1 if a case regressed; 2 if of one it cannot be told, or none was judged; else 0."""
    found = {one.status for one in judged}
    if "regressed" in found:
        return 1
    return 0 if found & {"fine", "faster"} and "cannot tell" not in found else 2


def _can_be_tested(pairs: Pairs) -> bool:
    return len(pairs.log_ratios) >= FEWEST_PAIRS and not pairs.failure(BASE) and not pairs.failure(HEAD)


def _broke(pairs: Pairs) -> bool:
    """Whether the head fails where the base does not."""
    return bool(pairs.rows[BASE]) and not pairs.failure(BASE) and bool(pairs.failure(HEAD))


def _noise(pairs: Pairs, known: Noise | None) -> Noise:
    """What was learnt of a case, or what its own pairs say."""
    return known or noise_of(pairs.log_ratios)


def _chance(pairs: Pairs, known: Noise | None, rule: Rule, sign: int = 1) -> float:
    """Of pairs like these if the head is slower (`sign` 1) or faster (-1) by just the effect."""
    effect = _noise(pairs, known).effect(rule.effect)
    return p_slower([sign * value for value in pairs.log_ratios], effect)


def _untested(pairs: Pairs, again: Pairs | None) -> tuple[str, str]:
    base, head = pairs.failure(BASE), pairs.failure(HEAD)
    absent = [row for side in pairs.rows.values() for row in side if row.status in ABSENT]
    if absent and len(absent) == sum(map(len, pairs.rows.values())) and base and head:
        return "left out", absent[0].reason or absent[0].status
    for side in (BASE, HEAD):
        if not pairs.rows[side]:
            return "cannot tell", f"the {side} has no such case"
    if _broke(pairs):
        failed = again.failure(HEAD) if again is not None else ""
        if failed and again is not None and not again.failure(BASE):
            return "regressed", f"the head fails, and again in fresh processes: {failed}"
        return "cannot tell", f"the head failed ({head}), and fresh processes did not say the same"
    if base:
        return "cannot tell", f"the base fails: {base}" + (f"; the head too: {head}" if head else "")
    few = f"only {len(pairs.log_ratios)} pairs count"
    return "cannot tell", few + (
        f"; {pairs.aside} had a disturbed process" if pairs.aside else f", {FEWEST_PAIRS} are needed"
    )


def _confirmed(again: Pairs | None, known: Noise | None, rule: Rule) -> tuple[str, str]:
    """Of a suspected case."""
    if again is None or not _can_be_tested(again):
        count = 0 if again is None else len(again.log_ratios)
        return "cannot tell", f"slower at first, and only {count} fresh pairs could be had to confirm it"
    if _chance(again, known, rule) <= CONFIRM_ALPHA:
        return "regressed", "slower, and again in fresh processes"
    mean = trimmed(again.log_ratios).mean
    if mean <= log1p(_noise(again, known).effect(rule.effect)):
        return "fine", f"slower at first, but by {exp(mean) - 1:+.1%} in fresh processes"
    return (
        "cannot tell",
        f"slower at first, and by {exp(mean) - 1:+.1%} in fresh processes, which may be chance",
    )


def _unsuspected(pairs: Pairs, rule: Rule) -> tuple[str, str]:
    bound = exp(trimmed(pairs.log_ratios).bound(BOUND_CHANCE)) - 1
    if bound > rule.unseen:
        return "cannot tell", f"pairs lie too far apart: it may be slower by up to {bound:.0%}"
    return "fine", ""


def _judged(
    pairs: Pairs, again: Pairs | None, known: Noise | None, rule: Rule, tested: int, status: str, reason: str
) -> Judged:
    first = _measured(pairs, known, rule)
    noise = _noise(pairs, known) if first is not None else known
    found = tuple(changes(pairs))
    grown = [change for change in found if change.worse]
    if grown and status in ("fine", "faster", "cannot tell"):
        status = "regressed"
        reason = "; ".join(f"{one.name}: {one.base:,} at the base, {one.head:,} at the head" for one in grown)
    return Judged(
        case=pairs.case,
        status=status,
        reason=reason,
        base_s=pairs.time_s(BASE),
        head_s=pairs.time_s(HEAD),
        aside=pairs.aside,
        effect=None if noise is None else noise.effect(rule.effect),
        detectable=None if noise is None else noise.detectable(rule.pairs, max(1, tested), rule.effect),
        learnt=known is not None,
        first=first,
        confirmation=None if again is None else _measured(again, known, rule),
        changes=found,
    )


def _measured(pairs: Pairs, known: Noise | None, rule: Rule) -> Measured | None:
    if len(pairs.log_ratios) < FEWEST_PAIRS:
        return None
    found = trimmed(pairs.log_ratios)
    low, high = (exp(found.bound(chance)) for chance in (0.025, 0.975))
    return Measured(len(pairs.log_ratios), exp(found.mean), (low, high), _chance(pairs, known, rule))
