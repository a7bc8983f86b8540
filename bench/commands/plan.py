"""`membound plan`: which device, how many, in which format and batch, for a demand and its limits.

membound plan --model llama-3-70b --tokens-per-day 2e9 --ttft 2000 --tpot 50
"""

from __future__ import annotations

import datetime
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from membound.bench.commands.cost import (
    Cached,
    Capex,
    Electricity,
    InputTokens,
    Kind,
    OutputTokens,
    Overhead,
    PeakFactor,
    PowerKw,
    Price,
    Pue,
    RackKw,
    Residual,
    Server,
    ServerShare,
    Today,
    Tpot,
    Ttft,
    Utilisation,
    Years,
    said,
)
from membound.bench.commands.hardware import Hardware
from membound.bench.commands.options import Debug, Json, Out, number_within, print_json, print_text
from membound.bench.commands.predict import (
    Link,
    MemoryShare,
    On,
    Rows,
    above_zero,
    knowledge,
    names_of,
    options_of,
)
from membound.results.folders import DEFAULT_OUT
from membound.results.predict.capacity import MEMORY_SHARE

if TYPE_CHECKING:
    from membound.bench.planning.answers import Ask
    from membound.bench.planning.plans import Plan, Plans
    from membound.results.predict.catalogue import Catalogue
    from membound.results.predict.device import Device
    from membound.results.views.plan import PlanLine


