"""How many input sets of a work rotate, so that each is cold when its turn comes. Loads no arrays and no kernels.

>>> from membound.kernels.work import parse
>>> slots_to_defeat(parse("linear:n=4096,k=4096,weight=int8"), cache_bytes=32 << 20, budget_bytes=8 << 30)
9
"""

from __future__ import annotations

from math import ceil

from membound.kernels.onnx_step import OnnxStep
from membound.kernels.steps import Prefill, Step
from membound.kernels.work import Work, held_bytes

SET_BYTES = 25_000
"""What an input set takes besides its numbers: arrays, packed copies, handles of a runtime. Measured with one-element
products, 673 MB in 26 thousand sets; without it sets of 12 bytes would be counted as next to nothing, in millions."""
MOST_SETS = 8192
"""Making more of them takes minutes; from 50 kB on that many defeat a cache of 100 MB."""


def slots_to_defeat(work: Work, cache_bytes: int, budget_bytes: int) -> int:
    """Input sets of a work that rotate, one for a model; else as `sets_to_defeat`."""
    if isinstance(work, Step | Prefill | OnnxStep):
        return 1
    sets = sets_to_defeat(work.footprint_bytes, cache_bytes, budget_bytes)
    return fitting_slots(work, sets, budget_bytes)


def fitting_slots(work: Work, slots: int, budget_bytes: int) -> int:
    """That many input sets, or as many as fit the budget; at least 2, so that they can rotate."""
    while slots > 2 and held_bytes(work, slots) + slots * SET_BYTES > budget_bytes:
        slots -= 1
    return max(2, slots)


def sets_to_defeat(set_bytes: int, cache_bytes: int, budget_bytes: int) -> int:
    """Input sets whose bytes reach 4 × the last-level cache, at least 2, within a memory budget and `MOST_SETS`.

    Sets of a few kilobytes stay below the cache then, whatever rotates: their working set says so, and their verdict.
    """
    wanted = min(ceil(4 * cache_bytes / set_bytes) + 1, MOST_SETS)
    return max(2, min(wanted, budget_bytes // (set_bytes + SET_BYTES)))
