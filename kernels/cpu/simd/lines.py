"""Arrays of compiled code that start on a cache line, so that no load of 64 bytes takes two.

    scores = aligned_floats(BLOCK * LANES)

Arrays from `np.empty` start anywhere: a matrix tile whose 16 rows cross lines loads at a quarter of the speed.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from membound.kernels.cpu.linked import linked


@linked
def aligned_floats(size: Any) -> Any:
    """float32 [size], not initialised."""
    array = np.empty(size + 16, np.float32)
    start = (-array.ctypes.data // 4) % 16
    return array[start : start + size]
