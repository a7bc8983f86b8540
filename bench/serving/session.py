"""One `membound load`: asks the server, plays each point, keeps a row of each.

>>> prepared = prepare(Load(endpoint, rates=(1.0, 2.0)))
>>> rows = run_load(prepared, "a-run", "membound load …", writer.append)

Everything random is drawn before a point begins. Ctrl-C ends a point early; what lies in its window by then is kept.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TypeVar

from membound.bench.serving.client import Played, play_closed, play_open
from membound.bench.serving.drawing import Schedule, check_lengths, draw, jobs_of
from membound.bench.serving.load import Load, LoadPoint
from membound.bench.serving.point_rows import point_row
from membound.bench.serving.probe import Facts, ask
from membound.results.row import Row

Watch = Callable[[LoadPoint, Played], None]
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Prepared:
    """A load that can be played: what the server is like, and the schedule of each point."""

    load: Load
    facts: Facts
    schedules: tuple[Schedule, ...]


def prepare(load: Load) -> Prepared:
    """Draw every point and ask the server. Raises LoadError where the load cannot be, or the server takes none of it."""
    schedules = tuple(draw(load, point) for point in load.points())
    facts = on_uvloop(ask(load.endpoint, load.name, load.model, load.limits))
    for schedule in schedules:
        check_lengths(load, schedule, facts.max_length)
    return Prepared(load, facts, schedules)


def run_load(
    prepared: Prepared,
    run_id: str,
    command: str,
    keep: Callable[[Row], None],
    watch: Watch = lambda point, played: None,
) -> list[Row]:
    """Play every point, `keep` the row of each, and return them.

    On Ctrl-C the point at hand is kept if anything came in its window, and KeyboardInterrupt goes on.
    """
    load, facts = prepared.load, prepared.facts
    rows = []
    for schedule in prepared.schedules:
        played, cut_short = play(load, facts, schedule, watch)
        row = point_row(load, facts, schedule, played, run_id, command, cut_short)
        if row.status == "ok" or not cut_short:
            rows.append(row)
            keep(row)
        if cut_short:
            raise KeyboardInterrupt
    return rows


def play(load: Load, facts: Facts, schedule: Schedule, watch: Watch) -> tuple[Played, bool]:
    """One point, and whether Ctrl-C cut it short. Raises KeyboardInterrupt where nothing had begun."""
    seen: list[Played] = []

    def look(played: Played) -> None:
        if not seen:
            seen.append(played)
        watch(schedule.point, played)

    try:
        return on_uvloop(_played(load, facts, schedule, look)), False
    except KeyboardInterrupt:
        if not seen:
            raise
        return seen[0], True


def on_uvloop(work: Awaitable[T]) -> T:
    """Its result, by a loop that has less delay than asyncio's own."""
    import uvloop

    async def whole() -> T:
        return await work

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(whole())


def _played(
    load: Load, facts: Facts, schedule: Schedule, watch: Callable[[Played], None]
) -> Awaitable[Played]:
    jobs = jobs_of(load, facts, schedule)
    if schedule.point.kind == "users":
        users = int(schedule.point.value)
        return play_closed(load.endpoint, jobs, load.limits, users, load.total_s, load.drain_s, watch)
    return play_open(load.endpoint, list(jobs), load.limits, load.drain_s, watch)
