"""Many sockets read in rounds: where chunks come faster than a process can be woken for each, one waking serves several.

>>> rounds = Rounds()
>>> rounds.add(sock.fileno(), noticed)      # calls noticed() when there is something to look at

A waking costs more than the read that follows it. Where the kernel tells when it had the bytes, nothing is lost by reading them a
millisecond later, unless two chunks of one stream would come in one read: a socket that has more soon, again and again, ends the rounds
for a while.
"""

from __future__ import annotations

import asyncio
import select
from collections.abc import Callable
from time import monotonic_ns

from membound.bench.serving.compiled_reads import CompiledReads, Read

ROUND_S = 0.001
"""The shortest time of the loop's clock."""
OFTEN_NS = 500_000
"""Wakings that are nearer to each other than this are put together."""
SOON_TIMES = 8
"""So many of them in a row are a fast stream: the end of an answer and the head of the next one are fewer."""
APART_NS = 100_000_000
"""How long each waking then serves what is there at once."""


class Rounds:
    """Of one event loop, on Linux. Made within it."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._epoll = select.epoll()
        self._reads = CompiledReads(self._epoll.fileno())
        self._noticed: dict[int, Callable[[], None]] = {}
        self._last_ns = self._apart_until_ns = 0
        self._timer: asyncio.TimerHandle | None = None
        self._loop.add_reader(self._epoll.fileno(), self._woken)

    def add(self, number: int, noticed: Callable[[], None]) -> None:
        """Have `noticed` called whenever that socket has something, unless it is kept: then `taken` has it, or its end."""
        self._noticed[number] = noticed
        self._reads.add(number)
        self._epoll.register(number, select.EPOLLIN)

    def keep(self, number: int, kept: bool) -> None:
        """Whether chunks are kept until one may be an answer's last, or each is noticed."""
        if number in self._noticed:
            self._reads.keep(number, kept)

    def taken(self, number: int) -> list[Read]:
        """What came over it since the last time, in order."""
        return self._reads.taken(number) if number in self._noticed else []

    def remove(self, number: int) -> None:
        """No longer; before the socket is closed."""
        if self._noticed.pop(number, None) is not None:
            self._reads.remove(number)
            self._epoll.unregister(number)

    def close(self) -> None:
        """When all sockets were removed."""
        if self._timer is None:
            self._loop.remove_reader(self._epoll.fileno())
        else:
            self._timer.cancel()
        self._epoll.close()

    def _woken(self) -> None:
        """Something came, and each waking serves what is there."""
        last_ns = self._last_ns
        self._read()
        if self._last_ns - last_ns < OFTEN_NS and self._last_ns >= self._apart_until_ns:
            self._loop.remove_reader(self._epoll.fileno())
            self._timer = self._loop.call_later(ROUND_S, self._round)

    def _round(self) -> None:
        """A round is over; the next one follows unless nothing came in it."""
        if self._read() and self._last_ns >= self._apart_until_ns:
            self._timer = self._loop.call_later(ROUND_S, self._round)
        else:
            self._timer = None
            self._loop.add_reader(self._epoll.fileno(), self._woken)

    def _read(self) -> bool:
        """Read what is there, and whether anything was."""
        self._last_ns = now_ns = monotonic_ns()
        found = self._reads.read(now_ns)
        if found.soon >= SOON_TIMES:
            self._apart_until_ns = now_ns + APART_NS
        for number in found.noticed:
            noticed = self._noticed.get(number)
            if noticed is not None:  # else it was closed by what another brought
                noticed()
        return found.found > 0
