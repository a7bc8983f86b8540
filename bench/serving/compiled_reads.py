"""Reads of many sockets in compiled code by a thread of its own: a chunk of a stream costs what the system takes for it.

>>> reads = CompiledReads()
>>> reads.start()
>>> reads.add(sock.fileno())
>>> reads.keep(sock.fileno(), True)             # its chunks are kept, and it wants a look when an answer may be at its end
>>> select.select([reads.woken], [], [])
>>> reads.noticed()
[7]
>>> reads.taken(7)                              # when each was read, the kernel's stamp, bytes
[(1234567890, b'...', b'data: ...'), ...]
>>> reads.stop()

Of what a chunk cost in Python, most was being woken, asking the socket and taking apart what it said: more than the system's part.
The thread does without Python's lock. It reads in rounds where chunks come often: a waking costs more than the read that follows it.
The kernel tells when it had the bytes, so nothing is lost by reading them a millisecond later, unless two chunks of one stream would
come in one read: a socket that has more soon, again and again, ends the rounds for a while.
"""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import select
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Thread
from typing import Any

import numpy as np
import numpy.typing as npt
from numba.core import types

from membound.bench.serving.raw import MOST_BYTES, Read
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
MOST_SOCKETS = 1 << 20
"""Their numbers are below this, which is what Linux lets a process have (fs.nr_open) where nobody changed it."""
MOST_READY = 64
"""Sockets that one look at epoll tells of."""
ROUND_NS = 1_000_000
"""From one look to the next where looks are rounds."""
OFTEN_NS = 500_000
"""Wakings that are nearer to each other than this are put together."""
SOON_NS = 5_000_000
"""Reads of a socket that are nearer to each other than this may be of chunks that a round would bring together."""
SOON_TIMES = 8
"""So many of them in a row are a fast stream: the end of an answer and the head of the next one are fewer."""
APART_NS = 100_000_000
"""How long each waking then serves what is there at once."""

PACKED = platform.machine() == "x86_64"
"""Whether struct epoll_event is packed: 12 bytes, the socket's number in the second word; elsewhere 16, the third."""
EVENT_WORDS, EVENT_NUMBER = (3, 1) if PACKED else (4, 2)
WATCHED, ENDED, KEPT, NOTICED, LAST, COUNT, LOOK_NS, SOON, SIZE = range(9)
"""What is known of each socket: whether it is one of ours, whether it is left alone since a read of it gave nothing, whether its
chunks are kept, whether it is among those that want a look, the last of its reads that nobody has taken and how many these are, the
look that it was last read in, how many looks in a row came soon after the one before, and its bytes since `keep`."""
BEFORE, AT, START, LENGTH, STAMPED = range(5)
"""What is known of each read: the one before it of the same socket, when it was, its place, and whether the kernel told the time."""
BYTES, READS, WANTED, FULL, STOPPED, IN_ROUNDS, LOOKED_NS, APART_UNTIL_NS = range(8)
"""How much is kept, how many sockets want a look, whether there is no room, whether the thread shall end or has none, and its pace."""
_VECTOR, _VECTORS, _CONTROL, _CONTROL_BYTES = 2, 3, 4, 5
"""Words of struct msghdr; struct iovec (place, length), struct timespec (seconds, nanoseconds) and an eventfd's 1 stand behind it."""
_IOVEC, _TIMESPEC, _ONE, _WORDS = 7, 9, 11, 12
_DONT_WAIT = 0x40  # MSG_DONTWAIT, asm-generic/socket.h
_MONOTONIC = 1  # CLOCK_MONOTONIC, linux/time.h
MUTEX_BYTES = 64
"""More than pthread_mutex_t has anywhere (48 on arm64); glibc's PTHREAD_MUTEX_INITIALIZER is all zeros."""

_pointer = types.uintp
_epoll_wait: Any = types.ExternalFunction(
    "epoll_wait", types.int32(types.int32, _pointer, types.int32, types.int32)
)
_recvmsg: Any = types.ExternalFunction("recvmsg", types.intp(types.int32, _pointer, types.int32))
_write: Any = types.ExternalFunction("write", types.intp(types.int32, _pointer, types.uintp))
_clock_gettime: Any = types.ExternalFunction("clock_gettime", types.int32(types.int32, _pointer))
_nanosleep: Any = types.ExternalFunction("nanosleep", types.int32(_pointer, _pointer))
_lock: Any = types.ExternalFunction("pthread_mutex_lock", types.int32(_pointer))
_unlock: Any = types.ExternalFunction("pthread_mutex_unlock", types.int32(_pointer))
_libc = ctypes.CDLL(None)


@kernel()
def _now_ns(words: I64) -> int:
    place = words.ctypes.data + 8 * _TIMESPEC
    _clock_gettime(np.int32(_MONOTONIC), place)
    ns: int = words[_TIMESPEC] * 1_000_000_000 + words[_TIMESPEC + 1]
    return ns


