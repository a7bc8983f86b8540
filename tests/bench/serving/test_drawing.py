"""The requests of a point: lengths as asked, unique prompts, and what cannot be is refused before anything is sent."""

from __future__ import annotations

import json
from dataclasses import replace
from itertools import islice
from pathlib import Path

import pytest

from membound.bench.serving.bodies import Fields
from membound.bench.serving.drawing import check_lengths, draw, jobs_of
from membound.bench.serving.endpoint import Endpoint
from membound.bench.serving.lengths import parse_lengths
from membound.bench.serving.load import Load, LoadPoint, work_of
from membound.bench.serving.probe import Facts
from membound.bench.serving.schedule import LoadError, parse_pattern

LOAD = Load(Endpoint("127.0.0.1", 1), rates=(20.0,), seconds=10.0, warm_s=2.0)
FACTS = Facts("m", None, Fields())


def test_an_open_loop_has_its_rate_and_its_lengths() -> None:
    load = replace(LOAD, prompt=parse_lengths("uniform:3..5"), output=parse_lengths("7"))
    schedule = draw(load, LoadPoint("rate", 20.0))
    assert 180 <= len(schedule.arrivals) <= 310
    assert schedule.dispersion is not None
    jobs = list(jobs_of(load, FACTS, schedule))
    bodies = [json.loads(job.body) for job in jobs]
    assert {len(body["prompt"]) for body in bodies} == {3, 4, 5}
    assert {body["max_tokens"] for body in bodies} == {7} == {job.asked_tokens for job in jobs}
    assert [job.due_s for job in jobs] == [one.due_s for one in schedule.arrivals]
    assert len({tuple(body["prompt"]) for body in bodies}) == len(bodies)
    assert draw(load, LoadPoint("rate", 20.0)) == schedule
    assert draw(replace(load, seed=2), LoadPoint("rate", 20.0)) != schedule


def test_where_the_server_may_stop_earlier_no_length_is_asked_for() -> None:
    facts = Facts("m", None, Fields(ignore_eos=False))
    jobs = islice(jobs_of(LOAD, facts, draw(LOAD, LoadPoint("rate", 20.0))), 3)
    assert [job.asked_tokens for job in jobs] == [None] * 3


def test_a_closed_loop_never_runs_out() -> None:
    load = replace(LOAD, rates=(), users=(2,), think_s=0.25)
    jobs = list(islice(jobs_of(load, FACTS, draw(load, LoadPoint("users", 2.0))), 3000))
    assert {job.due_s for job in jobs} == {0.25}
    assert len({job.body for job in jobs}) == 3000


def test_a_trace_gives_moments_and_lengths_and_is_read_no_further(tmp_path: Path) -> None:
    path = tmp_path / "burst.csv"
    lines = ["Timestamp,Request tokens,Response tokens", "0,5,2", "6,9,3", "40,1,1", "no number,1,1"]
    path.write_text("\n".join(lines) + "\n")
    load = replace(LOAD, rates=(), trace=path)
    schedule = draw(load, LoadPoint("trace", 1.0))
    assert [(one.due_s, one.prompt_tokens, one.output_tokens) for one in schedule.arrivals] == [
        (0.0, 5, 2),
        (6.0, 9, 3),
    ]
    assert [job.asked_tokens for job in jobs_of(load, FACTS, schedule)] == [2, 3]
    assert work_of(load, "m", schedule.point).endswith("trace=1,file=burst.csv")


def test_a_trace_with_more_than_can_be_held_is_refused_where_it_is_too_much(tmp_path: Path) -> None:
    path = tmp_path / "long.csv"
    rows = ["0,150000000,2", "1,150000000,2", "no number,1,1"]
    path.write_text("\n".join(["Timestamp,Request tokens,Response tokens", *rows]) + "\n")
    with pytest.raises(LoadError, match="more than 200000000 tokens together; lower --seconds"):
        draw(replace(LOAD, rates=(), trace=path), LoadPoint("trace", 1.0))


@pytest.mark.parametrize(
    ("change", "point", "words"),
    [
        ({"pattern": parse_pattern("constant")}, ("rate", 0.01), "no request is due in the window"),
        ({"prompt": parse_lengths("9000000")}, ("rate", 20.0), "tokens together"),
        ({"seconds": 1e6}, ("rate", 1e6), "more than 5000000"),
    ],
)
def test_what_cannot_be_is_refused(change: dict[str, object], point: tuple[str, float], words: str) -> None:
    with pytest.raises(LoadError, match=words):
        draw(replace(LOAD, **change), LoadPoint(*point))  # type: ignore[arg-type]


@pytest.mark.parametrize("point", [LoadPoint("rate", 20.0), LoadPoint("users", 3.0)])
def test_a_context_longer_than_the_models_is_refused(point: LoadPoint) -> None:
    schedule = draw(LOAD, point)
    check_lengths(LOAD, schedule, None)
    check_lengths(LOAD, schedule, 192)
    with pytest.raises(LoadError, match="192 tokens together, and the model takes 191"):
        check_lengths(LOAD, schedule, 191)


@pytest.mark.parametrize(
    ("change", "point", "text"),
    [
        ({}, ("rate", 2.0), "serving:model=m,api=completions,rate=2,pattern=poisson,prompt=128,output=64"),
        (
            {"pattern": parse_pattern("gamma:cv=3"), "chat": True, "shared_prefix": 9},
            ("rate", 0.5),
            "serving:model=m,api=chat,rate=0.5,pattern=gamma:cv=3,prompt=128,output=64,shared=9",
        ),
        (
            {"think_s": 1.5, "output": parse_lengths("uniform:1..9")},
            ("users", 4.0),
            "serving:model=m,api=completions,users=4,think=1.5,prompt=128,output=uniform(1;9)",
        ),
    ],
)
def test_equal_loads_have_equal_texts(change: dict[str, object], point: tuple[str, float], text: str) -> None:
    assert work_of(replace(LOAD, **change), "m", LoadPoint(*point)) == text  # type: ignore[arg-type]
