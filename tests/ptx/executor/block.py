"""A block of threads: its warps, one after another from barrier to barrier, and the launch of a grid of blocks.

>>> launch(program, grid=(2, 1, 1), threads=64, arguments=[x, np.int32(12)])

Source, PTX ISA 9.0, Thread Hierarchy; Special Registers; bar.sync: all threads of the block arrive before any goes
on. Warps run one after the other between barriers, in ascending or in descending order: no result may depend on it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
from executor.copies import LATE, Copies
from executor.exchange import LANES
from executor.memory import GlobalMemory, SharedMemory
from executor.memory_steps import smallest_access
from executor.program import Program, PtxError
from executor.warp import Step, Warp

Size = tuple[int, int, int]
_TICK_NS = 1024


@dataclass(slots=True)
class Block:
    """What the threads of one block have in common; `epoch` counts its barriers, `number` is its place in the launch."""

    name: str
    position: Size
    grid: Size
    threads: int
    memory: GlobalMemory
    shared: SharedMemory
    parameters: dict[str, int]
    copies: list[Copies]
    number: int
    epoch: int = 0
    clock_ns: int = 0
    warps: list[Warp] = field(default_factory=list)

    def run(self, backwards: bool = False) -> None:
        """To the end of all threads."""
        running = self.warps[::-1] if backwards else self.warps
        while running:
            waiting = [warp for warp in running if warp.run()]
            if waiting and len(waiting) < len(self.warps):
                raise PtxError(f"{self.name}: warps wait at a barrier that others never reach")
            self.epoch += 1
            for warp in waiting:
                warp.leave_barrier()
            running = waiting

    def tick(self) -> int:
        """%globaltimer: nanoseconds that rise whenever it is read."""
        self.clock_ns += _TICK_NS
        return self.clock_ns


def launch(
    program: Program,
    steps: tuple[Step, ...],
    grid: Size,
    threads: int,
    arguments: Sequence[Any],
    mode: str = LATE,
    races: bool = False,
) -> None:
    """Run every block of a grid. Arguments are arrays, written in place, and NumPy numbers of four bytes.

    `mode`: when copies land, copies.EARLY or LATE; with EARLY warps run in descending order. `races`: look for them.
    """
    if threads % LANES:
        raise PtxError(f"{program.name}: {threads} threads are no whole warps")
    arrays: list[npt.NDArray[Any]] = []
    values: dict[str, int] = {}
    for (_, name), argument in zip(program.parameters, arguments, strict=True):
        if not isinstance(argument, np.ndarray):
            values[name] = int(np.array([argument]).view(np.uint32)[0])
            continue
        index = next((i for i, known in enumerate(arrays) if known is argument), len(arrays))
        arrays[index:] = arrays[index:] or [argument]
        values[name] = GlobalMemory.base(index)
    grain = smallest_access(program)
    memory = GlobalMemory(arrays, races, grain)
    with np.errstate(all="ignore"):
        for number, (z, y, x) in enumerate(np.ndindex(grid[2], grid[1], grid[0])):
            shared = SharedMemory.of(max(1, program.shared_bytes), races, grain)
            copies = [Copies(memory, shared, mode) for _ in range(threads // LANES)]
            name = f"{program.name}, block {x}, {y}, {z}"
            block = Block(name, (x, y, z), grid, threads, memory, shared, values, copies, number)
            block.warps = [Warp.of(block, first, program, steps) for first in range(0, threads, LANES)]
            block.run(backwards=mode != LATE)
