"""The most that this machine can do, measured: what every case is compared with.

>>> for ceiling in measure_ceilings(threads=2, quick=False, tell=print):
...     print(ceiling.name, ceiling.value, ceiling.unit)
read 21012345678.9 bytes/s

Several access patterns on several thread counts are tried for each ceiling, and the best counts. A
ceiling is still only a lower bound: a case above it is marked. Every pattern's result is checked
before it is timed. GEMM peaks and launch overheads belong to a backend and are measured through its contract.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import count
from statistics import median
from typing import Any

import psutil

from membound.backends.api import Backend, Device, Tokens
from membound.bench.ceilings.patterns import (
    WINDOWS,
    CeilingError,
    Pattern,
    cached_read_patterns,
    copy_patterns,
    dot_patterns,
    fma_pattern,
    read_patterns,
    tile_patterns,
    triad_patterns,
)
from membound.bench.machine.fingerprint import available_memory_bytes, fingerprint, last_level_cache_bytes
from membound.bench.measure.timing import launch_once
from membound.bench.measure.turns import take_turn
from membound.errors import Unsupported
from membound.kernels import reference
from membound.kernels.cpu.compile import set_threads
from membound.kernels.cpu.instruments import stream
from membound.kernels.inputs import LinearInputs, make_inputs
from membound.kernels.work import Linear, Work, parse

Tell = Callable[[str], None]

ROTATION = 4
"""The rotating memory is this many times the last-level cache: a window has left the cache when its turn comes again."""
BYTES_PER_THREAD = 192 << 20
"""The least rotating memory for each thread: six windows of `patterns.THREAD_WINDOW_BYTES`."""
MEMORY_SHARE = 0.5
FINALISTS = 3
ATTEMPTS = 3
PAUSE_S = 0.002
"""The same kernels follow each other, so no other threads have to come to rest."""
LEVEL_SHARE = 0.5
"""The part of a cache level that its working set takes, so that nothing else evicts it."""
GEMM_SIZES = (1024, 2048)
DEVICE_GEMM_SIZES = (4096, 8192)
"""On an accelerator, whose matrix units smaller products do not fill."""
GEMM_CHECKED_ROWS = 256
"""The number of rows of a product that are compared with the reference, spread over all of them."""
GEMM_FORMATS = ("f32", "bf16", "f16", "int8")
GEMM_SECONDS = 0.4
GEMM_SAMPLES = 5
NULL_WORKS = (
    "linear:n=32,k=128,m=1,weight=f32",
    "linear:n=32,k=128,m=1,weight=bf16",
    "attention:context=16,q_heads=1,kv_heads=1,head_dim=64,kv=f32",
    "step:model=tiny,context=16,weight=f32,kv=f32",
    "step:model=tiny,context=16,weight=bf16,kv=bf16",
    "step:model=tiny,context=16,weight=f32,kv=f32,layers=1,cache=prompt",
    "step:model=tiny,context=16,weight=bf16,kv=bf16,layers=1,cache=prompt",
)
"""Works so small that launching takes all the time; the first one that a backend supports is used."""
NULL_SAMPLES = 300
NULL_WARMUP = 50


@dataclass(frozen=True, slots=True)
class Ceiling:
    """One limit. `samples` are seconds per call of the best pattern, which `config` describes.

    value = amount / median of the undisturbed samples, in `unit` (bytes/s, FLOP/s), or that median itself (s).
    A pattern with a wrong result has status "wrong", a reason and no value.
    """

    name: str
    value: float | None
    unit: str
    samples: tuple[float, ...]
    config: dict[str, Any]
    status: str = "ok"
    reason: str = ""


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


def measure_read_ceiling(threads: int, tell: Tell) -> Ceiling:
    """Only the read bandwidth, with the patterns that win on most machines, in a second. Raises CeilingError."""
    set_threads(threads)
    values = stream.allocate(rotating_bytes(threads), threads)
    return _best("read", [read_patterns(values, threads, (2, 4, 8))], 0.5, tell)


def measure_backend_ceilings(
    backend: Backend, device: Device, tell: Tell, quick: bool = False
) -> list[Ceiling]:
    """The best GEMM of an opened backend for each format, ``gemm_<format>``, and the seconds of a null launch.

    The operands are hot: they are used again and again. int8 goes with int8 activations. What the backend does
    not support is left out; a wrong product has status "wrong".
    """
    found: list[Ceiling] = []
    for work in map(parse, NULL_WORKS):
        if backend.supports(work) is None:
            tell(f"{device.id}: launch overhead")
            found.append(_launch_overhead(backend, device, work))
            break
    if device.accelerator is not None and "+" in device.id:
        return found  # a variant's products are those of the plain device
    sizes = GEMM_SIZES if device.accelerator is None else DEVICE_GEMM_SIZES
    for fmt in GEMM_FORMATS:
        act = "int8" if fmt == "int8" else "float"
        works = [Linear(n, n, n, fmt, act) for n in (sizes[:1] if quick else sizes)]
        tell(f"{device.id}: gemm_{fmt}")
        products = [_gemm(backend, device, work) for work in works if backend.supports(work) is None]
        if products:
            found.append(max(products, key=lambda c: (c.status != "ok", c.value or 0.0)))
    return found


def _launch_overhead(backend: Backend, device: Device, work: Work) -> Ceiling:
    backend.prepare(work, make_inputs(work, seed=0))
    for _ in range(NULL_WARMUP):
        launch_once(backend, 0)
    samples = tuple(launch_once(backend, 0) for _ in range(NULL_SAMPLES))
    config = _of(device, work)
    return Ceiling("launch", median(samples), "s", samples, config)


def _gemm(backend: Backend, device: Device, work: Linear) -> Ceiling:
    """Repeated launches of one product; if `prepare` raises Unsupported the status is "unsupported"."""
    name, config = f"gemm_{work.weight}", _of(device, work)
    inputs = make_inputs(work, seed=0)
    assert isinstance(inputs, LinearInputs)
    try:
        backend.prepare(work, inputs)
    except Unsupported as error:
        return Ceiling(name, None, "FLOP/s", (), config, "unsupported", str(error))
    launch_once(backend, 0)
    some = slice(0, work.m, max(1, work.m // GEMM_CHECKED_ROWS))
    x = inputs.x[some]
    expected = reference.compute(replace(inputs, work=replace(work, m=len(x)), x=x), 0)
    y = backend.output()
    assert not isinstance(y, Tokens)
    error_size = reference.relative_error(y[some], expected)
    if error_size > reference.tolerance(work):
        return Ceiling(name, None, "FLOP/s", (), config, "wrong", f"error {error_size:.3g}")
    samples: list[float] = []
    while len(samples) < GEMM_SAMPLES or sum(samples) < GEMM_SECONDS:
        samples.append(launch_once(backend, 0))
    return Ceiling(name, work.flops / median(samples), "FLOP/s", tuple(samples), config)


def _of(device: Device, work: Work) -> dict[str, Any]:
    return {"backend": device.id, "threads": device.threads, "work": work.spec}


def rotating_bytes(threads: int) -> int:
    """The size of the rotating memory: at least 4 × the last-level cache, but at most half of the free memory."""
    wanted = max(ROTATION * last_level_cache_bytes(), BYTES_PER_THREAD * threads)
    room = int(MEMORY_SHARE * available_memory_bytes())
    least = WINDOWS * threads << 20
    if room < least:
        raise CeilingError(f"the ceilings need {least} bytes of memory at least; {room} may be taken")
    return min(wanted, room)


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
    assert best is not None
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
