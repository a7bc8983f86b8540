"""From the kernel's times, which are of the wall clock, to CLOCK_MONOTONIC, by samples of both clocks.

>>> clocks = Clocks()
>>> clocks.sample()
>>> clocks.monotonic(stamp, read_ns=time.monotonic_ns())

A client that looked at both clocks for each chunk would spend more on that than on the chunk: it looks now and then, and
chunks are converted when it is over. NTP slews both clocks alike; what parts them is somebody who sets the wall clock.
"""

from __future__ import annotations

import struct
import time
from bisect import bisect_right

TIMESPEC = struct.Struct("qq")
TRIES = 8
APART_NS = 2_000
"""Three readings of clocks take a tenth of that; a process that loses its core between them loses milliseconds."""
SET_NS = 100_000
"""Two samples that differ by more: the wall clock was set between them."""
NS = 1_000_000_000


class Clocks:
    """The wall clock less CLOCK_MONOTONIC, as it was at some moments."""

    def __init__(self) -> None:
        self._at_ns: list[int] = []
        self._offset_ns: list[int] = []

    def sample(self) -> None:
        """Look at both clocks: again if the process lost its core in between."""
        for _ in range(TRIES):
            before, wall, after = time.monotonic_ns(), time.time_ns(), time.monotonic_ns()
            if after - before < APART_NS:
                break
        self._at_ns.append(before)
        self._offset_ns.append(wall - (before + after) // 2)

    def monotonic(self, stamp: bytes, read_ns: int) -> int:
        """When the kernel received what was read at `read_ns`; the time of reading where that cannot be known.

        `stamp` is a struct timespec of the wall clock, or b"".
        """
        if len(stamp) < TIMESPEC.size or not self._at_ns:
            return read_ns
        after = bisect_right(self._at_ns, read_ns)
        first, second = self._offset_ns[max(0, after - 1)], self._offset_ns[min(after, len(self._at_ns) - 1)]
        seconds, ns = TIMESPEC.unpack(stamp[: TIMESPEC.size])
        at_ns: int = seconds * NS + ns - first
        known = abs(first - second) < SET_NS and 0 <= read_ns - at_ns < NS
        return at_ns if known else read_ns


def received_ns(stamp: bytes) -> int:
    """The same of what was read just now."""
    now_ns, clocks = time.monotonic_ns(), Clocks()
    clocks.sample()
    return clocks.monotonic(stamp, now_ns)
