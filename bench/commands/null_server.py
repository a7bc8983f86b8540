"""`membound null-server`: a server that computes nothing, to measure clients with.

membound null-server --ttft 50 --itl 20 --steps
membound null-server --port 8000 --fault stall --every 3
"""

from __future__ import annotations

from typing import Annotated

import typer

from membound.bench.commands.options import Debug, Json, given_options, number_within, print_json, print_text

MOST_MS = 1e6


def milliseconds(text: str) -> float:
    """Parse a time. Raises BadParameter."""
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value <= MOST_MS:
        raise typer.BadParameter(f"{text!r} is not from 0 to {MOST_MS:g} milliseconds")
    return value


def null_server(
    context: typer.Context,
    port: Annotated[
        int,
        typer.Option("--port", parser=number_within(0, 65535), metavar="N", help="0: one that is free."),
    ] = 0,
    ttft: Annotated[
        float, typer.Option("--ttft", parser=milliseconds, metavar="MS", help="Until the first token.")
    ] = 50.0,
    itl: Annotated[
        float, typer.Option("--itl", parser=milliseconds, metavar="MS", help="Between two tokens.")
    ] = 20.0,
    steps: Annotated[
        bool, typer.Option("--steps", help="Tokens of all streams at once, as an engine's steps send them.")
    ] = False,
    fault: Annotated[
        str, typer.Option("--fault", metavar="NAME", help="What goes wrong; `--fault list` lists them.")
    ] = "",
    every: Annotated[
        int,
        typer.Option(
            "--every",
            parser=number_within(1, 10**9),
            metavar="N",
            help="It goes wrong with each N-th request.",
        ),
    ] = 1,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Serve tokens at laid-down times on a loopback address until Ctrl-C; the URL is printed first.

    It speaks OpenAI's streaming protocol. Each chunk says when it was sent (`t_ns`, CLOCK_MONOTONIC).
    """
    from membound.bench.serving.event_loop import check_installed
    from membound.bench.serving.null_process import serve
    from membound.bench.serving.null_server import FAULTS, Script

    given = given_options(context)
    if "every" in given and not fault:
        raise typer.BadParameter("--every has an effect only with --fault")
    if fault == "list" and (others := given - {"fault", "as_json", "debug"}):
        raise typer.BadParameter(f"--fault list serves nothing: leave out --{min(others)}")
    check_installed()
    if fault == "list":
        if as_json:
            print_json(FAULTS)
        else:
            print_text("".join(f"{name:18}{words}\n" for name, words in FAULTS.items()))
        return
    if fault and fault not in FAULTS:
        raise typer.BadParameter(f"no fault {fault!r}; there are {', '.join(FAULTS)}")

    def told(url: str) -> None:
        if as_json:
            print_json({"url": url})
        else:
            print_text(f"{url}\n")

    serve(Script(ttft / 1e3, itl / 1e3, steps, fault, every), port, told)
