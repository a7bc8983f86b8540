"""Latencies of a request, each defined once.

>>> one = latency_of(Request(0.0, 0.002, [0.10, 0.15, 0.20], [1, 1, 1], [0, 1, 2], ended_s=0.21))
>>> one.ttft_s, one.ttft_sent_s, one.tpot_s, one.itl_s
(0.1, 0.098, 0.05, [0.05, 0.05])

Everything counts from the moment at which the request was due. A client that falls behind its schedule would
otherwise leave out just those seconds in which the server was at its worst (coordinated omission); what counts from
sending stands beside it. The other tools' words differ: vLLM's TPOT is this one, guidellm's includes the first token.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import pairwise

from membound.results.serving.request import Request


@dataclass(frozen=True, slots=True)
class Latency:
    """Seconds. `tpot_s` is None where fewer than two chunks came."""

    ttft_s: float
    """From due to the first chunk with a token."""
    ttft_sent_s: float
    """From sending to the first chunk with a token: what a client that keeps no schedule would report."""
    e2e_s: float
    """From due to the end of the answer."""
    tpot_s: float | None
    """From the first chunk to the last, over the tokens that came after the first chunk."""
    itl_s: list[float] = field(default_factory=list)
    """Gaps between chunks of one token each that came in reads of their own: what was seen between two tokens."""
    spread_s: list[float] = field(default_factory=list)
    """A gap over the tokens that ended it, once for each: several came in one chunk or one read. Nobody saw these."""


def latency_of(request: Request) -> Latency:
    """Of one that is ok. Raises ValueError for any other."""
    if not request.ok or request.sent_s is None or request.ended_s is None or not request.arrivals_s:
        raise ValueError(f"a request that is {request.outcome} has no latency")
    first, last = request.arrivals_s[0], request.arrivals_s[-1]
    after = request.output_tokens - request.tokens[0]
    seen, spread = _gaps(request)
    if not request.chunks_told:  # some chunk held several tokens, and nobody knows which
        seen, spread = [], [(last - first) / after] * after if after > 0 and last > first else []
    return Latency(
        ttft_s=first - request.due_s,
        ttft_sent_s=first - request.sent_s,
        e2e_s=request.ended_s - request.due_s,
        tpot_s=(last - first) / after if after > 0 and last > first else None,
        itl_s=seen,
        spread_s=spread,
    )


def _gaps(request: Request) -> tuple[list[float], list[float]]:
    """(Gaps that were seen, gaps that were spread over the tokens behind them)."""
    moments = _moments(request)
    seen: list[float] = []
    spread: list[float] = []
    for (before, _), (at, tokens) in pairwise(moments):
        if tokens == 1:
            seen.append(at - before)
        else:
            spread += [(at - before) / tokens] * tokens
    return seen, spread


def _moments(request: Request) -> list[tuple[float, int]]:
    """(When, tokens) of each read that brought any: all its chunks have the time of the last."""
    moments: dict[int, tuple[float, int]] = {}
    for at, tokens, read in zip(request.arrivals_s, request.tokens, request.reads, strict=True):
        _, known = moments.get(read, (at, 0))
        moments[read] = (at, known + tokens)
    return list(moments.values())


def seen_share(latencies: Iterable[Latency]) -> float | None:
    """Share of the gaps that were seen; None without any. Far below 1, ITL says little, and TPOT is what holds."""
    seen = spread = 0
    for one in latencies:
        seen += len(one.itl_s)
        spread += len(one.spread_s)
    return seen / (seen + spread) if seen + spread else None
