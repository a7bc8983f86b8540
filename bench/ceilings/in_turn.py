"""Ceilings that take turns with contestants, in a worker of their own: each time has the ceiling of its own moment.

>>> ceilings = CpuCeilings(threads=2, products=["bf16"])
>>> ceilings.take_turn(["read", "tile_bf16"]).rates
{'read': 4.9e10, 'tile_bf16': 1.1e12}

Each of several patterns is tried a few times, and the best one leads: its turns are the ceiling. The next best ones
challenge it, one in each turn, and the first that was faster beside it in most of its latest turns leads from then on.
Which of two comes first changes from turn to turn, and a lucky turn changes nothing, since what counts is the median.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import count
from math import ceil
from statistics import median

from membound.backends.api import Backend, Limit
from membound.bench.ceilings.patterns import (
    CeilingError,
    Pattern,
    dot_patterns,
    fma_pattern,
    read_patterns,
    tile_patterns,
)
from membound.bench.ceilings.rotating import rotating_bytes
from membound.bench.measure.figures import rate_of, seconds_between
from membound.bench.measure.turns import BURST_S, PAUSE_S, WARM_S, Turn, take_turn
from membound.kernels.cpu.compile import set_threads
from membound.kernels.cpu.instruments import stream

TRIALS = 7
"""Turns of every pattern before the best ones play alone."""
FINALISTS = 4
MEMORY_TURNS = 9
"""Latest turns of a challenger that say whether it is faster than the leader."""
ENOUGH_TURNS = 5
LEAD = 1.01
"""What a challenger must have over the leader to take its place: so that two equal ones do not change places for ever."""
ATTEMPTS = 3
READ_STREAMS = (2, 4, 8, 16)
MOST_QUEUED = 1000
MANY_THREADS = 16
"""From this many threads on, half of them may read as fast as all."""


@dataclass(slots=True)
class CeilingTurn:
    """Rates of a turn by name, whether it was undisturbed, the pattern behind it, and the bytes that all of it moved."""

    rates: dict[str, float] = field(default_factory=dict)
    clean: dict[str, bool] = field(default_factory=dict)
    variants: dict[str, str] = field(default_factory=dict)
    moved_bytes: int = 0


@dataclass(slots=True)
class Candidate:
    """One way to reach a ceiling, and how many times as fast as the leader it was lately."""

    pattern: Pattern
    leads: deque[float] = field(default_factory=lambda: deque(maxlen=MEMORY_TURNS))


@dataclass(slots=True)
class PatternCeiling:
    """A ceiling of the processor: patterns that are tried, then the best of them, the leader first."""

    candidates: list[Candidate]
    numbers: Iterator[int]
    turns: int = 0

    def settle(self) -> None:
        """Try every pattern a few times, in turn, and keep the best ones. They follow each other without a pause."""
        if len(self.candidates) > 1:
            tried: list[list[float]] = [[] for _ in self.candidates]
            for _ in range(TRIALS):
                for rates, one in zip(tried, self.candidates, strict=True):
                    rates.append(self._take(one, warmed=any(tried))[0])
            ranked = sorted(
                zip(tried, self.candidates, strict=True), key=lambda t: median(t[0]), reverse=True
            )
            self.candidates = [one for _, one in ranked[:FINALISTS]]

    def take_turn(self) -> tuple[float, Turn, str, int]:
        """The leader's rate, turn and variant, and all bytes that were moved."""
        leader, others = self.candidates[0], self.candidates[1:]
        if not others:
            rate, turn, moved = self._take(leader)
        else:
            challenger = others[self.turns % len(others)]
            if self.turns // len(others) % 2:
                rate, turn, moved = self._take(leader)
                theirs, _, more = self._take(challenger, warmed=True)
            else:
                theirs, _, more = self._take(challenger)
                rate, turn, moved = self._take(leader, warmed=True)
            moved += more
            self._compare(challenger, theirs / rate)
        self.turns += 1
        return rate, turn, str(leader.pattern.config.get("variant", "")), moved

    def _compare(self, challenger: Candidate, lead: float) -> None:
        challenger.leads.append(lead)
        if len(challenger.leads) >= ENOUGH_TURNS and median(challenger.leads) > LEAD:
            at = self.candidates.index(challenger)
            self.candidates[0], self.candidates[at] = challenger, self.candidates[0]
            for one in self.candidates:
                one.leads.clear()

    def _take(self, candidate: Candidate, warmed: bool = False) -> tuple[float, Turn, int]:
        """Its rate, turn and bytes; one that is `warmed` follows another of this process at once."""
        pattern, calls = candidate.pattern, 0

        def call() -> None:
            nonlocal calls
            calls += 1
            pattern.call(next(self.numbers))

        turn = take_turn(None if warmed else call, call, ATTEMPTS, 0.0 if warmed else PAUSE_S)
        return pattern.amount / turn.time_s, turn, calls * int(pattern.config.get("window_bytes", 0))


