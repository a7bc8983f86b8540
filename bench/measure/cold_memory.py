"""Operands that are cold by construction: how many bytes must pass through the caches, counted and not hoped for.

>>> cold = cold_memory(threads=2)
>>> cold.passed_bytes += 1 << 30                # what others have moved meanwhile
>>> cold.wait_until(cold.need_bytes)            # the rest is read from memory that nobody else uses
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import ceil

from membound.backends.api import Device
from membound.bench.ceilings.rotating import ROTATION, rotating_bytes
from membound.bench.machine.fingerprint import last_level_cache_bytes
from membound.kernels.slots import fitting_slots, slots_to_defeat
from membound.kernels.work import OnnxStep, Prefill, Step, Work

DEVICE_SHARE = 0.5
"""Share of an accelerator's memory that rotating input sets may take; runtimes keep workspaces beside them."""
BURST_BYTES = 96 << 20
"""Small works get this many bytes in input sets, so that a burst of them lasts about `turns.BURST_S`."""
MOST_SLOTS = 33
COPIES = 3
"""Runtimes hold a work up to this many times while they prepare it: as given, as packed, as exported."""


@dataclass(slots=True)
class ColdMemory:
    """Counts the bytes that pass through the caches, and lets more of them pass where too few have.

    `evict` reads memory of its own and returns how many bytes that were; `free` gives that memory back until the next need.
    """

    need_bytes: int
    evict: Callable[[], int]
    passed_bytes: int = 0
    free: Callable[[], None] = lambda: None

    def wait_until(self, passed_bytes: int) -> None:
        """Let bytes pass until that many have in all."""
        while self.passed_bytes < passed_bytes:
            self.passed_bytes += self.evict()


def cold_memory(threads: int) -> ColdMemory:
    """For works on the CPU. The memory whose reading evicts is taken at the first need."""
    reading: list[Callable[[], int]] = []

    def evict() -> int:
        if not reading:
            reading.append(_reader(threads))
        return reading[0]()

    return ColdMemory(ROTATION * last_level_cache_bytes(), evict, free=reading.clear)


def no_cold_memory() -> ColdMemory:
    """For accelerators, whose caches rotation defeats: the CPU's do not matter to them."""
    return ColdMemory(0, lambda: 1)


def _reader(threads: int) -> Callable[[], int]:
    from membound.kernels.cpu.compile import set_threads

    set_threads(threads)
    # what loading the kernels takes must be gone before the rest of the memory is shared out
    _reading(threads << 20, threads)()
    return _reading(rotating_bytes(threads), threads)


def _reading(size_bytes: int, threads: int) -> Callable[[], int]:
    from membound.bench.ceilings.patterns import EVICTION_STREAMS, window_bytes
    from membound.kernels.cpu.instruments import stream

    values = stream.allocate(size_bytes, threads)
    place = stream.arrange(values.size, threads, EVICTION_STREAMS, window_bytes(values, threads))
    numbers = iter(range(1 << 62))

    def read() -> int:
        stream.read(values, place, next(numbers) % place.windows, 0)
        return place.window_bytes

    return read


def cache_and_room(device: Device | None, memory_bytes: int) -> tuple[int, int]:
    """Bytes of the cache that rotation must defeat, and bytes that all input sets of a contestant may take."""
    accelerator = device.accelerator if device is not None else None
    if accelerator is None:
        return last_level_cache_bytes(), memory_bytes
    room = int(DEVICE_SHARE * accelerator.memory_bytes) or memory_bytes
    return accelerator.cache_bytes or last_level_cache_bytes(), min(room, memory_bytes)


def slots_for(work: Work, device: Device | None, memory_bytes: int) -> int:
    """Input sets of a contestant: one model, or two sets and more, so that a burst finds each one cold.

    On an accelerator all sets together defeat its cache. On the CPU a burst's worth is enough: before a set is used
    again, the turns of others and the warm-up have moved `ROTATION` caches, or `ColdMemory` does. Where memory is
    scarce they are so few that `COPIES` of each fit it.
    """
    cache, room = cache_and_room(device, memory_bytes)
    if isinstance(work, Step | Prefill | OnnxStep):
        return 1
    if device is not None and device.accelerator is not None:
        return slots_to_defeat(work, cache, room)
    wanted = min(MOST_SLOTS, max(2, ceil(BURST_BYTES / work.footprint_bytes) + 1))
    return fitting_slots(work, wanted, room // COPIES)
