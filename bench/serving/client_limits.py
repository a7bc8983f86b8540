"""Whether a client kept up: a point at which it did not is no figure of the server.

>>> client_facts(played, requests, window)
{'lag_p99_s': 0.0002, 'late_p99_s': 0.0004, 'cpu_share': 0.12, 'kernel_times': True, 'behind_share': 0.0, ...}
>>> client_reasons(facts)
[]
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from membound.bench.serving.client import Played
from membound.bench.serving.raw import RawAnswer
from membound.results.serving.request import Request
from membound.results.serving.window import Window

MOST_LAG_S = 0.005
"""Of the event loop, 99th percentile. Times are the kernel's, so what it delays is sending."""
MOST_LAG_READ_S = 0.001
"""The same where times are those of reading: there it is in every latency."""
MOST_LATE_S = 0.005
"""From due to sending, 99th percentile."""
MOST_CPU = 0.8
"""Of one core, which is all that one event loop can have."""
MOST_UNSTAMPED = 0.01
"""Share of the reads without the kernel's time, from which on times count as those of reading."""
MOST_BEHIND = 0.05
"""Share of the chunks that came several a read and had waited for the client: the gaps between them nobody saw."""


def client_facts(played: Played, requests: Sequence[Request], window: Window) -> dict[str, Any]:
    """What tells of a client that was the limit; seconds, and shares from 0 to 1."""
    late = [one.sent_s - one.due_s for one in window.of(requests) if one.sent_s is not None]
    chunks = [read for one in requests for read in one.reads]
    reads = sum(len({*one.reads}) for one in requests)
    behind = sum(_behind(raw, one) for raw, one in zip(played.answers, requests, strict=True))
    return {
        "lag_p99_s": _p99([ns / 1e9 for ns in played.lag_ns]),
        "late_p99_s": _p99(late),
        "cpu_share": played.cpu_share,
        "kernel_times": _kernel_times(played),
        "coalesced_share": 1 - reads / len(chunks) if chunks else 0.0,
        "behind_share": behind / len(chunks) if chunks else 0.0,
        "connections": played.connections,
        "stale": played.stale,
    }


def _kernel_times(played: Played) -> bool:
    unstamped = sum(one.unstamped for one in played.answers)
    return unstamped <= MOST_UNSTAMPED * (unstamped + sum(one.stamped for one in played.answers))


def _behind(raw: RawAnswer, request: Request) -> int:
    """Chunks that share a read with others, which the client took late: one that keeps up reads each by itself."""
    together = Counter(request.reads)
    return sum(count for read, count in together.items() if count > 1 and read in raw.late)


def client_reasons(facts: Mapping[str, Any]) -> list[str]:
    """Why a point is invalid; empty if the client kept up."""
    reasons = []
    most = MOST_LAG_S if facts["kernel_times"] else MOST_LAG_READ_S
    if facts["lag_p99_s"] > most:
        reasons.append(f"the client's loop was {facts['lag_p99_s'] * 1e3:.1f} ms late (99th percentile)")
    if facts["late_p99_s"] > MOST_LATE_S:
        reasons.append(
            f"requests were sent {facts['late_p99_s'] * 1e3:.1f} ms after they were due (99th percentile)"
        )
    if facts["cpu_share"] > MOST_CPU:
        reasons.append(f"the client took {facts['cpu_share']:.0%} of a core")
    if facts["behind_share"] > MOST_BEHIND:
        reasons.append(
            f"{facts['behind_share']:.0%} of the chunks came several a read, since the client read them late"
        )
    return reasons


def _p99(values: Sequence[float]) -> float:
    return float(np.percentile(values, 99)) if values else 0.0
