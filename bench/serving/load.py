"""What to ask of a server, and the text under which a point of it is stored.

>>> load = Load(Endpoint("127.0.0.1", 8000), rates=(1.0, 2.0))
>>> [point.label for point in load.points()]
['rate 1', 'rate 2']
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from membound.bench.serving.connection import Limits
from membound.bench.serving.endpoint import Endpoint
from membound.bench.serving.lengths import Lengths
from membound.bench.serving.schedule import Pattern
from membound.bench.serving.served import Served


@dataclass(frozen=True, slots=True)
class LoadPoint:
    """`kind`: ``rate`` (requests a second), ``users`` (requests at a time) or ``trace`` (its speed)."""

    kind: str
    value: float

    @property
    def label(self) -> str:
        """For people."""
        return f"{self.kind} {self.value:g}"


@dataclass(frozen=True, slots=True)
class Load:
    """Give `rates` (open loop), `users` (closed loop) or a `trace`. Lengths are tokens."""

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
    search: bool = False
    """Look for the highest rate that keeps `slo`, from the only one of `rates` on."""
    limits: Limits = field(default_factory=Limits)
    served: Served | None = None
    """The model that the server has, where it is known."""

    @property
    def name(self) -> str:
        """The endpoint's path below /v1."""
        return "chat/completions" if self.chat else "completions"

    @property
    def total_s(self) -> float:
        """Warm-up and window together."""
        return self.warm_s + self.seconds

    def points(self) -> Iterator[LoadPoint]:
        """In the order in which they are played."""
        yield from (LoadPoint("rate", rate) for rate in self.rates)
        yield from (LoadPoint("users", float(count)) for count in self.users)
        if self.trace is not None:
            yield LoadPoint("trace", self.speed)


def work_of(load: Load, model: str, point: LoadPoint) -> str:
    """The point's canonical text: equal texts are equal loads, whatever served them."""
    parts = [
        f"serving:model={model}",
        f"api={'chat' if load.chat else 'completions'}",
        f"{point.kind}={point.value:g}",
    ]
    if point.kind == "rate":
        extra = {"gamma": f":cv={load.pattern.cv:g}", "ramp": f":start={load.pattern.start:g}"}
        parts.append(f"pattern={load.pattern.kind}{extra.get(load.pattern.kind, '')}")
    if point.kind == "users":
        parts.append(f"think={load.think_s:g}")
    if point.kind == "trace" and load.trace is not None:
        return ",".join([*parts, f"file={load.trace.name}"])
    parts += [f"prompt={_lengths(load.prompt)}", f"output={_lengths(load.output)}"]
    if load.shared_prefix:
        parts.append(f"shared={load.shared_prefix}")
    return ",".join(parts)


def _lengths(one: Lengths) -> str:
    return f"{one.first:g}" if one.kind == "fixed" else f"{one.kind}({one.first:g};{one.second:g})"
