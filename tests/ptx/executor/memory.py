"""Global and shared memory with what the ISA asks of those who use it: alignment, bounds, and no data races.

>>> memory = GlobalMemory([x, y], races=True, grain=4)
>>> memory.load(memory.base(0) + 16 * lanes, 16, who)       # sixteen bytes a lane

Sources, PTX ISA 9.0: State Spaces; Addresses as Operands ("the address must be naturally aligned to a multiple of
the access size"). Who touched what is in history.py. Memory starts as garbage: shared bytes are 0xff, which no kernel
may take for a number.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
from executor.history import History, Who
from executor.numbers import Lanes
from executor.program import PtxError

Bytes = npt.NDArray[np.uint8]
Places = npt.NDArray[np.int64]

_BUFFER_SHIFT = 40
GARBAGE = 0xFF


@dataclass(slots=True)
class Buffer:
    """Bytes with a name for messages; `history` only where races are looked for, for each `grain` bytes.

    `grain` is the smallest access of the program: as all are aligned, none touches a part of it.
    """

    name: str
    content: Bytes
    grain: int
    history: History | None = None
    _words: dict[int, Lanes] = field(default_factory=dict)

    @classmethod
    def of(cls, name: str, content: Bytes, races: bool, grain: int) -> Buffer:
        """These bytes, and nobody who has touched them."""
        return cls(name, content, grain, History(name, -(-len(content) // grain), grain) if races else None)

    def words(self, size: int) -> Lanes:
        """The whole ones of `size` bytes, in place."""
        if size not in self._words:
            self._words[size] = self.content[: len(self.content) // size * size].view(f"V{size}")
        return self._words[size]

    def place(self, offsets: Lanes, size: int, who: Who) -> Places:
        """Which of these words the lanes address. Raises PtxError beyond the end, and for an address between words."""
        last = int(np.maximum.reduce(offsets))  # offsets below zero are far beyond the end
        if last + size > len(self.content) or int(np.bitwise_or.reduce(offsets)) & (size - 1):
            self._refuse(offsets.view(np.int64), size, who)
        return offsets.view(np.int64) >> size.bit_length() - 1

    def grains(self, places: Places, size: int) -> Places:
        """Indices [lanes, …] into the history of these words."""
        if size == self.grain:
            return places[:, None]
        count = size // self.grain
        return places[:, None] * count + np.arange(count)

    def _refuse(self, first: Places, size: int, who: Who) -> None:
        if (wrong := first % size != 0).any():
            raise PtxError(f"{who.where}: address {int(first[wrong][0]):#x} is not aligned to {size} bytes")
        bad = first[(first < 0) | (first + size > len(self.content))][0]
        raise PtxError(
            f"{who.where}: bytes {bad} to {bad + size} of {self.name}, which has {len(self.content)}"
        )


class GlobalMemory:
    """The arrays of a launch, each at an address far from all others."""

    def __init__(self, arrays: Sequence[npt.NDArray[Any]], races: bool, grain: int = 1) -> None:
        self.buffers = []
        for i, array in enumerate(arrays):
            self.buffers.append(Buffer.of(f"argument {i}", array.reshape(-1).view(np.uint8), races, grain))

    @staticmethod
    def base(index: int) -> int:
        """The address of an array."""
        return (index + 1) << _BUFFER_SHIFT

    def load(self, addresses: Lanes, size: int, who: Who, constant: bool = False) -> Lanes:
        """A word of `size` bytes a lane; `constant`: by ld.global.nc, which nobody may write during the kernel."""
        buffer, places = self._find(addresses, size, who)
        if buffer.history is not None:
            buffer.history.read(buffer.grains(places, size), who, constant)
        return buffer.words(size)[places]

    def store(self, addresses: Lanes, words: Lanes, who: Who) -> None:
        """A word a lane."""
        size = words.dtype.itemsize
        buffer, places = self._find(addresses, size, who)
        if buffer.history is not None:
            buffer.history.write(buffer.grains(places, size), who)
        buffer.words(size)[places] = words

    def _find(self, addresses: Lanes, size: int, who: Who) -> tuple[Buffer, Places]:
        """The one array that all lanes address, and the words of it."""
        number = int(addresses[0]) >> _BUFFER_SHIFT
        if 1 <= number <= len(self.buffers):
            offsets = addresses - np.uint64(number << _BUFFER_SHIFT)
            if not np.maximum.reduce(offsets) >> np.uint64(_BUFFER_SHIFT):
                buffer = self.buffers[number - 1]
                return buffer, buffer.place(offsets, size, who)
        if (wrong := addresses % np.uint64(size) != 0).any():
            raise PtxError(
                f"{who.where}: address {int(addresses[wrong][0]):#x} is not aligned to {size} bytes"
            )
        raise PtxError(f"{who.where}: {int(addresses[0]):#x} is in no array, or lanes are in several")


@dataclass(slots=True)
class SharedMemory:
    """The shared memory of one block. `under_way` marks grains that a copy has yet to write."""

    buffer: Buffer
    under_way: npt.NDArray[np.bool_] = field(init=False)

    def __post_init__(self) -> None:
        self.under_way = np.zeros(-(-len(self.buffer.content) // self.buffer.grain), bool)

    @classmethod
    def of(cls, size: int, races: bool, grain: int = 1) -> SharedMemory:
        """Garbage of that size."""
        return cls(Buffer.of("shared memory", np.full(size, GARBAGE, np.uint8), races, grain))

    def load(self, addresses: Lanes, size: int, who: Who) -> Lanes:
        """A word of `size` bytes a lane."""
        places = self.buffer.place(addresses, size, who)
        if self.buffer.history is not None:
            self.buffer.history.read(self._settled(places, size, who), who)
        return self.buffer.words(size)[places]

    def store(self, addresses: Lanes, words: Lanes, who: Who) -> None:
        """A word a lane."""
        size = words.dtype.itemsize
        places = self.buffer.place(addresses, size, who)
        if self.buffer.history is not None:
            self.buffer.history.write(self._settled(places, size, who), who)
        self.buffer.words(size)[places] = words

    def _settled(self, places: Places, size: int, who: Who) -> Places:
        """Their grains. Raises PtxError where a copy has yet to write one."""
        at = self.buffer.grains(places, size)
        if np.count_nonzero(self.under_way[at]):
            raise PtxError(f"{who.where}: touches bytes of a copy that was not waited for")
        return at
