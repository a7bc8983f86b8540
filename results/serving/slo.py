"""Service levels: what a user must get at least, which requests got it, and the goodput.

>>> level = parse_slo("ttft=500,tpot=30")
>>> level.ttft_s, level.tpot_s
(0.5, 0.03)
>>> goodput(requests, level, seconds=60.0)          # requests a second that kept it, and the share of all that were due
(11.8, 0.983)

Requests that failed, were refused or never sent did not keep it: a server that refuses looks no better for it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from membound.errors import MemboundError
from membound.results.serving.latency import latency_of
from membound.results.serving.request import Request

PRESETS = {
    "mlperf-llama2-70b": "ttft=2000,tpot=200",
    "mlperf-llama2-70b-interactive": "ttft=450,tpot=40",
    "mlperf-llama3.1-405b": "ttft=6000,tpot=175",
    "mlperf-llama3.1-405b-interactive": "ttft=4500,tpot=80",
    "mlperf-llama3.1-8b": "ttft=2000,tpot=100",
    "mlperf-llama3.1-8b-interactive": "ttft=500,tpot=30",
    "mlperf-deepseek-r1": "ttft=2000,tpot=80",
    "mlperf-deepseek-r1-interactive": "ttft=1500,tpot=15",
    "mlperf-mixtral-8x7b": "ttft=2000,tpot=200",
}
"""MLPerf Inference's server scenarios, milliseconds that 99 % of the requests must keep (mlperf.conf)."""
NAMES = ("ttft", "tpot", "e2e")


class SloError(MemboundError, ValueError):
    """A service level that cannot be read."""


@dataclass(frozen=True, slots=True)
class Slo:
    """Limits in seconds; None is no limit."""

    ttft_s: float | None = None
    tpot_s: float | None = None
    e2e_s: float | None = None

    def keeps(self, request: Request) -> bool:
        """Whether this request was answered in whole and in time. One token alone has no TPOT to miss."""
        if not request.ok:
            return False
        seen = latency_of(request)
        pairs = ((seen.ttft_s, self.ttft_s), (seen.tpot_s, self.tpot_s), (seen.e2e_s, self.e2e_s))
        return all(limit is None or value is None or value <= limit for value, limit in pairs)


def parse_slo(text: str) -> Slo:
    """``ttft=500,tpot=30`` in milliseconds, or the name of a preset. Raises SloError."""
    limits: dict[str, float] = {}
    for part in PRESETS.get(text, text).split(","):
        name, equals, value = part.strip().partition("=")
        if name not in NAMES or not equals:
            known = f"{', '.join(NAMES)} in milliseconds (ttft=500,tpot=30), or one of {', '.join(PRESETS)}"
            raise SloError(f"service level {part!r}: give {known}")
        if f"{name}_s" in limits:
            raise SloError(f"service level {text!r} has {name} twice")
        limits[f"{name}_s"] = _milliseconds(name, value) / 1e3
    return Slo(**limits)


def _milliseconds(name: str, text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < 1e9:
        raise SloError(f"service level {name}={text!r} is no number of milliseconds above 0")
    return value


def goodput(requests: Sequence[Request], slo: Slo, seconds: float) -> tuple[float, float]:
    """(Requests a second that kept the level, their share of all that were due) in a window of that many seconds.

    Raises ValueError without a request or a second.
    """
    if not requests or seconds <= 0:
        raise ValueError("no request, or no second, to take goodput of")
    kept = sum(slo.keeps(one) for one in requests)
    return kept / seconds, kept / len(requests)
