"""Serving plans: every device, count, format and batch that meets the limits, ranked by what a day costs.

>>> plans = plans_for("llama-3-8b", catalogue, known, ask, formats=("bf16", "fp8"))
>>> plans[0].usd_per_day
212.0
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from membound.bench.planning.answers import Answer, Ask, answer_for
from membound.bench.planning.economics import candidates, serving_demand
from membound.errors import MemboundError
from membound.kernels.served import WEIGHT_BITS
from membound.results.predict.capacity import COUNTS, fewest_devices
from membound.results.predict.catalogue import HardwareError
from membound.results.predict.cost import Fleet, Point
from membound.results.predict.device import Device
from membound.results.predict.forecast import Forecast, Knowledge, Options
from membound.results.predict.prices import CostError

FORMATS = ("bf16", "fp8", "int4g128")
DEFAULTS = Options()
MORE_COUNTS = 3
"""Counts that are tried from the fewest on: more devices make a token faster and dearer."""


class UnmetPlan(MemboundError, ValueError):
    """No device meets the limits. The message says what came closest."""


@dataclass(frozen=True, slots=True)
class Plan:
    """One way to serve the demand. The forecast and its interval are those of the chosen batch; prompt: of one alone."""

    device: Device
    weight: str
    point: Point
    forecast: Forecast
    answer: Answer
    fleet: Fleet
    prompt: Forecast | None = None

    @property
    def usd_per_day(self) -> float:
        """Of the whole fleet, which is paid whether it is used or not."""
        return self.fleet.usd_per_day


@dataclass(frozen=True, slots=True)
class Plans:
    """Plans, the cheapest day first, and why other devices are not among them."""

    found: tuple[Plan, ...]
    refused: tuple[tuple[str, str], ...]


def plans_for(
    model: str,
    devices: Sequence[Device],
    known: Knowledge,
    ask: Ask,
    formats: Sequence[str] = FORMATS,
    kv: str = "bf16",
    options: Options = DEFAULTS,
) -> Plans:
    """Try every device, format and count. Raises UnmetPlan, SpecError, CostError."""
    found: list[Plan] = []
    refused: list[tuple[str, str]] = []
    for device in devices:
        for weight in formats:
            if not takes(device, weight):
                continue
            try:
                found += _on(
                    device, f"step:model={model},weight={weight},kv={kv}", weight, known, ask, options
                )
            except (HardwareError, CostError) as error:
                refused.append((f"{device.id} {weight}", str(error)))
    if not found:
        closest = refused[0][1] if refused else "no device takes these formats"
        raise UnmetPlan(f"nothing serves {model} within the limits; {closest}")
    return Plans(tuple(sorted(found, key=lambda plan: plan.usd_per_day)), tuple(refused))


def takes(device: Device, weight: str) -> bool:
    """Whether a format makes sense there: eight bits want a unit that has them, four are unpacked anywhere."""
    if weight == "fp8":
        return device.peak("fp8") is not None and "fp8" not in device.lacks
    if weight in ("nvfp4", "mxfp4"):
        return device.value("fp4_tflops") is not None
    return weight in WEIGHT_BITS


def _on(device: Device, spec: str, weight: str, known: Knowledge, ask: Ask, options: Options) -> list[Plan]:
    """The cheapest batch within the limits for each count. Raises HardwareError, CostError."""
    curves = candidates(spec, device, ask.mix, _counts(spec, device, ask, options), known, options)
    plans = []
    fastest = min(point.point.step_s for curve in curves for point in curve)
    for curve in curves:
        answer = answer_for(device, curve, ask)
        chosen = next((one for one in curve if one.point is answer.best), None)
        if chosen is not None and chosen.forecast is not None and answer.fleet is not None:
            plans.append(
                Plan(device, weight, chosen.point, chosen.forecast, answer, answer.fleet, chosen.prompt)
            )
    if not plans:
        raise HardwareError(
            f"{device.id} takes {1e3 * fastest:.3g} ms a token at best with {weight}, or too long to the first"
        )
    return plans


def _counts(spec: str, device: Device, ask: Ask, options: Options) -> Sequence[int]:
    memory = device.value("memory_gb")
    one = serving_demand(spec, ask.mix, 1)
    fewest = fewest_devices(one, memory * 1e9, options.memory_share) if memory else 1
    return COUNTS[COUNTS.index(fewest) :][:MORE_COUNTS] if fewest else COUNTS[-1:]
