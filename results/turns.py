"""A turn as it is stored: one timed burst of a contestant, with the ceilings right before and right after it.

>>> turn = StoredTurn(round=0, at_s=12.5, time_s=1e-3, launches=2, before={"read": 4e10}, after={"read": 5e10})
>>> turn.ceiling("read"), turn.clean
(4.5e10, False)

The bandwidth of a shared machine moves within seconds, so a time is compared with the ceilings of its own moment:
interpolated between its neighbours. Turns of one round are seconds apart at most, so their ratio is that of the
backends and not of the minutes.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from math import inf
from typing import Any, NamedTuple, Protocol, Self

from membound.results.fields import fields_of, wrong_field

SHORTEST_S = 1e-12
"""No clock tells less; a rate made from a shorter time would overflow."""
SLOWEST = 1e-12
"""Of a ceiling, bytes/s or FLOP/s: a time made from a lower one would overflow."""
DISTURBED = 0.03
"""A burst is dirty if its threads waited to run, or others ran, for more than this share of it."""
FEWEST_CLEAN = 3
CLEAN_SHARE = 0.5
"""A process is contended if fewer of its turns than this were undisturbed."""
INVALID = 0.15
"""A process none of whose turns was clean is invalid if even its least disturbed ones were disturbed by more than this."""


@dataclass(frozen=True, slots=True)
class StoredTurn:
    """One burst. Seconds are of a launch, rates of ceilings bytes/s or FLOP/s by their names."""

    round: int
    """Turns of one work, replicate and round followed each other directly."""
    at_s: float
    """Seconds from the beginning of the run to the middle of the burst."""
    time_s: float
    launches: int
    between: float = 0.5
    """Where the burst stood between the two ceilings, from 0 to 1."""
    before: dict[str, float] = field(default_factory=dict)
    after: dict[str, float] = field(default_factory=dict)
    device_s: float | None = None
    """By the device's own clock, launches queued without waiting; None where it has none."""
    disturbance: float | None = None
    """Share of the burst in which its threads waited, or others ran; None where the system does not tell."""
    retaken_s: list[float] = field(default_factory=list)
    """Attempts of this turn that were more disturbed."""
    process: int = 0
    """Number of the worker process within the replicate: more than one where a killed run was resumed."""

    @property
    def clean(self) -> bool:
        """Known to be undisturbed."""
        return is_clean(self.disturbance)

    def ceiling(self, name: str) -> float | None:
        """That ceiling at the moment of the burst; None where it did not play."""
        known = [side[name] for side in (self.before, self.after) if name in side]
        if len(known) < 2:
            return known[0] if known else None
        return known[0] + (known[1] - known[0]) * self.between

    def best_ceiling(self, names: Sequence[str], others: Mapping[str, float]) -> float | None:
        """The highest of several ceilings at that moment; `others` are of other minutes, for those that did not play."""
        rates = [self.ceiling(name) or others.get(name) for name in names]
        return max((rate for rate in rates if rate is not None), default=None)

    def as_json(self) -> dict[str, Any]:
        """The fields that are not as they are by default."""
        return {name: value for name, value in fields_of(self).items() if value != _DEFAULTS.get(name, ())}

    @classmethod
    def from_fields(cls, data: Mapping[str, Any]) -> Self:
        """A stored turn. Raises ValueError that says what is wrong with a field."""
        if wrong := wrong_field(cls, data):
            raise ValueError(wrong)
        turn = cls(**data)
        if turn.between > 1 or turn.launches < 1 or turn.time_s < SHORTEST_S:
            raise ValueError(f"a turn of {turn.time_s:g} s with {turn.launches} launches at {turn.between:g}")
        if turn.device_s is not None and turn.device_s < SHORTEST_S:
            raise ValueError(f"a turn of {turn.device_s:g} s by the device's clock")
        lowest = min((*turn.before.values(), *turn.after.values()), default=1.0)
        if lowest < SLOWEST:
            raise ValueError(f"a ceiling of a turn is {lowest:g}")
        return turn


