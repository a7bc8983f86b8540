"""Serving plans for people: a line for each, the cheapest day first, with the error of each figure.

>>> print("\\n".join(plan_lines([PlanLine("2 × h100_sxm", "fp8", point, forecast, fleet, 0.31)], 0.05)))
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from membound.results.predict.cost import Fleet, Point
from membound.results.predict.forecast import Forecast
from membound.results.predict.record import COVERAGE, MODELS
from membound.results.views.columns import columns, wrapped
from membound.results.wording import percent


@dataclass(frozen=True, slots=True)
class PlanLine:
    """What a line shows. usd: for a million output tokens with their inputs. prompt: its forecast, None without one."""

    devices: str
    weight: str
    point: Point
    forecast: Forecast
    fleet: Fleet
    usd: float
    prompt: Forecast | None = None


LEGEND = (
    "token: ms. ×: what it may be multiplied or divided by to reach the ends of its {coverage:.0%} interval, and the cost and "
    "the fleet with it. first: ms to the first token, without waiting. left: of memory{limit}. "
    "USD/M: a million output tokens with their inputs."
)
OF_THE_LIMIT = ", and of the limit on a token's time"


def plan_lines(plans: Sequence[PlanLine], tpot_s: float | None) -> list[str]:
    """A ranked table."""
    header = [
        "devices",
        "weights",
        "batch",
        "fleet",
        "USD/day",
        "USD/M",
        "token",
        "×",
        "first",
        "left",
    ]
    rows = [
        [
            one.devices,
            one.weight,
            f"{one.point.batch:g}",
            str(one.fleet.devices),
            f"{one.fleet.usd_per_day:.0f}",
            f"{one.usd:.3g}",
            f"{1e3 * one.point.step_s:.3g}",
            f"{factor(one.forecast):.2g}",
            "–" if one.point.ttft_s is None else f"{1e3 * one.point.ttft_s:.3g}",
            percent(room(one.forecast))
            + ("" if tpot_s is None else f" {percent(1 - one.point.step_s / tpot_s)}"),
        ]
        for one in plans
    ]
    legend = LEGEND.format(coverage=COVERAGE, limit="" if tpot_s is None else OF_THE_LIMIT)
    return [*columns(header, rows, "<<>>>>>>>>"), "", *wrapped(legend)]


def factor(one: Forecast) -> float:
    """What the predicted time may be off by, either way."""
    return math.exp(one.timed[MODELS[0]].half_width)


def room(one: Forecast) -> float | None:
    """The share of usable memory that is left; None if unknown."""
    held = one.capacity
    return None if held is None else 1 - (held.weights_bytes + held.cache_bytes) / held.usable_bytes


def as_json(one: PlanLine) -> dict[str, Any]:
    """A line for programs."""
    return {
        "device": one.forecast.device.id,
        "devices_a_replica": one.point.devices,
        "weight": one.weight,
        "batch": one.point.batch,
        "replicas": one.fleet.replicas,
        "devices": one.fleet.devices,
        "racks": one.fleet.racks,
        "kw": one.fleet.kw,
        "usd_per_day": one.fleet.usd_per_day,
        "usd_per_million_output_with_inputs": one.usd,
        "tpot_s": one.point.step_s,
        "tpot_factor": factor(one.forecast),
        "ttft_s": one.point.ttft_s,
        "ttft_factor": None if one.prompt is None else factor(one.prompt),
        "memory_left": room(one.forecast),
        "notes": list(one.forecast.notes),
    }
