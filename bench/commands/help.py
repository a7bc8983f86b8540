"""The help of the commands: on the left an option's names and what it takes, on the right what it does.

Typer's panels spend six columns on each option, one of them the name of its Python type. On a screen of 80 characters
that leaves little room for words.

>>> app = typer.Typer(cls=Group, rich_markup_mode=None)
>>> app.command("run", cls=Command)(run)
"""

from __future__ import annotations

import ast
import inspect
from collections.abc import Iterable
from textwrap import dedent
from typing import Any

import typer
from typer.core import TyperCommand, TyperGroup

from membound.bench.commands.plain_values import read_plainly


class Command(TyperCommand):
    """A command whose help describes each argument and option."""

    def __init__(self, name: str | None, **more: Any) -> None:
        super().__init__(name, **more)
        self.help = self.help or _docstring(self.callback)
        for parameter in self.params:
            read_plainly(parameter)

    def get_help_option(self, ctx: Any) -> Any:
        """`--help`, which has no value as a rule."""
        return _with_plain_values(super().get_help_option(ctx))

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """Write the sections of arguments and options."""
        _write_parameters(self.get_params(ctx), ctx, formatter)


class Group(TyperGroup):
    """A group of commands, whose help describes its options and shows the first paragraph of each command's help, uncut."""

    def __init__(self, **more: Any) -> None:
        super().__init__(**more)
        self.help = self.help or _docstring(self.callback)
        for parameter in self.params:
            read_plainly(parameter)

    def get_help_option(self, ctx: Any) -> Any:
        """`--help`, which has no value as a rule."""
        return _with_plain_values(super().get_help_option(ctx))

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Show the help if no command is named, and end with exit status 2."""
        if not args and not ctx.resilient_parsing:
            typer.echo(ctx.get_help())
            raise typer.Exit(2)
        return super().parse_args(ctx, args)

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """Write the sections of options and commands."""
        _write_parameters(self.get_params(ctx), ctx, formatter)
        with formatter.section("Commands"):
            formatter.write_dl([(name, _first(command)) for name, command in self.commands.items()])


def _with_plain_values(parameter: Any) -> Any:
    if parameter is not None:
        read_plainly(parameter)
    return parameter


def _write_parameters(parameters: Iterable[Any], ctx: Any, formatter: Any) -> None:
    sections: dict[str, list[tuple[str, str]]] = {"argument": [], "option": []}
    for one in parameters:
        _, text = one.get_help_record(ctx)
        sections[one.param_type_name].append((_called(one), text))
    for kind, lines in sections.items():
        if lines:
            with formatter.section(f"{kind.capitalize()}s"):
                formatter.write_dl(lines)


def _called(parameter: Any) -> str:
    """``WORK``, ``-b, --backends NAMES``, ``--ceilings/--no-ceilings``."""
    if parameter.param_type_name == "argument":
        return str(parameter.metavar)
    names = "/".join((", ".join(sorted(parameter.opts, key=len)), *parameter.secondary_opts))
    return names if parameter.is_flag else f"{names} {parameter.metavar}"


def _docstring(function: Any) -> str:
    """As it stands in the source: `python -OO` leaves docstrings out, which are the help here."""
    (defined,) = ast.parse(dedent(inspect.getsource(inspect.unwrap(function)))).body
    return (ast.get_docstring(defined) if isinstance(defined, ast.FunctionDef) else None) or ""


def _first(command: Any) -> str:
    return " ".join(command.help.partition("\n\n")[0].split())
