"""Money: what an hour of a device costs, what a million tokens then cost, where that breaks even, and what it hangs on.

>>> cost = cost_of(Point(511, 0.0474), 2.95, Mix(0, 1), utilisation=1.0)
>>> round(cost.output_usd, 3)
0.076

output_usd = devices · hourly / (tokens_per_s · 3600 · utilisation) · 1e6, split between prompts and outputs by the seconds
that each takes. Every formula stands in docs/economics.md.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from membound.results.fields import LARGEST
from membound.results.predict.prices import Assumption, CostError

HOURS_A_YEAR = 8760.0
MILLION = 1e6
SMALLEST = 1 / LARGEST
"""Of any number that is given, but 0."""


@dataclass(frozen=True, slots=True)
class Point:
    """A point of a throughput–latency curve: `batch` sequences get a token each in `step_s`, on `devices`.

    prompt_s: the part of step_s that goes into prompts. ttft_s: a prompt alone, None if unknown. low_s, high_s: the
    ends of the interval of step_s.
    """

    batch: float
    step_s: float
    devices: float = 1
    prompt_s: float = 0.0
    ttft_s: float | None = None
    low_s: float | None = None
    high_s: float | None = None

    @property
    def tokens_per_s(self) -> float:
        """Output tokens of all sequences, at full load."""
        return self.batch / self.step_s


@dataclass(frozen=True, slots=True)
class Mix:
    """Tokens of a request: read and written. cached: the share of input tokens that a prefix cache spares."""

    input_tokens: float
    output_tokens: float
    cached: float = 0.0

    @property
    def inputs_per_output(self) -> float:
        """Input tokens that come with an output token."""
        return self.input_tokens / self.output_tokens


@dataclass(frozen=True, slots=True)
class Cost:
    """USD for a million tokens. blended_usd: a million output tokens and the inputs that come with them."""

    input_usd: float
    output_usd: float
    blended_usd: float


def cost_of(point: Point, hourly_usd: float, mix: Mix, utilisation: float) -> Cost:
    """What a million tokens cost at a point. hourly_usd is of one device. Raises CostError."""
    check("price", hourly_usd, above=0)
    check("utilisation", utilisation, above=0, most=1)
    step_usd = point.devices * hourly_usd / 3600 * point.step_s / utilisation
    prompts = point.prompt_s / point.step_s * step_usd
    inputs = point.batch * mix.inputs_per_output
    return Cost(
        input_usd=prompts / inputs * MILLION if inputs else 0.0,
        output_usd=(step_usd - prompts) / point.batch * MILLION,
        blended_usd=step_usd / point.batch * MILLION,
    )


def owned_hourly(values: Mapping[str, float]) -> float:
    """USD an hour of one owned device, from capex, residual, years, power_kw, electricity and overhead. Raises CostError.

    power_kw is all that is provided for the device: with PUE and its share of the server. Raises CostError.
    """
    for name in ("capex", "years", "power_kw", "electricity"):
        check(name, values[name], above=0)
    check("residual", values["residual"], least=0, below=1)
    check("overhead", values["overhead"], least=0)
    worn = values["capex"] * (1 - values["residual"]) / (values["years"] * HOURS_A_YEAR)
    return (worn + values["power_kw"] * values["electricity"]) * (1 + values["overhead"])


def check(
    name: str,
    value: float,
    above: float | None = None,
    least: float | None = None,
    below: float | None = None,
    most: float | None = None,
) -> None:
    """Raises CostError, which names the assumption and what it may be."""
    limits: tuple[tuple[float | None, str, Callable[[float, float], bool]], ...] = (
        (above, "above", operator.gt),
        (least, "at least", operator.ge),
        (below, "below", operator.lt),
        (most, "at most", operator.le),
    )
    if not all(limit is None or compare(value, limit) for limit, _, compare in limits):
        allowed = " and ".join(f"{word} {limit:g}" for limit, word, _ in limits if limit is not None)
        raise CostError(f"{name} = {value:g} is impossible: it must be {allowed}")
    if value and not SMALLEST <= abs(value) <= LARGEST:  # what is made of it would be no number
        raise CostError(f"{name} = {value:g} is impossible: it must be from {SMALLEST:g} to {LARGEST:g}")


@dataclass(frozen=True, slots=True)
class BreakEven:
    """Where serving a million output tokens with their inputs earns what it costs.

    revenue_usd: of that, at the API's prices. utilisation: above 1 means never at this point. batch: the smallest of
    the curve that earns its cost at the given utilisation, None if none does. factor: by how much both API prices must
    be multiplied.
    """

    revenue_usd: float
    utilisation: float
    batch: float | None
    factor: float


def break_even(
    point: Point,
    curve: Iterable[Point],
    hourly_usd: float,
    mix: Mix,
    utilisation: float,
    api: tuple[float, float],
) -> BreakEven:
    """Compare with an API's prices (USD for a million input and output tokens). Raises CostError."""
    check("API price of input", api[0], least=0)
    check("API price of output", api[1], above=0)
    revenue = api[1] + api[0] * mix.inputs_per_output
    full = cost_of(point, hourly_usd, mix, 1.0).blended_usd
    earning = (
        one.batch
        for one in sorted(curve, key=lambda p: p.batch)
        if cost_of(one, hourly_usd, mix, utilisation).blended_usd <= revenue
    )
    return BreakEven(revenue, full / revenue, next(earning, None), full / utilisation / revenue)


