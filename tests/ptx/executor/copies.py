"""Copies from global to shared memory that run beside the thread: cp.async and its groups.

Source, PTX ISA 9.0, Data Movement: Non-bulk copy. cp.async "initiates an asynchronous copy"; "there is no ordering
guarantee between cp.async operations in the same group", writes become visible to the executing thread by
cp.async.wait_group N, which waits "until only N or fewer of the most recent per-thread cp.async-groups are pending";
commit_group closes a group of all that were initiated since the last, which may be empty. So a copy may land as
early as it is started and as late as the wait that covers it, or never if none does: both are run.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from executor.history import Who
from executor.memory import GlobalMemory, SharedMemory
from executor.numbers import Lanes

EARLY, LATE = "early", "late"


@dataclass(slots=True)
class Copy:
    """A word of each of some lanes: where it goes and what it is, and the number of its group among that lane's."""

    places: Lanes
    words: Lanes
    lanes: Lanes
    groups: Lanes

    def of(self, mask: Lanes) -> Copy:
        """What some of these lanes copy."""
        return Copy(self.places[mask], self.words[mask], self.lanes[mask], self.groups[mask])


@dataclass(slots=True)
class Copies:
    """What a warp has started and not waited for; `closed` counts the groups of each lane that are."""

    memory: GlobalMemory
    shared: SharedMemory
    mode: str
    closed: Lanes = field(default_factory=lambda: np.zeros(32, np.int64))
    started: list[Copy] = field(default_factory=list)

    def start(self, target: Lanes, source: Lanes, size: int, who: Who, lanes: Lanes) -> None:
        """cp.async of `size` bytes for each of the `lanes`."""
        words = self.memory.load(source, size, who)
        buffer = self.shared.buffer
        places = buffer.place(target, size, who)
        if buffer.history is not None:
            at = buffer.grains(places, size)
            buffer.history.write(at, who)
            self.shared.under_way[at] = True
        if self.mode == EARLY:
            buffer.words(size)[places] = words
        if self.mode == LATE or buffer.history is not None:
            self.started.append(Copy(places, words, lanes, self.closed[lanes]))

    def commit(self, lanes: Lanes) -> None:
        """cp.async.commit_group."""
        self.closed[lanes] += 1

    def wait(self, pending: int, lanes: Lanes) -> None:
        """cp.async.wait_group: closed groups land, but for the `pending` most recent ones."""
        first_kept = np.zeros(32, np.int64)
        first_kept[lanes] = self.closed[lanes] - pending
        kept = []
        for copy in self.started:
            lands = copy.groups < first_kept[copy.lanes]
            if lands.all():
                self._land(copy)
            elif lands.any():
                self._land(copy.of(lands))
                kept.append(copy.of(~lands))
            else:
                kept.append(copy)
        self.started = kept

    def _land(self, copy: Copy) -> None:
        buffer, size = self.shared.buffer, copy.words.dtype.itemsize
        if buffer.history is not None:
            self.shared.under_way[buffer.grains(copy.places, size)] = False
        if self.mode == LATE:
            buffer.words(size)[copy.places] = copy.words
