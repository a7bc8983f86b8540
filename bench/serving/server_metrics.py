"""What a server says of itself (Prometheus text at /metrics), to set beside what the client saw.

>>> import asyncio
>>> before = asyncio.run(read_metrics(endpoint, known_metrics()))
>>> facts = server_facts(before, after)
>>> facts["mean_itl_s"], facts["tokens_per_step"], facts["preemptions"]
(0.0174, 3.9, 0.0)

Each engine names its samples in its own way, which the engine says itself (`membound.backends.serving`); of others nothing is read.
Counters are of the server's whole life: a point's figures are what they grew by, warm-up and drain included. The engine's clock begins
when a request is scheduled, the client's when it was due: what lies between (HTTP, the queue of the API server, a step under way)
is in the client's first-token time alone.
"""

from __future__ import annotations

import re
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import isfinite
from typing import Any

from membound.backends.serving import MetricNames, served_engines
from membound.bench.serving.connection import Connection, Limits
from membound.bench.serving.endpoint import API, Endpoint
from membound.bench.serving.raw import RawAnswer
from membound.results.serving.request import Request

MOST_BYTES = 1 << 23
MOST_LABELS = 1 << 13
"""Characters of a sample's labels: a search for them takes the square of that where they are none."""
LIMITS = Limits(connect_s=5.0, idle_s=5.0, total_s=10.0)
_SAMPLE = r"^{}([a-z_0-9]+)(?:\{{(.*)\}})? (\S+)$"
_LABEL = re.compile(r'([a-z_]+)="((?:[^"\\]|\\.)*)"', re.ASCII)


@dataclass(frozen=True, slots=True)
class Metrics:
    """`values`: samples by name, summed over engines; empty where the server has none, or `names` is None: an engine not known."""

    names: MetricNames | None = None
    values: dict[str, float] = field(default_factory=dict)
    settings: dict[str, str] = field(default_factory=dict)


def known_metrics() -> tuple[MetricNames, ...]:
    """How each engine names its samples."""
    return tuple(engine.metrics for engine in served_engines())


async def read_metrics(endpoint: Endpoint, known: Sequence[MetricNames]) -> Metrics:
    """The server's metrics by now; none where it has none, or does not answer: then nothing is known of it."""
    raw = RawAnswer(time.monotonic_ns())
    try:
        connection = await Connection.open(endpoint, LIMITS)
    except OSError:
        return Metrics()
    try:
        await connection.request("GET", f"{endpoint.prefix.removesuffix(API)}/metrics", b"", raw)
    finally:
        connection.close()
    if raw.status != 200 or raw.end not in ("complete", "closed") or raw.size > MOST_BYTES:
        return Metrics()
    return parse_metrics(b"".join(part for *_, part in raw.parts).decode(errors="replace"), known)


def parse_metrics(text: str, known: Sequence[MetricNames]) -> Metrics:
    """The samples of the engine that wrote the text; what cannot be read is passed by."""
    names = next((one for one in known if re.search(f"^{re.escape(one.prefix)}", text, re.MULTILINE)), None)
    if names is None:
        return Metrics()
    values: defaultdict[str, float] = defaultdict(float)
    settings: dict[str, str] = {}
    gauge, wanted = names.settings
    sample = re.compile(_SAMPLE.format(re.escape(names.prefix)), re.ASCII | re.MULTILINE)
    for name, labels, number in sample.findall(text):
        if name == gauge:
            found = _LABEL.findall(labels[:MOST_LABELS])
            settings |= {key: value for key, value in found if key in wanted}
        try:
            value = float(number)
        except ValueError:
            continue
        if isfinite(value):
            values[name] += value
    return Metrics(names, dict(values), settings)


def server_facts(before: Metrics, after: Metrics) -> dict[str, Any]:
    """What grew between two readings, and the settings; {} where the server says nothing or was started in between."""
    if after.names is None:
        return {}
    names = after.names
    grown = _finite(
        {name: value - before.values.get(name, 0.0) for name, value in after.values.items()}
    )  # sums of numbers may be beyond all
    counters = [over for _, over in names.means.values()]
    if not any(grown.get(name) for name in counters) or any(grown.get(name, 0.0) < 0 for name in counters):
        return {}
    means = {
        name: grown[total] / grown[over]
        for name, (total, over) in names.means.items()
        if grown.get(over) and total in grown
    }
    counts = {name: grown[base] for name, base in names.counts.items() if base in grown}
    return {**_finite(means), **counts, "settings": after.settings}


def _finite(figures: Mapping[str, float]) -> dict[str, float]:
    return {name: value for name, value in figures.items() if isfinite(value)}


def mean_itl_s(requests: Sequence[Request]) -> float | None:
    """The client's counterpart of the server's mean: time between first and last chunks over the tokens in between."""
    whole = [one for one in requests if one.ok and len(one.arrivals_s) > 1]
    tokens = sum(one.output_tokens - one.tokens[0] for one in whole)
    return sum(one.arrivals_s[-1] - one.arrivals_s[0] for one in whole) / tokens if tokens > 0 else None


def beside(facts: Mapping[str, Any], requests: Sequence[Request]) -> dict[str, Any]:
    """The server's figures with the client's mean gap over all requests of the point; {} where the server says nothing."""
    return {**facts, "client_mean_itl_s": mean_itl_s(requests)} if facts else {}
