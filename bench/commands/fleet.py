"""`membound fleet`: a suite on every node of a Ray cluster, into one row file.

membound fleet --address auto
membound fleet linear:n=4096,k=4096,weight=int8 --address ray://head:10001 --every-device
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
    console,
    folder,
    number_within,
    print_json,
    print_paths,
)
from membound.results.folders import FLEETS

SUITES = ("quick", "full")


def a_suite(text: str) -> str:
    """Parse the name of a suite. Raises BadParameter."""
    if text not in SUITES:
        raise typer.BadParameter(f"{text!r} is none of {', '.join(SUITES)}")
    return text


def fleet(
    works: Annotated[
        list[str] | None,
        typer.Argument(metavar="WORK", help="Specs as for `membound run`; default: those of the suite."),
    ] = None,
    address: Annotated[
        str,
        typer.Option(
            metavar="ADDRESS",
            help="The cluster: auto (the one of this machine), HOST:PORT, ray://HOST:PORT, or local (none but this machine).",
        ),
    ] = "auto",
    suite: Annotated[
        str,
        typer.Option(
            parser=a_suite, metavar="NAME", help="quick, or full: what `membound run` does by default."
        ),
    ] = "quick",
    nodes: Annotated[
        int,
        typer.Option(
            parser=number_within(0, 1_000_000),
            metavar="N",
            help="Measure N nodes; others stand in for those that die. 0: all.",
        ),
    ] = 0,
    every_device: Annotated[
        bool, typer.Option("--every-device", help="A suite for each device of a node, one after another.")
    ] = False,
    together: Annotated[
        bool,
        typer.Option("--together", help="Measure the devices of a node, and nodes of one machine, at once."),
    ] = False,
    repeat: Annotated[
        int,
        typer.Option(parser=number_within(1, 1000), metavar="N", help="Suites of each device, 1 to 1000."),
    ] = 1,
    backends: Backends = None,
    replicates: Annotated[
        int,
        typer.Option(
            parser=number_within(0, 1000),
            metavar="N",
            help="Worker processes for each case; 0: as `membound run`.",
        ),
    ] = 0,
    threads: Annotated[
        int,
        typer.Option(
            parser=number_within(0, 4096), metavar="N", help="CPU threads; 0: each node's physical cores."
        ),
    ] = 0,
    seed: Seed = 1,
    ceilings: Annotated[bool, typer.Option(help="Measure each node's limits first.")] = True,
    python: Pythons = None,
    environment: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME", help="Make this environment on nodes that lack it (membound env). Repeatable."
        ),
    ] = None,
    wheel: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="Send this wheel of membound; default: the membound that runs here."
        ),
    ] = None,
    installed: Annotated[
        bool,
        typer.Option("--installed", help="Send nothing: use the membound that is installed on the nodes."),
    ] = False,
    silent: Annotated[
        int,
        typer.Option(
            parser=number_within(1, 86_400),
            metavar="S",
            help="Give a node up that has not answered for S seconds.",
        ),
    ] = 300,
    wait: Annotated[
        int,
        typer.Option(
            parser=number_within(1, 86_400),
            metavar="S",
            help="Wait S seconds at most for a free node, or one in the place of one that died.",
        ),
    ] = 60,
    resume: Annotated[
        str | None,
        typer.Option(
            metavar="FLEET", help="Finish a fleet that was cut short: `latest`, or the start of its name."
        ),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only say what would be done: nodes, devices, minutes, bytes.")
    ] = False,
    out: Annotated[
        Path, typer.Option("--out", parser=folder, metavar="FOLDER", help="Folder of the row file.")
    ] = FLEETS,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Run a suite on every node of a Ray cluster, each node alone with it, and gather the rows in one file.

    Each node measures as `membound run` does. Exit status 1: a case or a node failed, or a node could not take part. After
    Ctrl-C, or if this process is killed, --resume measures what is missing.
    """
    from membound.bench.fleet.ask import Ask
    from membound.bench.fleet.collect import Patience
    from membound.bench.fleet.dry_run import planned
    from membound.bench.fleet.session import Where, fleet_session, resumed_session
    from membound.bench.machine.secrets import command_line
    from membound.bench.planning.choice import split, split_works

    if wheel is not None and installed:
        raise typer.BadParameter("--wheel and --installed exclude each other")
    talk, progress = console(stderr=as_json), console(stderr=True)
    ask = Ask(
        works=split_works(works or ()),
        backends=split(backends or ()),
        pythons=list(python or ()),
        environments=list(environment or ()),
        suite=suite,
        replicates=replicates,
        threads=threads,
        seed=seed,
        ceilings=ceilings,
        every_device=every_device,
        together=together,
        passes=repeat,
        nodes=nodes,
        installed=installed,
        command=command_line(["membound", *sys.argv[1:]]),
    )
    where = Where(address, out, wheel, Patience(silent, wait, wait))
    if resume is not None:
        chosen = (works, backends, suite != "quick", nodes, every_device, together, repeat != 1, replicates)
        if any((*chosen, threads, seed != 1, not ceilings, python, environment, installed, dry_run)):
            raise typer.BadParameter(
                "--resume finishes a fleet as it was asked for: leave out works, and options that say what to measure"
            )
    if dry_run:
        plan = planned(ask, where)
        if as_json:
            print_json(plan.record())
        else:
            for line in plan.lines():
                talk.print(line, soft_wrap=True)
        return
    if resume is not None:
        done = resumed_session(resume, where, talk, progress)
    else:
        done = fleet_session(ask, where, talk, progress)
    if as_json:
        print_json(done.record())
    print_paths(talk, "rows", done.stored)
    raise typer.Exit(done.exit_status)
