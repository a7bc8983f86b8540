"""The same works with several thread counts and in several placements: ordinary runs, one after the other.

>>> done = scaling_session([], ["mine"], options, points_of([1, 2, 4], ["node0", "node0:node1"]), talk, progress)
>>> done.exit_status, len(done.sessions)
(0, 6)
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import chain
from typing import Any

from rich.console import Console, RenderableType

from membound.bench.machine.fingerprint import default_threads
from membound.bench.machine.placement import placed, placement_of, placements
from membound.bench.planning.choice import OptionError
from membound.bench.planning.plan import Options
from membound.bench.run.session import Session, run_session
from membound.results.scaling.curve import Curve, curves_of
from membound.results.views.scaling import scaling_records, scaling_view

ALL = "all"


@dataclass(frozen=True)
class ScalingSession:
    """The runs that were made, in order."""

    sessions: tuple[Session, ...]

    @property
    def exit_status(self) -> int:
        """130 interrupted; 1 if one of the runs failed; else 0."""
        return max(one.exit_status for one in self.sessions)

    @cached_property
    def curves(self) -> list[Curve]:
        """What they come to."""
        return curves_of(chain.from_iterable(one.rows for one in self.sessions))

    def view(self) -> RenderableType:
        """The table."""
        return scaling_view(self.curves)

    def record(self) -> dict[str, Any]:
        """All of it, as JSON can hold it."""
        return {
            "runs": [str(one.path) for one in self.sessions],
            "curves": scaling_records(self.curves),
            "cases": [line for one in self.sessions for line in one.records()],
        }


def scaling_session(
    works: Sequence[str],
    backends: Sequence[str],
    options: Options,
    points: Sequence[tuple[str, int]],
    talk: Console,
    progress: Console,
) -> ScalingSession:
    """A run for each of `points_of`; Ctrl-C ends the run at hand and all that would follow. Raises as `run_session`."""
    done: list[Session] = []
    for number, (place, threads) in enumerate(points, 1):
        where = f" on {place}" if place else ""
        talk.print(
            f"run {number} of {len(points)}: {threads} thread{'s' * (threads != 1)}{where}", soft_wrap=True
        )
        one = run_session(works, backends, replace(options, threads=threads, placement=place), talk, progress)
        talk.print(f"rows: {one.path}", soft_wrap=True)
        done.append(one)
        if one.interrupted:
            break
    return ScalingSession(tuple(done))


def points_of(counts: Sequence[int], places: Sequence[str]) -> Iterator[tuple[str, int]]:
    """Placement and threads of each run, by default the cores of the placement, or of the machine.

    Raises OptionError where a placement has too few CPUs, PlacementError.
    """
    for place in named(places) or [""]:
        with placed(place):
            most, usual = len(placement_of(place).cpus) if place else None, default_threads()
        for threads in counts or [usual]:
            if most is not None and threads > most:
                raise OptionError(f"threads={threads} must be at most {most}, the CPUs of placement {place}")
            yield place, threads


def named(places: Sequence[str]) -> list[str]:
    """The placements asked for, each once; ``all`` is every node with its own memory and with that of each other."""
    every = [one.name for one in placements()] if ALL in places else []
    return list(dict.fromkeys([*(one for one in places if one != ALL), *every]))
