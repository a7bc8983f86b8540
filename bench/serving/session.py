"""One `membound load`: asks the server, plays each point, keeps a row of each.

>>> prepared = prepare(Load(endpoint, rates=(1.0, 2.0)))
>>> rows = run_load(prepared, "a-run", "membound load …", writer.append)

Everything random is drawn before a point begins. Ctrl-C ends a point early; what lies in its window by then is kept.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from typing import Any

from membound.bench.run.ceiling_rows import now
from membound.bench.serving.ceilings import IdleCeilings, roofline_config
from membound.bench.serving.client import Played, play_closed, play_open
from membound.bench.serving.drawing import Schedule, check_lengths, draw, jobs_of
from membound.bench.serving.engine import facts_of
from membound.bench.serving.event_loop import on_uvloop
from membound.bench.serving.launcher import Server, ServerFailed
from membound.bench.serving.load import Load, LoadPoint
from membound.bench.serving.point_rows import UNTOLD, Serving, point_row
from membound.bench.serving.probe import Facts, ask
from membound.bench.serving.schedule import MOST_REQUESTS
from membound.bench.serving.search import highest_rate
from membound.bench.serving.server_metrics import beside, known_metrics, read_metrics, server_facts
from membound.results.row import Row
from membound.results.serving.search import keeps

Watch = Callable[[LoadPoint, Played], None]
FEWEST_IN_WINDOW = 10
"""Requests that a search wants in a window: fewer say nothing of a service level."""


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
    measured: dict[str, Any] | None = None,
    server: Server | None = None,
    replicate: int = 0,
    ceilings: IdleCeilings | None = None,
    step_backend: str = "",
) -> list[Row]:
    """Play every point, or search from the first of them, `keep` the row of each, and return them.

    `measured`: what the client adds on this machine, by which points are judged. On Ctrl-C the point at hand is kept if
    anything came in its window, and KeyboardInterrupt goes on. `server`: the one that was started for it, in process
    number `replicate`; when that has ended, so has the run. `ceilings` are measured between points, while it idles.
    `step_backend` measures the steps of its engine alone.
    """
    rows: list[Row] = []
    turns = [] if ceilings is None else ceilings.turns()
    known = known_metrics()

    def one(load: Load, schedule: Schedule, attempt: int = 0) -> Row:
        nonlocal turns
        before, began = on_uvloop(read_metrics(load.endpoint, known)), now()
        played, cut_short = play(load, prepared.facts, schedule, watch)
        facts = {} if cut_short else server_facts(before, on_uvloop(read_metrics(load.endpoint, known)))
        told = UNTOLD if server is None else Serving(server.engine, server.facts, server.death())
        row = point_row(load, prepared.facts, schedule, played, run_id, command, cut_short, measured, told)
        row.replicate, row.started_at = attempt or replicate, began
        row.config |= {
            "search": load.search,
            "server": beside(facts, row.requests),
            "engine": facts_of(told.facts, before.settings),
        }
        later = [] if ceilings is None or cut_short or told.death else ceilings.turns()
        row.config["roofline"] = roofline_config(load.served, turns + later, step_backend)
        turns = later
        if row.status == "ok" or not cut_short:
            rows.append(row)
            keep(row)
        if cut_short:
            raise KeyboardInterrupt
        if server is not None and told.death:
            raise ServerFailed(f"{row.reason}; its log is {server.log}")
        return row

    if prepared.load.search:
        _search(prepared, one)
    else:
        for schedule in prepared.schedules:
            one(prepared.load, schedule)
    return rows


def _search(prepared: Prepared, one: Callable[[Load, Schedule, int], Row]) -> None:
    """From the first rate; down to one request in the window, up to what can be drawn."""
    load = prepared.load

    def kept(rate: float, attempt: int) -> bool:
        again = replace(load, seed=load.seed + attempt)
        return keeps(one(again, draw(again, LoadPoint("rate", rate)), attempt))

    lowest, highest = FEWEST_IN_WINDOW / load.seconds, MOST_REQUESTS / load.total_s
    highest_rate(kept, load.rates[0], lowest, highest)


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


def _played(
    load: Load, facts: Facts, schedule: Schedule, watch: Callable[[Played], None]
) -> Awaitable[Played]:
    jobs = jobs_of(load, facts, schedule)
    if schedule.point.kind == "users":
        users = int(schedule.point.value)
        return play_closed(load.endpoint, jobs, load.limits, users, load.total_s, load.drain_s, watch)
    return play_open(load.endpoint, list(jobs), load.limits, load.drain_s, watch)
