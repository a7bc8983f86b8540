"""A file of arrays that processes make for each other: a head, a table of what it holds, the arrays.

>>> file = ArrayFile("/proc/4711/fd/9", threads=2)          # one that `lay_out` made ready
>>> line = file.claim(name_of("weight bf16 7 1"), size=1 << 20)
>>> if line.complete:
...     file.read(line, [bits])
... else:
...     file.write(line, [bits])
...     file.release(line)

Whoever makes an array holds a lock on its line of the table, on which the others wait; a lock goes with the process that
held it. Arrays are read into memory of the reader's own and never mapped: pages of a file are small, and a product over
them would be slower. Sums tell lost pages, torn writes and flipped bits.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import stat
import struct
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from math import ceil

import numpy as np
import numpy.typing as npt

from membound.kernels.weights.formats import Array

Bytes = npt.NDArray[np.uint8]

WAIT_S = 60.0
"""How long to wait for an array that another process makes; quantising the largest of a checkpoint takes ten seconds."""
POLL_S = 0.002
BLOCK = 1 << 16
"""Bytes that have one sum."""
CHUNK = 4 * BLOCK
"""Bytes that are read or written at once: they are still in the second-level cache when they are summed up."""

HEAD = struct.Struct("<8sQQQ")
"""Magic, bytes of all arrays at most, where the next one begins, how many there are."""
LINE = struct.Struct("<16sQQ16sQ")
"""Name, where the array begins, its bytes, hash of its sums, whether it is complete."""
MAGIC = b"membound"
MOST_ARRAYS = 4096
FIRST = HEAD.size + MOST_ARRAYS * LINE.size
"""Where the first array begins."""
TABLE_LOCK = 0
"""The byte that is locked while a line is added; line n has byte n + 1."""


class ArrayFileError(Exception):
    """The file is of no more use to this process. The text says why; it is empty where the file was taken back."""


@dataclass(frozen=True, slots=True)
class Line:
    """A line of the table. `start` and `size` in bytes, `sums` a hash of the sums of all blocks."""

    number: int
    name: bytes
    start: int
    size: int
    sums: bytes = bytes(16)
    complete: int = 0


def lay_out(file: int, capacity_bytes: int) -> None:
    """Make an open, empty file ready for arrays of that many bytes in all. Raises OSError."""
    os.ftruncate(file, FIRST)
    os.pwrite(file, HEAD.pack(MAGIC, capacity_bytes, FIRST, 0), 0)


def name_of(text: str) -> bytes:
    """The name of an array in a table, from a text that says all that its numbers depend on."""
    return hashlib.blake2b(text.encode(), digest_size=16).digest()


class ArrayFile:
    """The file as one process sees it. Every method raises ArrayFileError, and OSError."""

    def __init__(self, path: str, threads: int, wait_s: float = WAIT_S) -> None:
        self._wait_s, self._threads = wait_s, threads
        self._file = _opened(path)
        try:
            self.lines()
        except BaseException:
            os.close(self._file)
            raise
        self._pool = ThreadPoolExecutor(threads)

    def close(self) -> None:
        """Let go of all locks and of the file."""
        self._pool.shutdown()
        os.close(self._file)

    def lines(self) -> list[Line]:
        """The whole table."""
        capacity, _, count = self._head()
        table = np.empty(count * LINE.size, np.uint8)
        self._fill(table, HEAD.size)
        found = [Line(number, *fields) for number, fields in enumerate(LINE.iter_unpack(table.data))]
        if any(line.start + line.size > FIRST + capacity for line in found):
            raise ArrayFileError("its table is damaged")
        return found

    def claim(self, name: bytes, size: int) -> Line | None:
        """A complete line, or one that is locked and for this process to complete; None where there is no room for it."""
        line = self._known(name)
        if line is None:
            self._lock(TABLE_LOCK)
            try:
                line = self._known(name) or self._add(name, size)
            finally:
                self._unlock(TABLE_LOCK)
        if line is None or line.complete:
            return line
        self._lock(line.number + 1)
        now = self._known(name)
        if now is None or now.complete:
            self.release(line)
        return now

    def release(self, line: Line) -> None:
        """Let others complete a line, if this process has not."""
        self._unlock(line.number + 1)

    def read(self, line: Line, arrays: Sequence[Array]) -> None:
        """Fill C-contiguous arrays from a complete line, each thread a part of its own."""

        def read(part: Bytes, start: int) -> Bytes:
            self._fill(part, start)
            return part

        if self._sums(line, arrays, read, self._threads) != line.sums:
            raise ArrayFileError("an array in it is damaged")

    def write(self, line: Line, arrays: Sequence[Array]) -> None:
        """Store C-contiguous arrays and complete their line.

        In one thread: the system lets one write to a file at a time, and a second one that waits costs as much again.
        """

        def write(part: Bytes, start: int) -> Bytes:
            done = 0
            while done < part.size:
                done += os.pwrite(self._file, part[done:].data, start + done)
            return part

        sums = self._sums(line, arrays, write, threads=1)
        self._write(replace(line, sums=sums, complete=1))

    # Parts

    def _head(self) -> tuple[int, int, int]:
        """Bytes of all arrays at most, where the next one begins, how many there are."""
        head = np.empty(HEAD.size, np.uint8)
        self._fill(head, 0)
        magic, capacity, end, count = HEAD.unpack(head.data)
        if magic != MAGIC or count > MOST_ARRAYS or max(capacity, end) > 1 << 62:
            raise ArrayFileError("it is none of membound's arrays")
        return capacity, end, count

    def _known(self, name: bytes) -> Line | None:
        return next((line for line in self.lines() if line.name == name), None)

    def _add(self, name: bytes, size: int) -> Line | None:
        """A process that ends between the two writes has added nothing."""
        capacity, end, count = self._head()
        if count == MOST_ARRAYS or end + size > FIRST + capacity:
            return None
        line = Line(count, name, end, size)
        self._write(line)
        os.pwrite(self._file, HEAD.pack(MAGIC, capacity, end + size, count + 1), 0)
        return line

    def _write(self, line: Line) -> None:
        fields = (line.name, line.start, line.size, line.sums, line.complete)
        os.pwrite(self._file, LINE.pack(*fields), HEAD.size + line.number * LINE.size)

    def _lock(self, byte: int) -> None:
        end = time.monotonic() + self._wait_s
        while True:
            try:
                fcntl.lockf(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, byte)
            except (BlockingIOError, PermissionError):  # another process has it
                if time.monotonic() > end:
                    raise ArrayFileError(f"another process made an array for {self._wait_s:g} s") from None
                time.sleep(POLL_S)
            else:
                return

    def _unlock(self, byte: int) -> None:
        fcntl.lockf(self._file, fcntl.LOCK_UN, 1, byte)

    def _fill(self, part: Bytes, start: int) -> None:
        """Read all of a part, or raise."""
        done = 0
        while done < part.size:
            got = os.preadv(self._file, [part[done:].data], start + done)
            if not got:
                raise ArrayFileError("it is cut short" if os.fstat(self._file).st_size else "")
            done += got

    def _sums(
        self, line: Line, arrays: Sequence[Array], move: Callable[[Bytes, int], Bytes], threads: int
    ) -> bytes:
        """Move all bytes of a line, chunk by chunk, and hash the sums of its blocks."""
        digest, start = hashlib.blake2b(digest_size=16), line.start
        for array in arrays:
            flat = array.reshape(-1).view(np.uint8)
            step = ceil(flat.size / threads / BLOCK) * BLOCK

            def summed(first: int, flat: Bytes = flat, start: int = start, step: int = step) -> bytes:
                whole = flat[first : first + step]
                chunks = range(0, whole.size, CHUNK)
                return b"".join(
                    _block_sums(move(whole[at : at + CHUNK], start + first + at)) for at in chunks
                )

            for found in self._pool.map(summed, range(0, flat.size, step)):
                digest.update(found)
            start += flat.size
        return digest.digest()


def _block_sums(part: Bytes) -> bytes:
    """The sum of each block as 64-bit words; a last one that is shorter is filled up with zeros."""
    whole = part.size // BLOCK * BLOCK
    sums: npt.NDArray[np.uint64] = part[:whole].view(np.uint64).reshape(-1, BLOCK // 8).sum(1)
    if whole == part.size:
        return sums.tobytes()
    rest = np.frombuffer(part[whole:].tobytes().ljust(BLOCK, b"\0"), np.uint64)
    return np.append(sums, rest.sum()).tobytes()


def _opened(path: str) -> int:
    """A descriptor of a file of this user's; nothing else is opened, as a pipe or a device might notice."""
    found = os.stat(path)
    if not stat.S_ISREG(found.st_mode) or found.st_uid != os.geteuid():
        raise ArrayFileError("it is no file of this user's")
    return os.open(path, os.O_RDWR | os.O_CLOEXEC)
