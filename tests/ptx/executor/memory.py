"""Global and shared memory with what the ISA asks of those who use it: alignment, bounds, and no data races.

>>> memory = GlobalMemory([x, y])
>>> memory.load(memory.base(0) + 16 * lanes, 16, threads)       # sixteen bytes a lane

Sources, PTX ISA 9.0: State Spaces; Addresses as Operands ("the address must be naturally aligned to a multiple of
the access size"); Memory Consistency Model, Data Races: two accesses of overlapping bytes, one of them a write,
race unless the program orders them. What orders two threads of a block here is a barrier between them: bar.sync
for all, bar.warp.sync and instructions of a whole warp for lanes of one warp. Nothing orders threads of two blocks.
Memory starts as garbage: shared bytes are 0xff, which no kernel may take for a number.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
from executor.numbers import Lanes
from executor.program import PtxError

Bytes = npt.NDArray[np.uint8]
Shadow = npt.NDArray[np.int64]

_BUFFER_SHIFT = 40
GARBAGE = 0xFF
_NOBODY, _SEVERAL, _OF_WARP = -1, -2, -3
"""In place of a thread: nobody, threads of several warps, several threads of warp w (_OF_WARP - w)."""


@dataclass(slots=True)
class Who:
    """Lanes that touch memory at once: their numbers in the grid or block, and the epochs of their block and warp."""

    threads: Lanes
    block_epoch: int = 0
    warp_epoch: int = 0
    where: str = ""

    def pick(self, mask: Lanes) -> Who:
        """Those of the lanes that the mask names."""
        return Who(self.threads[mask], self.block_epoch, self.warp_epoch, self.where)


def _warp(threads: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """The warp of each entry; -1 for none or several."""
    return np.where(threads >= 0, threads // 32, np.where(threads <= _OF_WARP, _OF_WARP - threads, -1))


class History:
    """Who touched each byte of one buffer last, and in which epoch. Raises PtxError for a race."""

    def __init__(self, size: int) -> None:
        self.writer, self.reader = (np.full(size, _NOBODY, np.int64) for _ in range(2))
        self.written, self.read = (np.zeros((2, size), np.int64) for _ in range(2))

    def note(self, at: npt.NDArray[np.int64], who: Who, write: bool) -> None:
        """`at` [lanes, bytes] are touched by one thread a row."""
        self._check(at, who, self.writer, self.written, f"{'writes' if write else 'reads'} what was written")
        threads = np.broadcast_to(who.threads[:, None], at.shape)
        if write:
            self._check(at, who, self.reader, self.read, "writes what was read")
            self.writer[at], self.written[0][at], self.written[1][at] = (
                threads,
                who.block_epoch,
                who.warp_epoch,
            )
            if not np.array_equal(self.writer[at], threads):
                raise PtxError(f"{who.where}: lanes write the same bytes at once")
            return
        before = np.where(self.read[0][at] == who.block_epoch, self.reader[at], _NOBODY)
        self.reader[at] = threads
        together = np.where(before == _NOBODY, self.reader[at], before)
        alike = _warp(together) == threads // 32
        self.reader[at] = np.where(
            together == threads, threads, np.where(alike, _OF_WARP - threads // 32, _SEVERAL)
        )
        self.read[0][at], self.read[1][at] = who.block_epoch, who.warp_epoch

    def _check(self, at: Any, who: Who, by: Shadow, epochs: Shadow, what: str) -> None:
        """Another thread touched it in this epoch of the block, and not in an earlier epoch of the same warp."""
        other, threads = by[at], who.threads[:, None]
        same_epoch = epochs[0][at] == who.block_epoch
        earlier = (_warp(other) == threads // 32) & (epochs[1][at] != who.warp_epoch)
        wrong = (other != _NOBODY) & (other != threads) & same_epoch & ~earlier
        if wrong.any():
            row, column = np.argwhere(wrong)[0]
            raise PtxError(
                f"{who.where}: race: thread {who.threads[row]} {what} by "
                f"{'several' if other[row, column] == _SEVERAL else other[row, column]} at byte {at[row, column]}"
            )


@dataclass(slots=True)
class Buffer:
    """Bytes with a name for messages; `history` only where races are looked for. `constant` bytes were read as such."""

    name: str
    content: Bytes
    history: History | None = None
    constant: npt.NDArray[np.bool_] | None = None

    def place(self, offset: Lanes, size: int, where: str) -> npt.NDArray[np.int64]:
        """Indices [lanes, size] of their bytes. Raises PtxError beyond the end."""
        first = offset.astype(np.int64)
        if len(first) and (first.min() < 0 or first.max() + size > len(self.content)):
            bad = first[(first < 0) | (first + size > len(self.content))][0]
            raise PtxError(
                f"{where}: bytes {bad} to {bad + size} of {self.name}, which has {len(self.content)}"
            )
        return first[:, None] + np.arange(size)


def _aligned(addresses: Lanes, size: int, where: str) -> None:
    wrong = addresses % np.uint64(size) != 0
    if wrong.any():
        raise PtxError(f"{where}: address {int(addresses[wrong][0]):#x} is not aligned to {size} bytes")


class GlobalMemory:
    """The arrays of a launch, each at an address far from all others."""

    def __init__(self, arrays: Sequence[npt.NDArray[Any]], races: bool) -> None:
        self.buffers = []
        for i, array in enumerate(arrays):
            content = array.reshape(-1).view(np.uint8)
            history = History(len(content)) if races else None
            constant = np.zeros(len(content), bool) if races else None
            self.buffers.append(Buffer(f"argument {i}", content, history, constant))

    @staticmethod
    def base(index: int) -> int:
        """The address of an array."""
        return (index + 1) << _BUFFER_SHIFT

    def load(self, addresses: Lanes, size: int, who: Who, constant: bool = False) -> Bytes:
        """Bytes [lanes, size]; `constant`: by ld.global.nc, which nobody may write during the kernel."""
        buffer, at = self._find(addresses, size, who)
        if buffer.history is not None and buffer.constant is not None:
            buffer.history.note(at, who, write=False)
            buffer.constant[at] |= constant
            if constant and (buffer.history.writer[at] != _NOBODY).any():
                raise PtxError(f"{who.where}: ld.global.nc of {buffer.name}, which this kernel has written")
        return buffer.content[at]

    def store(self, addresses: Lanes, values: Bytes, who: Who) -> None:
        """Bytes [lanes, size]."""
        buffer, at = self._find(addresses, values.shape[1], who)
        if buffer.history is not None and buffer.constant is not None:
            buffer.history.note(at, who, write=True)
            if buffer.constant[at].any():
                raise PtxError(f"{who.where}: a store to {buffer.name}, which was read by ld.global.nc")
        buffer.content[at] = values

    def _find(self, addresses: Lanes, size: int, who: Who) -> tuple[Buffer, npt.NDArray[np.int64]]:
        """The one array that all lanes address."""
        _aligned(addresses, size, who.where)
        numbers = np.unique(addresses >> np.uint64(_BUFFER_SHIFT))
        if len(numbers) != 1 or not 1 <= numbers[0] <= len(self.buffers):
            raise PtxError(f"{who.where}: {int(addresses[0]):#x} is in no array, or lanes are in several")
        buffer = self.buffers[int(numbers[0]) - 1]
        return buffer, buffer.place(addresses & np.uint64((1 << _BUFFER_SHIFT) - 1), size, who.where)


@dataclass(slots=True)
class SharedMemory:
    """The shared memory of one block. `under_way` marks bytes that a copy has yet to write."""

    buffer: Buffer
    under_way: npt.NDArray[np.bool_] = field(init=False)

    def __post_init__(self) -> None:
        self.under_way = np.zeros(len(self.buffer.content), bool)

    @classmethod
    def of(cls, size: int, races: bool) -> SharedMemory:
        """Garbage of that size."""
        content = np.full(size, GARBAGE, np.uint8)
        return cls(Buffer("shared memory", content, History(size) if races else None))

    def load(self, addresses: Lanes, size: int, who: Who) -> Bytes:
        """Bytes [lanes, size]."""
        at = self.place(addresses, size, who)
        self._note(at, who, write=False)
        return self.buffer.content[at]

    def store(self, addresses: Lanes, values: Bytes, who: Who) -> None:
        """Bytes [lanes, size]."""
        at = self.place(addresses, values.shape[1], who)
        self._note(at, who, write=True)
        self.buffer.content[at] = values

    def place(self, addresses: Lanes, size: int, who: Who) -> npt.NDArray[np.int64]:
        """Indices of the bytes, checked."""
        _aligned(addresses, size, who.where)
        return self.buffer.place(addresses, size, who.where)

    def _note(self, at: npt.NDArray[np.int64], who: Who, write: bool) -> None:
        if self.buffer.history is not None:
            if self.under_way[at].any():
                raise PtxError(f"{who.where}: touches bytes of a copy that was not waited for")
            self.buffer.history.note(at, who, write)
