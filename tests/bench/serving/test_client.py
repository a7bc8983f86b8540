"""The load client against a server whose times are known."""

from __future__ import annotations

import asyncio
import json
import time
from typing import Any

import numpy as np
import pytest

from membound.bench.serving.answer import read_answer
from membound.bench.serving.client import Job, Played, play_closed, play_open
from membound.bench.serving.connection import Limits
from membound.bench.serving.endpoint import Endpoint
from membound.bench.serving.null_server import NullServer, Script
from membound.results.serving.latency import latency_of
from membound.results.serving.request import Request

pytest.importorskip("httptools")

LIMITS = Limits(5, 5, 20)


def job(due_s: float, tokens: int = 3) -> Job:
    body = {"prompt": [1], "max_tokens": tokens, "stream": True, "return_token_ids": True}
    return Job(due_s, "completions", json.dumps(body).encode())


def played(
    script: Script, play: Any, jobs: list[Job], *more: Any, limits: Limits = LIMITS
) -> tuple[Played, list[Request]]:
    async def run() -> Played:
        server = NullServer(script)
        endpoint = Endpoint("127.0.0.1", await server.open())
        try:
            found: Played = await play(endpoint, jobs, limits, *more)
            return found
        finally:
            await server.close()

    found = asyncio.run(run())
    return found, [read_answer(raw, found.started_ns, None) for raw in found.answers]


def test_an_open_loop_sends_when_due_whatever_became_of_the_others() -> None:
    due = [0.0, 0.01, 0.02, 0.05]
    found, requests = played(Script(ttft_s=0.2, itl_s=0.01), play_open, [job(at) for at in due], 5.0)
    assert [one.outcome for one in requests] == ["ok"] * 4
    assert [one.due_s for one in requests] == pytest.approx(due, abs=1e-6)
    sent = [one.sent_s for one in requests]
    assert all(s is not None and s >= d for s, d in zip(sent, due, strict=True))
    assert max(s for s in sent if s is not None) < min(one.arrivals_s[0] for one in requests)
    assert found.connections == 4
    assert found.lag_ns
    assert 0 < found.cpu_s <= found.wall_s * 1.05


def test_a_closed_loop_has_so_many_under_way_and_uses_its_connections_again() -> None:
    found, requests = played(Script(ttft_s=0.01, itl_s=0.005), play_closed, [job(0.0)] * 500, 2, 0.5, 5.0)
    assert {one.outcome for one in requests} == {"ok"}
    assert len(requests) >= 4
    assert found.connections == 2
    starts = sorted((r.sent_s, 1) for r in requests if r.sent_s is not None)
    ends = sorted((r.ended_s, -1) for r in requests if r.ended_s is not None)
    assert np.cumsum([step for _, step in sorted([*starts, *ends])]).max() <= 2


def test_a_stream_of_which_chunks_are_kept_is_not_taken_for_a_stalled_one() -> None:
    """Nobody looks at them until the answer ends, which is later than the limit of a wait for the next one."""
    script, limits = Script(ttft_s=0.1, itl_s=0.1), Limits(5, 0.5, 20)
    _, requests = played(script, play_open, [job(0.0, tokens=12)], 5.0, limits=limits)
    assert [one.outcome for one in requests] == ["ok"]
    assert len(requests[0].arrivals_s) == 12
    _, requests = played(Script(ttft_s=0.1, itl_s=0.8), play_open, [job(0.0)], 5.0, limits=limits)
    assert [one.outcome for one in requests] == ["stalled"]
    assert len(requests[0].arrivals_s) == 1


def test_thinking_is_waited_for() -> None:
    _, requests = played(Script(0.001, 0.001), play_closed, [job(0.05)] * 9, 1, 0.5, 5.0)
    due = [one.due_s for one in requests]
    assert min(np.diff(due)) >= 0.05


def test_what_is_under_way_at_the_end_of_the_drain_is_a_timeout() -> None:
    _, requests = played(Script(fault="stall", ttft_s=0.001), play_open, [job(0.0, 8)], 0.05)
    assert [one.outcome for one in requests] == ["timeout"]


def test_a_server_that_stands_still_shows_in_what_counts_from_due() -> None:
    """An open loop of 100 a second; the server cannot take anything for 0.3 seconds."""

    async def run() -> Played:
        server = NullServer(Script(ttft_s=0.005, itl_s=0.001))
        endpoint = Endpoint("127.0.0.1", await server.open())
        asyncio.get_running_loop().call_later(0.2, time.sleep, 0.3)
        found = await play_open(endpoint, [job(i / 100) for i in range(60)], LIMITS, 5.0)
        await server.close()
        return found

    found = asyncio.run(run())
    latencies = [latency_of(read_answer(raw, found.started_ns, None)) for raw in found.answers]
    assert max(one.ttft_s for one in latencies) > 0.25
    assert sum(one.ttft_s > 0.05 for one in latencies) >= 20


def test_where_nobody_listens_each_request_says_so() -> None:
    found = asyncio.run(play_open(Endpoint("127.0.0.1", 1), [job(0.0), job(0.01)], LIMITS, 1.0))
    requests = [read_answer(raw, found.started_ns, None) for raw in found.answers]
    assert [one.outcome for one in requests] == ["unreachable"] * 2


def test_an_interrupted_run_keeps_what_came() -> None:
    seen: list[Played] = []

    async def run() -> None:
        server = NullServer(Script(0.001, 0.001))
        endpoint = Endpoint("127.0.0.1", await server.open())
        task = asyncio.create_task(
            play_open(endpoint, [job(i / 20) for i in range(200)], LIMITS, 5.0, seen.append)
        )
        while not seen:
            await asyncio.sleep(0.05)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await server.close()

    asyncio.run(run())
    done = [read_answer(raw, seen[-1].started_ns, None) for raw in seen[-1].answers]
    assert sum(one.ok for one in done) >= 5
    assert all(raw.end for raw in seen[-1].answers)
