"""Copies from global to shared memory that run beside the thread: cp.async and its groups.

Source, PTX ISA 9.0, Data Movement: Non-bulk copy. cp.async "initiates an asynchronous copy"; "there is no ordering
guarantee between cp.async operations in the same group", writes become visible to the executing thread by
cp.async.wait_group N, which waits "until only N or fewer of the most recent per-thread cp.async-groups are pending";
commit_group closes a group of all that were initiated since the last, which may be empty. So a copy may land as
early as it is started and as late as the wait that covers it, or never if none does: both are run.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from executor.memory import GlobalMemory, SharedMemory, Who
from executor.numbers import Lanes

EARLY, LATE = "early", "late"


@dataclass(slots=True)
class Copy:
    """Sixteen bytes of one lane: where they go, what they are, and whose they are."""

    at: Lanes
    values: Lanes
    who: Who


@dataclass(slots=True)
class Copies:
    """The groups of a warp, lane by lane: the last of each is still open."""

    memory: GlobalMemory
    shared: SharedMemory
    mode: str
    groups: list[list[list[Copy]]] = field(default_factory=lambda: [[[]] for _ in range(32)])

    def start(self, target: Lanes, source: Lanes, size: int, who: Who, lanes: Lanes) -> None:
        """cp.async of `size` bytes for each of the `lanes`."""
        values = self.memory.load(source, size, who)
        at = self.shared.place(target, size, who)
        if self.shared.buffer.history is not None:
            self.shared.buffer.history.note(at, who, write=True)
        self.shared.under_way[at] = True
        if self.mode == EARLY:
            self.shared.buffer.content[at] = values
        for row, lane in enumerate(lanes):
            self.groups[lane][-1].append(Copy(at[row : row + 1], values[row : row + 1], who))

    def commit(self, lanes: Lanes) -> None:
        """cp.async.commit_group."""
        for lane in lanes:
            self.groups[lane].append([])

    def wait(self, pending: int, lanes: Lanes) -> None:
        """cp.async.wait_group: closed groups land, but for the `pending` most recent ones."""
        for lane in lanes:
            groups = self.groups[lane]
            while len(groups) - 1 > pending:
                for copy in groups.pop(0):
                    self.shared.under_way[copy.at] = False
                    if self.mode == LATE:
                        self.shared.buffer.content[copy.at] = copy.values
