"""A limit on a wait that does not pass while this process is stopped (Ctrl-Z, a paused container).

>>> deadline = Deadline(180.0)
>>> while deadline.left() > 0:
...     time.sleep(deadline.pause())
"""

from __future__ import annotations

import time

LOOK_S = 1.0
"""Whoever waits looks at least this often."""
STOPPED_S = 5.0
"""No more than this counts of the time between two looks: who comes later was stopped."""


class Deadline:
    """So many seconds from now on in which this process runs."""

    def __init__(self, limit_s: float) -> None:
        self._left_s, self._looked = limit_s, time.monotonic()

    def left(self) -> float:
        """Seconds that are left; 0 or less if the limit has passed."""
        now = time.monotonic()
        self._left_s -= min(now - self._looked, STOPPED_S)
        self._looked = now
        return self._left_s

    def pause(self) -> float:
        """Seconds to wait until the next look."""
        return max(0.0, min(self.left(), LOOK_S))
