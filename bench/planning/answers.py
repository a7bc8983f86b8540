"""The answer to "what does a million tokens cost there?": a priced curve with everything that hangs on it.

>>> answer_for(device, curve, ask).usd
0.37...
"""

from __future__ import annotations

import datetime
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from membound.bench.planning.economics import Priced
from membound.kernels.shapes import ALIASES
from membound.results.predict.assumptions import (
    Given,
    assume,
    check_assumption,
    device_kw,
    hourly_usd,
    without_effect,
)
from membound.results.predict.cost import (
    BreakEven,
    Cost,
    Fleet,
    Mix,
    Point,
    Swing,
    break_even,
    cheapest,
    check,
    cost_of,
    fleet,
    sensitivity,
)
from membound.results.predict.device import Device, Source
from membound.results.predict.prices import ApiPrice, Assumption, CostError, Prices, given, load_prices
from membound.results.views import cost as view
from membound.results.views.columns import wrapped


@dataclass(frozen=True, slots=True)
class Ask:
    """What is asked of every device: the requests, prices and assumptions, and limits of seconds a token and to the first."""

    mix: Mix
    said: Given
    prices: Prices
    tpot_s: float | None = None
    ttft_s: float | None = None
    api: ApiPrice | None = None
    tokens_per_day: float | None = None


def make_ask(
    said: Given,
    tokens: tuple[float, float],
    limits_ms: tuple[float | None, float | None] = (None, None),
    api: ApiPrice | None = None,
    tokens_per_day: float | None = None,
) -> Ask:
    """Check what was given. Raises CostError."""
    prices = load_prices()
    check("input tokens", tokens[0], least=0)
    cached = said.numbers.get("cached", prices.assume("cached").value)
    check("cached", cached, least=0, below=1)
    tpot, ttft = (None if one is None else one / 1e3 for one in limits_ms)
    return Ask(Mix(*tokens, cached), said, prices, tpot, ttft, api, tokens_per_day)


def api_price(prices: Prices, model: str | None, text: str | None) -> ApiPrice | None:
    """An API's price as given (``IN/OUT``), or the catalogued one of a model. Raises CostError."""
    if text is None:
        return (
            prices.api(model if model in prices.tables["api"] else ALIASES.get(model, model))[0]
            if model
            else None
        )
    try:
        paid, got = (float(one) for one in text.split("/"))
    except ValueError:
        raise CostError(f"--api-price {text!r} is not IN/OUT, such as 0.05/0.08") from None
    return ApiPrice("given", paid, got, "given", Source("given", "given", "", "", "given"))


@dataclass(frozen=True, slots=True)
class Answer:
    """A device's curve, priced. usd: of a million output tokens with their inputs at the cheapest point; inf without one."""

    device: Device
    curve: Sequence[Priced]
    assumed: Sequence[Assumption]
    hourly: float
    costs: Sequence[Cost]
    best: Point | None
    usd: float
    swings: Sequence[Swing]
    earned: BreakEven | None
    fleet: Fleet | None
    fleet_assumed: Sequence[Assumption]
    idle: Sequence[str] = ()
    """What was given and nothing rests on."""

    @property
    def points(self) -> list[Point]:
        """The points of the curve."""
        return [one.point for one in self.curve]

    @property
    def title(self) -> str:
        """The device and how many."""
        return f"{self.device.name} ({self.device.id}) × {self.curve[0].point.devices:g}"


def answer_for(device: Device, curve: Sequence[Priced], ask: Ask) -> Answer:
    """Price a curve. Raises CostError."""
    assumed = assume(ask.prices, device.id, device.value("tdp_w"), ask.said)
    values = {one.name: one.value for one in assumed}
    hourly, use = hourly_usd(values), values["utilisation"]
    points = [one.point for one in curve]
    costs = [cost_of(p, hourly, ask.mix, use) for p in points]
    best = cheapest(points, lambda p: cost_of(p, hourly, ask.mix, use).blended_usd, ask.tpot_s, ask.ttft_s)
    usd = cost_of(best, hourly, ask.mix, use).blended_usd if best else float("inf")
    paid = (ask.api.input_usd, ask.api.output_usd) if ask.api else None
    sized, kw = _fleet(device, best, hourly, use, ask)
    return Answer(
        device=device,
        curve=curve,
        assumed=assumed,
        hourly=hourly,
        costs=costs,
        best=best,
        usd=usd,
        swings=_swings(best, assumed, ask.mix) if best else [],
        earned=break_even(best, points, hourly, ask.mix, use, paid) if best and paid else None,
        fleet=sized,
        fleet_assumed=kw,
        idle=without_effect(ask.prices, device.id, ask.said, ask.tokens_per_day is not None),
    )