@kernel()
def _read(
    number: int,
    now_ns: int,
    sockets: I64,
    kept: U8,
    reads: I64,
    state: I64,
    words: I64,
    wanted: I64,
    most: int,
) -> int:
    """Read that socket once: its SOON. There is room. One with more than `most` bytes wants a look."""
    here = words.ctypes.data
    start = state[BYTES]
    place = kept.ctypes.data + start
    words[:_ONE] = 0
    words[_VECTOR], words[_VECTORS] = here + 8 * _IOVEC, 1
    words[_CONTROL], words[_CONTROL_BYTES] = place, STAMP_BYTES
    words[_IOVEC], words[_IOVEC + 1] = place + STAMP_BYTES, READ_BYTES
    length = _recvmsg(np.int32(number), here, np.int32(_DONT_WAIT))
    look = not sockets[number, KEPT]
    if length <= 0:  # it has ended, or failed, or had nothing after all: Python's own call tells which
        sockets[number, ENDED] = look = True
    else:
        read = state[READS]
        reads[read, BEFORE] = sockets[number, LAST]
        reads[read, STAMPED] = words[_CONTROL_BYTES] == STAMP_BYTES
        reads[read, AT] = _now_ns(words)
        reads[read, START], reads[read, LENGTH] = start + STAMP_BYTES, length
        end = start + STAMP_BYTES + length
        state[BYTES], state[READS] = (end + 7) // 8 * 8, read + 1
        sockets[number, LAST] = read
        sockets[number, COUNT] += 1
        sockets[number, SIZE] += length
        sockets[number, SOON] = (
            sockets[number, SOON] + 1 if now_ns - sockets[number, LOOK_NS] < SOON_NS else 0
        )
        sockets[number, LOOK_NS] = now_ns
        last_four = (
            kept[end - 4] == 13 and kept[end - 3] == 10 and kept[end - 2] == 13 and kept[end - 1] == 10
        )
        look = look or (length >= 4 and last_four) or sockets[number, SIZE] > most
    if look and not sockets[number, NOTICED]:
        sockets[number, NOTICED] = True
        wanted[state[WANTED]] = number
        state[WANTED] += 1
    soon: int = sockets[number, SOON]
    return soon


@kernel()
def _look(
    epoll: int,
    wait_ms: int,
    woken: int,
    mutex: U8,
    events: U32,
    sockets: I64,
    kept: U8,
    reads: I64,
    state: I64,
    words: I64,
    wanted: I64,
    most: int,
) -> tuple[int, int, int, int]:
    """Read each socket that has something, once: how many had, how many were read, the most of SOON, and when that was.

    The lock is held while one socket is read. What is not in this file is an argument: the cache of what is compiled knows
    this file alone.
    """
    found = max(0, _epoll_wait(np.int32(epoll), events.ctypes.data, np.int32(MOST_READY), np.int32(wait_ms)))
    now_ns = _now_ns(words)
    read, soon, wake = 0, 0, False
    for i in range(found):
        number = np.int64(events[EVENT_WORDS * i + EVENT_NUMBER])
        _lock(mutex.ctypes.data)
        if sockets[number, WATCHED] and not sockets[number, ENDED]:
            no_room = state[BYTES] + STAMP_BYTES + READ_BYTES > KEPT_BYTES or state[READS] >= KEPT_READS
            before = state[WANTED]
            if no_room:
                state[FULL] = True
            else:
                soon = max(soon, _read(number, now_ns, sockets, kept, reads, state, words, wanted, most))
                read += 1
            wake = wake or no_room or state[WANTED] > before
        _unlock(mutex.ctypes.data)
    if wake:
        words[_ONE] = 1
        _write(np.int32(woken), words.ctypes.data + 8 * _ONE, np.uint64(8))
    return found, read, soon, now_ns


@kernel()
def _pace(found: int, soon: int, now_ns: int, state: I64) -> None:
    """Whether the next look is a round, which waits for its time, or for the next that comes.

    Rounds begin with a waking shortly after the one before, and end where one finds nothing.
    """
    if soon >= SOON_TIMES:
        state[APART_UNTIL_NS] = now_ns + APART_NS
    often = found > 0 if state[IN_ROUNDS] else now_ns - state[LOOKED_NS] < OFTEN_NS
    state[IN_ROUNDS] = often and now_ns >= state[APART_UNTIL_NS]
    state[LOOKED_NS] = now_ns


@kernel(nogil=True)
def _read_on(
    epoll: int,
    woken: int,
    mutex: U8,
    events: U32,
    sockets: I64,
    kept: U8,
    reads: I64,
    state: I64,
    words: I64,
    wanted: I64,
    most: int,
) -> None:
    """Look again and again, until STOPPED."""
    while not state[STOPPED]:
        wait_ms = 0 if state[IN_ROUNDS] else -1
        found, read, soon, now_ns = _look(
            epoll, wait_ms, woken, mutex, events, sockets, kept, reads, state, words, wanted, most
        )
        _pace(found, soon, now_ns, state)
        if state[IN_ROUNDS] or read < found:  # epoll tells of one that was passed by again at once
            words[_TIMESPEC], words[_TIMESPEC + 1] = 0, ROUND_NS
            _nanosleep(words.ctypes.data + 8 * _TIMESPEC, 0)


