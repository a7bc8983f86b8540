"""What this machine can do at most, measured once at the start: caches, copies, arithmetic peaks.

>>> for ceiling in measure_ceilings(threads=2, quick=False, tell=print):
...     print(ceiling.name, ceiling.value, ceiling.unit)
read 21012345678.9 bytes/s

Several access patterns on several thread counts are tried for each ceiling, and the best counts. A
ceiling is still only a lower bound: a case above it is reported as such. Every pattern's result is checked
before it is timed. GEMM peaks and launch overheads belong to a backend (ceilings/backend.py), what takes turns with
contestants is in ceilings/in_turn.py.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Iterator, Sequence
from itertools import count

import psutil

from membound.bench.ceilings.ceiling import Ceiling, Tell
from membound.bench.ceilings.patterns import (
    WINDOWS,
    Pattern,
    cached_read_patterns,
    copy_patterns,
    dot_patterns,
    fma_pattern,
    read_patterns,
    tile_patterns,
    triad_patterns,
)
from membound.bench.ceilings.rotating import rotating_bytes
from membound.bench.machine.fingerprint import fingerprint
from membound.bench.measure.turns import take_turn
from membound.kernels.cpu.compile import set_threads
from membound.kernels.cpu.instruments import stream

FINALISTS = 3
ATTEMPTS = 3
PAUSE_S = 0.002
"""The same kernels follow each other, so no other threads have to come to rest."""
LEVEL_SHARE = 0.5
"""Part of a cache level that its working set takes, so that nothing else pushes it out."""


def measure_ceilings(threads: int, quick: bool, tell: Tell) -> list[Ceiling]:
    """Bandwidths of memory and caches and arithmetic peaks of up to `threads` CPU threads, a few seconds.

    `tell` is called with the name of what is measured next. Raises CeilingError.
    """
    set_threads(threads)
    seconds = 0.4 if quick else 1.0
    tell("writing the memory to read")
    values = stream.allocate(rotating_bytes(threads), threads)
    counts = _thread_counts(threads)
    return [
        _best("read", (read_patterns(values, n, stream.STREAMS) for n in counts), 2.5 * seconds, tell),
        _best("copy", (copy_patterns(values, n) for n in counts), 1.2 * seconds, tell),
        _best("triad", (triad_patterns(values, n) for n in counts), 1.2 * seconds, tell),
        *_ladder(values, threads, 0.4 * seconds, tell),
        _best("fma_f32", ([fma_pattern(n)] for n in counts), 0.4 * seconds, tell, "FLOP/s"),
        *(
            _best(f"{kind}_{fmt}", (patterns(fmt, n) for n in counts), 0.4 * seconds, tell, "FLOP/s")
            for kind, patterns in (("dot", dot_patterns), ("tile", tile_patterns))
            for fmt in ("int8", "bf16")
            if patterns(fmt, threads)
        ),
    ]


def _thread_counts(threads: int) -> list[int]:
    """All threads first, then powers of two below."""
    return [threads, *(1 << i for i in reversed(range((threads - 1).bit_length())))]


def _ladder(values: stream.F32, threads: int, seconds: float, tell: Tell) -> Iterator[Ceiling]:
    """Reads of a working set that stays in a cache, for each level that the system describes."""
    for name, set_bytes, read_bytes in _levels(threads):
        group = cached_read_patterns(values, threads, set_bytes, read_bytes)
        yield _best(f"read_{name}", [group], seconds, tell)


def _levels(threads: int) -> Iterator[tuple[str, int, int]]:
    """(level, bytes of the working set, bytes to read in a call), all threads together."""
    machine = fingerprint()
    cores = psutil.cpu_count(logical=False) or os.cpu_count() or 1
    l1, l2 = ((machine[f"l{i}_bytes"] or 0) // cores * threads for i in (1, 2))
    if l1:
        yield "l1", int(LEVEL_SHARE * l1), threads << 28
    if l2:
        yield "l2", int(LEVEL_SHARE * l2), threads << 27
    l3_set = min(int(LEVEL_SHARE * (machine["l3_bytes"] or 0)), 4 * l2)
    if l3_set > 2 * l2:
        yield "l3", l3_set, threads << 26


def _best(
    name: str,
    groups: Iterable[Sequence[Pattern]],
    seconds: float,
    tell: Tell,
    unit: str = "bytes/s",
) -> Ceiling:
    """Check all patterns, try each once, then time the best ones of a group in turns; returns the best of all.

    The patterns of a group walk through the same windows in the same order, so that none finds what another one
    left in the cache. A further group that is no better at the first try is not timed again.
    """
    best: Pattern | None = None
    for group in groups:
        tell(f"{name}, {group[0].config['threads']} threads")
        for pattern in group:
            pattern.check()
        numbers = count(WINDOWS // 2)  # the checks read the first window
        _round(group, numbers, 1)
        group = sorted(group, key=lambda p: p.rate, reverse=True)[:FINALISTS]
        if best is None or group[0].rate > best.rate:
            end, done = time.perf_counter() + seconds, 0
            while time.perf_counter() < end or done < _rounds_due(end, seconds):
                _round(group if done % 2 else group[::-1], numbers, ATTEMPTS)
                done += 1
            best = max([*group, *([best] if best else [])], key=lambda p: p.rate)
    if best is None:
        raise AssertionError("no pattern was tried")
    clean = sum(turn.clean for turn in best.turns)
    samples = tuple(turn.time_s for turn in best.turns)
    return Ceiling(name, best.rate, unit, samples, best.config | {"clean_samples": clean})


def _rounds_due(end: float, seconds: float) -> int:
    """At least three rounds, or one if a loaded machine has taken twice the time for it."""
    return 3 if time.perf_counter() < end + seconds or not seconds else 1


def _round(patterns: Sequence[Pattern], numbers: Iterator[int], attempts: int) -> None:
    """Give each pattern a turn, with the next windows."""
    for pattern in patterns:

        def call(pattern: Pattern = pattern) -> None:
            pattern.call(next(numbers))

        pattern.turns.append(take_turn(call, call, attempts, PAUSE_S))
