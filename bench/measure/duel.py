"""Backends against each other and against the machine, in one process and one interleaved run.

>>> rows = duel(parse("linear:n=4096,k=4096"), ["one:cpu", "two:cpu"], threads=2, rounds=9, seed=1, tell=print)
>>> [(row["backend"], row["time_s"], row["time_ratio"], row["of_bound"]) for row in rows]
[('one:cpu', 0.0011, 1.0, 0.94), ('two:cpu', 0.0019, 1.7, 0.55), ('read ceiling', ...), ...]

Two figures from different minutes of a shared machine cannot be divided by each other; here each round has
a turn of every contestant and of both ceilings, in alternating order, so that a slow minute hits all. What
a run says about one backend is said by `membound run`; a duel says which is faster, and how near both are
to what the same minutes allowed.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import count
from math import ceil
from typing import Any

import numpy as np

from membound.backends import registry
from membound.bench.ceilings.cpu import ROTATION, rotating_bytes
from membound.bench.ceilings.patterns import Pattern, dot_patterns, fma_pattern, read_patterns, tile_patterns
from membound.bench.machine.fingerprint import available_memory_bytes, last_level_cache_bytes
from membound.bench.measure.contestant import MAX_LAUNCHES, ColdMemory, Contestant, Refused, enter
from membound.bench.measure.turns import Turn, take_turn, usable
from membound.errors import BackendUnavailable, MemboundError, Unsupported
from membound.kernels import reference
from membound.kernels.cpu.compile import set_threads
from membound.kernels.cpu.instruments import stream
from membound.kernels.work import Prefill, Step, Work

Tell = Callable[[str], None]

MEMORY_SHARE = 0.8
"""Part of the free memory that all contestants may fill together."""
COPIES = 2
"""Memory a contestant takes for an input set while preparing: as given, and as its runtime packs it."""


class DuelError(MemboundError):
    """A duel cannot be held: too little memory, or a bad number of rounds."""


@dataclass(slots=True)
class _Limit:
    """A ceiling that takes turns like everybody; of several patterns the best counts."""

    name: str
    patterns: list[Pattern]
    unit: str
    windows: Iterator[int]
    cold: ColdMemory

    def take_turn(self) -> None:
        """A turn of each pattern, on windows that come again after the whole rotation."""
        for pattern in self.patterns:

            def call(pattern: Pattern = pattern) -> None:
                pattern.call(next(self.windows))
                self.cold.passed_bytes += pattern.config.get("window_bytes", 0)

            pattern.turns.append(take_turn(call, call))

    @property
    def best(self) -> Pattern:
        """The fastest pattern.

        The best of six medians lies above the machine's own: by 1 % with one thread of a Zen 5 and 8 rounds, by some 4 %
        with two whose bandwidth jumps meanwhile. A limit thus errs against the contestants, never for them.
        """
        return max(self.patterns, key=lambda p: p.rate)


Outcome = Contestant | Refused


def duel(
    work: Work, backends: Sequence[str], threads: int, rounds: int, seed: int, tell: Tell
) -> list[dict[str, Any]]:
    """Time a work on several CPU backends in turn, each on inputs of its own, all cold, all checked.

    Returns a row for each backend in the order given, then one for each ceiling. Fields: kind ("case",
    "ceiling"), backend, status, reason, work, threads, time_s (median over clean turns, seconds a launch),
    p25_s, p75_s, clean and rounds (turns), launches (in a turn), slots, bytes, flops, stored_bytes,
    achieved_bytes_per_s, achieved_flops_per_s, read_ceiling_bytes_per_s, compute_ceiling_flops_per_s, bound_s,
    of_bound (bound_s / time_s), time_ratio (to the first backend's time), error, tolerance.

    A backend that cannot take part has a row with its status and reason. Raises DuelError, UnknownBackend.
    """
    for name in backends:
        registry.entry_for(name)
    if rounds < 1 or not backends:
        raise DuelError(f"a duel needs a backend and a round at least, not {len(backends)} and {rounds}")
    set_threads(threads)
    read, compute = _limits(work, threads, tell)
    slots = _slots(work, read.cold.need_bytes, len(backends))
    expected: dict[int, reference.F64] = {}
    outcomes: list[Outcome] = []
    opened: list[Contestant] = []
    try:
        for name in backends:
            tell(f"preparing {name}")
            outcomes.append(_enter(name, work, read.cold, threads, slots, seed, expected))
            opened = [outcome for outcome in outcomes if isinstance(outcome, Contestant)]
        _play([*opened, read, compute], rounds, tell)
        outcomes = [_check_again(outcome, expected) for outcome in outcomes]
    finally:
        for contestant in opened:
            contestant.backend.close()
    return _rows(work, threads, rounds, list(zip(backends, outcomes, strict=True)), (read, compute))


def _limits(work: Work, threads: int, tell: Tell) -> tuple[_Limit, _Limit]:
    """The read and the compute ceiling; windows of the first also push operands out of the caches."""
    tell("checking the ceilings")
    values = stream.allocate(rotating_bytes(threads), threads)
    reads = read_patterns(values, threads, (4, 8))
    integer = getattr(work, "act", "float") == "int8"
    fmt = "int8" if integer else getattr(work, "weight", "")
    compute = [] if integer else [fma_pattern(threads)]
    if integer or fmt == "bf16":
        compute += dot_patterns(fmt, threads)
    compute += tile_patterns(fmt, threads)
    for pattern in (*reads, *compute):
        pattern.check()
    windows = count(1)

    def evict() -> int:
        reads[0].call(next(windows))
        return int(reads[0].amount)

    cold = ColdMemory(ROTATION * last_level_cache_bytes(), evict)
    return (
        _Limit("read ceiling", reads, "bytes/s", windows, cold),
        _Limit("compute ceiling", compute, "FLOP/s", windows, cold),
    )


def _slots(work: Work, need_bytes: int, contestants: int) -> int:
    """Input sets for each contestant: all together rotate through `need_bytes`, if memory allows."""
    size = work.footprint_bytes
    room = int(MEMORY_SHARE * available_memory_bytes())
    least = 1 if isinstance(work, Step | Prefill) else 2
    fit = room // (contestants * COPIES * size)
    if fit < least:
        asked = least * contestants * COPIES * size
        raise DuelError(
            f"{contestants} backends need {asked} bytes of memory for {work.spec}; {room} are free"
        )
    wanted = ceil(need_bytes / (contestants * size)) + 1
    return least if least == 1 else max(least, min(wanted, MAX_LAUNCHES + 1, fit))


def _enter(
    name: str,
    work: Work,
    cold: ColdMemory,
    threads: int,
    slots: int,
    seed: int,
    expected: dict[int, reference.F64],
) -> Outcome:
    """Prepare a contestant, check its first output, choose its burst; or why it does not take part."""
    try:
        contestant = enter(name, work, cold, threads, slots, seed)
    except Refused as refused:
        return refused
    except BackendUnavailable as error:
        return Refused("unavailable", f"{error.reason}; {error.remedy}".removesuffix("; "))
    except Unsupported as error:
        return Refused("unsupported", str(error))
    except MemoryError as error:
        return Refused("oom", str(error) or "out of memory")
    except RuntimeError as error:  # what runtimes raise
        return Refused("error", str(error).partition("\n")[0])
    contestant.launch()
    outcome = _check_again(contestant, expected)
    if isinstance(outcome, Refused):
        contestant.backend.close()
    else:
        contestant.fit_burst()
    return outcome


def _check_again(outcome: Outcome, expected: dict[int, reference.F64]) -> Outcome:
    """The contestant if its last output is right."""
    if isinstance(outcome, Contestant):
        try:
            outcome.check(expected)
        except Refused as refused:
            return refused
    return outcome


def _play(players: Sequence[Contestant | _Limit], rounds: int, tell: Tell) -> None:
    """Rounds in alternating order, their start moved by half every second pair of rounds."""
    enabled = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        for done in range(rounds):
            tell(f"round {done + 1} of {rounds}")
            order = list(players)[:: -1 if done % 2 else 1]
            half = len(order) // 2 if done % 4 >= 2 else 0
            for player in (*order[half:], *order[:half]):
                player.take_turn()
    finally:
        if enabled:
            gc.enable()


def _rows(
    work: Work,
    threads: int,
    rounds: int,
    outcomes: Sequence[tuple[str, Outcome]],
    limits: tuple[_Limit, _Limit],
) -> list[dict[str, Any]]:
    read, compute = (limit.best.rate for limit in limits)
    common = {
        "work": work.spec,
        "threads": threads,
        "rounds": rounds,
        "read_ceiling_bytes_per_s": read,
        "compute_ceiling_flops_per_s": compute,
        "bound_s": max(work.traffic.total_bytes / read, work.flops / compute),
    }
    rows = [_case_row(name, work, outcome) for name, outcome in outcomes] + [
        _limit_row(limit) for limit in limits
    ]
    first_s = rows[0]["time_s"]
    for row in rows:
        row |= common
        if row["kind"] == "case" and row["time_s"] is not None:
            row["of_bound"] = row["bound_s"] / row["time_s"]
            row["time_ratio"] = None if first_s is None else row["time_s"] / first_s
    return rows


_EMPTY: dict[str, Any] = dict.fromkeys(
    (
        *("time_s", "p25_s", "p75_s", "clean", "launches", "slots", "bytes", "flops", "stored_bytes"),
        *("achieved_bytes_per_s", "achieved_flops_per_s", "of_bound", "time_ratio", "error", "tolerance"),
        "variant",
    )
)


def _case_row(name: str, work: Work, outcome: Outcome) -> dict[str, Any]:
    row = _EMPTY | {"kind": "case", "backend": name, "status": "ok", "reason": ""}
    row |= {"bytes": work.traffic.total_bytes, "flops": work.flops, "tolerance": reference.tolerance(work)}
    if isinstance(outcome, Refused):
        return row | {"status": outcome.status, "reason": str(outcome)}
    times = _times(outcome.turns, outcome.launches)
    return (
        row
        | times
        | {
            "launches": outcome.launches,
            "slots": outcome.slots,
            "stored_bytes": outcome.backend.stored_bytes(),
            "achieved_bytes_per_s": work.traffic.total_bytes / times["time_s"],
            "achieved_flops_per_s": work.flops / times["time_s"],
            "error": outcome.error,
        }
    )


def _limit_row(limit: _Limit) -> dict[str, Any]:
    best = limit.best
    amount = {"bytes/s": ("bytes", "achieved_bytes_per_s"), "FLOP/s": ("flops", "achieved_flops_per_s")}
    total, rate = amount[limit.unit]
    row = _EMPTY | {"kind": "ceiling", "backend": limit.name, "status": "ok", "reason": ""}
    return (
        row
        | _times(best.turns, 1)
        | {
            "launches": 1,
            "variant": best.config["variant"],
            total: int(best.amount),
            rate: best.rate,
        }
    )


def _times(turns: Sequence[Turn], launches: int) -> dict[str, Any]:
    """Median and quartiles over the usable turns, seconds a launch; and how many turns were clean."""
    times = np.array(usable(turns)) / launches
    low, middle, high = (float(q) for q in np.percentile(times, (25, 50, 75)))
    return {"time_s": middle, "p25_s": low, "p75_s": high, "clean": sum(turn.clean for turn in turns)}
