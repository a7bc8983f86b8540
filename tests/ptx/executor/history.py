"""Who touched memory last, and when: what tells data races.

>>> history = History("shared memory", units=64, grain=16)
>>> history.write(places, who)       # raises PtxError if another thread's access is not ordered before this one

Source, PTX ISA 9.0, Memory Consistency Model, Data Races: two accesses of overlapping bytes, one of them a write,
race unless the program orders them. What orders two threads of a block here is a barrier between them: bar.sync
for all, bar.warp.sync and instructions of a whole warp for lanes of one warp. Nothing orders threads of two blocks.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
from executor.numbers import Lanes
from executor.program import PtxError

if TYPE_CHECKING:
    from executor.warp import Warp

Shadow = npt.NDArray[np.int64]

_NOBODY, _SEVERAL, _OF_WARP = -1, -2, -3
"""In place of a thread: nobody, threads of several warps, several threads of warp w (_OF_WARP - w)."""
_BLOCK_SHIFT, _EPOCH_SHIFT = 40, 20
_NEVER, _IN_BLOCKS = -1, 1 << 62
"""In place of a time: none, and times in several blocks, which nothing orders before any other."""


def time_of(block: int, block_epoch: int, warp_epoch: int) -> int:
    """One number for the block and how many barriers it and the warp have passed; of a warp they ascend."""
    return block << _BLOCK_SHIFT | block_epoch << _EPOCH_SHIFT | warp_epoch


@dataclass(slots=True)
class Who:
    """Lanes of a warp that touch memory at once: their numbers in the grid, and their time."""

    threads: Lanes
    now: int
    warp: Warp

    @property
    def where(self) -> str:
        """The instruction at hand and the warp, for messages."""
        return self.warp.where


def _warp(threads: Shadow) -> Shadow:
    """The warp of each entry; -1 for none or several."""
    return np.where(threads >= 0, threads // 32, np.where(threads <= _OF_WARP, _OF_WARP - threads, -1))


class History:
    """Who touched each unit of one buffer last, and at what time. Raises PtxError for a race.

    `grain`: bytes of a unit. As long as nobody writes, reads are only remembered.
    """

    def __init__(self, name: str, units: int, grain: int) -> None:
        self.name, self.grain = name, grain
        self.writer, self.reader = (np.full(units, _NOBODY, np.int64) for _ in range(2))
        self.written_at, self.read_at = (np.full(units, _NEVER, np.int64) for _ in range(2))
        self.constant = np.zeros(units, bool)
        """What was read by ld.global.nc."""
        self._reads: list[tuple[Shadow, Who]] = []
        self._is_written = False

    def read(self, at: Shadow, who: Who, constant: bool = False) -> None:
        """`at` [lanes, units] are read by one thread a row."""
        if constant:
            self.constant[at] = True
        if not self._is_written:
            self._reads.append((at, who))
            return
        self._check(at, who, self.writer, self.written_at, "reads what was written")
        if constant and (self.writer[at] != _NOBODY).any():
            raise PtxError(f"{who.where}: ld.global.nc of {self.name}, which this kernel has written")
        self._note_read(at, who)

    def write(self, at: Shadow, who: Who) -> None:
        """`at` [lanes, units] are written by one thread a row."""
        if not self._is_written:
            self._is_written = True
            for earlier in self._reads:
                self._note_read(*earlier)
            self._reads.clear()
        self._check(at, who, self.writer, self.written_at, "writes what was written")
        self._check(at, who, self.reader, self.read_at, "writes what was read")
        threads = who.threads[:, None]
        self.writer[at] = threads
        if np.count_nonzero(self.writer[at] != threads):
            raise PtxError(f"{who.where}: lanes write the same bytes at once")
        self.written_at[at] = who.now
        if np.count_nonzero(self.constant[at]):
            raise PtxError(f"{who.where}: a store to {self.name}, which was read by ld.global.nc")

    def _note_read(self, at: Shadow, who: Who) -> None:
        """Readers of one epoch of a block are together; those of several blocks always."""
        threads, when = who.threads[:, None], self.read_at[at]
        elsewhere = _elsewhere(when, who.now)
        now = np.where(elsewhere, _IN_BLOCKS, who.now)
        before = np.where(elsewhere | _of_this_epoch(when, who.now), self.reader[at], _NOBODY)
        self.reader[at] = threads
        together = np.where(before == _NOBODY, self.reader[at], before)
        others = together != threads
        self.read_at[at] = now
        if np.count_nonzero(others):
            warp = threads // 32
            mark = np.where(_warp(together) == warp, _OF_WARP - warp, _SEVERAL)
            self.reader[at[others]] = mark[others]

    def _check(self, at: Shadow, who: Who, by: Shadow, times: Shadow, what: str) -> None:
        """Nobody else touched it since the last barrier of this block, nor did another block, nor lanes of this warp
        since its own last barrier."""
        other, when, threads = by[at], times[at], who.threads[:, None]
        wrong = (_elsewhere(when, who.now) | _of_this_epoch(when, who.now)) & (other != threads)
        if not np.count_nonzero(wrong):
            return
        wrong &= (_warp(other) != threads // 32) | (when >= who.now)
        if wrong.any():
            row, column = np.argwhere(wrong)[0]
            raise PtxError(
                f"{who.where}: race: thread {who.threads[row]} {what} by "
                f"{'several' if other[row, column] < 0 else other[row, column]} "
                f"at byte {self.grain * at[row, column]}"
            )


def _elsewhere(when: Shadow, now: int) -> npt.NDArray[np.bool_]:
    """Whether a time was in another block, or times were."""
    block = now >> _BLOCK_SHIFT << _BLOCK_SHIFT
    return (when != _NEVER) & ((when < block) | (when == _IN_BLOCKS))


def _of_this_epoch(when: Shadow, now: int) -> npt.NDArray[np.bool_]:
    """Whether a time was since the last barrier of this block."""
    return when >= now >> _EPOCH_SHIFT << _EPOCH_SHIFT
