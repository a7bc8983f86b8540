"""Ratios of times: of turns of the same round where two cases took turns, else of their processes.

>>> ratio_of(rows_of_a, rows_of_b)
Ratio(value=1.24, ci=(1.21, 1.27), paired=True, processes=3)

What the machine does in a round hits both, so it cancels; what is left differs from process to process, which is what
the interval is over.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Protocol

from membound.results.intervals import interval, ratio_interval
from membound.results.spreads import Spread
from membound.results.turns import FEWEST_CLEAN


class Played(Protocol):
    """A turn: of a row, or what `turns.Rounds` keeps of one."""

    @property
    def round(self) -> int:
        """Turns of one round followed each other directly."""
        ...

    @property
    def time_s(self) -> float:
        """Seconds a launch."""
        ...

    @property
    def clean(self) -> bool:
        """Known to be undisturbed."""
        ...


class Timed(Protocol):
    """A measured process: a row, or what `processes.py` keeps of one."""

    @property
    def run_id(self) -> str:
        """Its run."""
        ...

    @property
    def replicate(self) -> int:
        """Its number among the processes of its case."""
        ...

    @property
    def work(self) -> str:
        """Its work."""
        ...

    @property
    def turns(self) -> Collection[Played]:
        """Its turns; none where it took none."""
        ...

    @property
    def times_s(self) -> Sequence[float]:
        """Its times, or their median alone."""
        ...


@dataclass(frozen=True, slots=True)
class Ratio:
    """Time of B over time of A; `paired` if both took turns, `processes` that both have."""

    value: float
    ci: tuple[float, float] | None
    paired: bool
    processes: int


def ratio_of(a: Sequence[Timed], b: Sequence[Timed], common: Spread | None = None) -> Ratio:
    """B's time over A's, all rows measured. Below 1, B is faster.

    `common` is how far the ratios of processes lie apart in other cases; it counts where both took turns.
    """
    return ratio_from(round_ratios(a, b), a, b, common)


def ratio_from(
    rounds: Sequence[float], a: Sequence[Timed], b: Sequence[Timed], common: Spread | None = None
) -> Ratio:
    """The same where `round_ratios` of both is known."""
    if rounds:
        return Ratio(median(rounds), interval(rounds, common), True, len(rounds))
    left, right = process_medians(a), process_medians(b)
    value = median(right) / median(left)
    return Ratio(value, ratio_interval(right, left), False, min(len(left), len(right)))


def round_ratios(a: Sequence[Timed], b: Sequence[Timed]) -> list[float]:
    """For each replicate of one run in which both took turns: the median over rounds of B's time over A's."""
    partners: dict[tuple[str, int, str], list[Timed]] = {}
    for right in b:
        if right.turns:
            partners.setdefault((right.run_id, right.replicate, right.work), []).append(right)
    if not partners:
        return []
    pairs = (
        (left, right) for left in a for right in partners.get((left.run_id, left.replicate, left.work), ())
    )
    return [median(rounds) for left, right in pairs if (rounds := _rounds(left.turns, right.turns))]


def _rounds(a: Collection[Played], b: Collection[Played]) -> list[float]:
    """Ratios of the rounds that were undisturbed on both sides; of all, where those are too few."""
    left = {turn.round: turn for turn in a}
    pairs = [(left[turn.round], turn) for turn in b if turn.round in left]
    clean = [(x, y) for x, y in pairs if x.clean and y.clean]
    return [y.time_s / x.time_s for x, y in (clean if len(clean) >= FEWEST_CLEAN else pairs)]


def process_medians(rows: Sequence[Timed]) -> list[float]:
    """The median time of each process, seconds a launch; rows without times are left out."""
    known = (row.times_s for row in rows)
    return [float(times[0]) if len(times) == 1 else float(median(times)) for times in known if times]
