"""`membound load`: drives a server that speaks OpenAI's protocol, and stores every request.

membound load --url http://127.0.0.1:8000 --rate 2
membound load --url http://127.0.0.1:8000 --users 1,4,16 --slo ttft=500,tpot=30
membound load --engine vllm --model step:model=tiny,weight=f32 --users 1,4
membound load --engine vllm --engine vllm#2 --engine-option vllm#2:block-size=64 --model tiny --users 4 --replicates 5
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from membound.bench.commands.options import (
    Debug,
    Json,
    Out,
    Seed,
    console,
    given_options,
    number,
    number_within,
    print_json,
    print_paths,
)
from membound.results.folders import DEFAULT_OUT

EFFECT = {
    "pattern": ("rate",),
    "think": ("users",),
    "speed": ("trace",),
    "prompt": ("rate", "users"),
    "output": ("rate", "users"),
    "threads": ("engine",),
    "sequences": ("engine",),
    "engine_option": ("engine",),
    "python": ("engine",),
    "ready": ("engine",),
}
"""Options to those others beside which they have an effect."""


def load(
    context: typer.Context,
    url: Annotated[
        str, typer.Option("--url", metavar="URL", help="A server that is there: http://HOST:PORT/v1.")
    ] = "",
    engine: Annotated[
        list[str] | None,
        typer.Option(
            "--engine",
            metavar="NAME",
            help="Start this engine with --model, measure it, stop it. Repeated: several take turns; NAME#2 is it again.",
        ),
    ] = None,
    rate: Annotated[
        str | None,
        typer.Option(
            "--rate", metavar="LIST", help="Requests a second, due whatever the server does: 1,2,4."
        ),
    ] = None,
    users: Annotated[
        str | None,
        typer.Option(
            "--users", metavar="LIST", help="Requests at a time, each sent when one has ended: 1,4,16."
        ),
    ] = None,
    trace: Annotated[
        Path | None,
        typer.Option(
            "--trace", metavar="FILE", help="A trace of Mooncake, BurstGPT or Azure, in its own time."
        ),
    ] = None,
    speed: Annotated[
        float, typer.Option("--speed", metavar="X", help="A trace so many times as fast.")
    ] = 1.0,
    pattern: Annotated[
        str,
        typer.Option(metavar="NAME", help="Of --rate: poisson, constant, gamma:cv=2 or ramp:start=0.1."),
    ] = "poisson",
    prompt: Annotated[
        str,
        typer.Option(
            metavar="TOKENS", help="128, uniform:64..256, normal:mean=,sd= or lognormal:median=,sigma=."
        ),
    ] = "128",
    output: Annotated[str, typer.Option(metavar="TOKENS", help="The same of answers.")] = "64",
    shared_prefix: Annotated[
        int,
        typer.Option(metavar="TOKENS", help="Tokens with which all prompts begin; the rest is new in each."),
    ] = 0,
    think: Annotated[
        float,
        typer.Option(metavar="SECONDS", help="Of --users: how long each waits before its next request."),
    ] = 0.0,
    seconds: Annotated[float, typer.Option(metavar="S", help="The window that counts.")] = 60.0,
    warm: Annotated[float, typer.Option(metavar="S", help="Seconds of load before it.")] = 5.0,
    drain: Annotated[float, typer.Option(metavar="S", help="How long to wait for answers after it.")] = 60.0,
    timeout: Annotated[
        float, typer.Option(metavar="S", help="Most seconds from sending a request to its end.")
    ] = 600.0,
    slo: Annotated[
        str, typer.Option(metavar="LEVEL", help="ttft=500,tpot=30 in milliseconds, or a preset of MLPerf's.")
    ] = "",
    search: Annotated[
        bool, typer.Option("--search", help="From --rate on, find the highest rate that keeps --slo.")
    ] = False,
    model: Annotated[
        str,
        typer.Option(
            metavar="NAME",
            help="Of --engine: a model, a folder or a step's spec. Of --url: its name, where there are several.",
        ),
    ] = "",
    reference: Annotated[
        str,
        typer.Option(metavar="MODEL", help="Of --url: the model that it serves, to compare its tokens with."),
    ] = "",
    chat: Annotated[bool, typer.Option("--chat", help="Chats rather than completions.")] = False,
    key_env: Annotated[
        str, typer.Option(metavar="VARIABLE", help="The environment variable that holds the key.")
    ] = "",
    key_file: Annotated[
        Path | None, typer.Option(metavar="FILE", help="The file that holds the key.")
    ] = None,
    threads: Annotated[
        int | None,
        typer.Option(
            "--threads", parser=number, metavar="N", help="Of --engine; default: the physical cores but one."
        ),
    ] = None,
    sequences: Annotated[
        int,
        typer.Option(
            parser=number_within(0, 100_000),
            metavar="N",
            help="Of --engine: requests at once; default: by --users, or 32.",
        ),
    ] = 0,
    engine_option: Annotated[
        list[str] | None,
        typer.Option(
            "--engine-option",
            metavar="NAME=VALUE",
            help="An option of the engine's own; ENGINE:NAME=VALUE for one of several. Repeatable.",
        ),
    ] = None,
    python: Annotated[
        list[str] | None,
        typer.Option(
            metavar="PATH",
            help="Of --engine: its interpreter, or ENGINE=PATH; default: its environment's. Repeatable.",
        ),
    ] = None,
    ready: Annotated[
        float, typer.Option(metavar="S", help="Of --engine: how long it may take to start.")
    ] = 600.0,
    replicates: Annotated[
        int,
        typer.Option(
            parser=number_within(1, 1000), metavar="N", help="Of --engine: processes, each measured in full."
        ),
    ] = 1,
    steps: Annotated[
        bool,
        typer.Option("--steps", help="Of --engine: measure its step alone too, at each point's batch."),
    ] = False,
    seed: Seed = 1,
    out: Out = DEFAULT_OUT,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Measure a server under load: latencies from when each request was due, and what failed.

    Exit status 1 if a point has no whole answer, the client was the limit of one, or a search found no rate.
    """
    from membound.bench.machine.secrets import command_line
    from membound.bench.planning.choice import check_threads
    from membound.bench.serving.asked import check, numbers
    from membound.bench.serving.connection import Limits
    from membound.bench.serving.contestants import engines_of
    from membound.bench.serving.endpoint import Endpoint, parse_url
    from membound.bench.serving.engine import EngineOptions
    from membound.bench.serving.launcher import LOOPBACK
    from membound.bench.serving.lengths import parse_lengths
    from membound.bench.serving.load import Load
    from membound.bench.serving.running import Rounds, measure_load
    from membound.bench.serving.schedule import parse_pattern
    from membound.bench.serving.served import parse_served
    from membound.results.serving.engine_step import with_stored_steps
    from membound.results.serving.search import searched
    from membound.results.serving.table import point_records
    from membound.results.stats import plain
    from membound.results.views.serving import serving_view

    if sum(option is not None for option in (rate, users, trace)) != 1:
        raise typer.BadParameter("give one of --rate, --users and --trace")
    _check_effect(given_options(context))
    engines, only_engine = engine or [], replicates > 1 or steps
    _check_target(url, engines, model, reference, only_engine, search, bool(key_env or key_file))
    served = parse_served(model if engines else reference) if engines or reference else None
    own = EngineOptions(
        threads=0 if threads is None else check_threads(threads), sequences=sequences, ready_s=ready
    )
    wanted = Load(
        Endpoint(LOOPBACK, 0) if engines else parse_url(url, _key(key_env, key_file)),
        chat=chat,
        model="" if engines else model,
        rates=numbers("rate", rate),
        users=tuple(int(one) for one in numbers("users", users, whole=True)),
        trace=trace,
        speed=speed,
        pattern=parse_pattern(pattern),
        prompt=parse_lengths(prompt),
        output=parse_lengths(output),
        shared_prefix=shared_prefix,
        think_s=think,
        seconds=seconds,
        warm_s=warm,
        drain_s=drain,
        seed=seed,
        slo=slo,
        search=search,
        limits=Limits.within(timeout),
        served=served,
    )
    check(wanted)
    started = () if served is None else engines_of(engines, served, own, engine_option or [], python or [])
    talk = console(stderr=as_json)
    command = command_line(["membound", *sys.argv[1:]])
    rounds = Rounds(replicates, steps)
    done = measure_load(wanted, out, command, talk, console(stderr=True), started, rounds)
    rows = done.rows
    near = with_stored_steps(rows, out)
    if as_json:
        print_json(plain(point_records(near)))
    else:
        talk.print(serving_view(near))
    for trouble in done.troubles:
        talk.print(trouble, style="yellow", soft_wrap=True, markup=False, highlight=False)
    print_paths(talk, "rows", done.path)
    points = [row for row in rows if row.kind == "serving"]
    failed = bool(done.troubles) or not points
    failed |= any(row.status != "ok" or row.grade == "invalid" for row in points)
    if search:
        found = searched(rows)
        failed = bool(done.troubles) or found is None or found.rate is None or found.client_limited
    raise typer.Exit(130 if done.interrupted else 1 if failed else 0)