@dataclass(frozen=True, slots=True)
class Swing:
    """How the answer moves when one assumption goes from the low to the high end of its band."""

    name: str
    low: float
    high: float
    low_usd: float
    high_usd: float

    @property
    def width(self) -> float:
        """USD between both ends."""
        return abs(self.high_usd - self.low_usd)


def sensitivity(answer: Callable[[Mapping[str, float]], float], assumed: Sequence[Assumption]) -> list[Swing]:
    """Each assumption moved alone, the widest swing first; those that move nothing are left out."""
    base = {one.name: one.value for one in assumed}
    swings = [
        Swing(a.name, a.low, a.high, answer(base | {a.name: a.low}), answer(base | {a.name: a.high}))
        for a in assumed
        if a.low != a.high
    ]
    return sorted((s for s in swings if s.width > 0), key=lambda swing: -swing.width)


def cheapest(
    points: Iterable[Point],
    usd: Callable[[Point], float],
    tpot_s: float | None = None,
    ttft_s: float | None = None,
) -> Point | None:
    """The cheapest point within limits of seconds a token and to the first token; None if none meets them."""
    meeting = [
        p
        for p in points
        if (tpot_s is None or p.step_s <= tpot_s)
        and (ttft_s is None or (p.ttft_s is not None and p.ttft_s <= ttft_s))
    ]
    return min(meeting, key=usd, default=None)


@dataclass(frozen=True, slots=True)
class Fleet:
    """Devices and racks for a demand. kw: what a data centre must provide; None, and racks, if a device's is unknown."""

    replicas: int
    devices: int
    racks: int | None
    kw: float | None
    usd_per_day: float


def fleet(
    point: Point,
    tokens_per_day: float,
    utilisation: float,
    peak_factor: float,
    device_kw: float | None,
    rack_kw: float,
    hourly_usd: float,
) -> Fleet:
    """Replicas that serve `tokens_per_day` output tokens, whose busiest hour has `peak_factor` times the mean. Raises CostError."""
    check("tokens per day", tokens_per_day, above=0)
    check("utilisation", utilisation, above=0, most=1)
    check("peak factor", peak_factor, least=1)
    check("rack power", rack_kw, above=0)
    rate = tokens_per_day * peak_factor / 86400
    replicas = math.ceil(rate / (point.tokens_per_s * utilisation) - 1e-9)
    devices = math.ceil(replicas * point.devices)
    kw = None if device_kw is None else devices * device_kw
    racks = None if kw is None else math.ceil(kw / rack_kw - 1e-9)
    return Fleet(replicas, devices, racks, kw, devices * hourly_usd * 24)