def plan(
    model: Annotated[str, typer.Option("--model", metavar="NAME", help="What is served.")],
    tokens_per_day: Annotated[
        float, typer.Option("--tokens-per-day", parser=above_zero, metavar="N", help="Output tokens.")
    ],
    tpot: Tpot = None,
    ttft: Ttft = None,
    on: On = None,
    formats: Annotated[
        str, typer.Option("--weights", metavar="FORMATS", help="Formats to try, with commas.")
    ] = "bf16,fp8,int4g128",
    kv: Annotated[str, typer.Option("--kv", metavar="FORMAT", help="Of the cache.")] = "bf16",
    input_tokens: InputTokens = 1000.0,
    output_tokens: OutputTokens = 250.0,
    top: Annotated[
        int, typer.Option("--top", parser=number_within(1, 1000), metavar="N", help="Lines to show.")
    ] = 12,
    kind: Kind = "rent",
    price: Price = None,
    capex: Capex = None,
    years: Years = None,
    residual: Residual = None,
    power_kw: PowerKw = None,
    pue: Pue = None,
    server_factor: Server = None,
    server_share: ServerShare = None,
    electricity: Electricity = None,
    overhead: Overhead = None,
    utilisation: Utilisation = None,
    cached: Cached = None,
    peak_factor: PeakFactor = None,
    rack_kw: RackKw = None,
    memory_share: MemoryShare = MEMORY_SHARE,
    link: Link = None,
    rows: Rows = None,
    own: Hardware = None,
    today: Today = None,
    out: Out = DEFAULT_OUT,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Rank devices, counts, formats and batches that serve a demand within its limits, by what a day costs.

    Default: every device that has a catalogued price of that kind.
    """
    from membound.bench.planning.answers import make_ask
    from membound.bench.planning.plans import plans_for
    from membound.results.predict.catalogue import load_catalogue

    numbers = {"price": price, "capex": capex, "years": years, "residual": residual, "power_kw": power_kw,
               "pue": pue, "server_factor": server_factor, "server_share": server_share, "electricity": electricity,
               "overhead": overhead, "utilisation": utilisation, "cached": cached, "peak_factor": peak_factor,
               "rack_kw": rack_kw}  # fmt: skip
    ask = make_ask(
        said(kind, numbers, today), (input_tokens, output_tokens), (tpot, ttft), None, tokens_per_day
    )
    catalogue = load_catalogue(own)
    known = knowledge(catalogue, rows, out)
    options = options_of(None, 0.0, link, None, memory_share)
    devices = _devices(catalogue, on, ask, kind)
    found = plans_for(model, devices, known, ask, _formats(formats), kv, options)
    lines = [_line(one) for one in found.found[:top]]
    if as_json:
        from membound.results.views import plan as view

        print_json([view.as_json(one) for one in lines])
        return
    _show(model, found, lines, ask)


def _formats(text: str) -> list[str]:
    from membound.kernels.served import WEIGHT_BITS

    found = [one.strip() for one in text.split(",") if one.strip()]
    unknown = [one for one in found if one not in WEIGHT_BITS]
    if unknown or not found:
        raise typer.BadParameter(
            f"unknown format {', '.join(map(repr, unknown)) or repr(text)}; known: {', '.join(WEIGHT_BITS)}"
        )
    return found


def _devices(catalogue: Catalogue, on: list[str] | None, ask: Ask, kind: str) -> list[Device]:
    """Those named, or all with a catalogued price of that kind. Raises HardwareError, CostError."""
    from membound.results.predict.prices import CostError

    if on:
        return [catalogue.find(name) for name in names_of(on)]
    if "price" in ask.said.numbers or "capex" in ask.said.numbers:
        raise CostError("a price given by hand is that of some device: name it with --on")
    table = ask.prices.tables["card" if kind == "own" else kind]
    return [catalogue.find(name) for name in table if name in catalogue.devices]


def _line(one: Plan) -> PlanLine:
    from membound.results.views.plan import PlanLine

    count = "" if one.point.devices == 1 else f"{one.point.devices:g} × "
    return PlanLine(
        f"{count}{one.device.id}", one.weight, one.point, one.forecast, one.fleet, one.answer.usd, one.prompt
    )


def _show(model: str, found: Plans, lines: Sequence[PlanLine], ask: Ask) -> None:
    from membound.results.views import plan as view
    from membound.results.views.columns import wrapped
    from membound.results.views.cost import size_lines
    from membound.results.views.predict import past_lines

    mix, today = ask.mix, ask.said.today
    limits = [
        f"{name} at most {1e3 * limit:g} ms"
        for name, limit in (("a token", ask.tpot_s), ("the first", ask.ttft_s))
        if limit
    ]
    head = (
        f"{model}: {ask.tokens_per_day:.4g} output tokens a day, requests of {mix.input_tokens:g} in and {mix.output_tokens:g} out"
        f"{', ' if limits else ''}{', '.join(limits)}"
    )
    shown = found.found[: len(lines)]
    prices = {one.device.id: one for one in shown}
    first = lines[0]
    text = [*wrapped(head), "", *view.plan_lines(lines, ask.tpot_s), ""]
    text += [*wrapped(f"cheapest: {first.devices} {first.weight}, batch {first.point.batch:g}")]
    text += [*size_lines(first.fleet, ask.tokens_per_day or 0.0, first.point), ""]
    out = f"; {len(found.refused)} devices and formats are out:" if found.refused else ""
    text += [f"{len(found.found)} plans{out}"]
    text += [line for name, reason in found.refused for line in wrapped(f"  {name}: {reason}", "    ")]
    text += ["", *_assumed(list(prices.values()), today), ""]
    forecasts = [made for one in shown for made in (one.forecast, one.prompt) if made]
    notes = dict.fromkeys(f"{one.device.id}: {note}" for one in forecasts for note in one.notes)
    text += [*(line for note in notes for line in wrapped(f"note: {note}", "  ")), *past_lines(forecasts)]
    print_text("\n".join(text) + "\n")


def _assumed(plans: Sequence[Plan], today: datetime.date) -> list[str]:
    """What all plans assume, then what is a device's own."""
    from membound.results.views.columns import wrapped
    from membound.results.views.cost import assumption_lines

    each = [list(dict.fromkeys((*one.answer.assumed, *one.answer.fleet_assumed))) for one in plans]
    common = [one for one in each[0] if all(one in others for others in each)]
    lines = assumption_lines(common, today)
    idle = [set(one.answer.idle) for one in plans]
    nowhere = ", ".join(sorted(set.intersection(*idle)))
    lines += wrapped(f"  without effect here: {nowhere}", "    ") if nowhere else []
    for plan_, assumed in zip(plans, each, strict=True):
        own = [one for one in assumed if one not in common]
        lines += [
            f"{plan_.device.id}, {plan_.answer.hourly:.4g} USD an hour:",
            *assumption_lines(own, today)[1:],
        ]
    return lines
