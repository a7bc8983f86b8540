"""Memory that rotates, so that a read of it comes from memory and never from a cache.

>>> values = stream.allocate(rotating_bytes(threads=2), threads=2)
"""

from __future__ import annotations

from membound.bench.machine.fingerprint import available_memory_bytes, last_level_cache_bytes

ROTATION = 4
"""The memory that rotates is this many last-level caches: a window, or an input set, has left the cache when it comes again."""
BYTES_PER_THREAD = 256 << 20
"""At least this much rotating memory a thread, that of two for one: four windows."""
MEMORY_SHARE = 0.5


def rotating_bytes(threads: int) -> int:
    """4 × the last-level cache or more, within half of the memory that is left. Raises CeilingMemoryError."""
    from membound.bench.ceilings.patterns import WINDOWS, CeilingMemoryError

    wanted = max(ROTATION * last_level_cache_bytes(), BYTES_PER_THREAD * max(threads, 2))
    room = int(MEMORY_SHARE * available_memory_bytes())
    least = WINDOWS * threads << 20
    if room < least:
        raise CeilingMemoryError(f"the ceilings need {least} bytes of memory at least; {room} may be taken")
    return min(wanted, room)
