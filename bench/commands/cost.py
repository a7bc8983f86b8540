"""`membound cost`: what a million tokens cost on a device, where that breaks even, and what it hangs on.

membound cost step:model=llama-3-8b --on h100 --batch 1..512 --api llama-3-8b
membound cost step:model=llama-3-8b --on h100 --measured 511:47.4 --price 2.95 --utilisation 1 --input-tokens 0
"""

from __future__ import annotations

import datetime
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from membound.bench.commands.hardware import Hardware
from membound.bench.commands.options import Debug, Json, Out, print_json, print_text
from membound.bench.commands.predict import (
    Count,
    HostLink,
    Link,
    MemoryShare,
    Offload,
    On,
    Rows,
    Works,
    above_zero,
    asked,
    batches,
    knowledge,
    options_of,
)
from membound.results.folders import DEFAULT_OUT
from membound.results.predict.capacity import MEMORY_SHARE
from membound.results.views.columns import wrapped

if TYPE_CHECKING:
    from membound.bench.planning.answers import Answer, Ask
    from membound.bench.planning.economics import Priced
    from membound.results.predict.assumptions import Given
    from membound.results.predict.forecast import Knowledge

KINDS = ("rent", "spot", "contract", "neocloud", "hyperscaler", "own")


def number(text: str) -> float:
    """Any finite number; what is possible is judged with the name of the assumption. Raises BadParameter."""
    try:
        return float(text)
    except ValueError:
        raise typer.BadParameter(f"{text!r} is not a number") from None


def day(text: str) -> datetime.date:
    """A date such as 2026-11-29. Raises BadParameter."""
    try:
        return datetime.date.fromisoformat(str(text))
    except ValueError:
        raise typer.BadParameter(f"{text!r} is not a date such as 2026-11-29") from None


def _kind(text: str) -> str:
    if text not in KINDS:
        raise typer.BadParameter(f"{text!r} is not one of {', '.join(KINDS)}")
    return text


def _assumed(name: str, metavar: str, text: str) -> Any:
    return typer.Option(name, parser=number, metavar=metavar, help=text)


Kind = Annotated[
    str,
    typer.Option("--prices", parser=_kind, metavar="KIND", help=f"Of catalogued prices: {', '.join(KINDS)}."),
]
Price = Annotated[
    float | None, _assumed("--price", "USD", "An hour of one device; default: the catalogue's.")
]
Capex = Annotated[float | None, _assumed("--capex", "USD", "One device with its server: owned, not rented.")]
Years = Annotated[float | None, _assumed("--years", "N", "Useful life of what is owned.")]
Residual = Annotated[float | None, _assumed("--residual", "SHARE", "Of capex, left at the end.")]
PowerKw = Annotated[float | None, _assumed("--power-kw", "KW", "All-in power of one device, PUE included.")]
Pue = Annotated[float | None, _assumed("--pue", "FACTOR", "Where power is derived from the TDP.")]
Server = Annotated[
    float | None, _assumed("--server-factor", "FACTOR", "Power of a server over its devices' TDP.")
]
ServerShare = Annotated[
    float | None, _assumed("--server-share", "FACTOR", "Server and network, over the card's price.")
]
Electricity = Annotated[float | None, _assumed("--electricity", "USD", "A kWh.")]
Overhead = Annotated[float | None, _assumed("--overhead", "SHARE", "Of owning: finance, building, people.")]
Utilisation = Annotated[float | None, _assumed("--utilisation", "SHARE", "Of the throughput that is sold.")]
Cached = Annotated[float | None, _assumed("--cached", "SHARE", "Of input tokens, found in a prefix cache.")]
PeakFactor = Annotated[float | None, _assumed("--peak-factor", "FACTOR", "The busiest hour over the mean.")]
RackKw = Annotated[float | None, _assumed("--rack-kw", "KW", "Power of a rack.")]
InputTokens = Annotated[
    float, typer.Option("--input-tokens", parser=number, metavar="N", help="Read in a request.")
]
OutputTokens = Annotated[
    float, typer.Option("--output-tokens", parser=above_zero, metavar="N", help="Written in a request.")
]
Tpot = Annotated[
    float | None, typer.Option("--tpot", parser=above_zero, metavar="MS", help="At most this long a token.")
]
Ttft = Annotated[
    float | None,
    typer.Option(
        "--ttft", parser=above_zero, metavar="MS", help="At most this long to the first, without waiting."
    ),
]
Today = Annotated[
    datetime.date | None,
    typer.Option("--today", parser=day, metavar="DATE", help="Prices age until then; default: today."),
]


