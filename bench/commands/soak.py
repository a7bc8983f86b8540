"""`membound soak`: a suite again and again, to see what only time shows.

membound soak --minutes 60
membound soak linear:n=4096,k=4096,weight=int8 --backends numba --passes 20
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from membound.bench.commands.options import (
    Backends,
    Debug,
    Json,
    Pythons,
    Seed,
    Threads,
    console,
    folder,
    number_within,
    print_json,
    print_paths,
)
from membound.results.folders import SOAKS

MOST_MINUTES = 7 * 24 * 60


def a_time(text: str | float) -> float:
    """Parse minutes. Raises BadParameter."""
    try:
        value = float(text)
    except ValueError:
        raise typer.BadParameter(f"{text!r} is not a number of minutes") from None
    if not 0 < value <= MOST_MINUTES:
        raise typer.BadParameter(f"{text} must be more than 0 and at most {MOST_MINUTES} minutes")
    return value


def soak(
    works: Annotated[
        list[str] | None,
        typer.Argument(metavar="WORK", help="Specs as for `membound run`; default: the quick suite."),
    ] = None,
    minutes: Annotated[
        float,
        typer.Option(parser=a_time, metavar="N", help="How long; a pass that has begun is finished."),
    ] = 60.0,
    passes: Annotated[
        int,
        typer.Option(
            parser=number_within(0, 1_000_000),
            metavar="N",
            help="End after N passes; 0: by the minutes alone.",
        ),
    ] = 0,
    backends: Backends = None,
    threads: Threads = None,
    seed: Seed = 1,
    out: Annotated[
        Path, typer.Option("--out", parser=folder, metavar="FOLDER", help="Where its folder is made.")
    ] = SOAKS,
    python: Pythons = None,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Measure the same again and again, and look for drift, leaks and lost rows.

    Each pass is a quick run with new processes. Exit status 1: a share changed for good, the harness holds more and more
    memory, descriptors, threads or files, a process was left, or a row is missing or failed.
    """
    from membound.bench.machine.secrets import command_line
    from membound.bench.planning.choice import check_threads, parse_pythons, split, split_works
    from membound.bench.planning.plan import Options
    from membound.bench.soak.soaking import soak_session
    from membound.results.soak.judgement import untold
    from membound.results.views.soak import soak_view

    talk = console(stderr=as_json)
    options = Options(
        threads=check_threads(threads),
        quick=True,
        seed=seed,
        pythons=parse_pythons(python or ()),
        out=out,
        command=command_line(["membound", *sys.argv[1:]]),
    )
    done = soak_session(split_works(works or ()), split(backends or ()), options, minutes, passes, talk)
    if as_json:
        print_json(done.record())
    else:
        talk.print(soak_view(done.passes, done.findings, untold(done.passes)))
    print_paths(talk, "rows", done.folder)
    raise typer.Exit(done.exit_status)
