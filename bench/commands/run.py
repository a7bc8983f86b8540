"""`membound run`: measures works on backends and stores a row for each outcome.

membound run --quick
membound run linear:n=4096,k=4096,weight=int8 --backends numba
membound run --quick --threads 1,2,4,8 --placement all
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
    ThreadCounts,
    console,
    number_within,
    numbers,
    print_json,
    print_paths,
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
    threads: ThreadCounts = None,
    placement: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAMES",
            help="node0, socket0, cpus0-3, node0:node1 (memory of another node), with commas, or all: a run in each.",
        ),
    ] = None,
    devices: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAMES",
            help="cuda:0, node0 …, with commas, or all (accelerators, else NUMA nodes): each alone, then all together.",
        ),
    ] = None,
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

    Prints what it picked, a table, and where the rows are. After Ctrl-C, what was measured is kept. Several thread counts
    or placements are a run each, one after the other, and the table is of how rates grow and where they saturate. With
    --devices each device is measured alone and then while all others are busy.
    """
    from membound.bench.machine.secrets import command_line
    from membound.bench.planning.choice import check_threads, parse_pythons, split, split_works
    from membound.bench.planning.plan import Options
    from membound.bench.run.devices import DevicesSession, devices_session, places_of
    from membound.bench.run.scaling import ScalingSession, points_of, scaling_session
    from membound.bench.run.session import resume_session, run_session

    talk = console(stderr=as_json)
    if resume is not None:
        chosen = (
            works,
            backends,
            replicates,
            quick,
            threads,
            placement,
            devices,
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
        points = list(
            points_of([check_threads(one) for one in numbers("--threads", threads)], split(placement or ()))
        )
        options = Options(
            threads=points[0][1],
            replicates=replicates or 0,
            rigor=rigor,
            quick=quick,
            seed=seed,
            pythons=parse_pythons(python or ()),
            out=out,
            command=command_line(["membound", *sys.argv[1:]]),
            ceilings=ceilings,
            placement=points[0][0],
        )
        asked = split_works(works or ()), split(backends or ())
        several: ScalingSession | DevicesSession | None = None
        if devices:
            if threads or placement:
                raise typer.BadParameter(
                    "--devices takes the cores of each: leave out --threads and --placement"
                )
            places = places_of(split(devices), asked[1], options)
            several = devices_session(asked[0], options, places, talk, console(stderr=True))
        elif len(points) > 1:
            several = scaling_session(*asked, options, points, talk, console(stderr=True))
        if several is not None:
            if as_json:
                print_json(several.record())
            else:
                talk.print(several.view())
            raise typer.Exit(several.exit_status)
        session = run_session(*asked, options, talk, console(stderr=True))
    if as_json:
        print_json(session.records())
    else:
        talk.print(session.view())
    print_paths(talk, "rows", session.path)
    raise typer.Exit(session.exit_status)