_DEFAULTS: dict[str, Any] = {
    "between": 0.5,
    "before": {},
    "after": {},
    "device_s": None,
    "disturbance": None,
    "retaken_s": [],
    "process": 0,
}


class Played(Protocol):
    """Anything that says of a turn how long it took and how much it was disturbed."""

    @property
    def time_s(self) -> float:
        """Seconds a launch."""

    @property
    def disturbance(self) -> float | None:
        """The share of the time in which it had to wait; None if nobody can tell."""


class RoundTime(NamedTuple):
    """What a comparison needs of a turn."""

    round: int
    time_s: float
    clean: bool


@dataclass(frozen=True, slots=True)
class Rounds(Sequence[RoundTime]):
    """The turns of a process in a twentieth of the memory, for comparisons of many."""

    numbers: array[int] = field(default_factory=lambda: array("l"))
    times_s: array[float] = field(default_factory=lambda: array("d"))
    clean: bytes = b""

    @classmethod
    def of(cls, turns: Sequence[StoredTurn]) -> Self:
        """Those of stored turns."""
        return cls.of_times((turn.round, turn.time_s, turn.disturbance) for turn in turns)

    @classmethod
    def of_times(cls, turns: Iterable[tuple[int, float, float | None]]) -> Self:
        """Of (round, seconds, disturbance)."""
        numbers, times_s, disturbances = zip(*turns, strict=True) if (turns := list(turns)) else ((), (), ())
        return cls(array("l", numbers), array("d", times_s), bytes(map(is_clean, disturbances)))

    def __len__(self) -> int:
        return len(self.numbers)

    def __getitem__(self, index: Any) -> Any:
        return RoundTime(self.numbers[index], self.times_s[index], bool(self.clean[index]))


NO_ROUNDS = Rounds()
"""Of a process whose turns were not asked for."""


def is_clean(disturbance: float | None) -> bool:
    """Known to be undisturbed."""
    return disturbance is not None and disturbance <= DISTURBED


def usable(turns: Sequence[StoredTurn]) -> list[StoredTurn]:
    """The turns that count, as `usable_numbers` has it."""
    return [turns[number] for number in usable_numbers([turn.disturbance for turn in turns])]


def usable_numbers(disturbances: Sequence[float | None]) -> Sequence[int]:
    """Which turns count, from 0: the clean ones; with fewer than three of them, the least disturbed third (at least 3); all if nobody can tell."""
    clean = [number for number, one in enumerate(disturbances) if one is not None and one <= DISTURBED]
    if len(clean) >= FEWEST_CLEAN:
        return clean
    every = range(len(disturbances))
    if all(one is None for one in disturbances):
        return every
    known = [inf if one is None else one for one in disturbances]
    return sorted(every, key=known.__getitem__)[: max(FEWEST_CLEAN, len(every) // 3)]


def usable_times(turns: Sequence[Played]) -> list[float]:
    """The times of the turns that count, as `usable_numbers` has it."""
    clean = [turn.time_s for turn in turns if turn.disturbance is not None and turn.disturbance <= DISTURBED]
    if len(clean) >= FEWEST_CLEAN:  # most processes, of which a comparison may have a million
        return clean
    return [turns[number].time_s for number in usable_numbers([turn.disturbance for turn in turns])]


def grade_of(turns: Sequence[StoredTurn]) -> tuple[str, list[str]]:
    """Was a process disturbed while its turns were taken: (grade of `row.GRADES`, reasons)."""
    seen = [turn.disturbance for turn in turns]
    if not seen or None in seen:
        return "unknown", ["waiting threads cannot be counted"]
    clean = sum(turn.clean for turn in turns)
    if clean >= CLEAN_SHARE * len(turns):
        return "clean", []
    least = sorted(d for d in seen if d is not None)[: max(FEWEST_CLEAN, len(seen) // 3)]
    dirty = f"disturbed turns: {len(turns) - clean} of {len(turns)}"
    if not clean and least[len(least) // 2] > INVALID:
        return "invalid", [f"{dirty}, the best ones by {least[len(least) // 2]:.0%}"]
    return "contended", [dirty]
