"""The measured ceilings of each place with their spread: what a roofline is drawn from.

>>> ceilings_of(rows)[place]["read"]
Ceiling(name='read', unit='bytes/s', low=2.4e10, middle=2.75e10, high=2.9e10, count=829, through='cpu')
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

from membound.results.report.cases import Place, place_key, places_of
from membound.results.row import IN_TURN, Row
from membound.results.wording import rate


@dataclass(frozen=True, slots=True)
class Ceiling:
    """One measured limit of a place. `low` and `high` are the lowest and highest of `count` measurements."""

    name: str
    unit: str
    low: float
    middle: float
    high: float
    count: int
    through: str
    """The backend or device that reached it."""

    @property
    def text(self) -> str:
        """With its unit and spread."""
        if self.count == 1:
            return f"{rate(self.middle, self.unit)}, measured once"
        span = f"{rate(self.low, self.unit)} to {rate(self.high, self.unit)}"
        return f"{rate(self.middle, self.unit)} ({span} in {self.count} measurements)"


def ceilings_of(rows: Sequence[Row]) -> dict[Place, dict[str, Ceiling]]:
    """The ceilings of each place by name, of all its runs together; launches are of backends and left out."""
    places = places_of(rows)
    groups: dict[tuple[str, str], list[Row]] = {}
    for row in rows:
        if row.kind == "ceiling" and row.status == "ok" and row.value and row.unit != "s":
            groups.setdefault((place_key(row), row.work), []).append(row)
    found: dict[Place, dict[str, Ceiling]] = {}
    for (key, name), measured in groups.items():
        found.setdefault(places[key], {})[name] = _ceiling(name, measured)
    return found


def _ceiling(name: str, rows: Sequence[Row]) -> Ceiling:
    """Of turns, where it took any: those of other minutes were not beside the times. Else the best counts."""
    in_turn = [row for row in rows if IN_TURN[0] in row.config]
    values = [row.value for row in in_turn or rows if row.value is not None]
    middle = median(values) if in_turn else max(values)
    best = max(in_turn or rows, key=lambda row: row.value or 0.0)
    return Ceiling(
        name,
        best.unit,
        low=min((row.config["lowest"] for row in in_turn), default=min(values)),
        middle=middle,
        high=max((row.config["highest"] for row in in_turn), default=max(values)),
        count=sum(int(row.config["turns"]) for row in in_turn) or len(values),
        through=best.backend,
    )
