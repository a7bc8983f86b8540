"""Predictions for people: what fits, each model's time with its interval, the record behind it, and who disagrees.

>>> print("\\n".join(forecast_lines(forecast)))
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import combinations
from typing import Any

from membound.results.predict.forecast import Forecast, knee
from membound.results.predict.record import (
    COVERAGE,
    FEWEST_DEVICES,
    MODELS,
    DisputedPair,
    Errors,
    Record,
    disputed_pairs,
)
from membound.results.views.columns import columns, wrapped
from membound.results.wording import amount, duration, percent

GROUPS = {
    "single": "decoding one sequence on one device",
    "parallel": "decoding one sequence on several devices",
    "served": "decoding several sequences together",
    "prefill": "prompts",
    "operation": "single operations",
}
"""What each group of measured rows holds."""


def forecast_lines(one: Forecast) -> list[str]:
    """A work on a device, whole."""
    demand, parts = one.demand, one.parts
    lines = [f"{one.device.name} ({one.device.id}) × {one.offer.devices:g}", *_capacity(one)]
    rows = [_timed(one, model) for model in MODELS]
    lines += columns(["model", "time", f"{COVERAGE:.0%} interval", "tokens/s"], rows, "<>>>")
    terms = {
        "launches": parts.launch_s,
        "bytes": parts.memory_s,
        "FLOPs": parts.compute_s,
        "link": parts.link_s,
    }
    shown = ", ".join(f"{name} {duration(value, 3)}" for name, value in terms.items() if value)
    lines += wrapped(
        f"terms: {shown}; {amount(demand.bytes, 'B')} and {amount(demand.flops, 'FLOP')} a step", "  "
    )
    if one.host_s:
        bound = "it bounds the step" if one.host_s >= parts.seconds else "it hides behind the step"
        lines += wrapped(
            f"host link: {duration(one.host_s, 3)} for the weights that lie there; {bound}", "  "
        )
    for note in one.notes:
        lines += wrapped(f"note: {note}", "  ")
    return lines


def _capacity(one: Forecast) -> list[str]:
    room = one.capacity
    if room is None:
        return []
    text = f"fits: {(room.weights_bytes + room.cache_bytes) / 1e9:.4g} of {room.usable_bytes / 1e9:.4g} GB usable"
    if room.most_batch is not None:
        text += f"; the cache ends at batch {room.most_batch} for this context, or at {room.most_context} tokens for this batch"
    return wrapped(text, "  ")


def _timed(one: Forecast, model: str) -> list[str]:
    timed = one.timed[model]
    if timed.seconds is None:
        return [model, "unknown", "no peak known", ""]
    interval = f"{duration(timed.low_s, 3)} to {duration(timed.high_s, 3)}"
    return [model, duration(timed.seconds), interval, f"{one.demand.batch / timed.seconds:.4g}"]


def past_lines(found: Sequence[Forecast]) -> list[str]:
    """The record of each group that forecasts belong to."""
    lines = []
    for group in dict.fromkeys(one.group for one in found):
        one = next(f for f in found if f.group == group)
        lines.append(f"record of {GROUPS[group]}, each device left out in turn")
        for model in MODELS:
            errors = one.timed[model].errors
            width = math.exp(one.timed[model].half_width)
            text = errors_text(errors) if errors else (
                f"none, nothing of the kind was measured; its interval, × or ÷ {width:.2g}, is that of all decoding"
            )  # fmt: skip
            lines += wrapped(f"  {model}: {text}", "    ")
    return lines


def errors_text(errors: Errors) -> str:
    """The figures of a record in one line."""
    text = (
        f"median {percent(errors.median)}, 90th percentile {percent(errors.p90)}, bias {errors.bias:+.0%}, "
        f"{errors.rows} rows of {errors.devices} devices"
    )
    return text + (f" (fewer than {FEWEST_DEVICES}: interval of all)" if errors.borrowed else "")


def ranking_lines(found: Sequence[Forecast]) -> list[str]:
    """Devices ranked by each model, and the pairs on which they disagree."""
    ranks = {
        model: sorted((f for f in found if f.timed[model].seconds), key=lambda f: f.timed[model].seconds or 0)
        for model in MODELS
    }
    lines = [f"fastest first, {model}: {', '.join(_called(f) for f in ranks[model])}" for model in MODELS]
    lines = [text for line in lines for text in wrapped(line, "  ")]
    for a, b in combinations(found, 2):
        said = {model: _ratio(a, b, model) for model in MODELS}
        known = {model: ratio for model, ratio in said.items() if ratio is not None}
        if len({ratio > 1 for ratio in known.values()}) > 1:
            text = ", ".join(f"{ratio:.2f} by {model}" for model, ratio in known.items())
            lines += wrapped(f"they disagree: {_called(a)} is to {_called(b)} in speed as {text}", "  ")
    return lines


def _called(one: Forecast) -> str:
    return one.device.id if one.offer.devices == 1 else f"{one.offer.devices:g} × {one.device.id}"


def _ratio(a: Forecast, b: Forecast, model: str) -> float | None:
    one, other = a.timed[model].seconds, b.timed[model].seconds
    return other / one if one and other else None


def sweep_lines(curve: Sequence[Forecast]) -> list[str]:
    """The throughput–latency curve, its knee, and the record of its parts."""
    first, turning = curve[0], knee(curve)
    header = ["batch", "time", f"{COVERAGE:.0%} interval", "tokens/s", "a user", "memory", ""]
    rows = []
    for one in curve:
        timed = one.timed[MODELS[0]]
        used = (
            (one.capacity.weights_bytes + one.capacity.cache_bytes) / one.capacity.usable_bytes
            if one.capacity
            else None
        )
        rows.append(
            [
                f"{one.demand.batch:g}",
                duration(one.seconds),
                f"{duration(timed.low_s, 3)} to {duration(timed.high_s, 3)}",
                f"{one.tokens_per_s:.4g}",
                f"{1 / one.seconds:.4g}",
                percent(used),
                "knee" if one is turning else "",
            ]
        )
    lines = [f"{first.device.name} ({first.device.id}) × {first.offer.devices:g}, by the three terms"]
    lines += columns(header, rows, ">>>>>><")
    end = curve[-1].capacity
    if end is not None and end.most_batch is not None:
        lines += wrapped(f"the cache ends at batch {end.most_batch}")
    if turning is None:
        lines += wrapped("no knee: throughput grows with the batch as far as this goes")
    for note in dict.fromkeys(note for one in curve for note in one.notes):
        lines += wrapped(f"note: {note}", "  ")
    return lines


def record_lines(record: Record, refused: Sequence[tuple[str, str]], title: str) -> list[str]:
    """The record of each model and group, with the share of held-out rows in their intervals."""
    lines = [title, ""]
    rows = []
    for group in GROUPS:
        for model in MODELS:
            errors, held = record.errors(group, model), record.of_model(model, group)
            if errors is None:
                continue
            covered = sum(h.is_covered for h in held) / len(held)
            rows.append(
                [
                    group if model == MODELS[0] else "",
                    model,
                    str(errors.rows),
                    str(errors.devices),
                    percent(errors.median),
                    percent(errors.p90),
                    f"{errors.bias:+.0%}",
                    percent(covered),
                ]
            )
    header = ["works", "model", "rows", "devices", "median", "p90", "bias", "covered"]
    lines += columns(header, rows, "<<>>>>>>")
    lines += ["", *wrapped(
        "Errors of the rate for devices left out, predicted over measured less 1. covered: held-out measurements within "
        f"their {COVERAGE:.0%} intervals. " + "; ".join(f"{g}: {text}" for g, text in GROUPS.items() if record.of_model(MODELS[0], g)) + "."
    )]  # fmt: skip
    lines += ["", *disputed_lines(disputed_pairs(record))]
    if refused:
        lines += ["", f"{len(refused)} rows cannot be predicted:"]
        lines += [text for id_, reason in refused for text in wrapped(f"  {id_}: {reason}", "    ")]
    return lines


def disputed_lines(pairs: Sequence[DisputedPair]) -> list[str]:
    """Which model is right where bandwidth and FLOPs put devices in opposite orders: the claim, across hardware."""
    if not pairs:
        return wrapped(
            "On no pair of devices with the same work do bandwidth and FLOPs disagree on which is faster."
        )
    right = ", ".join(f"{m} {sum(m in one.right for one in pairs)}" for m in MODELS)
    lines = wrapped(
        f"On {len(pairs)} pairs of devices that did the same work, bandwidth and FLOPs disagree on which is faster. "
        f"Right: {right}."
    )
    for one in pairs:
        text = f"  {one.faster.device} was {one.ratio:.2f} × as fast as {one.slower.device} ({one.faster.label}): "
        lines += wrapped(text + (", ".join(one.right) or "none") + " right", "    ")
    return lines


def point_lines(record: Record) -> list[str]:
    """Each held-out row by the three terms."""
    rows = [
        [
            h.row.id[:24],
            h.row.device,
            h.row.group,
            duration(h.row.seconds, 3),
            duration(h.seconds, 3),
            f"{h.error:+.0%}",
            "" if h.is_covered else "outside",
        ]
        for h in record.of_model(MODELS[0])
    ]
    return columns(["row", "device", "works", "measured", "predicted", "error", "interval"], rows, "<<<>>><")


def as_json(one: Forecast) -> dict[str, Any]:
    """A forecast with all that it rests on."""
    return {
        "work": one.demand.work,
        "device": one.device.id,
        "devices": one.offer.devices,
        "group": one.group,
        "bytes": one.demand.bytes,
        "flops": one.demand.flops,
        "needed_bytes": one.demand.needed_bytes,
        "usable_bytes": one.capacity.usable_bytes if one.capacity else None,
        "most_batch": one.capacity.most_batch if one.capacity else None,
        "most_context": one.capacity.most_context if one.capacity else None,
        "terms_s": {
            "launches": one.parts.launch_s,
            "bytes": one.parts.memory_s,
            "flops": one.parts.compute_s,
            "link": one.parts.link_s,
            "host_link": one.host_s,
        },
        "models": {
            model: {
                "time_s": timed.seconds,
                "interval_s": [timed.low_s, timed.high_s] if timed.seconds else None,
                "tokens_per_s": one.demand.batch / timed.seconds if timed.seconds else None,
                "record": errors_json(timed.errors),
            }
            for model, timed in one.timed.items()
        },
        "notes": list(one.notes),
    }


def errors_json(errors: Errors | None) -> dict[str, Any] | None:
    """A record's figures."""
    if errors is None:
        return None
    return {
        "rows": errors.rows,
        "devices": errors.devices,
        "median_error": errors.median,
        "p90_error": errors.p90,
        "bias": errors.bias,
        "interval_factor": math.exp(errors.half_width),
    }


def record_json(record: Record, refused: Sequence[tuple[str, str]]) -> dict[str, Any]:
    """A record with every held-out row."""
    return {
        "groups": {
            group: {
                model: (errors_json(errors) or {}) | {"covered": sum(h.is_covered for h in held) / len(held)}
                for model in MODELS
                if (errors := record.errors(group, model)) and (held := record.of_model(model, group))
            }
            for group in GROUPS
            if record.of_model(MODELS[0], group)
        },
        "rows": [
            {
                "id": h.row.id,
                "device": h.row.device,
                "group": h.row.group,
                "model": h.model,
                "measured_s": h.row.seconds,
                "predicted_s": h.seconds,
                "error": h.error,
                "covered": h.is_covered,
            }
            for h in record.held_out
        ],
        "disputed_pairs": [
            {
                "faster": one.faster.device,
                "slower": one.slower.device,
                "label": one.faster.label,
                "ratio": one.ratio,
                "right": list(one.right),
            }
            for one in disputed_pairs(record)
        ],
        "left_out": [{"id": id_, "reason": reason} for id_, reason in refused],
    }
