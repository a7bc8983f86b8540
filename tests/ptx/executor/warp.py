"""Thirty-two lanes that run a program: registers, where each lane is, and where they meet.

Source, PTX ISA 9.0, Scalar Instructions and Independent Thread Scheduling: lanes may run apart after a branch.
Instructions marked .aligned ask that all lanes of the warp execute the same one; here all lanes must arrive at it
before any goes on, and lanes that wait at different ones, or have ended, are an error. The same is asked of
shfl.sync and bar.warp.sync, whose masks name the whole warp in every kernel.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from executor.exchange import LANES
from executor.history import Who, time_of
from executor.numbers import Lanes
from executor.program import Program, PtxError

if TYPE_CHECKING:
    from executor.block import Block

PLAIN, BRANCH, EXIT, MEET, BARRIER = "plain", "branch", "exit", "meet", "barrier"
EVERY = np.ones(LANES, bool)
"""The mask of all lanes: no other array is true for all of them."""
_GARBAGE = {1: np.True_, 16: np.uint16(0xDEAD), 32: np.uint32(0xFFC0DEAD), 64: np.uint64(0xDEADBEEFFFC0DEAD)}
"""What registers hold before they are written: as a float32 a NaN, as an address none."""
_UNWRITTEN = {width: np.full(LANES, garbage) for width, garbage in _GARBAGE.items()}
for _shared in (EVERY, *_UNWRITTEN.values()):
    _shared.setflags(write=False)


@dataclass(frozen=True, slots=True)
class Step:
    """A decoded instruction: what it does to the lanes of a mask, and how it moves them on.

    `guard` gives the lanes whose predicate holds; `target` is the place a branch leads to.
    """

    kind: str
    run: Callable[[Warp, Lanes], None]
    text: str
    guard: Callable[[Warp], Lanes] | None = None
    target: int = -1


@dataclass(slots=True)
class Fragment:
    """Lanes at one place of the program."""

    place: int
    mask: Lanes
    waits: bool = False


@dataclass(slots=True)
class Warp:
    """One warp of a block. `first` is the number of its lane 0 in the block; `threads` are its lanes in the grid."""

    block: Block
    first: int
    threads: Lanes
    steps: tuple[Step, ...]
    registers: dict[str, Lanes]
    fragments: list[Fragment] = field(default_factory=lambda: [Fragment(0, EVERY)])
    alive: Lanes = field(default_factory=lambda: EVERY)
    epoch: int = 0
    text: str = ""
    """The instruction at hand."""

    @classmethod
    def of(cls, block: Block, first: int, program: Program, steps: tuple[Step, ...]) -> Warp:
        """A warp at its beginning, its registers garbage."""
        held = {name: _UNWRITTEN[width] for name, width in program.registers.items()}
        return cls(block, first, block.number * block.threads + first + np.arange(LANES), steps, held)

    @property
    def where(self) -> str:
        """The instruction at hand and the warp, for messages."""
        return f"{self._name()}, {self.text}"

    def who(self, mask: Lanes) -> Who:
        """The lanes of a mask as those who touch memory."""
        now = time_of(self.block.number, self.block.epoch, self.epoch)
        return Who(self.threads if mask is EVERY else self.threads[mask], now, self)

    def run(self) -> bool:
        """Go on to the end or to a barrier of the block; whether it is at a barrier."""
        while self.fragments:
            running = [fragment for fragment in self.fragments if not fragment.waits]
            if running:
                self._advance(min(running, key=lambda fragment: fragment.place))
                continue
            met = self._meet()
            if self.steps[met.place].kind == BARRIER:
                return True
            self._execute(met)
        return False

    def leave_barrier(self) -> None:
        """Go on behind the barrier at which all lanes wait."""
        self._execute(self.fragments[0])

    def _meet(self) -> Fragment:
        """All fragments wait: they must be one, of all lanes."""
        places = {fragment.place for fragment in self.fragments}
        if len(places) == 1 and self.fragments[0].mask is EVERY:
            return self.fragments[0]
        texts = "; ".join(sorted(f"{self.steps[place].text} (instruction {place})" for place in places))
        if len(places) > 1:
            raise PtxError(f"{self._name()}: lanes of a warp wait apart: {texts}")
        self._merge()
        if not self.fragments[0].mask.all():
            raise PtxError(f"{self._name()}: {texts} is reached by some lanes of a warp only")
        return self.fragments[0]

    def _advance(self, fragment: Fragment) -> None:
        """One fragment, the one furthest behind, until it waits, branches, ends, or comes to where others are."""
        others = {other.place for other in self.fragments if other is not fragment}
        while True:
            step = self.steps[fragment.place]
            if step.kind in (MEET, BARRIER):
                if self._skips(fragment, step):
                    fragment.place += 1
                    continue
                if step.kind == BARRIER or fragment.mask is not EVERY:
                    fragment.waits = True
                    return
            self._execute(fragment)
            if (
                step.kind == EXIT
                or (step.kind == BRANCH and len(self.fragments) > 1)
                or fragment.place in others
            ):
                break
        self._merge()

    def _skips(self, fragment: Fragment, step: Step) -> bool:
        """Whether the guard of an instruction of a whole warp holds for none of the lanes. Raises PtxError if for some."""
        if step.guard is None:
            return False
        holds = step.guard(self)[fragment.mask]
        count = np.count_nonzero(holds)
        if 0 < count < len(holds):
            raise PtxError(f"{self._name()}: {step.text}: its guard holds for some lanes only")
        return count == 0

    def _execute(self, fragment: Fragment) -> None:
        step, mask = self.steps[fragment.place], fragment.mask
        self.text = step.text
        taken = mask if step.guard is None else _of_lanes(mask & step.guard(self))
        fragment.waits = False
        if step.kind == BRANCH:
            self._branch(fragment, step.target, taken)
            return
        if step.kind == EXIT:
            self.alive = self.alive & ~taken
            fragment.mask = mask & ~taken
        elif taken is EVERY or np.count_nonzero(taken):
            step.run(self, taken)
            self.epoch += step.kind == MEET
        fragment.place += 1

    def _branch(self, fragment: Fragment, target: int, taken: Lanes) -> None:
        rest = fragment.mask & ~taken
        if not np.count_nonzero(rest):
            fragment.place = target
            return
        fragment.place += 1
        if np.count_nonzero(taken):
            fragment.mask = rest
            self.fragments.append(Fragment(target, taken))

    def _merge(self) -> None:
        """Fragments at the same place become one; those without lanes go."""
        together: dict[int, Fragment] = {}
        for fragment in self.fragments:
            if not np.count_nonzero(fragment.mask):
                continue
            known = together.setdefault(fragment.place, fragment)
            if known is not fragment:
                known.mask = _of_lanes(known.mask | fragment.mask)
                known.waits = known.waits and fragment.waits
        self.fragments = list(together.values())

    def _name(self) -> str:
        return f"{self.block.name}, warp {self.first // LANES}"


def _of_lanes(mask: Lanes) -> Lanes:
    """That mask; of all lanes, the one that says so."""
    return EVERY if np.count_nonzero(mask) == LANES else mask


def nothing(_warp: Warp, _mask: Any) -> None:
    """What instructions do that only order or end."""
