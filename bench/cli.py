"""The `membound` command. Bad input is one line on standard error and exit status 2.

    membound run --quick
    membound show latest --json

Exit status: 0 done; 1 a case failed (wrong, crashed, timeout, oom, error) or nothing could be measured;
2 bad input; 130 interrupted, with what was measured kept. Everything heavy is imported in the commands.
"""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Sequence
from typing import Annotated, Any

import typer

import membound
from membound.bench.claim_commands import claim, claim_report
from membound.bench.cli_options import (
    MOST_SEED,
    Backends,
    Debug,
    Json,
    Markdown,
    Out,
    Pythons,
    Threads,
    console,
    print_json,
)
from membound.bench.cuda_build import cuda_build
from membound.bench.environment_commands import app as environment_app
from membound.bench.export_command import export_model
from membound.bench.runs import DEFAULT_OUT

app = typer.Typer(
    name="membound",
    help="How close does each backend come to this machine's own limit at LLM decoding?",
    epilog="Start with: membound run --quick. Each command has --help.",
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)

app.add_typer(environment_app, name="env")
app.command("export-model")(export_model)
app.command("cuda-build")(cuda_build)

# The vendored or installed click differs with Typer's version; its root error is BadParameter's grandparent.
UsageError: type[Any] = typer.BadParameter.__mro__[2]

RunName = Annotated[
    str, typer.Argument(metavar="RUN", help="A file, a folder, `latest`, or the start of a run's name.")
]


def _version(asked: bool) -> None:
    if asked:
        typer.echo(f"membound {membound.__version__}")
        raise typer.Exit


@app.callback()
def root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and exit.")
    ] = False,
    debug: Debug = False,
) -> None:
    """How close does each backend come to this machine's own limit at LLM decoding?"""


@app.command("list")
def list_(
    out: Out = DEFAULT_OUT, python: Pythons = None, as_json: Json = False, debug: Debug = False
) -> None:
    """List backends with their devices, models, and the ceilings known from the latest run.

    A backend that is not there is listed with the reason and, where one helps, the command to install it.
    """
    from membound.bench.listing import Listing, listing_view
    from membound.bench.setup import check_threads, parse_pythons

    listing = Listing.gather(check_threads(None), parse_pythons(python or ()), out)
    if as_json:
        print_json(listing.as_json())
    else:
        console().print(listing_view(listing))


@app.command()
def coverage(
    python: Pythons = None, as_json: Json = False, as_markdown: Markdown = False, debug: Debug = False
) -> None:
    """Which kinds of works and which formats each backend supports, as each says itself.

    Devices are opened where they are here; those that are not are asked where they need not be, and named.
    """
    from membound.backends import registry
    from membound.bench.coverage import as_json as records_of
    from membound.bench.coverage import coverage_markdown, coverage_view, gather
    from membound.bench.setup import check_threads, parse_pythons

    _one_format(as_json, as_markdown)
    table = gather(registry.entries(), check_threads(None), parse_pythons(python or ()))
    if as_json:
        print_json(records_of(table))
    elif as_markdown:
        typer.echo(coverage_markdown(table), nl=False)
    else:
        console().print(coverage_view(table))