class CpuCeilings:
    """The read bandwidth of memory, and the arithmetic peaks of the formats that were asked for."""

    def __init__(self, threads: int, products: Sequence[str]) -> None:
        set_threads(threads)
        values = stream.allocate(rotating_bytes(threads), threads)
        counts = [threads, threads // 2] if threads >= MANY_THREADS else [threads]
        numbers = count(1)
        reads = [p for n in counts for p in read_patterns(values, n, READ_STREAMS)]
        self._ceilings = {"read": _checked(reads, numbers)}
        for name, patterns in product_patterns(products, threads).items():
            self._ceilings[name] = _checked(patterns, numbers)
        self.units = {name: "bytes/s" if name == "read" else "FLOP/s" for name in self._ceilings}
        self._settled = False

    def take_turn(self, names: Sequence[str]) -> CeilingTurn:
        """A turn of each of these. Raises CeilingError for one that was not asked for.

        Patterns are tried before the first turn and not earlier: a process may be made ready while others work.
        """
        if not self._settled:
            for ceiling in self._ceilings.values():
                ceiling.settle()
            self._settled = True
        seen = CeilingTurn()
        for name in names:
            if name not in self._ceilings:
                raise CeilingError(f"there is no ceiling {name} here: {', '.join(self._ceilings)}")
            seen.rates[name], turn, seen.variants[name], moved = self._ceilings[name].take_turn()
            seen.clean[name] = turn.clean
            seen.moved_bytes += moved
        return seen


def _checked(patterns: Sequence[Pattern], numbers: Iterator[int]) -> PatternCeiling:
    for pattern in patterns:
        pattern.check()
    return PatternCeiling([Candidate(pattern) for pattern in patterns], numbers)


def product_patterns(products: Sequence[str], threads: int) -> dict[str, list[Pattern]]:
    """Patterns of the arithmetic peaks by their names, for formats of operands: ``f32``, ``bf16``, ``int8``."""
    found: dict[str, list[Pattern]] = {}
    for fmt in products:
        if fmt != "int8":
            found["fma_f32"] = [fma_pattern(threads)]
        for kind, patterns in (("dot", dot_patterns), ("tile", tile_patterns)):
            if made := patterns(fmt, threads):
                found[f"{kind}_{fmt}"] = made
    return found


class DeviceCeilings:
    """Ceilings of an accelerator, through the limits of one backend; timed by its own clock where it has one."""

    def __init__(self, backend: Backend, variants: Mapping[str, str]) -> None:
        """`variants`: names of limits to the variant of each that was best when all were measured."""
        self._backend, self._numbers = backend, count(1)
        self._held = [_limit(backend, name, variant) for name, variant in variants.items()]
        self._limits = {limit.name: limit for limit, _ in self._held}
        self._queues = {name: self._queue(limit) for name, limit in self._limits.items()}
        self.units = {name: limit.unit for name, limit in self._limits.items()}

    def take_turn(self, names: Sequence[str]) -> CeilingTurn:
        """A queue of launches of each of these limits. Raises CeilingError for one that is not there."""
        seen = CeilingTurn()
        for name in names:
            if name not in self._limits:
                raise CeilingError(f"there is no ceiling {name} here: {', '.join(self._limits) or 'none'}")
            limit = self._limits[name]
            each_s = timed_queue(self._backend, self._next(limit), self._queues[name])
            seen.rates[name] = rate_of(limit, each_s)
            seen.clean[name], seen.variants[name] = True, str(limit.config.get("variant", ""))
        return seen

    def _next(self, limit: Limit) -> Callable[[], None]:
        return lambda: limit.launch(next(self._numbers))

    def _queue(self, limit: Limit) -> int:
        """Launches that last as long as a turn of the processor's, after a check of the result."""
        limit.launch(0)
        self._backend.sync()
        if not limit.check():
            raise CeilingError(f"{limit.name}: its result is wrong")
        timed_queue(self._backend, self._next(limit), 1)
        each = timed_queue(self._backend, self._next(limit), 2)
        return min(MOST_QUEUED, max(1, ceil((BURST_S + WARM_S) / each)))


def _limit(backend: Backend, name: str, variant: str) -> tuple[Limit, Iterator[Limit]]:
    """That limit, and the generator that made it: going on in it frees what the limit stands on."""
    offered = backend.limits(True)
    for limit in offered:
        if limit.name == name and str(limit.config.get("variant", "")) == variant:
            return limit, offered
    raise CeilingError(f"the backend offers no limit {name}, {variant or 'without a variant'}")


def timed_queue(backend: Backend, launch: Callable[[], None], launches: int) -> float:
    """Seconds a launch of a queue that is not waited for in between: the device's, or ours where it has no clock.

    Raises FigureError where the clock tells what cannot be.
    """
    first, start = backend.mark(), time.perf_counter()
    for _ in range(launches):
        launch()
    last = backend.mark()
    backend.sync()
    wall_s = time.perf_counter() - start
    if first is None and last is None:
        return wall_s / launches
    return seconds_between(backend, first, last) / launches