def cost(
    works: Works,
    on: On = None,
    batch: Annotated[str, typer.Option("--batch", metavar="N", help="As for predict.")] = "1..4096",
    measured: Annotated[
        list[str] | None,
        typer.Option(
            "--measured",
            metavar="POINT",
            help="BATCH:MS, a point as measured, instead of predicted ones. Repeatable.",
        ),
    ] = None,
    from_run: Annotated[
        str | None,
        typer.Option(
            "--from", metavar="RUN", help="The points of a run of `membound load`, instead of predicted."
        ),
    ] = None,
    count: Count = None,
    input_tokens: InputTokens = 1000.0,
    output_tokens: OutputTokens = 250.0,
    tpot: Tpot = None,
    ttft: Ttft = None,
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
    api: Annotated[
        str | None, typer.Option("--api", metavar="MODEL", help="Compare with its catalogued API price.")
    ] = None,
    api_price_: Annotated[
        str | None,
        typer.Option("--api-price", metavar="PRICES", help="IN/OUT, USD a million tokens at an API."),
    ] = None,
    tokens_per_day: Annotated[
        float | None,
        typer.Option("--tokens-per-day", parser=above_zero, metavar="N", help="Size a fleet for it."),
    ] = None,
    peak_factor: PeakFactor = None,
    rack_kw: RackKw = None,
    memory_share: MemoryShare = MEMORY_SHARE,
    offload: Offload = 0.0,
    link: Link = None,
    host_link: HostLink = None,
    rows: Rows = None,
    own: Hardware = None,
    today: Today = None,
    out: Out = DEFAULT_OUT,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Price a million tokens at each point of a throughput–latency curve, with every assumption shown.

    Hourly prices are the catalogue's, your own, or those of owning.
    """
    numbers = {"price": price, "capex": capex, "years": years, "residual": residual, "power_kw": power_kw,
               "pue": pue, "server_factor": server_factor, "server_share": server_share, "electricity": electricity,
               "overhead": overhead, "utilisation": utilisation, "cached": cached, "peak_factor": peak_factor,
               "rack_kw": rack_kw}  # fmt: skip
    from membound.bench.planning.answers import answer_for, api_price, make_ask
    from membound.bench.planning.economics import priced_curve
    from membound.results.predict.catalogue import load_catalogue
    from membound.results.predict.prices import load_prices

    work, names = asked(works, on)
    if work is None or not names:
        raise typer.BadParameter("give a WORK and --on DEVICES (membound hardware lists them)")
    sold = api_price(load_prices(), api, api_price_)
    ask = make_ask(
        said(kind, numbers, today), (input_tokens, output_tokens), (tpot, ttft), sold, tokens_per_day
    )
    catalogue = load_catalogue(own)
    devices = [catalogue.find(name) for name in names]
    seen = _seen(measured, from_run, count or 1, out)
    if seen:
        show(work, [answer_for(one, seen, ask) for one in devices], ask, None, as_json)
        return
    options = options_of(count, offload, link, host_link, memory_share)
    known = knowledge(catalogue, rows, out)
    answers = [
        answer_for(one, priced_curve(work, one, ask.mix, batches(batch), known, options), ask)
        for one in devices
    ]
    show(work, answers, ask, known, as_json)


def _seen(measured: list[str] | None, from_run: str | None, devices: int, out: Path) -> list[Priced]:
    """Points as measured, if any were given. Raises EconomicsError, StoreError."""
    from membound.bench.planning.economics import loaded_points, measured_point

    found = [measured_point(one, devices) for one in measured or ()]
    if from_run is not None:
        from membound.results.stored_runs import rows_of

        found += loaded_points(rows_of(from_run, out), devices)
    return found


def said(kind: str, numbers: Mapping[str, float | None], today: datetime.date | None) -> Given:
    """What the options gave."""
    from membound.results.predict.assumptions import Given

    found = {name: value for name, value in numbers.items() if value is not None}
    return Given(kind, found, today or datetime.date.today())


def show(work: str, answers: Sequence[Answer], ask: Ask, known: Knowledge | None, as_json: bool) -> None:
    """Each answer, the cheapest of several, and the record of the predictions."""
    from membound.bench.planning.answers import answer_json, answer_lines
    from membound.results.views.predict import past_lines

    if as_json:
        print_json([answer_json(one) for one in answers])
        return
    mix = ask.mix
    parts = [[work, f"requests of {mix.input_tokens:g} input and {mix.output_tokens:g} output tokens"]]
    parts += [answer_lines(one, ask) for one in answers]
    best = min(answers, key=lambda one: one.usd)
    if len(answers) > 1 and best.best is not None:
        parts.append([f"cheapest of all: {best.title}, batch {best.best.batch:g}, {best.usd:.4g} USD"])
    points = [point for one in answers for point in one.curve]
    forecasts = [made for one in points for made in (one.forecast, one.prompt) if made]
    if known is not None:
        notes = dict.fromkeys(note for one in forecasts for note in one.notes)
        parts.append(
            [*(text for note in notes for text in wrapped(f"note: {note}", "  ")), *past_lines(forecasts)]
        )
    print_text("\n\n".join("\n".join(lines) for lines in parts) + "\n")
