"""`membound duel`: one work on several backends in turn, in one process.

membound duel linear:n=4096,k=4096,weight=int8 --backends numba,torch
"""

from __future__ import annotations

import os
from typing import Annotated

import typer

from membound.bench.commands.options import Debug, Json, Seed, Threads, console, number_within, print_json


def duel(
    work: Annotated[
        str, typer.Argument(metavar="WORK", help="A spec such as linear:n=4096,k=4096,weight=int8.")
    ],
    backends: Annotated[
        list[str],
        typer.Option(
            "--backends", "-b", metavar="NAMES", help="backend or backend:device, with commas or repeated."
        ),
    ],
    threads: Threads = None,
    rounds: Annotated[
        int,
        typer.Option(
            parser=number_within(1, 10_000), metavar="N", help="Turns of each contestant, 1 to 10000."
        ),
    ] = 15,
    seed: Seed = 1,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Time one work on several backends and the machine's ceilings in turn, in one process; nothing is stored.

    Use it to find out which backend is faster on a noisy machine: a slow minute hits all contestants alike.
    """
    from membound.bench.protocol.process import SPIN_COUNT

    os.environ.setdefault("GOMP_SPINCOUNT", str(SPIN_COUNT))  # read once, when OpenMP is loaded
    from membound.bench.measure.duel import duel as hold
    from membound.bench.planning.choice import check_threads, choose_backends, refuse_environments, split
    from membound.bench.planning.suites import check_weights
    from membound.kernels.work import parse
    from membound.results.stats import plain
    from membound.results.views.table import duel_view

    count, parsed, progress = check_threads(threads), parse(work), console(stderr=True)
    check_weights(parsed, seed)
    refuse_environments(split(backends))
    chosen = choose_backends(split(backends), count, {}).chosen

    def tell(phase: str) -> None:
        progress.print(phase, markup=False, highlight=False, soft_wrap=True)

    rows = [plain(row) for row in hold(parsed, chosen, count, rounds, seed, tell)]
    if as_json:
        print_json(rows)
    else:
        console().print(duel_view(rows))
    statuses = {row["status"] for row in rows if row["kind"] == "case"}
    raise typer.Exit(int("ok" not in statuses or bool(statuses - {"ok", "unsupported"})))
