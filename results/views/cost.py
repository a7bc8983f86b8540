"""Costs for people: assumptions first, then a million tokens at each point, and what the answer hangs on.

>>> print("\\n".join(assumption_lines(assumed, today)))
"""

from __future__ import annotations

import datetime
from collections.abc import Sequence
from typing import Any

from membound.results.predict.cost import BreakEven, Cost, Fleet, Point, Swing
from membound.results.predict.prices import ApiPrice, Assumption, age
from membound.results.views.columns import columns, wrapped
from membound.results.wording import duration, percent

BAR = 24
"""Characters of the widest bar."""


def assumption_lines(assumed: Sequence[Assumption], today: datetime.date) -> list[str]:
    """Each assumption with its band, source, date and trust; old ones say so."""
    lines = ["assumed (each is an option):"]
    for one in assumed:
        band = f" ({_plain(one.low)} to {_plain(one.high)})" if one.low != one.high else ""
        old = one.age(today)
        told = f"{one.source}; {one.date}, {one.trust}" + (f", {old}" if old else "")
        shown = f"{_plain(one.value)} {one.unit}".rstrip()
        lines += wrapped(f"  {one.name} {shown}{band}: {'given' if one.trust == 'given' else told}", "    ")
    return lines


def _plain(value: float) -> str:
    return f"{value:.4g}" if value < 1e4 else f"{value:,.0f}"


def curve_lines(
    points: Sequence[Point],
    costs: Sequence[Cost],
    best: Point | None,
    answer: tuple[float, float | None, float | None],
) -> list[str]:
    """USD for a million tokens at each point; answer: the cheapest cost and its ends for the interval of time."""
    header = ["batch", "a token", "first", "tokens/s", "USD/M in", "USD/M out", "out with in", ""]
    rows = [
        [
            f"{p.batch:g}",
            duration(p.step_s, 3),
            duration(p.ttft_s, 3),
            f"{p.tokens_per_s:.4g}",
            f"{c.input_usd:.4g}",
            f"{c.output_usd:.4g}",
            f"{c.blended_usd:.4g}",
            "cheapest" if p is best else "",
        ]
        for p, c in zip(points, costs, strict=True)
    ]
    lines = columns(header, rows, ">>>>>>><")
    if best is None:
        return [*lines, "no point meets the limits; relax --tpot or --ttft, or take more devices"]
    usd, low, high = answer
    text = f"cheapest: batch {best.batch:g}, {usd:.4g} USD for a million output tokens with their inputs"
    if low is not None and high is not None:
        text += f" ({low:.4g} to {high:.4g} by the interval of the time alone)"
    return [*lines, *wrapped(text, "  ")]


def break_even_lines(
    found: BreakEven, price: ApiPrice, today: datetime.date, utilisation: float
) -> list[str]:
    """Whether selling at an API's price covers the cost."""
    old = age(price.source.date, today)
    origin = f"{price.seller}; {price.source.title}, {price.source.date}" + (f", {old}" if old else "")
    origin = "given" if price.source.trust == "given" else origin
    lines = wrapped(
        f"sold at {price.input_usd:g} in and {price.output_usd:g} out ({origin}), a million output tokens with their "
        f"inputs bring {found.revenue_usd:.4g} USD", "  "
    )  # fmt: skip
    if found.factor <= 1:
        lines += wrapped(
            f"covers its cost: it would still at {percent(found.utilisation)} utilisation or {found.factor:.2f} × the price",
            "  ",
        )
    else:
        need = (
            f"{percent(found.utilisation)} utilisation"
            if found.utilisation <= 1
            else "more than full utilisation"
        )
        lines += wrapped(
            f"does not cover its cost at {percent(utilisation)} utilisation: it needs {need}, or {found.factor:.2f} × the price",
            "  ",
        )
    batch = "no batch of the curve" if found.batch is None else f"batch {found.batch:g} and more"
    return [*lines, *wrapped(f"at {percent(utilisation)} utilisation, {batch} would", "  ")]


def swing_lines(swings: Sequence[Swing], base: float) -> list[str]:
    """A tornado: each assumption moved alone through its band."""
    if not swings:
        return ["sensitivity: every assumption was given without a band"]
    widest = swings[0].width or 1.0
    rows = [
        [
            s.name,
            f"{_plain(s.low)} to {_plain(s.high)}",
            f"{s.low_usd:.4g}",
            f"{s.high_usd:.4g}",
            "#" * max(1, round(BAR * s.width / widest)),
        ]
        for s in swings
    ]
    header = ["sensitivity", "band", "USD low", "USD high", f"around {base:.4g} USD"]
    return columns(header, rows, "<>>><")


def fleet_lines(
    found: Fleet, tokens_per_day: float, best: Point, assumed: Sequence[Assumption], today: datetime.date
) -> list[str]:
    """Devices and racks for a demand."""
    return [*size_lines(found, tokens_per_day, best), *assumption_lines(assumed, today)]


def size_lines(found: Fleet, tokens_per_day: float, best: Point) -> list[str]:
    """The size of a fleet alone."""
    text = (
        f"fleet for {tokens_per_day:.4g} output tokens a day: {found.replicas} × {best.devices:g} = {found.devices} devices, "
        f"{_power(found)}, {found.usd_per_day:,.0f} USD a day"
    )
    return wrapped(text, "  ")


def _power(found: Fleet) -> str:
    if found.kw is None or found.racks is None:
        return "kW and racks unknown (give --power-kw)"
    return f"{found.kw:.4g} kW, {found.racks} rack{'s' * (found.racks != 1)}"


def as_json(
    points: Sequence[Point], costs: Sequence[Cost], best: Point | None, assumed: Sequence[Assumption]
) -> dict[str, Any]:
    """The curve with its costs, and all that was assumed."""
    return {
        "assumed": [assumption_json(one) for one in assumed],
        "curve": [
            {
                "batch": p.batch,
                "devices": p.devices,
                "tpot_s": p.step_s,
                "tpot_interval_s": [p.low_s, p.high_s] if p.low_s is not None else None,
                "ttft_s": p.ttft_s,
                "tokens_per_s": p.tokens_per_s,
                "usd_per_million_input": c.input_usd,
                "usd_per_million_output": c.output_usd,
                "usd_per_million_output_with_inputs": c.blended_usd,
            }
            for p, c in zip(points, costs, strict=True)
        ],
        "cheapest_batch": best.batch if best else None,
    }


def assumption_json(one: Assumption) -> dict[str, Any]:
    """An assumption with its band and source."""
    return {
        "name": one.name,
        "value": one.value,
        "low": one.low,
        "high": one.high,
        "unit": one.unit,
        "source": one.source,
        "date": one.date,
        "trust": one.trust,
    }
