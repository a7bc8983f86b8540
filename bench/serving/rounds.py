"""Many sockets read in rounds: where chunks come faster than a process can be woken for each, one waking serves several.

>>> rounds = Rounds()
>>> rounds.add(sock.fileno(), read)         # calls read() when there is something

A waking costs more than the read that follows it. Where the kernel tells when it had the bytes, nothing is lost by reading them a
millisecond later, unless two chunks of one stream would come in one read: a socket that has more again soon ends the rounds for a while.
"""

from __future__ import annotations

import asyncio
import select
from collections.abc import Callable
from time import monotonic_ns

ROUND_S = 0.001
"""The shortest time of the loop's clock."""
OFTEN_NS = 500_000
"""Wakings that are nearer to each other than this are put together."""
SOON_NS = 5_000_000
"""A socket that was read as recently may have chunks that are nearer to each other than rounds are."""
APART_NS = 100_000_000
"""How long each waking then serves what is there at once."""


class Rounds:
    """Of one event loop, on Linux. Made within it."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._epoll = select.epoll()
        self._reads: dict[int, Callable[[], None]] = {}
        self._read_ns: dict[int, int] = {}
        self._last_ns = self._apart_until_ns = 0
        self._timer: asyncio.TimerHandle | None = None
        self._loop.add_reader(self._epoll.fileno(), self._woken)

    def add(self, number: int, read: Callable[[], None]) -> None:
        """Have `read` called whenever that socket has something."""
        self._reads[number], self._read_ns[number] = read, 0
        self._epoll.register(number, select.EPOLLIN)

    def remove(self, number: int) -> None:
        """No longer; before the socket is closed."""
        if self._reads.pop(number, None) is not None:
            del self._read_ns[number]
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
        found = self._epoll.poll(0)
        for number, _ in found:
            read = self._reads.get(number)
            if read is None:  # it was closed by what another brought
                continue
            if now_ns - self._read_ns[number] < SOON_NS:
                self._apart_until_ns = now_ns + APART_NS
            self._read_ns[number] = now_ns
            read()
        return bool(found)
