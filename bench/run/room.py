"""How much memory a contestant may take, before one has been seen.

>>> expected_bytes(work, memory_bytes=0) == EVICTING_BYTES + COPIES * held_bytes(work, 1)     # no room for several input sets
True
"""

from __future__ import annotations

from membound.bench.measure.cold_memory import COPIES, slots_for
from membound.kernels.slots import SET_BYTES
from membound.kernels.work import Work, held_bytes

EVICTING_BYTES = 128 << 20
"""What a worker takes besides, to have its operands cold: Numba's kernels, and memory that they read."""
FREE_SHARE = 0.9
"""Part of the free memory that the next contestant may be thought to take."""


def expected_bytes(work: Work, memory_bytes: int) -> int:
    """`COPIES` of the work, or all its input sets if they are more, and what evicts them."""
    slots = slots_for(work, None, memory_bytes)
    return EVICTING_BYTES + max(COPIES * held_bytes(work, 1), held_bytes(work, slots) + slots * SET_BYTES)
