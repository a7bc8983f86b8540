"""`membound hardware`: devices with the source of every figure.

membound hardware ascend_910 a100
membound hardware --where "memory_gb>=80" --sort bandwidth
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from membound.bench.commands.options import Debug, Json, Out, print_json, print_text
from membound.results.folders import DEFAULT_OUT

if TYPE_CHECKING:
    from membound.bench.planning.here import Here
    from membound.results.predict.device import Device

Hardware = Annotated[
    Path | None,
    typer.Option("--hardware", metavar="FILE", help="Your own devices, in TOML (docs/hardware.md)."),
]


def hardware(
    names: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="NAME", help="Devices, families or vendors; two or more are compared. Default: all."
        ),
    ] = None,
    sort: Annotated[
        str, typer.Option("--sort", metavar="FIGURE", help="Largest first: bandwidth, memory, f16, ridge, …")
    ] = "",
    where: Annotated[
        str, typer.Option("--where", metavar="CONDITIONS", help="Such as 'memory_gb>=80 and kind=gpu'.")
    ] = "",
    here: Annotated[
        str | None,
        typer.Option(
            "--here", metavar="RUN", help="Set a run's measured ceilings beside its device's figures."
        ),
    ] = None,
    own: Hardware = None,
    out: Out = DEFAULT_OUT,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """List devices with their figures and sources, one device whole, or how devices compare."""
    from membound.results.predict.catalogue import load_catalogue
    from membound.results.predict.condition import conditions, number_of

    catalogue = load_catalogue(own)
    if here is not None:
        from membound.bench.planning.here import here_of
        from membound.results.stored_runs import rows_of

        _show_here(here_of(rows_of(here, out), catalogue), as_json)
        return
    asked = [device for name in names or () for device in catalogue.all_of(name)]
    chosen = list({device.id: device for device in asked}.values()) or list(catalogue.devices.values())
    wanted = conditions(where)
    chosen = [device for device in chosen if all(one.holds(device) for one in wanted)]
    if sort:
        chosen.sort(key=lambda device: -(number_of(device, sort) or 0.0))
    _show(chosen, bool(names), as_json)


def _show(chosen: list[Device], named: bool, as_json: bool) -> None:
    from membound.results.views import hardware as view

    if as_json:
        print_json([view.as_json(device) for device in chosen])
        return
    if not chosen:
        lines = ["no device meets the conditions (an unknown figure meets none)"]
    elif named and len(chosen) == 1:
        lines = view.device_lines(chosen[0])
    else:
        lines = view.table_lines(chosen)
        lines += ["", *view.ratio_lines(chosen)] if named and len(chosen) <= view.MOST_COMPARED else []
    print_text("\n".join(lines) + "\n")


def _show_here(here: Here, as_json: bool) -> None:
    from membound.results.views.columns import columns, wrapped

    device = here.device
    gaps: list[dict[str, Any]] = [
        {"figure": name, "measured": value, "catalogue": device.value(name) if device else None}
        for name, value in here.ceilings.items()
    ]
    if as_json:
        print_json({"machine": here.name, "run": here.run_id, "threads": here.threads,
                    "device": device.id if device else None, "figures": gaps})  # fmt: skip
        return
    text = [
        [
            gap["figure"],
            f"{gap['measured']:.4g}",
            "unknown" if gap["catalogue"] is None else f"{gap['catalogue']:.4g}",
            "–" if gap["catalogue"] is None else f"{gap['measured'] / gap['catalogue']:.0%}",
        ]
        for gap in gaps
    ]
    known = f"{device.name} ({device.id}), whole" if device else "not in the catalogue"
    lines = [*wrapped(f"{here.name}, {here.threads} threads, run {here.run_id}; {known}"), ""]
    lines += columns(["figure", "measured", "on paper", "share"], text, "<>>>")
    lines += [
        "",
        *wrapped(
            "Fewer threads than the part has, or a guest's share of it, measure less than the whole part."
        ),
    ]
    print_text("\n".join(lines) + "\n")
