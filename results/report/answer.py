"""What a report decides, for each place: which backend is fastest, how near the limit, what bounds it, what to doubt.

>>> for answer in answers_of(shown, rows):
...     print(answer.place.label, answer.fastest, answer.near, answer.bound, *answer.doubts)
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from membound.results.intervals import FEWEST
from membound.results.report.cases import ABSENT, DISTURBED, Place, ShownCase, latest
from membound.results.row import Row
from membound.results.views.sentences import how_near, left_running, moved_bandwidth, who_is_fastest
from membound.results.views.table import disturbed_by, doubtful_verdicts, lost_ceilings

NO_SHARES = (
    "Nobody knows: no ceiling of this device was measured beside these times (membound run --ceilings)."
)


@dataclass(frozen=True, slots=True)
class Answer:
    """One place. `winners` are the fastest case of each work, in the order of the works."""

    place: Place
    fastest: str
    near: str
    bound: str
    doubts: tuple[str, ...]
    """What is not trustworthy; empty if nothing speaks against the figures."""
    winners: tuple[ShownCase, ...]
    runners_up: dict[str, ShownCase]
    """The next one by work, where there is one."""


def answers_of(shown: Sequence[ShownCase], rows: Sequence[Row]) -> list[Answer]:
    """An answer for each place that has a time."""
    recent = latest(shown)
    return [
        _answer(place, [one for one in recent if one.place == place], shown, rows)
        for place in dict.fromkeys(one.place for one in recent)
    ]


def fastest_of(shown: Sequence[ShownCase]) -> list[ShownCase]:
    """The fastest case of each work of each place, by rounds where they took turns."""
    best: dict[tuple[str, str], ShownCase] = {}
    for one in shown:
        key = (one.place.key, one.work)
        if one.time_s is not None and (key not in best or rank_of(one) < rank_of(best[key])):
            best[key] = one
    return list(best.values())


def rank_of(one: ShownCase) -> tuple[float, float]:
    """What cases of a work are ordered by, the fastest first: by rounds where they took turns, else by their times."""
    return float(one.line["ratio_to_fastest"] or 1.0), one.time_s or 0.0


def _answer(place: Place, here: list[ShownCase], shown: Sequence[ShownCase], rows: Sequence[Row]) -> Answer:
    winners = fastest_of(here)
    lines = [one.line for one in winners]
    near, bound = how_near(lines) if any(line["of_bound"] is not None for line in lines) else (NO_SHARES, "")
    following: dict[str, ShownCase] = {}
    for one in sorted(here, key=rank_of):
        if one not in winners:
            following.setdefault(one.work, one)
    runs = {one.line["run_id"] for one in here}
    return Answer(
        place=place,
        fastest=who_is_fastest(lines, [one.line for one in here]).removeprefix("Fastest: "),
        near=near,
        bound=bound or "Not told: no verdict was reached.",
        doubts=tuple(_doubts(place, here, shown, [row for row in rows if row.run_id in runs])),
        winners=tuple(winners),
        runners_up=following,
    )


def _doubts(
    place: Place, here: Sequence[ShownCase], shown: Sequence[ShownCase], rows: Sequence[Row]
) -> Iterator[str]:
    """The gravest first."""
    everything = [one for one in shown if one.place == place]
    failed = Counter(one.line["status"] for one in everything if one.line["status"] not in ("ok", *ABSENT))
    if failed:
        yield f"Failed: {', '.join(f'{n} {status}' for status, n in failed.most_common())}; the table of what has no time says why."
    yield from (f"A ceiling is missing: {text}." for text in lost_ceilings(rows))
    of = f"of {len(here)} cases"
    disturbed = [one for one in here if one.validity in DISTURBED]
    if disturbed:
        by = disturbed_by([one.line for one in disturbed])
        yield f"{len(disturbed)} {of} were disturbed, by {by}; they are marked."
    above = sum(bool(one.line["above_ceiling"]) for one in here)
    if above:
        yield f"{above} {of} are faster than the measured ceilings allow: a ceiling is too low, or the cache helped."
    few = sum(one.line["replicates"] < FEWEST for one in here)
    if few:
        yield f"{few} {of} have no interval, for which it takes {FEWEST} processes."
    open_ = doubtful_verdicts([one.line for one in here])
    if open_:
        yield f"Inconclusive: {open_}."
    unchecked = sum(one.line["error"] is None for one in here)
    if unchecked:
        yield f"The output of {unchecked} {of} was not checked against the reference."
    yield from filter(None, (tell([one.line for one in here]) for tell in (left_running, moved_bandwidth)))
    yield from _in_other_runs(here, everything)


def _in_other_runs(here: Sequence[ShownCase], everything: Sequence[ShownCase]) -> Iterator[str]:
    """Backends that are not in the comparison, as they were not in the last run of the work."""
    compared = {(one.backend, one.work) for one in here}
    left = sorted(
        {one.backend for one in everything if one.time_s and (one.backend, one.work) not in compared}
    )
    if left:
        yield f"Only in other runs than the last of that work, so not compared: {', '.join(left)}."
