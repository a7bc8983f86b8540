"""`membound run`: measures works on backends and stores a row for each outcome.

membound run --quick
membound run linear:n=4096,k=4096,weight=int8 --backends numba
"""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from membound.bench.commands.options import (
    Backends,
    Debug,
    Json,
    Out,
    Pythons,
    Seed,
    Threads,
    console,
    number_within,
    print_json,
)
from membound.results.folders import DEFAULT_OUT


def run(
    works: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="WORK",
            help="Specs such as linear:n=4096,k=4096,m=1,weight=int8 (kinds: linear, attention, mla, experts, step, prefill, onnx); "
            "default: the whole suite.",
        ),
    ] = None,
    backends: Backends = None,
    replicates: Annotated[
        int | None,
        typer.Option(
            parser=number_within(1, 1000),
            metavar="N",
            help="Worker processes for each case, 1 to 1000; default: 3, or 1 with --quick.",
        ),
    ] = None,
    rigor: Annotated[
        str,
        typer.Option(
            metavar="LEVEL", help="normal, or high: 10 replicates and more until the interval is within 1 %."
        ),
    ] = "normal",
    quick: Annotated[bool, typer.Option("--quick", help="A short suite and short timing.")] = False,
    threads: Threads = None,
    seed: Seed = 1,
    ceilings: Annotated[bool, typer.Option(help="Measure the machine's limits first.")] = True,
    resume: Annotated[
        str | None,
        typer.Option(
            metavar="RUN",
            help="Continue a run that was killed: `latest`, or the start of its name. It keeps its plan.",
        ),
    ] = None,
    out: Out = DEFAULT_OUT,
    python: Pythons = None,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Measure this machine: its ceilings, then every work on every backend, each checked and stored.

    Prints what it picked, a table, and where the rows are. After Ctrl-C, what was measured is kept.
    """
    from membound.bench.machine.secrets import command_line
    from membound.bench.planning.choice import check_threads, parse_pythons, split, split_works
    from membound.bench.planning.plan import Options
    from membound.bench.run.session import resume_session, run_session

    talk = console(stderr=as_json)
    if resume is not None:
        chosen = (
            works,
            backends,
            replicates,
            quick,
            threads,
            python,
            rigor != "normal",
            seed != 1,
            not ceilings,
        )
        if any(chosen):
            raise typer.BadParameter(
                "--resume continues a run by the plan it had: leave out works and other options"
            )
        session = resume_session(resume, out, talk, console(stderr=True))
    else:
        options = Options(
            threads=check_threads(threads),
            replicates=replicates or 0,
            rigor=rigor,
            quick=quick,
            seed=seed,
            pythons=parse_pythons(python or ()),
            out=out,
            command=command_line(["membound", *sys.argv[1:]]),
            ceilings=ceilings,
        )
        session = run_session(
            split_works(works or ()), split(backends or ()), options, talk, console(stderr=True)
        )
    if as_json:
        print_json(session.records())
    else:
        talk.print(session.view())
    talk.print(f"rows: {session.path}", markup=False, highlight=False, soft_wrap=True)
    raise typer.Exit(session.exit_status)
