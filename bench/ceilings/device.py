"""The ceilings of an accelerator, through the limits that its backends offer, timed by its own clock.

>>> for ceiling in measure_device_ceilings(backend, device, quick=False, tell=print):
...     print(ceiling.name, ceiling.value, ceiling.unit)
read 2987654321098.7 bytes/s

Of several limits with one name the best counts. Each result is checked before it is timed; launches are queued, so that
starting them does not count. A limit that fails becomes a ceiling with status and reason, and the others continue.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator
from math import ceil
from statistics import median
from typing import Any

from membound.backends.api import Backend, Device, Limit
from membound.bench.ceilings.ceiling import Ceiling, Tell
from membound.bench.ceilings.in_turn import timed_queue
from membound.bench.measure.failures import failure_of
from membound.bench.measure.figures import rate_of

SAMPLES = 11
QUICK_SAMPLES = 5
SAMPLE_S = 2e-3
"""A sample is a queue of launches that takes this long: much longer than the clock's resolution and than a launch."""
MOST_LAUNCHES = 1000
WARMUP = 2
"""Launches before the queue is sized, which is how long one takes."""
FIRST_WARMUP_S = 0.3
"""How long the first limit runs untimed: a GPU that was idle takes some tens of milliseconds to raise its clocks from 345 MHz."""


def measure_device_ceilings(backend: Backend, device: Device, quick: bool, tell: Tell) -> list[Ceiling]:
    """Every limit of an opened backend, the best of each name. It takes a few seconds."""
    best: dict[str, Ceiling] = {}
    for ceiling in _measured(backend, device, quick, tell):
        known = best.get(ceiling.name)
        if known is None or (ceiling.value or 0.0) > (known.value or 0.0):
            best[ceiling.name] = ceiling
    return list(best.values())


def _measured(backend: Backend, device: Device, quick: bool, tell: Tell) -> Iterator[Ceiling]:
    warm = False
    try:
        for limit in backend.limits(quick):
            yield _one(backend, device, limit, QUICK_SAMPLES if quick else SAMPLES, tell, warm)
            warm = True
    except Exception as error:  # the boundary around a runtime: what it offered before is kept
        failure = failure_of(error)
        yield Ceiling("limits", None, "", (), {"backend": device.id}, failure.status, failure.reason)


def _one(backend: Backend, device: Device, limit: Limit, count: int, tell: Tell, warm: bool) -> Ceiling:
    config: dict[str, Any] = {"backend": device.id, "threads": device.threads}
    try:
        config |= limit.config
        tell(f"{device.id}: {limit.name}, {config.get('variant', '')}")
        limit.launch(0)
        backend.sync()
        if not limit.check():
            return Ceiling(limit.name, None, limit.unit, (), config, "wrong", "its result is wrong")
        if not warm:
            _raise_clocks(backend, limit)
        samples = _samples(backend, limit, count)
        rate = rate_of(limit, median(samples))
    except Exception as error:  # the boundary around a runtime: the next limit may do
        failure = failure_of(error)
        return Ceiling(limit.name, None, limit.unit, (), config, failure.status, failure.reason)
    return Ceiling(limit.name, rate, limit.unit, tuple(samples), config)


def _raise_clocks(backend: Backend, limit: Limit) -> None:
    until = time.perf_counter() + FIRST_WARMUP_S
    for number in itertools.count(1):
        limit.launch(number)
        backend.sync()
        if time.perf_counter() >= until:
            return


def _samples(backend: Backend, limit: Limit, count: int) -> list[float]:
    """Seconds per launch, by the device's clock, or by the host's if it has none."""
    numbers, start = itertools.count(1), time.perf_counter()
    for _ in range(WARMUP):
        limit.launch(next(numbers))
        backend.sync()
    queue = min(MOST_LAUNCHES, ceil(SAMPLE_S * WARMUP / (time.perf_counter() - start)))
    return [timed_queue(backend, lambda: limit.launch(next(numbers)), queue) for _ in range(count)]
