"""What several commands share: options, and ways to print."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from membound.results.plain_text import printable, visible

if TYPE_CHECKING:
    from rich.console import Console

Json = Annotated[bool, typer.Option("--json", help="Print JSON, and nothing else, on standard output.")]
Markdown = Annotated[
    bool, typer.Option("--markdown", help="Print Markdown tables, as for the summary of a CI job.")
]


def number(text: str) -> int:
    """Parse a whole number. Raises BadParameter."""
    try:
        return int(text)
    except ValueError:
        raise typer.BadParameter(f"{text!r} is not a whole number") from None


def numbers(option: str, text: str | None) -> list[int]:
    """Parse whole numbers with commas between them, each once; none of None. Raises BadParameter that names the option."""
    try:
        return list(dict.fromkeys(number(one.strip()) for one in text.split(","))) if text is not None else []
    except typer.BadParameter as error:
        error.param_hint = f"'{option}'"
        raise


def number_within(low: int, high: int) -> Callable[[str], int]:
    """A parser of whole numbers from `low` to `high`, inclusive. It raises BadParameter with the value and both bounds."""

    def parse(text: str) -> int:
        value = number(text)
        if not low <= value <= high:
            raise typer.BadParameter(f"{value} must be from {low} to {high}")
        return value

    return parse


def share(low: float, high: float) -> Callable[[str | float], float]:
    """A parser of percentages, ``10%`` or ``10``, from `low` to `high` as shares. It raises BadParameter with all three."""

    def parse(text: str | float) -> float:
        if not isinstance(text, str):
            return text  # a default, which is a share
        try:
            value = float(text.strip().removesuffix("%")) / 100
        except ValueError:
            raise typer.BadParameter(f"{text!r} is not a percentage such as 5%") from None
        if not low <= value <= high:
            raise typer.BadParameter(f"{text} must be from {low:.4g} to {high:.4g} times 100 %")
        return value

    return parse


def folder(text: str) -> Path:
    """Parse the name of a folder, which need not be there. Raises BadParameter."""
    if not str(text).strip():
        raise typer.BadParameter("it is empty; name a folder")
    return Path(text)


MOST_SEED = 2**63 - 1
"""Tables hold seeds in a column of 64-bit whole numbers."""
Out = Annotated[Path, typer.Option("--out", parser=folder, metavar="FOLDER", help="Folder of the row files.")]
Debug = Annotated[bool, typer.Option("--debug", help="Show a traceback on errors.")]
Threads = Annotated[
    int | None,
    typer.Option("--threads", parser=number, metavar="N", help="CPU threads; default: the physical cores."),
]
ThreadCounts = Annotated[
    str | None,
    typer.Option(
        "--threads",
        metavar="NUMBERS",
        help="CPU threads, with commas for a run with each; default: the physical cores.",
    ),
]
Seed = Annotated[
    int,
    typer.Option(
        "--seed",
        parser=number_within(0, MOST_SEED),
        metavar="N",
        help="Seed of everything random: inputs, weights, order.",
    ),
]
Pythons = Annotated[
    list[str] | None,
    typer.Option(
        "--python", metavar="BACKEND=PATH", help="Run a backend in another interpreter. Repeatable."
    ),
]
Backends = Annotated[
    list[str] | None,
    typer.Option(
        "--backends",
        "-b",
        metavar="NAMES",
        help="backend or backend:device, with commas or repeated; default: all found. A variant follows a plus sign: +tp2, two ranks share a step.",
    ),
]
Pairs = Annotated[
    int,
    typer.Option(
        parser=number_within(6, 1000),
        metavar="N",
        help="Pairs of fresh processes in each stage, 6 to 1000.",
    ),
]
Rounds = Annotated[
    int,
    typer.Option(parser=number_within(1, 10_000), metavar="N", help="Turns of each process on a work."),
]
NoiseFolder = Annotated[
    Path,
    typer.Option(
        "--noise",
        parser=folder,
        metavar="FOLDER",
        help="What `membound noise` stored.",
    ),
]
RunName = Annotated[
    str, typer.Argument(metavar="RUN", help="A file, a folder, `latest`, or the start of a run's name.")
]


def given_options(context: typer.Context) -> set[str]:
    """Names of the parameters that the user wrote down, those with the value of their default too."""
    sources = {name: context.get_parameter_source(name) for name in context.params}
    return {name for name, source in sources.items() if source is not None and source.name == "COMMANDLINE"}


def one_format(as_json: bool, as_markdown: bool) -> None:
    """Raises BadParameter if both are asked for."""
    if as_json and as_markdown:
        raise typer.BadParameter("--json and --markdown exclude each other")


def console(stderr: bool = False) -> Console:
    """Standard output, or standard error, for text and tables."""
    from membound.results.views.console import PlainConsole

    return PlainConsole(stderr=stderr)


def print_paths(talk: Console, what: str, *paths: object) -> None:
    """One line that says where something is, which no terminal breaks: it is for copying."""
    talk.print(f"{what}: {', '.join(map(str, paths))}", soft_wrap=True)


def print_text(text: str, err: bool = False) -> None:
    """Finished text on standard output, or standard error, ends of lines included."""
    stream = sys.stderr if err else sys.stdout
    typer.echo(printable(text, stream.encoding), nl=False, err=err)


def print_json(value: Any) -> None:
    """JSON and nothing else on standard output."""
    text = json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False)
    if visible(text, sys.stdout.encoding) != text:  # JSON has escapes of its own for what cannot be shown
        text = json.dumps(value, indent=2, allow_nan=False)
    typer.echo(text)
