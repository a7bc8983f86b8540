"""`membound duel`: which of several backends is faster on one work.

membound duel linear:n=4096,k=4096,weight=int8 --backends numba:cpu,torch:cpu
"""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from membound.bench.commands.options import (
    Debug,
    Json,
    Out,
    Pythons,
    Seed,
    Threads,
    console,
    number_within,
    print_json,
    print_paths,
)
from membound.results.folders import DEFAULT_OUT


def duel(
    work: Annotated[
        str, typer.Argument(metavar="WORK", help="A spec such as linear:n=4096,k=4096,weight=int8.")
    ],
    backends: Annotated[
        list[str],
        typer.Option(
            "--backends",
            "-b",
            metavar="NAMES",
            help="Two or more, with commas or repeated; A,A#2 is A twice.",
        ),
    ],
    threads: Threads = None,
    rounds: Annotated[
        int,
        typer.Option(
            parser=number_within(1, 10_000),
            metavar="N",
            help="Turns in each process, 1 to 10000; default: 15.",
        ),
    ] = 15,
    replicates: Annotated[
        int,
        typer.Option(
            parser=number_within(1, 1000), metavar="N", help="Processes of each backend; default: 3."
        ),
    ] = 3,
    seed: Seed = 1,
    out: Out = DEFAULT_OUT,
    python: Pythons = None,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Say which of two or more backends is faster on one work: a run of that work alone, with more turns.

    Turns follow each other closely, so that a slow minute hits all alike. The same backend twice, as in
    -b numba:cpu,numba:cpu#2, shows what the machine's noise alone does.
    """
    from membound.bench.machine.secrets import command_line
    from membound.bench.planning.choice import check_threads, parse_pythons, split
    from membound.bench.planning.plan import duel_options
    from membound.bench.run.session import duel_session

    talk = console(stderr=as_json)
    options = duel_options(
        rounds,
        threads=check_threads(threads),
        replicates=replicates,
        seed=seed,
        pythons=parse_pythons(python or ()),
        out=out,
        command=command_line(["membound", *sys.argv[1:]]),
    )
    session = duel_session(work, split(backends), options, talk, console(stderr=True))
    if as_json:
        print_json(session.records())
    else:
        talk.print(session.duel_view())
    print_paths(talk, "rows", session.path)
    raise typer.Exit(session.exit_status)