@kernel()
def _in_order(last: int, reads: I64, chosen: I64) -> None:
    """What is known of the reads of one socket, of which that is the last: as many as `chosen` has rows."""
    for i in range(len(chosen) - 1, -1, -1):
        chosen[i] = reads[last]
        last = reads[last, BEFORE]


class CompiledReads:
    """Of sockets that Python adds and removes. Compiles at its making, where nothing is cached.

    `woken` is an eventfd that has something when `noticed` has. Between `start` and `stop` a thread of its own reads.
    """

    def __init__(self) -> None:
        self._epoll = select.epoll()
        self.woken = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._stop = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._watched: set[int] = set()
        self._mutex = np.zeros(MUTEX_BYTES, np.uint8)
        self._events = np.zeros(EVENT_WORDS * MOST_READY, np.uint32)
        self._sockets = np.zeros((MOST_SOCKETS, SIZE + 1), np.int64)
        self._kept = np.empty(KEPT_BYTES, np.uint8)
        self._bytes = self._kept.data
        self._reads = np.empty((KEPT_READS, STAMPED + 1), np.int64)
        self._state = np.zeros(APART_UNTIL_NS + 1, np.int64)
        self._words = np.zeros(_WORDS, np.int64)
        self._wanted = np.empty(MOST_SOCKETS, np.int64)
        self._held: dict[int, list[Read]] = {}
        self._state[STOPPED] = True
        self._read_on()
        _in_order(0, self._reads, self._reads[:0])
        self._thread = Thread(target=self._run, name="reads", daemon=True)

    def start(self) -> None:
        """Begin to read."""
        self._state[STOPPED] = False
        self._epoll.register(self._stop, select.EPOLLIN)
        self._thread.start()

    def stop(self) -> None:
        """Read no more, for ever; the sockets stay open."""
        self._state[STOPPED] = True
        if self._thread.is_alive():
            os.eventfd_write(self._stop, 1)
            self._thread.join()
        self._epoll.close()
        os.close(self._stop)
        os.close(self.woken)

    def add(self, number: int) -> None:
        """A socket that does not block and whose kernel stamps what it receives. Raises OSError if its number is too high."""
        if number >= MOST_SOCKETS:
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
        with self._locked():
            noticed = self._sockets[number, NOTICED]
            self._sockets[number] = 0
            self._sockets[number, WATCHED], self._sockets[number, NOTICED] = True, noticed
        self._watched.add(number)
        self._epoll.register(number, select.EPOLLIN)

    def remove(self, number: int) -> None:
        """Forget it, and what nobody has taken. Before it is closed."""
        self._watched.discard(number)
        self._epoll.unregister(number)
        with self._locked():
            self._sockets[number, WATCHED] = self._sockets[number, COUNT] = 0
            self._held.pop(number, None)

    def keep(self, number: int, kept: bool) -> None:
        """Whether its chunks are kept until one may be an answer's last, or each wants a look."""
        with self._locked():
            self._sockets[number, KEPT], self._sockets[number, SIZE] = kept, 0

    def noticed(self) -> list[int]:
        """Those that want a look since the last time, by number; some of them may be gone."""
        with self._locked():
            numbers: list[int] = self._wanted[: self._state[WANTED]].tolist()
            self._sockets[numbers, NOTICED] = False
            self._state[WANTED] = 0
            if self._state[FULL]:
                self._hold_all()
        return numbers

    def taken(self, number: int) -> list[Read]:
        """What came over it since the last time, in order."""
        with self._locked():
            return self._taken(number)

    def ended(self, number: int) -> bool:
        """Whether a read gave nothing, after all that `taken` gives; it is left alone since."""
        return bool(self._sockets[number, ENDED])

    def go_on(self, number: int) -> None:
        """Read it again."""
        self._sockets[number, ENDED] = False

    def _taken(self, number: int) -> list[Read]:
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
        for number in self._watched:
            if self._sockets[number, COUNT]:
                self._held[number] = self._taken(number)
        self._state[BYTES] = self._state[READS] = self._state[FULL] = 0

    @contextmanager
    def _locked(self) -> Iterator[None]:
        place = self._mutex.ctypes.data
        _libc.pthread_mutex_lock(ctypes.c_void_p(place))
        try:
            yield
        finally:
            _libc.pthread_mutex_unlock(ctypes.c_void_p(place))

    def _run(self) -> None:
        signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
        self._read_on()

    def _read_on(self) -> None:
        _read_on(
            self._epoll.fileno(),
            self.woken,
            self._mutex,
            self._events,
            self._sockets,
            self._kept,
            self._reads,
            self._state,
            self._words,
            self._wanted,
            MOST_BYTES,
        )
