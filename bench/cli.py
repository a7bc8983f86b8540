"""The `membound` command: names what commands/ holds. Bad input gives one line on standard error and exit status 2.

    membound run --quick
    membound show latest --json

Exit status: 0 done; 1 a case failed (wrong, crashed, timeout, oom, error) or no device was there;
2 bad input; 130 interrupted, and what was measured is kept. A command's module is imported when it is asked for, and heavy
modules inside the commands.
"""

from __future__ import annotations

import os
import resource
import signal
import sys
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from threading import Thread
from typing import Annotated, Any

import typer

from membound.bench.commands.help import Group
from membound.bench.commands.lazy import LazyCommands
from membound.bench.commands.options import Debug
from membound.bench.machine.environment import COMPANY
from membound.bench.machine.secrets import without_passwords
from membound.bench.streams import opened
from membound.errors import MemboundError
from membound.results.plain_text import in_one_line, printable
from membound.version import __version__

COMMANDS = {
    "run": "run:run",
    "show": "show:show",
    "compare": "compare:compare",
    "report": "report:report",
    "import": "import_files:import_",
    "export": "export:export",
    "list": "listing:list_",
    "coverage": "coverage:coverage",
    "duel": "duel:duel",
    "load": "load:load",
    "gate": "gate:gate",
    "noise": "noise:noise",
    "soak": "soak:soak",
    "fleet": "fleet:fleet",
    "null-server": "null_server:null_server",
    "claim": "claim:claim",
    "claim-report": "claim:claim_report",
    "hardware": "hardware:hardware",
    "predict": "predict:predict",
    "cost": "cost:cost",
    "plan": "plan:plan",
    "published": "published:published",
    "env": "env:app",
    "export-model": "export_model:export_model",
    "cuda-build": "cuda_build:cuda_build",
}
"""Every command in the order of the help, and where it is in commands/."""


class Root(Group):
    """`membound` itself."""

    def __init__(self, **more: Any) -> None:
        super().__init__(**more | {"commands": LazyCommands(COMMANDS)})


app = typer.Typer(
    name="membound",
    cls=Root,
    rich_markup_mode=None,
    help="How close does each backend come to this machine's own limit at LLM decoding?",
    epilog="Start with: membound run --quick. Each command has --help.",
    add_completion=False,
    pretty_exceptions_enable=False,
)

BAD_INPUT = 2
NO_THREAD = "can't start new thread"
"""Python's words where the system gives a process no more threads."""
NO_MORE_THREADS = "no more threads can be started: raise `ulimit -u`, or the limit of a container"

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


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command and exit. `argv` is without the program's name; default: the process's own."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    os.environ.pop("NUMBA_DISABLE_JIT", None)  # kernels exist only compiled
    os.environ.pop(COMPANY, None)  # ours to set
    closed = opened()
    with _ended_in_order(), warnings.catch_warnings():
        warnings.showwarning = _warn  # type: ignore[assignment]  # it needs the message alone
        status = _status(arguments, debug="--debug" in arguments)
    if closed and status != BAD_INPUT:  # which has its line already
        status = _refuse("standard output is closed: nothing could be shown", debug=False)
    sys.exit(status)


def _status(arguments: list[str], debug: bool) -> int:
    try:
        status = _done(arguments)
        sys.stdout.flush()
        return status
    except KeyboardInterrupt:
        if not _threads_start():  # OpenBLAS then sends its own process what Ctrl-C does
            return _refuse(NO_MORE_THREADS, debug)
        print("membound: interrupted", file=sys.stderr)
        return 130
    except UsageError as error:
        return _refuse(error.format_message(), debug)
    except MemoryError:
        return _refuse("there is not enough memory for this; what was measured before is kept", debug)
    except BrokenPipeError:
        _drop_output()  # the reader went away, as `| head` does
        return 1
    except MemboundError as error:
        return _refuse(str(error), debug)
    except RuntimeError as error:  # of which some of ours are, above
        if NO_THREAD not in str(error):
            raise
        return _refuse(NO_MORE_THREADS, debug)
    except OSError as error:
        if error.filename is not None:
            return _refuse(f"{error.filename}: {error.strerror or error}", debug)
        if resource.getrlimit(resource.RLIMIT_FSIZE)[0] == 0:
            return _refuse("no file may be written: raise `ulimit -f`", debug)
        if "temporary directory" in str(error):
            return _refuse(f"{error.strerror}; set TMPDIR to a folder that can be written", debug)
        _drop_output()
        return _refuse(f"the output cannot be written: {error.strerror or error}", debug)


def _done(arguments: list[str]) -> int:
    """What a command ends with. Typer's own way, `main`, makes of Ctrl-C a status without a word."""
    command = typer.main.get_command(app)
    try:
        with command.make_context("membound", list(arguments)) as context:
            status = command.invoke(context)
    except typer.Exit as ended:
        return ended.exit_code
    return status if isinstance(status, int) else 0


def _threads_start() -> bool:
    one = Thread(target=int)
    try:
        one.start()
    except RuntimeError:
        return False
    one.join()
    return True


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
    print(f"membound: {printable(in_one_line(without_passwords(str(message))))}", file=sys.stderr)


def _drop_output() -> None:
    """Python would complain once more when it closes standard output."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _refuse(message: str, debug: bool) -> int:
    """One line on standard error; with --debug the traceback before it."""
    if debug:
        import traceback

        traceback.print_exc()
    one = " ".join(part.strip() for part in message.strip().split("\n"))  # spaces in names stay as they are
    line = printable(without_passwords(one))
    print(f"membound: {line}{_without_folder()}", file=sys.stderr)
    return BAD_INPUT


def _without_folder() -> str:
    """Why relative names cannot be found where the folder that the command was started in is no more."""
    try:
        os.getcwd()
    except FileNotFoundError:
        return "; the current folder was deleted: change to one that is there"
    return ""
