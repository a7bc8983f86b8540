"""What a soak found: shares that drifted, what the harness holds more and more of, rows that are missing.

>>> found = findings(passes)
>>> [one.text for one in found]
['open descriptors grew from 14 to 33 in 20 passes']

A leak is growth that order alone does not explain: Kendall's test of the readings against the number of their pass, one-sided,
with Bonferroni's correction over what is read, and by more than is held back at times (`LEAST`). The first pass is left out: it
fills caches. A share drifts where its passes before and after differ (`change_points`), corrected over all cases. Passes in which
every process of a case was disturbed say nothing of its share: what others run comes and goes by hours, not by chance.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import comb
from statistics import median

from membound.results.change_points import FEWEST_RUNS, change_points
from membound.results.soak.reading import Pass
from membound.results.wording import amount, short

WARM = 1
"""Passes that fill caches."""
FEWEST = 6
"""Readings after them: of fewer, even growth from each to the next could be chance."""
SIGNIFICANT = 0.01
LEAST: Mapping[str, int] = {
    "resident_bytes": 4 << 20,
    "descriptors": 1,
    "threads": 1,
    "temporary_files": 1,
    "cache_files": 1,
}
"""Growth from the first third of the readings to the last that counts. Allocators keep megabytes."""
NAMES: Mapping[str, str] = {
    "resident_bytes": "memory of the harness",
    "descriptors": "open descriptors",
    "threads": "threads of the harness",
    "processes": "processes left",
    "temporary_files": "temporary files",
    "cache_files": "files in the cache",
}
DRIFT = 0.05
"""The chance of a false finding among all shares."""


@dataclass(frozen=True, slots=True)
class Finding:
    """Something that a soak must not show. kind: ``leak``, ``drift``, ``lost`` or ``failed``; `what`: the reading, or the case."""

    kind: str
    what: str
    text: str


def findings(passes: Sequence[Pass]) -> list[Finding]:
    """All of them, rows first."""
    return [*_rows(passes), *_left(passes), *_leaks(passes), *_drifts(passes)]


def untold(passes: Sequence[Pass]) -> list[str]:
    """What so few passes cannot tell, a sentence each."""
    sentences = []
    if len(passes) < WARM + FEWEST:
        sentences.append(f"{len(passes)} passes cannot tell a leak from chance: {WARM + FEWEST} or more can.")
    known, series = {case for one in passes for case in one.shares}, _series(passes)
    for backend, work in sorted(known):
        count = sum((backend, work) in one.disturbed for one in passes)
        if count:
            sentences.append(
                f"{backend}, {short(work)}: {count} of {len(passes)} passes were disturbed and do not count for its drift."
            )
    needed = passes_for_drift(len(series))
    if any(len(series.get(case, ())) < needed for case in known):
        sentences.append(f"A drift of these shares takes {needed} passes or more that count to be seen.")
    return sentences


def passes_for_drift(cases: int) -> int:
    """The fewest passes of which two halves can differ by more than chance, corrected over `cases` of them."""
    count = FEWEST_RUNS
    while 2 / comb(count, count // 2) > DRIFT / max(1, cases):
        count += 1
    return count


def _rows(passes: Sequence[Pass]) -> list[Finding]:
    lost = sum(one.expected - one.stored for one in passes)
    twice, failed = sum(one.twice for one in passes), sum(one.failed for one in passes)
    expected = sum(one.expected for one in passes)
    found = []
    if lost:
        found.append(Finding("lost", "rows", f"{lost} of {expected} rows are missing"))
    if twice:
        found.append(Finding("lost", "rows", f"{twice} rows were stored twice"))
    if failed:
        found.append(Finding("failed", "rows", f"{failed} of {expected} cases failed"))
    return found


def _left(passes: Sequence[Pass]) -> list[Finding]:
    """A process that outlives its pass needs no statistics."""
    most = max((one.reading.processes for one in passes), default=0)
    if not most:
        return []
    count = sum(bool(one.reading.processes) for one in passes)
    return [
        Finding(
            "leak", "processes", f"up to {most} processes were left after {count} of {len(passes)} passes"
        )
    ]


def _leaks(passes: Sequence[Pass]) -> list[Finding]:
    found = []
    for name, least in LEAST.items():
        values = [getattr(one.reading, name) for one in passes[WARM:]]
        if not grows(values, least):
            continue
        first, last = (
            amount(value, "B") if name.endswith("_bytes") else f"{value:g}" for value in ends(values)
        )
        found.append(
            Finding("leak", name, f"{NAMES[name]} grew from {first} to {last} in {len(values)} passes")
        )
    return found


def grows(values: Sequence[float], least: float) -> bool:
    """Whether a series grows by `least` or more, and by more than a random order of it would."""
    if len(values) < FEWEST or all(a == b for a, b in pairwise(values)):
        return False
    from scipy import stats  # takes a second to import

    first, last = ends(values)
    p = stats.kendalltau(range(len(values)), values, alternative="greater").pvalue
    return bool(p <= SIGNIFICANT / len(LEAST) and last - first >= least)


def ends(values: Sequence[float]) -> tuple[float, float]:
    """Medians of the first and the last third."""
    third = max(1, len(values) // 3)
    return median(values[:third]), median(values[-third:])


def _drifts(passes: Sequence[Pass]) -> list[Finding]:
    series = _series(passes)
    return [
        Finding(
            "drift",
            f"{backend} {work}",
            f"{backend}, {short(work)}: from pass {shares[change.at][0]} on its share is {change.ratio:.2f} times what it was",
        )
        for (backend, work), shares in series.items()
        for change in change_points([share for _, share in shares], DRIFT / len(series))
    ]


def _series(passes: Sequence[Pass]) -> dict[tuple[str, str], list[tuple[int, float]]]:
    """The shares of each case that count, in order, with the numbers of their passes from 1 on."""
    series: dict[tuple[str, str], list[tuple[int, float]]] = {}
    for number, one in enumerate(passes, 1):
        for case, share in one.shares.items():
            if share > 0 and case not in one.disturbed:
                series.setdefault(case, []).append((number, share))
    return series
