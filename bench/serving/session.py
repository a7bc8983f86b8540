"""One `membound load`: asks the server, plays each point, keeps a row of each.

>>> rows = run_load(Load(endpoint, rates=(1.0, 2.0)), writer, note=print)

Everything random is drawn before a point begins. Ctrl-C ends a point early; what lies in its window by then is kept.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from membound.bench.machine.fingerprint import HARNESS_PACKAGES, fingerprint, package_versions
from membound.bench.serving.answer import read_answer
from membound.bench.serving.bodies import Asked, Fields, Prompts, body
from membound.bench.serving.client import Job, Played, play_closed, play_open
from membound.bench.serving.client_limits import client_facts, client_reasons
from membound.bench.serving.connection import Limits
from membound.bench.serving.endpoint import Endpoint
from membound.bench.serving.lengths import Lengths
from membound.bench.serving.probe import Facts, ask
from membound.bench.serving.schedule import LoadError, Pattern, dispersion
from membound.bench.serving.traces import Arrival, read_trace
from membound.results.row import Row
from membound.results.serving.request import Request
from membound.results.serving.window import Window

MOST_USERS_REQUESTS = 1_000_000
"""Bodies of a closed loop are made as they are needed; no loop gets so far."""


@dataclass(frozen=True, slots=True)
class Load:
    """What to ask of a server. Give `rates` (open loop), `users` (closed loop) or a `trace`."""

    endpoint: Endpoint
    chat: bool = False
    model: str = ""
    rates: tuple[float, ...] = ()
    users: tuple[int, ...] = ()
    trace: Path | None = None
    speed: float = 1.0
    pattern: Pattern = field(default_factory=lambda: Pattern("poisson"))
    prompt: Lengths = field(default_factory=lambda: Lengths("fixed", 128))
    output: Lengths = field(default_factory=lambda: Lengths("fixed", 64))
    shared_prefix: int = 0
    think_s: float = 0.0
    seconds: float = 60.0
    warm_s: float = 5.0
    drain_s: float = 60.0
    seed: int = 1
    slo: str = ""
    limits: Limits = field(default_factory=Limits)

    @property
    def name(self) -> str:
        """The endpoint's path below /v1."""
        return "chat/completions" if self.chat else "completions"

    def points(self) -> Iterator[tuple[str, float]]:
        """(``rate``, ``users`` or ``trace``; its value) of each point."""
        yield from (("rate", rate) for rate in self.rates)
        yield from (("users", float(count)) for count in self.users)
        if self.trace is not None:
            yield "trace", self.speed


Note = Callable[[str], None]
Watch = Callable[[str, Played], None]


def run_load(
    load: Load,
    run_id: str,
    command: str,
    keep: Callable[[Row], None],
    note: Note = lambda text: None,
    watch: Watch = lambda point, played: None,
) -> list[Row]:
    """Play every point, `keep` the row of each, and return them.

    Raises LoadError before anything is sent where the load cannot be, or the server takes none of it. On Ctrl-C the
    point at hand is kept if anything came in its window, and KeyboardInterrupt goes on.
    """
    facts = _run(ask(load.endpoint, load.name, load.model, load.limits))
    if facts.fields.dropped:
        note(f"the server does not take {', '.join(facts.fields.dropped)}")
    rows = []
    for number, (kind, value) in enumerate(load.points()):
        jobs, schedule = drawn(load, facts, kind, value)
        label = f"{kind} {value:g}"
        seen: list[Played] = []

        def look(played: Played, label: str = label, seen: list[Played] = seen) -> None:
            seen[:] = [played]
            watch(label, played)

        interrupted = False
        try:
            played = _run(_played(load, kind, value, jobs, look))
        except KeyboardInterrupt:
            interrupted = True
            if not seen:
                raise
            played = seen[0]
        row = point_row(load, facts, played, kind, value, number, schedule, run_id, command)
        if row.status == "ok" or not interrupted:
            rows.append(row)
            keep(row)
        if interrupted:
            raise KeyboardInterrupt
    return rows


def _run(work: Any) -> Any:
    """On uvloop, which has less delay than asyncio's own loop."""
    import uvloop

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(work)


def _played(load: Load, kind: str, value: float, jobs: list[Job], watch: Callable[[Played], None]) -> Any:
    if kind == "users":
        return play_closed(
            load.endpoint, jobs, load.limits, int(value), load.warm_s + load.seconds, load.drain_s, watch
        )
    return play_open(load.endpoint, jobs, load.limits, load.drain_s, watch)


# Drawing


