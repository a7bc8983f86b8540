"""Which cases a chart has room for, and what its caption says of the others.

>>> kept, left_out = with_room(shown)          # of one place
>>> left_out
' Left out: 38 backends that are the fastest less often (gamma:cpu, delta:cpu, …); 2,000 slower cases. The table of all …'

A chart of ten thousand marks shows nothing. The backends that are the fastest most often are kept, and of each work its
fastest cases, as many of each work as of any other.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import chain, islice, zip_longest

from membound.results.report.answer import rank_of
from membound.results.report.cases import Place, ShownCase

MOST_BACKENDS = 12
"""More of them neither colours nor shapes tell apart."""
MOST_MARKS = 400
"""Of a chart. Of more, most lie under others."""
MOST_PLACES = 12
"""Charts of a family that has one for each place; those with the most cases are drawn."""
NAMED = 3
"""Names of what is left out that a caption has."""


def with_room(shown: Sequence[ShownCase]) -> tuple[list[ShownCase], str]:
    """The cases to draw, in their order, and a sentence about those that are left out; '' if none is."""
    kept, others = _of_leading_backends(shown)
    best_first = chain.from_iterable(zip_longest(*_ranked(kept)))
    drawn = {one.key for one in islice((one for one in best_first if one is not None), MOST_MARKS)}
    slower = [f"{len(kept) - MOST_MARKS:,} slower cases"] if len(kept) > MOST_MARKS else []
    return [one for one in kept if one.key in drawn], _said([*others, *slower])


def of_leading_backends(shown: Sequence[ShownCase]) -> tuple[list[ShownCase], str]:
    """All cases of the backends that are drawn, and a sentence about the other backends; '' if there are none."""
    kept, others = _of_leading_backends(shown)
    return kept, _said(others)


def places_with_room(shown: Iterable[ShownCase]) -> tuple[list[Place], str]:
    """The places to draw, in their order, and why the others have no chart; '' if all have one."""
    counts = Counter(one.place for one in shown)
    chosen = {place for place, _ in counts.most_common(MOST_PLACES)}
    rest = len(counts) - len(chosen)
    why = f"{rest} more machines; a report of fewer runs draws them" if rest else ""
    return [place for place in counts if place in chosen], why


def _of_leading_backends(shown: Sequence[ShownCase]) -> tuple[list[ShownCase], list[str]]:
    cases = Counter(one.backend for one in shown)
    if len(cases) <= MOST_BACKENDS:
        return list(shown), []
    wins = Counter(of_work[0].backend for of_work in _ranked(shown))
    ranked = sorted(cases, key=lambda name: (-wins[name], -cases[name]))
    rest = ranked[MOST_BACKENDS:]
    names = ", ".join(rest[:NAMED]) + (", …" if len(rest) > NAMED else "")
    said = f"{len(rest)} backends that are the fastest less often ({names})"
    return [one for one in shown if one.backend not in rest], [said]


def _ranked(shown: Iterable[ShownCase]) -> list[list[ShownCase]]:
    """The cases of each work, the fastest first."""
    works: dict[tuple[str, str], list[ShownCase]] = {}
    for one in shown:
        works.setdefault((one.place.key, one.work), []).append(one)
    return [sorted(some, key=rank_of) for some in works.values()]


def _said(left_out: Sequence[str]) -> str:
    return f" Left out: {'; '.join(left_out)}. The table of all cases has them." if left_out else ""
