"""Throughput–latency curves as points that can be priced: decoding with the prompts that come along.

>>> curve = priced_curve("step:model=llama-3-8b", device, Mix(1000, 250), [1, 8, 64], known, Options())
>>> curve[0].point.tokens_per_s
95.1...
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from membound.bench.planning.demands import parse_predicted, served_demand
from membound.errors import MemboundError
from membound.kernels.served import ServedPrefill, ServedStep
from membound.results.fields import LARGEST
from membound.results.predict.catalogue import HardwareError
from membound.results.predict.cost import SMALLEST, Mix, Point
from membound.results.predict.demand import Demand
from membound.results.predict.device import Device
from membound.results.predict.forecast import Forecast, Knowledge, Options, forecast, sweep
from membound.results.predict.record import MODELS
from membound.results.row import Row
from membound.results.serving.table import point_of_row


class EconomicsError(MemboundError, ValueError):
    """A work cannot be priced."""


@dataclass(frozen=True, slots=True)
class Priced:
    """A point of the curve and the forecasts behind it, of a step and of a prompt alone; None where it was measured."""

    point: Point
    forecast: Forecast | None
    prompt: Forecast | None = None


def serving_demand(spec: str, mix: Mix, batch: int) -> Demand:
    """A decode step that also works off the prompts of the tokens it makes. Raises SpecError, EconomicsError.

    Without a context in the spec, sequences hold their prompt and half of their answer. With continuous batching a step
    that makes `batch` tokens carries batch · input/output tokens of others' prompts.
    """
    work = parse_predicted(spec)
    if not isinstance(work, ServedStep):
        raise EconomicsError(f"only steps are priced, such as step:model=llama-3-8b; {spec} is a {work.kind}")
    context = work.context if "context=" in spec else max(1, round(mix.input_tokens + mix.output_tokens / 2))
    demand = served_demand(replace(work, batch=batch, context=context))
    prompt = _prompt(work, mix)
    share = (1 - mix.cached) * batch / mix.output_tokens
    return replace(demand, prompt_flops=prompt.flops * share if prompt else 0.0)


def _prompt(work: ServedStep, mix: Mix) -> ServedPrefill | None:
    tokens = round(mix.input_tokens)
    return (
        ServedPrefill(work.model, 1, tokens, work.weight, work.kv, work.act, work.layers) if tokens else None
    )


def priced_curve(
    spec: str, device: Device, mix: Mix, batches: Sequence[int], known: Knowledge, options: Options
) -> list[Priced]:
    """The curve of a model on a device, with each point's time to the first token, without waiting.

    Raises HardwareError, SpecError, EconomicsError.
    """
    curve = sweep(lambda batch: serving_demand(spec, mix, batch), batches, device, known, options)
    work = parse_predicted(spec)
    prompt = _prompt(work, mix)
    first = None
    if prompt is not None:
        whole = replace(options, devices=int(curve[0].offer.devices))
        uncached = max(1, round(mix.input_tokens * (1 - mix.cached)))
        first = forecast(served_demand(replace(prompt, tokens=uncached)), device, known, whole)
    waiting = first.seconds if first else 0.0
    return [Priced(point_of(one, waiting + one.seconds), one, first) for one in curve]


def point_of(one: Forecast, ttft_s: float | None) -> Point:
    """A forecast as a point; prompts take the share of arithmetic that is theirs."""
    demand, timed = one.demand, one.timed[MODELS[0]]
    flops = demand.flops + demand.prompt_flops
    prompt_s = one.parts.compute_s * demand.prompt_flops / flops if flops else 0.0
    return Point(
        batch=demand.batch,
        step_s=one.seconds,
        devices=one.offer.devices,
        prompt_s=min(prompt_s, one.seconds),
        ttft_s=ttft_s,
        low_s=timed.low_s,
        high_s=timed.high_s,
    )


def measured_point(text: str, devices: float) -> Priced:
    """``511:47.4``: a batch and the milliseconds of its step, as measured. Raises EconomicsError."""
    batch, _, milliseconds = text.partition(":")
    try:
        point = Point(float(batch), float(milliseconds) / 1e3, devices)
    except ValueError:
        raise EconomicsError(
            f"{text!r} is no measured point; write BATCH:MILLISECONDS, such as 511:47.4"
        ) from None
    if not (SMALLEST <= point.batch <= LARGEST and SMALLEST <= point.step_s <= LARGEST):
        raise EconomicsError(f"{text!r}: batch and milliseconds must be above 0 and at most {LARGEST:g}")
    return Priced(point, None)


def loaded_points(rows: Sequence[Row], devices: float) -> list[Priced]:
    """The points of a run of `membound load`, those of few sequences first. Raises EconomicsError.

    A point's throughput is that of whole answers, prompts included, so that its prompts are part of what outputs cost.
    The sequences running at once are its throughput times the median time of a token (Little's law).
    """
    found = []
    for row in rows:
        if row.kind != "serving" or row.status != "ok":
            continue
        point = point_of_row(row)
        tpot = point.latency["tpot"].at.get(50)
        if tpot and point.output_tokens_per_s:
            first = point.latency["ttft"].at.get(50)
            found.append(Point(point.output_tokens_per_s * tpot, tpot, devices, ttft_s=first))
    if not found:
        raise EconomicsError(
            "the run holds no point of load with a time for each token; `membound load` makes one"
        )
    return [Priced(point, None) for point in sorted(found, key=lambda p: p.batch)]


def candidates(
    spec: str, device: Device, mix: Mix, counts: Sequence[int], known: Knowledge, options: Options
) -> list[list[Priced]]:
    """A curve for each number of devices that holds the model, over all powers of two that fit. Raises HardwareError."""
    found: list[list[Priced]] = []
    reason: HardwareError | None = None
    for count in counts:
        try:
            found.append(
                priced_curve(
                    spec, device, mix, [1 << k for k in range(13)], known, replace(options, devices=count)
                )
            )
        except HardwareError as error:
            reason = error
    if not found and reason is not None:
        raise reason
    return found
