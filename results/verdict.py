"""What limits a case: memory, compute, overhead or the cache. All thresholds of the verdicts are here.

A launch cannot end before its bytes have moved and its FLOPs are done, so with measured ceilings

    t ≥ max(bytes / BW, FLOPs / F) + t0

where t0 is the measured launch overhead of that backend. A verdict names the term that explains the
time; it is `inconclusive` if there is not enough evidence.

>>> judge(Evidence(time_s=1.0, memory_s=0.9, compute_s=0.1)).name
'memory'
"""

from __future__ import annotations

from dataclasses import dataclass

NEAR_CEILING = 0.70
"""A ceiling limits a case that reaches at least this share of it. This is our choice and not from a paper:
below it more than 30 % of the time is neither bytes nor FLOPs, and a better kernel would gain more than
faster memory."""
LAUNCH_DOMINATES = 0.50
"""If launching alone takes this share of the time, the verdict is overhead whatever else holds."""
CACHE_FITS = 1.0
"""A working set of up to this many last-level caches may live in the cache from launch to launch."""
ROTATION = 4.0
"""Input sets of this many last-level caches defeat the cache; with fewer, part of the bytes may come from it."""
CEILING_SLACK = 0.05
"""A case this far above a ceiling says that the ceiling is wrong, or that not all bytes came from memory. No ceiling is known
better than that, nor is a share: an interval that reaches over the line by less still lies on one side of it."""

VERDICTS = ("memory", "compute", "overhead", "cache", "inconclusive")


@dataclass(frozen=True, slots=True)
class Evidence:
    """What a verdict is based on. Times are seconds per launch; None means "not measured".

    memory_s is bytes / read ceiling, compute_s is FLOPs / compute ceiling, launch_s the launch overhead;
    memory_most_s is bytes / the lowest measurement of the read ceiling, if there are several.
    """

    time_s: float
    time_ci_s: tuple[float, float] | None = None
    memory_s: float | None = None
    memory_most_s: float | None = None
    compute_s: float | None = None
    launch_s: float | None = None
    working_set_bytes: int = 0
    cache_bytes: int = 0
    valid: bool = True
    memory_name: str = "memory"
    """Where the bytes come from: ``memory``, or the name of a link's ceiling."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """One of VERDICTS and, in a few words, why."""

    name: str
    why: str


def judge(case: Evidence) -> Verdict:
    """The verdict on one case; the first rule that applies wins.

    1. `inconclusive`: all replicates were disturbed, or no ceiling was measured and the working set does not fit
       the last-level cache (if it does: `cache`).
    2. `overhead`: launching alone takes LAUNCH_DOMINATES of the time.
    3. `compute`: FLOPs are the longer term and near their ceiling (wherever the bytes live).
    4. `cache`: the working set fits the last-level cache, or the case beats the memory ceiling with a
       working set that the rotation does not push out.
    5. `inconclusive`: above a ceiling by more than CEILING_SLACK.
    6. `memory`: bytes are the longer term and near their ceiling, at the far end of the interval too but for CEILING_SLACK.
    7. `overhead`: both ceilings are known and neither is near, at the near end of the interval too but for
       CEILING_SLACK, nor at the lowest measurement of the memory ceiling; else `inconclusive`.
    """
    if not case.valid:
        return Verdict("inconclusive", "every replicate was disturbed")
    if case.memory_s is None and case.compute_s is None:
        return _cached(case, above=False) or Verdict("inconclusive", "no ceiling was measured")
    if case.launch_s is not None and case.launch_s >= LAUNCH_DOMINATES * case.time_s:
        return Verdict("overhead", f"launching takes {case.launch_s / case.time_s:.0%} of the time")
    memory_s, compute_s = case.memory_s or 0.0, case.compute_s or 0.0
    term, bound_s = ("compute", compute_s) if compute_s > memory_s else ("memory", memory_s)
    share = bound_s / case.time_s
    if not (term == "compute" and share >= NEAR_CEILING):
        cached = _cached(case, above=term == "memory" and share > 1 + CEILING_SLACK)
        if cached:
            return cached
    if share > 1 + CEILING_SLACK:
        name = _named(case, term)
        return Verdict("inconclusive", f"{share:.2f} times the {name} ceiling: measure the ceiling again")
    return _near(case, term, bound_s)


def _cached(case: Evidence, above: bool) -> Verdict | None:
    if not case.cache_bytes or not case.working_set_bytes:
        return None
    sets = case.working_set_bytes / case.cache_bytes
    if sets <= CACHE_FITS:
        return Verdict("cache", f"hot: the working set is {sets:.2g} × the last-level cache")
    if above and sets < ROTATION:
        return Verdict("cache", f"hot: above the memory ceiling with {sets:.2g} × the last-level cache")
    return None


def _near(case: Evidence, term: str, bound_s: float) -> Verdict:
    fast_s, slow_s = case.time_ci_s or (case.time_s, case.time_s)
    name = _named(case, term)
    share, high, low = bound_s / case.time_s, bound_s / fast_s, bound_s / slow_s
    if share >= NEAR_CEILING and low >= NEAR_CEILING - CEILING_SLACK:
        return Verdict(term, f"{share:.0%} of the {name} ceiling")
    if share >= NEAR_CEILING or high >= NEAR_CEILING + CEILING_SLACK:
        return Verdict("inconclusive", f"between {low:.0%} and {high:.0%} of the {name} ceiling")
    most = (case.memory_most_s or 0.0) / fast_s
    if most >= NEAR_CEILING:
        ends = f"{(case.memory_s or 0.0) / case.time_s:.0%} of its best and {most:.0%} of its lowest"
        return Verdict("inconclusive", f"the {case.memory_name} ceiling moved: {ends} measurement")
    if case.memory_s is None or case.compute_s is None:
        missing = "memory" if case.memory_s is None else "compute"
        return Verdict("inconclusive", f"far from the {name} ceiling, no {missing} ceiling was measured")
    return Verdict("overhead", f"{bound_s / case.time_s:.0%} of the {name} ceiling, the nearer one")


def _named(case: Evidence, term: str) -> str:
    """The reader's word for the ceiling of a term."""
    return case.memory_name if term == "memory" else term