def _swings(best: Point, assumed: Sequence[Assumption], mix: Mix) -> list[Swing]:
    """Each assumption moved alone at the cheapest point; the time of a step moves through its interval."""
    moving = list(assumed)
    if best.low_s is not None and best.high_s is not None:
        moving.append(Assumption("time a token", best.step_s, best.low_s, best.high_s, "s", "", "", ""))

    def usd(values: Mapping[str, float]) -> float:
        scale = values.get("time a token", best.step_s) / best.step_s
        spared = (1 - values["cached"]) / (1 - mix.cached)
        prompt = best.prompt_s * spared
        point = replace(best, step_s=scale * (best.step_s - best.prompt_s + prompt), prompt_s=scale * prompt)
        return cost_of(point, hourly_usd(values), mix, values["utilisation"]).blended_usd

    return sensitivity(usd, moving)


def _fleet(
    device: Device, best: Point | None, hourly: float, use: float, ask: Ask
) -> tuple[Fleet | None, list[Assumption]]:
    if best is None or ask.tokens_per_day is None:
        return None, []
    said = ask.said
    kw = device_kw(ask.prices, device.id, device.value("tdp_w"), said)
    rest = []
    for name in ("peak_factor", "rack_kw"):
        default, number = ask.prices.assume(name), said.numbers.get(name)
        rest.append(default if number is None else given(name, number, default.unit, said.today))
    assumed = [*([kw] if kw else []), *rest]
    for one in assumed:
        check_assumption(one)
    peak, rack = (one.value for one in rest)
    return fleet(best, ask.tokens_per_day, use, peak, kw.value if kw else None, rack, hourly), assumed


def answer_lines(answer: Answer, ask: Ask) -> list[str]:
    """An answer for people."""
    today: datetime.date = ask.said.today
    low, high = (_usd_at(answer, ask, s) for s in (_ends(answer.best) if answer.best else (None, None)))
    lines = [answer.title, *view.assumption_lines(answer.assumed, today)]
    if "price" not in {one.name for one in answer.assumed}:
        lines.append(f"  so a device-hour costs {answer.hourly:.4g} USD")
    lines += wrapped(f"  without effect here: {', '.join(answer.idle)}", "    ") if answer.idle else []
    lines += view.curve_lines(answer.points, answer.costs, answer.best, (answer.usd, low, high))
    if answer.earned and ask.api:
        lines += view.break_even_lines(answer.earned, ask.api, today, _use(answer))
    if answer.swings:
        lines += view.swing_lines(answer.swings, answer.usd)
    if answer.fleet and answer.best and ask.tokens_per_day:
        lines += view.fleet_lines(answer.fleet, ask.tokens_per_day, answer.best, answer.fleet_assumed, today)
    return lines


def _ends(best: Point) -> tuple[float | None, float | None]:
    return best.low_s, best.high_s


def _usd_at(answer: Answer, ask: Ask, seconds: float | None) -> float | None:
    """The cheapest point's cost if its step took this long; None without an interval."""
    best = answer.best
    if best is None or seconds is None:
        return None
    scaled = replace(best, step_s=seconds, prompt_s=best.prompt_s * seconds / best.step_s)
    return cost_of(scaled, answer.hourly, ask.mix, _use(answer)).blended_usd


def _use(answer: Answer) -> float:
    return next(one.value for one in answer.assumed if one.name == "utilisation")


def answer_json(answer: Answer) -> dict[str, Any]:
    """An answer for programs."""
    best, earned, sized = answer.best, answer.earned, answer.fleet
    return {
        "device": answer.device.id,
        "devices": answer.curve[0].point.devices,
        "usd_per_device_hour": answer.hourly,
        "without_effect": list(answer.idle),
        **view.as_json(answer.points, answer.costs, best, [*answer.assumed, *answer.fleet_assumed]),
        "usd": answer.usd if best else None,
        "sensitivity": [
            {"name": s.name, "low": s.low, "high": s.high, "usd_low": s.low_usd, "usd_high": s.high_usd}
            for s in answer.swings
        ],
        "break_even": None
        if earned is None
        else {
            "revenue_usd": earned.revenue_usd,
            "utilisation": earned.utilisation,
            "batch": earned.batch,
            "price_factor": earned.factor,
        },
        "fleet": None
        if sized is None
        else {
            "replicas": sized.replicas,
            "devices": sized.devices,
            "racks": sized.racks,
            "kw": sized.kw,
            "usd_per_day": sized.usd_per_day,
        },
    }