@app.command()
def run(
    works: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="WORK",
            help="Specs such as linear:n=4096,k=4096,m=1,weight=int8 (kinds: linear, attention, mla, step, prefill); "
            "default: the whole suite.",
        ),
    ] = None,
    backends: Backends = None,
    replicates: Annotated[
        int | None, typer.Option(min=1, max=1000, help="Worker processes a case; default: 3, with --quick 1.")
    ] = None,
    rigor: Annotated[
        str, typer.Option(help="normal, or high: 10 replicates and more until the interval is within 1 %.")
    ] = "normal",
    quick: Annotated[bool, typer.Option("--quick", help="A short suite and short timing.")] = False,
    threads: Threads = None,
    seed: Annotated[int, typer.Option(min=0, max=MOST_SEED, help="Seed of inputs and order.")] = 1,
    ceilings: Annotated[bool, typer.Option(help="Measure the machine's limits first.")] = True,
    resume: Annotated[
        str | None,
        typer.Option(
            metavar="RUN",
            help="Go on with a run that was killed: `latest`, or the start of its name. It keeps its own plan.",
        ),
    ] = None,
    out: Out = DEFAULT_OUT,
    python: Pythons = None,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Measure this machine: its ceilings, then every work on every backend, each checked and stored.

    Prints what it picked, a table, and where the rows are. Ctrl-C keeps what is done.
    """
    from membound.bench.plan import Options
    from membound.bench.session import resume_session, run_session
    from membound.bench.setup import check_threads, parse_pythons, split, split_works

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
                "--resume goes on with a run's own plan: works and options are those it had"
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
            command=shlex.join(["membound", *sys.argv[1:]]),
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


@app.command()
def show(
    run: RunName = "latest",
    out: Out = DEFAULT_OUT,
    as_json: Json = False,
    as_markdown: Markdown = False,
    debug: Debug = False,
) -> None:
    """Show stored runs: ceilings, then each work with its backends, fastest first."""
    from membound.bench.runs import rows_of

    _one_format(as_json, as_markdown)
    rows = rows_of(run, out)
    if as_json:
        from membound.results.stats import records, summarize

        print_json(records(summarize(rows)))
        return
    if as_markdown:
        from membound.results.markdown import run_markdown

        typer.echo(run_markdown(rows), nl=False)
        return
    from membound.results.table import run_view

    console().print(run_view(rows))


@app.command()
def compare(
    a: RunName,
    b: Annotated[str | None, typer.Argument(metavar="RUN", help="The other run; or use --backends.")] = None,
    backends: Annotated[
        tuple[str, str] | None,
        typer.Option("--backends", "-b", metavar="A B", help="Two backends of one run."),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Compare runs of unlike machines.")] = False,
    out: Out = DEFAULT_OUT,
    as_json: Json = False,
    as_markdown: Markdown = False,
    debug: Debug = False,
) -> None:
    """Compare two runs, or two backends of one run: ratios of time with bootstrap intervals over processes."""
    from membound.bench import api
    from membound.results.stats import records
    from membound.results.table import compare_view

    _one_format(as_json, as_markdown)
    lines = records(api.compare(a, b, backends, force, out))
    if as_json:
        print_json(lines)
    elif as_markdown:
        from membound.results.markdown import compare_markdown

        typer.echo(compare_markdown(lines), nl=False)
    else:
        console().print(compare_view(lines))


@app.command()
def duel(
    work: Annotated[
        str, typer.Argument(metavar="WORK", help="A spec such as linear:n=4096,k=4096,weight=int8.")
    ],
    backends: Annotated[
        list[str],
        typer.Option("--backends", "-b", help="backend or backend:device, with commas or repeated."),
    ],
    threads: Threads = None,
    rounds: Annotated[int, typer.Option(min=1, max=10_000, help="Turns of each contestant.")] = 15,
    seed: Annotated[int, typer.Option(min=0, max=MOST_SEED, help="Seed of the inputs.")] = 1,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Time one work on several backends and the machine's ceilings in turn, in one process; nothing is stored.

    Use it to say which backend is faster on a noisy machine: a slow minute hits all contestants alike.
    """
    from membound.bench.process import SPIN_COUNT

    os.environ.setdefault("GOMP_SPINCOUNT", str(SPIN_COUNT))  # read once, when OpenMP is loaded
    from membound.bench.duel import duel as hold
    from membound.bench.setup import check_threads, choose_backends, refuse_environments, split
    from membound.bench.suites import check_weights
    from membound.kernels.work import parse
    from membound.results.stats import plain
    from membound.results.table import duel_view

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


app.command()(claim)
app.command("claim-report")(claim_report)


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command and exit. `argv` is without the program's name; default: the process's own."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    sys.exit(_status(arguments, debug="--debug" in arguments))


def _status(arguments: list[str], debug: bool) -> int:
    try:
        status = typer.main.get_command(app).main(arguments, prog_name="membound", standalone_mode=False)
        sys.stdout.flush()
        return status if isinstance(status, int) else 0
    except (typer.Abort, KeyboardInterrupt):
        print("membound: interrupted", file=sys.stderr)
        return 130
    except UsageError as error:
        return _refuse(error.format_message(), debug)
    except BrokenPipeError:
        # The reader went away, as `| head` does; Python would complain again when it closes standard output.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except _user_errors() as error:
        return _refuse(str(error), debug)


USER_ERRORS = (
    ("membound.backends.api", "MemboundError"),
    ("membound.kernels.cuda.compile", "CompileError"),
    ("membound.kernels.export", "ExportError"),
    ("membound.kernels.work", "SpecError"),
    ("membound.results.compare", "CompareError"),
    ("membound.results.experiments", "ExperimentsError"),
    ("membound.results.observation", "ObservationError"),
    ("membound.results.report.charts", "ReportUnavailable"),
    ("membound.results.report.markdown", "MarksMissing"),
    ("membound.results.row", "RowError"),
    ("membound.results.store", "StoreError"),
)
"""Errors that a user can do something about."""


def _user_errors() -> tuple[type[Exception], ...]:
    """The classes of USER_ERRORS; a module that was not imported cannot have raised its own."""
    return tuple(getattr(sys.modules[module], name) for module, name in USER_ERRORS if module in sys.modules)


def _refuse(message: str, debug: bool) -> int:
    """One line on standard error; with --debug the traceback before it."""
    if debug:
        import traceback

        traceback.print_exc()
    if message.strip():  # there is none where a command without arguments has shown its help
        print(f"membound: {' '.join(message.split())}", file=sys.stderr)
    return 2


def _one_format(as_json: bool, as_markdown: bool) -> None:
    if as_json and as_markdown:
        raise typer.BadParameter("--json and --markdown exclude each other")
