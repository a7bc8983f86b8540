"""Arrays of kernels start on cache lines."""

from __future__ import annotations

import numba

from membound.kernels.cpu.simd.lines import aligned_floats


@numba.njit
def _places(size: int) -> tuple[int, int]:
    array = aligned_floats(size)
    return array.ctypes.data, array.size


def test_arrays_start_on_a_line_and_have_their_size() -> None:
    for size in (1, 15, 16, 1000, 4097):
        place, length = _places(size)
        assert (place % 64, length) == (0, size)
