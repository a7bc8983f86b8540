"""What load generators measure of a server's requests, under the same names whichever tool it was.

>>> load = Load(source, "guidellm", model="small", input_tokens=64, output_tokens=32, concurrency=1)
>>> rows = [load.latency("time_to_first_token", [0.13, 0.12]), *load.rates(duration_s=14.7, requests=10, tokens=320)]

Tools use one name for different things, so each importer says which of METRICS a figure is. Everything becomes
seconds, a rate too (the time from one completed request to the next), so that lower is faster everywhere.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from membound.results.exchange.measurement import Source, custom, number_of
from membound.results.row import Row

METRICS = {
    "time_to_first_token": "from sending a request to its first token",
    "time_per_output_token": "of a request: from its first token to its last, over the tokens after the first",
    "inter_token_latency": "each gap between two tokens of a stream",
    "inter_chunk_latency": "each gap between two chunks of a stream, which may hold several tokens",
    "request_latency": "from sending a request to its end",
    "request_latency_per_token": "of a request: its latency over all of its output tokens",
    "request_interval": "duration over completed requests: the inverse of the request throughput",
    "output_token_interval": "duration over output tokens of all requests: the inverse of the token throughput",
    "batch_latency": "a batch of requests from its start to its end",
    "sample_interval": "duration over completed samples",
}
"""The names of `metric` in works of the kind `request`, and what each is, in seconds."""


@dataclass(frozen=True, slots=True)
class Load:
    """The load of one benchmark; what a file does not say is None and stays out of the work."""

    source: Source
    tool: str
    model: Any = None
    input_tokens: float | None = None
    output_tokens: float | None = None
    concurrency: Any = None
    rate: Any = None
    """Requests a second that were asked for; None where they follow each other."""
    failed: int = 0
    config: Mapping[str, Any] | None = None

    def work(self, metric: str) -> str:
        """The spec: ``request:metric=time_to_first_token,model=small,input=64,output=32,concurrency=1``."""
        rate = number_of(self.rate)
        endless = rate is not None and rate == float("inf")
        return custom(
            metric,
            kind="request",
            metric=metric,
            model=self.model,
            input=_tokens(self.input_tokens),
            output=_tokens(self.output_tokens),
            concurrency=self.concurrency,
            rate=None if rate is None or (endless and self.concurrency) else "inf" if endless else rate,
        )

    def latency(
        self,
        metric: str,
        samples_s: Sequence[float] = (),
        reported: Mapping[str, float] | None = None,
        note: str = "",
        summary: str = "",
    ) -> Row:
        """One latency of METRICS, from single requests or from what the tool reported of them."""
        config = dict(self.config or {}) | ({"failed": self.failed} if self.failed else {})
        return self.source.case(
            f"{self.tool}:unknown", self.work(metric), samples_s, reported, note, summary, config=config
        )

    def rates(
        self, duration_s: float | None, requests: float | None, tokens: float | None = None
    ) -> Iterator[Row]:
        """Rows for the throughputs, as intervals; none where duration or count is missing or nothing completed."""
        for metric, count in (("request_interval", requests), ("output_token_interval", tokens)):
            if duration_s and count:
                summary = f"one figure: {duration_s:.6g} s over {count:.6g}"
                yield self.latency(metric, [duration_s / count], summary=summary)


def _tokens(mean: float | None) -> int | None:
    return None if mean is None else round(mean)


def mean_of(values: Sequence[float]) -> float | None:
    """The mean; None of none."""
    return sum(values) / len(values) if values else None
