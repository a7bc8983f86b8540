"""Reads of many sockets in compiled code: a chunk of a stream costs what the system takes, and Python sees it when its answer ends.

>>> reads = CompiledReads(epoll.fileno())
>>> reads.add(sock.fileno())
>>> reads.keep(sock.fileno(), True)             # its chunks are kept, and it wants a look when an answer may be at its end
>>> reads.read(now_ns=0).noticed
[7]
>>> reads.taken(7)                              # when each was read, the kernel's stamp, bytes
[(1234567890, b'...', b'data: ...'), ...]

Of what a chunk cost in Python, most was being called, asking the socket and taking apart what it said: more than the system's part.
"""

from __future__ import annotations

import platform
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from numba.core import types

from membound.bench.serving.raw import MOST_BYTES
from membound.kernels.cpu.compile import kernel

U8 = npt.NDArray[np.uint8]
U32 = npt.NDArray[np.uint32]
I64 = npt.NDArray[np.int64]

READ_BYTES = 1 << 13
"""Of one read at most; a chunk of the protocol has some 250."""
STAMP_BYTES = 32
"""A control message with one struct timespec (CMSG_SPACE(16) where pointers have 8 bytes), which stands before what was read."""
KEPT_BYTES = 1 << 26
KEPT_READS = 1 << 18
"""Of all sockets together, a minute of 200 streams: when there is no room, Python takes all. Untouched memory costs nothing."""
MOST_READY = 64
"""Sockets that one look at epoll tells of."""
SOON_NS = 5_000_000
"""Reads of a socket that are nearer to each other than this may be of chunks that a round would bring together."""

PACKED = platform.machine() == "x86_64"
"""Whether struct epoll_event is packed: 12 bytes, the socket's number in the second word; elsewhere 16, the third."""
EVENT_WORDS, EVENT_NUMBER = (3, 1) if PACKED else (4, 2)
WATCHED, KEPT, LAST, COUNT, ROUND_NS, SOON, SIZE = range(7)
"""What is known of each socket: whether it is one of ours, whether its chunks are kept, the last of its reads that nobody has
taken and how many these are, the round that it was last read in, how many rounds in a row came soon after the one before, and its
bytes since `keep`."""
BEFORE, AT, START, LENGTH, STAMPED = range(5)
"""What is known of each read: the one before it of the same socket, when it was, its place, and whether the kernel told the time."""
BYTES, READS = range(2)
"""How much is kept."""
_VECTOR, _VECTORS, _CONTROL, _CONTROL_BYTES = 2, 3, 4, 5
"""Words of struct msghdr; struct iovec (place, length) and struct timespec (seconds, nanoseconds) stand behind it."""
_IOVEC, _TIMESPEC, _WORDS = 7, 9, 11
_DONT_WAIT = 0x40  # MSG_DONTWAIT, asm-generic/socket.h
_MONOTONIC = 1  # CLOCK_MONOTONIC, linux/time.h

_pointer = types.uintp
_epoll_wait: Any = types.ExternalFunction(
    "epoll_wait", types.int32(types.int32, _pointer, types.int32, types.int32)
)
_recvmsg: Any = types.ExternalFunction("recvmsg", types.intp(types.int32, _pointer, types.int32))
_clock_gettime: Any = types.ExternalFunction("clock_gettime", types.int32(types.int32, _pointer))


@kernel()
def _read(
    epoll: int,
    now_ns: int,
    events: U32,
    sockets: I64,
    kept: U8,
    reads: I64,
    filled: I64,
    words: I64,
    noticed: I64,
    most: int,
) -> tuple[int, int, int]:
    """Read each socket that has something, once: how many those are, how many of them are `noticed`, and the most of SOON.

    There must be room for MOST_READY reads. One with more than `most` bytes is noticed. What is not in this file is an argument: the
    cache of what is compiled knows this file alone.
    """
    here = words.ctypes.data
    found = _epoll_wait(np.int32(epoll), events.ctypes.data, np.int32(MOST_READY), np.int32(0))
    wanted, soon = 0, 0
    for i in range(found):
        number = np.int64(events[EVENT_WORDS * i + EVENT_NUMBER])
        if not sockets[number, WATCHED]:
            continue
        start = filled[BYTES]
        place = kept.ctypes.data + start
        words[:] = 0
        words[_VECTOR], words[_VECTORS] = here + 8 * _IOVEC, 1
        words[_CONTROL], words[_CONTROL_BYTES] = place, STAMP_BYTES
        words[_IOVEC], words[_IOVEC + 1] = place + STAMP_BYTES, READ_BYTES
        length = _recvmsg(np.int32(number), here, np.int32(_DONT_WAIT))
        if length <= 0:  # it has ended, or failed, or had nothing after all: Python's own call tells which
            noticed[wanted] = number
            wanted += 1
            continue
        _clock_gettime(np.int32(_MONOTONIC), here + 8 * _TIMESPEC)
        read = filled[READS]
        reads[read, BEFORE] = sockets[number, LAST]
        reads[read, AT] = words[_TIMESPEC] * 1_000_000_000 + words[_TIMESPEC + 1]
        reads[read, START], reads[read, LENGTH] = start + STAMP_BYTES, length
        reads[read, STAMPED] = words[_CONTROL_BYTES] == STAMP_BYTES
        end = start + STAMP_BYTES + length
        filled[BYTES], filled[READS] = (end + 7) // 8 * 8, read + 1
        sockets[number, LAST] = read
        sockets[number, COUNT] += 1
        sockets[number, SIZE] += length
        sockets[number, SOON] = (
            sockets[number, SOON] + 1 if now_ns - sockets[number, ROUND_NS] < SOON_NS else 0
        )
        sockets[number, ROUND_NS] = now_ns
        soon = max(soon, sockets[number, SOON])
        last_four = (
            kept[end - 4] == 13 and kept[end - 3] == 10 and kept[end - 2] == 13 and kept[end - 1] == 10
        )
        if not sockets[number, KEPT] or (length >= 4 and last_four) or sockets[number, SIZE] > most:
            noticed[wanted] = number
            wanted += 1
    return found, wanted, soon