def drawn(load: Load, facts: Facts, kind: str, value: float) -> tuple[list[Job], dict[str, Any]]:
    """The jobs of a point, and what is to be said of its schedule. Raises LoadError for what does not fit the model."""
    rng = np.random.default_rng((load.seed, int(1e6 * value)))
    total_s = load.warm_s + load.seconds
    schedule: dict[str, Any] = {}
    if kind == "trace":
        assert load.trace is not None
        arrivals = _of_trace(load.trace, value, total_s)
    else:
        if kind == "rate":
            due = load.pattern.due_s(value, total_s, rng)
            schedule["dispersion"] = dispersion(due, total_s)
        else:
            due = np.full(_most_jobs(load, value), load.think_s)
        prompts, outputs = load.prompt.draw(len(due), rng), load.output.draw(len(due), rng)
        arrivals = [
            Arrival(float(at), int(p), int(o)) for at, p, o in zip(due, prompts, outputs, strict=True)
        ]
    if not arrivals:
        raise LoadError(
            f"{kind} {value:g}: no request is due in {total_s:g} s; raise the rate or the seconds"
        )
    longest = max(one.prompt_tokens + one.output_tokens for one in arrivals)
    if facts.max_length is not None and longest > facts.max_length:
        raise LoadError(
            f"a prompt and its answer have {longest} tokens, and {facts.model} takes {facts.max_length}: shorten them"
        )
    source = Prompts(load.seed, shared=load.shared_prefix)
    return [_job(load, facts, source, one, i) for i, one in enumerate(arrivals)], schedule


def _most_jobs(load: Load, users: float) -> int:
    """As many as could be answered at a token a millisecond, which no server reaches; and some for each user."""
    each_s = max(load.think_s, 0.001 * load.output.first)
    return min(MOST_USERS_REQUESTS, int(users * (2 + (load.warm_s + load.seconds) / each_s)))


def _of_trace(path: Path, speed: float, total_s: float) -> list[Arrival]:
    """The part of a trace that is due in that time."""
    found = []
    for one in islice(read_trace(path, speed), MOST_USERS_REQUESTS):
        if one.due_s >= total_s:
            break
        found.append(one)
    return found


def _job(load: Load, facts: Facts, source: Prompts, one: Arrival, number: int) -> Job:
    asked = Asked(load.name, facts.model, one.output_tokens)
    ids = facts.fields.ids and not load.chat
    prompt = (source.ids if ids else source.text)(one.prompt_tokens, number)
    return Job(one.due_s, load.name, body(asked, prompt, facts.fields))


# Rows


def point_row(
    load: Load,
    facts: Facts,
    played: Played,
    kind: str,
    value: float,
    number: int,
    schedule: dict[str, Any],
    run_id: str,
    command: str,
) -> Row:
    """A point as a row: every request, the window, what the client was like, and whether it counts."""
    requests = [_read(raw, played, load, facts.fields) for raw in played.answers]
    end_s = min(load.warm_s + load.seconds, max(played.wall_s, load.warm_s + 1e-3))
    window = Window(load.warm_s, end_s)
    client = client_facts(played, requests, window)
    reasons = client_reasons(client)
    counted = window.of(requests)
    whole = any(one.ok for one in counted)
    first = next((one for one in counted if not one.ok), None)
    return Row(
        run_id=run_id,
        kind="serving",
        backend="url",
        work=work_of(load, facts, kind, value),
        status="ok" if whole else "error",
        reason=""
        if whole
        else f"no whole answer: {first.outcome}: {first.reason}"
        if first
        else "no request was due",
        replicate=number,
        seed=load.seed,
        device=load.endpoint.url,
        requests=requests,
        config={
            kind: value,
            "warm_s": window.warm_s,
            "end_s": window.end_s,
            "slo": load.slo,
            "model": facts.model,
            "dropped": facts.fields.dropped,
            "client": client,
            **schedule,
        },
        grade="invalid" if reasons else "clean",
        grade_reasons=reasons,
        machine=fingerprint(),
        versions=package_versions((*HARNESS_PACKAGES, "httptools", "uvloop")),
        command=command,
    )


def _read(raw: Any, played: Played, load: Load, fields: Fields) -> Request:
    asked = (
        load.output.first
        if load.output.kind == "fixed" and fields.ignore_eos and load.trace is None
        else None
    )
    return read_answer(raw, played.started_ns, None if asked is None else int(asked))


def work_of(load: Load, facts: Facts, kind: str, value: float) -> str:
    """The point's canonical text: equal texts are equal loads."""
    parts = [
        f"serving:model={facts.model}",
        f"api={'chat' if load.chat else 'completions'}",
        f"{kind}={value:g}",
    ]
    if kind == "rate":
        extra = {"gamma": f":cv={load.pattern.cv:g}", "ramp": f":start={load.pattern.start:g}"}
        parts.append(f"pattern={load.pattern.kind}{extra.get(load.pattern.kind, '')}")
    if kind == "users":
        parts.append(f"think={load.think_s:g}")
    if kind == "trace":
        assert load.trace is not None
        return ",".join([*parts, f"file={load.trace.name}"])
    parts += [f"prompt={_lengths(load.prompt)}", f"output={_lengths(load.output)}"]
    if load.shared_prefix:
        parts.append(f"shared={load.shared_prefix}")
    return ",".join(parts)


def _lengths(one: Lengths) -> str:
    return f"{one.first:g}" if one.kind == "fixed" else f"{one.kind}({one.first:g};{one.second:g})"
