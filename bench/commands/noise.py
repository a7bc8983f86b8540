"""`membound noise`: what this machine's noise alone does to a gate, learnt from pairs of one and the same.

membound noise linear:n=4096,k=4096,weight=int8 --backends numba
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from membound.bench.commands.options import (
    Backends,
    Debug,
    Json,
    Pairs,
    Rounds,
    Seed,
    Threads,
    console,
    folder,
    print_json,
    print_paths,
)
from membound.results.folders import NOISE


def noise(
    works: Annotated[
        list[str] | None,
        typer.Argument(metavar="WORK", help="Specs as for `membound gate`; default: the quick suite."),
    ] = None,
    command: Annotated[
        str, typer.Option(metavar="COMMAND", help="Instead: a command, as the gate takes one.")
    ] = "",
    backends: Backends = None,
    pairs: Pairs = 12,
    rounds: Rounds = 9,
    threads: Threads = None,
    seed: Seed = 1,
    out: Annotated[
        Path, typer.Option("--out", parser=folder, metavar="FOLDER", help="Folder of the row files.")
    ] = NOISE,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Learn what noise alone does here: the same against itself, as the gate would measure it.

    The rows are stored, and `membound gate` uses all of this machine. Repeat it at other hours: noise differs.
    """
    from membound.bench.gate.session import learn_noise, request_of
    from membound.results.gate import EFFECT, Rule
    from membound.results.views.gate import noise_records, noise_view

    if command and (works or backends):
        raise typer.BadParameter("--command measures what it chooses: leave out works and backends")
    request = request_of(works, backends, threads, seed, rounds, Rule(pairs=pairs), out, noise=out)
    path, learnt = learn_noise(command, request, console(stderr=True))
    talk = console(stderr=as_json)
    if as_json:
        print_json(noise_records(learnt, pairs, EFFECT))
    else:
        talk.print(noise_view(learnt, pairs, EFFECT))
    print_paths(talk, "rows", path)
