"""From a load to the requests of a point: when each is due, how long it is, what it says.

>>> schedule = draw(load, LoadPoint("rate", 2.0))
>>> len(schedule.arrivals), schedule.dispersion
(131, 1.08)
>>> jobs = jobs_of(load, facts, schedule)

Moments and lengths of all points are drawn before the first is played, so that what cannot be is refused before anything is
sent. Bodies of an open loop are made before its point begins; those of a closed loop, whose number nobody knows, as
they are needed.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain, count, islice
from pathlib import Path

import numpy as np

from membound.bench.serving.bodies import SAFE_VOCAB, Asked, Prompts, body
from membound.bench.serving.client import Job
from membound.bench.serving.load import Load, LoadPoint
from membound.bench.serving.probe import Facts
from membound.bench.serving.schedule import MOST_REQUESTS, LoadError, dispersion
from membound.bench.serving.served import EVERY
from membound.bench.serving.traces import Arrival, read_trace

MOST_PROMPT_TOKENS = 200_000_000
"""Of all requests of an open loop, whose bodies lie in memory: some five bytes a token."""
DRAWN_AT_ONCE = 1024
"""Lengths of a closed loop are drawn by as many."""


@dataclass(frozen=True, slots=True)
class Schedule:
    """The requests of an open loop, in order; of a closed loop none, since what is due depends on the answers."""

    point: LoadPoint
    arrivals: tuple[Arrival, ...] = ()
    dispersion: float | None = None
    """Of the moments drawn: 1 for a Poisson process. None where there are too few, and of traces and closed loops."""


def draw(load: Load, point: LoadPoint) -> Schedule:
    """Moments and lengths of a point. Raises LoadError for what cannot be: no request, too many, a bad trace."""
    if point.kind == "users":
        return Schedule(point)
    if point.kind == "trace":
        if load.trace is None:
            raise LoadError("a trace is to be played, and no file is named")
        arrivals, index = _of_trace(load.trace, point.value, load.total_s), None
    else:
        rng = _rng(load, point)
        due = load.pattern.due_s(point.value, load.total_s, rng)
        index = dispersion(due, load.total_s)
        prompts, outputs = load.prompt.draw(len(due), rng), load.output.draw(len(due), rng)
        arrivals = tuple(
            Arrival(float(at), int(p), int(o)) for at, p, o in zip(due, prompts, outputs, strict=True)
        )
    if not any(one.due_s >= load.warm_s for one in arrivals):
        raise LoadError(
            f"{point.label}: no request is due in the window ({load.warm_s:g} s to {load.total_s:g} s); raise the rate "
            "or --seconds"
        )
    _check_tokens(sum(one.prompt_tokens for one in arrivals), point.label)
    return Schedule(point, arrivals, index)


def _check_tokens(tokens: int, label: str) -> None:
    if tokens > MOST_PROMPT_TOKENS:
        raise LoadError(
            f"{label}: its prompts have more than {MOST_PROMPT_TOKENS} tokens together; lower --seconds"
        )


def check_lengths(load: Load, schedule: Schedule, max_length: int | None) -> None:
    """Raises LoadError if a prompt and its answer are longer together than the model takes; None: it does not say.

    Of a closed loop, whose lengths are drawn as it goes, the first stand for all.
    """
    arrivals = schedule.arrivals or islice(without_end(load, schedule.point), DRAWN_AT_ONCE)
    longest = max(one.prompt_tokens + one.output_tokens for one in arrivals)
    if max_length is not None and longest > max_length:
        raise LoadError(
            f"a prompt and its answer have {longest} tokens together, and the model takes {max_length}: "
            "lower --prompt or --output"
        )


def _rng(load: Load, point: LoadPoint) -> np.random.Generator:
    return np.random.default_rng((load.seed, *point.kind.encode(), int(1e6 * point.value)))


def _of_trace(path: Path, speed: float, total_s: float) -> tuple[Arrival, ...]:
    """The part of a trace that is due in that time; nothing beyond it is read."""
    found: list[Arrival] = []
    tokens = 0
    for one in read_trace(path, speed):
        if one.due_s >= total_s:
            break
        if len(found) == MOST_REQUESTS:
            raise LoadError(
                f"{path} has more than {MOST_REQUESTS} requests in {total_s:g} s; lower --seconds or --speed"
            )
        tokens += one.prompt_tokens
        _check_tokens(tokens, str(path))  # of a trace of a week, before the rest of it is read
        found.append(one)
    return tuple(found)


def jobs_of(load: Load, facts: Facts, schedule: Schedule) -> Iterator[Job]:
    """The requests, bodies and all; of a closed loop without end."""
    source = Prompts(load.seed, SAFE_VOCAB if load.served is None else load.served.vocab, load.shared_prefix)
    arrivals = schedule.arrivals or without_end(load, schedule.point)
    for number, one in enumerate(arrivals):
        asked = Asked(load.name, facts.model, one.output_tokens)
        ids = facts.fields.ids and not load.chat
        prompt = (source.ids if ids else source.text)(max(1, one.prompt_tokens), number)
        length = one.output_tokens if facts.fields.ignore_eos else None
        kept = load.served is not None and ids and number % EVERY == 0
        text = body(asked, prompt, facts.fields, logprobs=kept and not facts.tells_ids)
        yield Job(one.due_s, load.name, text, length, kept)


def without_end(load: Load, point: LoadPoint) -> Iterator[Arrival]:
    """The requests of a closed loop, as they are drawn."""
    rng = _rng(load, point)

    def some(_: int) -> Iterator[Arrival]:
        prompts, outputs = load.prompt.draw(DRAWN_AT_ONCE, rng), load.output.draw(DRAWN_AT_ONCE, rng)
        return (Arrival(load.think_s, int(p), int(o)) for p, o in zip(prompts, outputs, strict=True))

    return chain.from_iterable(map(some, count()))