@kernel()
def _in_order(last: int, reads: I64, chosen: I64) -> None:
    """What is known of the reads of one socket, of which that is the last: as many as `chosen` has rows."""
    for i in range(len(chosen) - 1, -1, -1):
        chosen[i] = reads[last]
        last = reads[last, BEFORE]


class Round(NamedTuple):
    """What one look at all sockets found."""

    found: int
    """How many had something."""
    noticed: list[int]
    """Those that want a look, by number."""
    soon: int
    """How many rounds in a row, the most of any socket, came soon after the one before."""


Read = tuple[int, bytes, bytes]
"""When it was read by CLOCK_MONOTONIC in nanoseconds, the kernel's struct timespec of the wall clock or b"", what came."""


class CompiledReads:
    """Of the sockets of one epoll, which Python adds to it and takes from it. Compiles at its making, where nothing is cached."""

    def __init__(self, epoll: int) -> None:
        self._epoll = epoll
        self._events = np.zeros(EVENT_WORDS * MOST_READY, np.uint32)
        self._sockets = np.zeros((64, SIZE + 1), np.int64)
        self._kept = np.empty(KEPT_BYTES, np.uint8)
        self._bytes = self._kept.data
        self._reads = np.empty((KEPT_READS, STAMPED + 1), np.int64)
        self._filled = np.zeros(2, np.int64)
        self._words = np.zeros(_WORDS, np.int64)
        self._noticed = np.zeros(MOST_READY, np.int64)
        self._held: dict[int, list[Read]] = {}
        self.read(0)
        _in_order(0, self._reads, self._reads[:0])

    def add(self, number: int) -> None:
        """A socket that does not block and whose kernel stamps what it receives."""
        if number >= len(self._sockets):
            more = np.zeros((2 * number, self._sockets.shape[1]), np.int64)
            more[: len(self._sockets)] = self._sockets
            self._sockets = more
        self._sockets[number] = 0
        self._sockets[number, WATCHED] = 1

    def remove(self, number: int) -> None:
        """Forget it, and what nobody has taken."""
        self._sockets[number] = 0
        self._held.pop(number, None)

    def keep(self, number: int, kept: bool) -> None:
        """Whether its chunks are kept until one may be an answer's last, or each wants a look."""
        self._sockets[number, KEPT], self._sockets[number, SIZE] = kept, 0

    def read(self, now_ns: int) -> Round:
        """Read what is there."""
        room = KEPT_BYTES - self._filled[BYTES] >= MOST_READY * (STAMP_BYTES + READ_BYTES)
        if not room or KEPT_READS - self._filled[READS] < MOST_READY:
            self._hold_all()
        found, wanted, soon = _read(
            self._epoll,
            now_ns,
            self._events,
            self._sockets,
            self._kept,
            self._reads,
            self._filled,
            self._words,
            self._noticed,
            MOST_BYTES,
        )
        return Round(found, self._noticed[:wanted].tolist(), soon)

    def taken(self, number: int) -> list[Read]:
        """What came over it since the last time, in order."""
        held = self._held.pop(number, [])
        count = int(self._sockets[number, COUNT])
        if not count:
            return held
        chosen = np.empty((count, STAMPED + 1), np.int64)
        _in_order(int(self._sockets[number, LAST]), self._reads, chosen)
        self._sockets[number, COUNT] = 0
        kept = self._bytes
        for _, at_ns, start, length, stamped in chosen.tolist():
            stamp = kept[start - 16 : start].tobytes() if stamped else b""
            held.append((at_ns, stamp, kept[start : start + length].tobytes()))
        return held

    def _hold_all(self) -> None:
        for number in np.flatnonzero(self._sockets[:, COUNT]).tolist():
            self._held[number] = self.taken(number)
        self._filled[:] = 0
