"""The client measured on this machine before each run: against a server that computes nothing and says when it sent.

>>> measured = measure_client(LoadPoint("rate", 20.0), due_per_s=20.0)
>>> measured["added_itl_p99_s"], measured["cpu_per_chunk_s"]
(0.00002, 0.000021)

What the client tells beyond the server's own times, it and the kernel have added: to each first token and to each gap. A point
whose latencies are not far above that says more about the client than about the server.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from itertools import pairwise, repeat
from typing import Any

import numpy as np

from membound.bench.serving.answer import events
from membound.bench.serving.bodies import Asked, Fields, body
from membound.bench.serving.client import Job, Played, play_closed, play_open
from membound.bench.serving.connection import Limits
from membound.bench.serving.endpoint import Endpoint
from membound.bench.serving.event_loop import on_uvloop
from membound.bench.serving.load import LoadPoint
from membound.bench.serving.null_process import null_process
from membound.bench.serving.null_server import MODEL, Script
from membound.bench.serving.raw import RawAnswer
from membound.results.serving.point import Point

CHECK_S = 3.0
TOKENS = 64
FEWEST = 8
"""Requests, however low the rate."""
SCRIPT = Script(ttft_s=0.05, itl_s=0.02)
MOST_SHARE = 0.1
"""Of a latency that the client may have added at its 99th percentile, before the point is about the client."""


def measure_client(point: LoadPoint, due_per_s: float) -> dict[str, Any]:
    """Seconds that the client adds under such a load: as many users, or `due_per_s` requests a second evenly.

    Raises LoadError if the server does not start.
    """
    with null_process(SCRIPT) as endpoint:
        played = on_uvloop(_played(endpoint, point, due_per_s))
    return measured_of(played)


def _played(endpoint: Endpoint, point: LoadPoint, due_per_s: float) -> Any:
    text = body(Asked("completions", MODEL, TOKENS), [17] * TOKENS, Fields())
    limits, drain_s = Limits(), 2 * TOKENS * SCRIPT.itl_s
    if point.kind == "users":
        jobs = repeat(Job(0.0, "completions", text))
        return play_closed(endpoint, jobs, limits, int(point.value), CHECK_S, drain_s)
    count = max(FEWEST, int(due_per_s * CHECK_S))
    each_s = CHECK_S / count
    return play_open(endpoint, [Job(i * each_s, "completions", text) for i in range(count)], limits, drain_s)


def measured_of(played: Played) -> dict[str, Any]:
    """What was added: seconds by percentile, and CPU time a chunk."""
    ttft: list[float] = []
    itl: list[float] = []
    chunks = 0
    for raw in played.answers:
        found = list(_chunks(raw))
        chunks += len(found)
        if found and raw.sent_ns is not None:
            at_ns, sent_ns, received_ns = found[0]
            ttft.append(((at_ns - raw.sent_ns) - (sent_ns - received_ns)) / 1e9)
        itl += [((b[0] - a[0]) - (b[1] - a[1])) / 1e9 for a, b in pairwise(found)]
    return {
        "requests": len(played.answers),
        "chunks": chunks,
        "added_ttft_p50_s": _percentile(ttft, 50),
        "added_ttft_p99_s": _percentile(ttft, 99),
        "added_itl_p50_s": _percentile([abs(one) for one in itl], 50),
        "added_itl_p99_s": _percentile([abs(one) for one in itl], 99),
        "cpu_per_chunk_s": played.cpu_s / chunks if chunks else None,
        "lag_p99_s": _percentile([ns / 1e9 for ns in played.lag_ns], 99),
    }


def _chunks(raw: RawAnswer) -> Iterator[tuple[int, int, int]]:
    """(When it came, when it was sent, when the server had the request) of each chunk with a token, nanoseconds."""
    for at_ns, _, data in events(raw):
        if b'"t_ns"' in data:
            told = json.loads(data)
            yield at_ns, told["t_ns"], told["r_ns"]


def _percentile(values: list[float], percentile: int) -> float | None:
    return float(np.percentile(values, percentile)) if values else None


def added_reasons(measured: Mapping[str, Any], point: Point) -> list[str]:
    """Why a point says more about the client than about the server; empty if what the client adds is small beside it."""
    reasons = []
    for name, figure, words in (
        ("added_ttft_p99_s", "ttft", "first tokens"),
        ("added_itl_p99_s", "tpot", "gaps between tokens"),
    ):
        added, middle = measured.get(name), point.latency[figure].at.get(50)
        if added is not None and middle is not None and added > MOST_SHARE * middle:
            reasons.append(
                f"the client adds {added * 1e3:.2g} ms to {words} on this machine (99th percentile, measured before), more "
                f"than {MOST_SHARE:.0%} of the median of {middle * 1e3:.2g} ms"
            )
    return reasons
