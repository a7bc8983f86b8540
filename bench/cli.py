"""The `membound` command: registers what commands/ holds. Bad input gives one line on standard error and exit status 2.

    membound run --quick
    membound show latest --json

Exit status: 0 done; 1 a case failed (wrong, crashed, timeout, oom, error) or no device was there;
2 bad input; 130 interrupted, and what was measured is kept. Heavy modules are imported inside the commands.
"""

from __future__ import annotations

import os
import signal
import sys
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Annotated, Any

import typer

from membound.bench.commands.claim import claim, claim_report
from membound.bench.commands.compare import compare
from membound.bench.commands.cost import cost
from membound.bench.commands.coverage import coverage
from membound.bench.commands.cuda_build import cuda_build
from membound.bench.commands.duel import duel
from membound.bench.commands.env import app as environment_app
from membound.bench.commands.export import export
from membound.bench.commands.export_model import export_model
from membound.bench.commands.gate import gate
from membound.bench.commands.hardware import hardware
from membound.bench.commands.help import Command, Group
from membound.bench.commands.import_files import import_
from membound.bench.commands.listing import list_
from membound.bench.commands.load import load
from membound.bench.commands.noise import noise
from membound.bench.commands.null_server import null_server
from membound.bench.commands.options import Debug
from membound.bench.commands.plan import plan
from membound.bench.commands.predict import predict
from membound.bench.commands.published import published
from membound.bench.commands.report import report
from membound.bench.commands.run import run
from membound.bench.commands.show import show
from membound.errors import MemboundError
from membound.results.plain_text import visible
from membound.version import __version__

app = typer.Typer(
    name="membound",
    cls=Group,
    rich_markup_mode=None,
    help="How close does each backend come to this machine's own limit at LLM decoding?",
    epilog="Start with: membound run --quick. Each command has --help.",
    add_completion=False,
    pretty_exceptions_enable=False,
)

BAD_INPUT = 2

# Typer brings its own click or uses an installed one, by version; either way BadParameter's grandparent is the root error.
UsageError: type[Any] = typer.BadParameter.__mro__[2]


def _version(asked: bool) -> None:
    if asked:
        typer.echo(f"membound {__version__}")
        raise typer.Exit


@app.callback()
def root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and exit.")
    ] = False,
    debug: Debug = False,
) -> None:
    """How close does each backend come to this machine's own limit at LLM decoding?"""


app.command("run", cls=Command)(run)
app.command("show", cls=Command)(show)
app.command("compare", cls=Command)(compare)
app.command("report", cls=Command)(report)
app.command("import", cls=Command)(import_)
app.command("export", cls=Command)(export)
app.command("list", cls=Command)(list_)
app.command("coverage", cls=Command)(coverage)
app.command("duel", cls=Command)(duel)
app.command("load", cls=Command)(load)
app.command("gate", cls=Command)(gate)
app.command("noise", cls=Command)(noise)
app.command("null-server", cls=Command)(null_server)
app.command("claim", cls=Command)(claim)
app.command("claim-report", cls=Command)(claim_report)
app.command("hardware", cls=Command)(hardware)
app.command("predict", cls=Command)(predict)
app.command("cost", cls=Command)(cost)
app.command("plan", cls=Command)(plan)
app.command("published", cls=Command)(published)
app.add_typer(environment_app, name="env")
app.command("export-model", cls=Command)(export_model)
app.command("cuda-build", cls=Command)(cuda_build)


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command and exit. `argv` is without the program's name; default: the process's own."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    os.environ.pop("NUMBA_DISABLE_JIT", None)  # kernels exist only compiled
    closed = sys.stdout is None
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:  # closed, but what is measured is stored all the same
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115
    with _ended_in_order(), warnings.catch_warnings():
        warnings.showwarning = _warn  # type: ignore[assignment]  # it needs the message alone
        status = _status(arguments, debug="--debug" in arguments)
    if closed and status != BAD_INPUT:  # which has its line already
        status = _refuse("standard output is closed: nothing could be shown", debug=False)
    sys.exit(status)


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
        _drop_output()  # the reader went away, as `| head` does
        return 1
    except MemboundError as error:
        return _refuse(str(error), debug)
    except OSError as error:
        if error.filename is not None:
            return _refuse(f"{error.filename}: {error.strerror or error}", debug)
        if "temporary directory" in str(error):
            return _refuse(f"{error.strerror}; set TMPDIR to a folder that can be written", debug)
        _drop_output()
        return _refuse(f"the output cannot be written: {error.strerror or error}", debug)


@contextmanager
def _ended_in_order() -> Iterator[None]:
    """Have TERM and HUP end the command as Ctrl-C does, which finishes what was measured; nohup ignores one of them."""
    before = {one: signal.getsignal(one) for one in (signal.SIGTERM, signal.SIGHUP)}
    for one, handler in before.items():
        if handler is signal.SIG_DFL:
            signal.signal(one, signal.default_int_handler)
    try:
        yield
    finally:
        for one, handler in before.items():
            signal.signal(one, handler)


def _warn(message: Warning | str, *_: object) -> None:
    print(f"membound: {visible(str(message))}", file=sys.stderr)


def _drop_output() -> None:
    """Python would complain once more when it closes standard output."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _refuse(message: str, debug: bool) -> int:
    """One line on standard error; with --debug the traceback before it."""
    if debug:
        import traceback

        traceback.print_exc()
    print(f"membound: {visible(' '.join(message.split()))}{_without_folder()}", file=sys.stderr)
    return BAD_INPUT


def _without_folder() -> str:
    """Why relative names cannot be found where the folder that the command was started in is no more."""
    try:
        os.getcwd()
    except FileNotFoundError:
        return "; the current folder was deleted: change to one that is there"
    return ""
