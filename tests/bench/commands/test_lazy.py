"""A command is made when it is looked up, reads plain values by itself, and leaves others to typer."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Annotated

import pytest
import typer

from membound.bench import cli
from membound.bench.commands import plain_values
from membound.bench.commands.lazy import LazyCommands
from membound.bench.commands.options import number_within


def test_only_what_is_looked_up_is_imported(monkeypatch):
    for name in ("hardware", "published"):
        monkeypatch.delitem(sys.modules, f"membound.bench.commands.{name}", raising=False)
    commands = LazyCommands({"hardware": "hardware:hardware", "published": "published:published"})
    assert list(commands) == ["hardware", "published"]
    assert len(commands) == 2
    assert "published" in commands
    assert commands["hardware"] is commands["hardware"]
    assert commands["hardware"].name == "hardware"
    assert "membound.bench.commands.published" not in sys.modules
    assert commands.get("nothing") is None


def test_every_home_is_there():
    commands = LazyCommands(cli.COMMANDS)
    assert [command.name for command in commands.values()] == list(cli.COMMANDS)
    assert list(commands["env"].commands) == ["create", "list"]


def test_a_mistyped_command_is_told_the_nearest(capsys):
    with pytest.raises(SystemExit) as ended:
        cli.main(["hardwear"])
    assert ended.value.code == 2
    assert capsys.readouterr().err == "membound: No such command 'hardwear'. Did you mean 'hardware'?\n"


SEEN: list[object] = []


def shown(
    text: str,
    texts: Annotated[list[str] | None, typer.Option("--text", metavar="T")] = None,
    whole: Annotated[int, typer.Option("--whole", metavar="N")] = 7,
    ranged: Annotated[int, typer.Option("--ranged", parser=number_within(1, 9), metavar="N")] = 3,
    decimal: Annotated[float, typer.Option("--decimal", metavar="X")] = 0.5,
    pair: Annotated[tuple[str, str] | None, typer.Option("--pair", metavar="A B")] = None,
    path: Annotated[Path | None, typer.Option("--path", metavar="FILE")] = None,
    flag: Annotated[bool, typer.Option("--flag")] = False,
) -> None:
    """Keep what arrives."""
    SEEN[:] = [text, texts, whole, ranged, decimal, pair, path, flag]


ARGUMENTS = [
    ["a"],
    [""],
    ["a", "--text", "b", "--text", "c"],
    ["a", "--whole", "12"],
    ["a", "--whole", " 12"],
    ["a", "--whole", "-3"],
    ["a", "--whole", "1e3"],
    ["a", "--whole", "9" * 25],
    ["a", "--ranged", "9"],
    ["a", "--ranged", "10"],
    ["a", "--ranged", "x"],
    ["a", "--decimal", "3"],
    ["a", "--decimal", "3.25"],
    ["a", "--decimal", "1e-3"],
    ["a", "--decimal", "."],
    ["a", "--decimal", "x"],
    ["a", "--decimal", "٣"],
    ["a", "--pair", "b", "c"],
    ["a", "--pair", "b"],
    ["a", "--path", "b"],
    ["a", "--path", ""],
    ["a", "--flag"],
    [],
    ["a", "--nothing"],
]


def outcome(command, arguments):
    """What arrives, or what it is refused with."""
    SEEN.clear()
    try:
        command.main(list(arguments), prog_name="x", standalone_mode=False)
    except cli.UsageError as error:
        return error.format_message()
    return list(map(repr, SEEN))


@pytest.mark.parametrize("arguments", ARGUMENTS, ids=" ".join)
def test_values_are_what_typer_makes_of_them_and_so_are_errors(arguments):
    app = typer.Typer(rich_markup_mode=None, add_completion=False)
    app.command("shown")(shown)
    by_typer, by_itself = typer.main.get_command(app), typer.main.get_command(app)
    for parameter in by_itself.params:
        plain_values.read_plainly(parameter)
    assert outcome(by_itself, arguments) == outcome(by_typer, arguments)


def test_an_older_typer_which_describes_no_types_is_left_alone():
    parameter = SimpleNamespace(name="seed")
    plain_values.read_plainly(parameter)
    assert vars(parameter) == {"name": "seed"}