def _check_effect(given: set[str]) -> None:
    """Raises BadParameter for an option that would be without effect: its user thinks that it has one."""
    for name, others in EFFECT.items():
        if name in given and not given.intersection(others):
            words = " or ".join(f"--{one}" for one in others)
            raise typer.BadParameter(f"--{name.replace('_', '-')} has an effect only with {words}")


def _check_target(
    url: str,
    engines: list[str],
    model: str,
    reference: str,
    only_engine: bool,
    search: bool,
    keyed: bool,
) -> None:
    """Raises BadParameter unless there is a server to measure, and only what belongs to it is given."""
    if bool(url) == bool(engines):
        raise typer.BadParameter("give one of --url and --engine")
    if engines and not model:
        raise typer.BadParameter(
            "--engine needs --model: the name of one, a folder, or step:model=tiny,weight=f32"
        )
    if engines and (reference or keyed):
        raise typer.BadParameter(
            "--reference, --key-env and --key-file are for --url: an engine that is started has its own"
        )
    if only_engine and (url or search):
        raise typer.BadParameter(
            "--replicates starts an --engine anew each time and --steps measures its steps: both go without --search"
        )
    if search and len(engines) > 1:
        raise typer.BadParameter("--search is of one server: give one --engine")


def _key(variable: str, file: Path | None) -> str:
    """The key, from where it was said to be. Raises BadParameter, which does not show it."""
    if variable and file is not None:
        raise typer.BadParameter("give one of --key-env and --key-file")
    if variable:
        if not os.environ.get(variable):
            raise typer.BadParameter(f"the environment has no variable {variable}, or it is empty")
        return os.environ[variable].strip()
    if file is None:
        return ""
    try:
        return file.read_text(encoding="utf-8").strip()
    except OSError as error:
        raise typer.BadParameter(f"{file} cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise typer.BadParameter(f"{file} is no text") from None
