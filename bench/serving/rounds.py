"""Many sockets read by compiled code, of which an event loop hears when there is something to look at.

>>> rounds = Rounds()
>>> rounds.add(sock.fileno(), noticed)      # calls noticed() when there is
>>> rounds.close()
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable

from membound.bench.serving.compiled_reads import CompiledReads
from membound.bench.serving.raw import Read


class Rounds:
    """Of one event loop, on Linux. Made within it; its thread reads until `close`."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._noticed: dict[int, Callable[[], None]] = {}
        self._reads = CompiledReads()
        self._loop.add_reader(self._reads.woken, self._woken)
        self._reads.start()

    def add(self, number: int, noticed: Callable[[], None]) -> None:
        """Have `noticed` called whenever that socket has something, unless it is kept: then `taken` has it, or its end."""
        self._reads.add(number)
        self._noticed[number] = noticed

    def keep(self, number: int, kept: bool) -> None:
        """Whether chunks are kept until one may be an answer's last, or each is noticed."""
        if number in self._noticed:
            self._reads.keep(number, kept)

    def taken(self, number: int) -> list[Read]:
        """What came over it since the last time, in order."""
        return self._reads.taken(number) if number in self._noticed else []

    def ended(self, number: int) -> bool:
        """Whether a read of it gave nothing, after all that `taken` gives: Python's own tells why."""
        return number in self._noticed and self._reads.ended(number)

    def go_on(self, number: int) -> None:
        """It has not ended after all."""
        self._reads.go_on(number)

    def remove(self, number: int) -> None:
        """No longer; before the socket is closed."""
        if self._noticed.pop(number, None) is not None:
            self._reads.remove(number)

    def close(self) -> None:
        """Read no more."""
        self._loop.remove_reader(self._reads.woken)
        self._reads.stop()

    def _woken(self) -> None:
        os.eventfd_read(self._reads.woken)
        for number in self._reads.noticed():
            noticed = self._noticed.get(number)
            if noticed is not None:  # else it was closed by what another brought
                noticed()
