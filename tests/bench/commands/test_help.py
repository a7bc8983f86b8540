"""The help of every command fits a screen and names what an option takes; numbers out of range are refused in a line."""

from __future__ import annotations

import re
from typing import Any

import pytest
import typer

from membound.bench.cli import app, main
from membound.bench.commands.options import MOST_SEED, number_within

ROOT: Any = typer.main.get_command(app)
WIDEST_METAVAR = len("BACKEND=PATH")


def every_command(command: Any, words: tuple[str, ...] = ()) -> dict[tuple[str, ...], Any]:
    """Commands and groups by their words: () is `membound` itself."""
    found = {words: command}
    for name, inner in getattr(command, "commands", {}).items():
        found |= every_command(inner, (*words, name))
    return found


COMMANDS = every_command(ROOT)


def options(command: Any) -> list[Any]:
    return [p for p in command.params if p.param_type_name == "option"]


@pytest.fixture
def help_of(capsys, monkeypatch):
    """The help of a command on a screen of that many columns."""

    def ask(words, columns):
        monkeypatch.setenv("COLUMNS", str(columns))
        with pytest.raises(SystemExit) as ended:
            main([*words, "--help"])
        assert ended.value.code == 0
        return capsys.readouterr().out

    return ask


def test_commands_are_found():
    assert {(), ("run",), ("env",), ("env", "create"), ("claim-report",)} <= set(COMMANDS)


@pytest.mark.parametrize("columns", [80, 60])
@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_help_fits_the_screen_and_cuts_nothing(help_of, words, columns):
    text = help_of(words, columns)
    assert text.startswith(f"Usage: {' '.join(('membound', *words))} ")
    assert max(map(len, text.splitlines())) <= columns
    assert "<" not in text
    assert not re.search(r"\brange\b", text)
    flowing = " ".join(text.split())
    for told in (COMMANDS[words], *COMMANDS[words].params):
        assert " ".join(told.help.split()) in flowing


@pytest.mark.parametrize("columns", [80, 60])
@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_the_help_of_an_option_begins_on_its_line(help_of, words, columns):
    lines = help_of(words, columns).splitlines()
    for option in options(COMMANDS[words]):
        takes = "" if option.is_flag else f" {option.metavar}"
        names = "/".join((", ".join(sorted(option.opts, key=len)), *option.secondary_opts))
        (line,) = [line for line in lines if line.startswith(f"  {names}{takes}  ")]
        assert line.removeprefix(f"  {names}{takes}").split()[0] == option.help.split()[0]


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_what_an_option_takes_is_named_in_capitals(words):
    for option in options(COMMANDS[words]):
        if not option.is_flag:
            assert re.fullmatch(r"[A-Z=]+( [A-Z]+)?", option.metavar), option.name
            assert len(option.metavar) <= WIDEST_METAVAR


def test_a_group_tells_what_each_command_does(help_of):
    for group in [words for words, command in COMMANDS.items() if hasattr(command, "commands")]:
        flowing = " ".join(help_of(group, 80).split())
        for name, command in COMMANDS[group].commands.items():
            assert f"{name} {' '.join(command.help.partition(chr(10) * 2)[0].split())}" in flowing


@pytest.mark.parametrize("group", [(), ("env",)], ids=["membound", "env"])
def test_a_group_alone_shows_its_help(help_of, capsys, group):
    text = help_of(group, 80)
    with pytest.raises(SystemExit) as ended:
        main([*group])
    assert ended.value.code == 2
    assert capsys.readouterr() == (text, "")


# Numbers


@pytest.mark.parametrize(
    ("arguments", "low", "high"),
    [
        (["run", "--replicates"], 1, 1000),
        (["run", "--seed"], 0, MOST_SEED),
        (["claim", "--replicates"], 1, 1000),
        (["claim", "--seed"], 0, MOST_SEED),
        (["duel", "linear:n=64,k=64", "-b", "x", "--rounds"], 1, 10_000),
        (["duel", "linear:n=64,k=64", "-b", "x", "--seed"], 0, MOST_SEED),
        (["export-model", "step:model=tiny", "folder", "--seed"], 0, MOST_SEED),
        (["cuda-build", "--multiprocessors"], 1, 1024),
    ],
    ids=lambda value: " ".join((value[0], value[-1])) if isinstance(value, list) else str(value),
)
def test_a_number_out_of_range_is_refused_with_the_range(capsys, arguments, low, high):
    for value in (low - 1, high + 1, -(10**30)):
        with pytest.raises(SystemExit) as ended:
            main([*arguments, str(value)])
        assert ended.value.code == 2
        line = f"membound: Invalid value for '{arguments[-1]}': {value} must be from {low} to {high}\n"
        assert capsys.readouterr() == ("", line)


@pytest.mark.parametrize("text", ["two", "", "1.5", "1e3", "0x10"])
@pytest.mark.parametrize("option", ["--threads", "--seed", "--replicates"])
def test_what_is_no_number_is_refused_as_it_was_typed(capsys, option, text):
    with pytest.raises(SystemExit) as ended:
        main(["run", option, text])
    assert ended.value.code == 2
    line = f"membound: Invalid value for '{option}': {text!r} is not a whole number\n"
    assert capsys.readouterr() == ("", line)


def test_the_ends_of_a_range_are_in_it():
    parse = number_within(-3, 17)
    assert [parse(text) for text in ("-3", "0", "17")] == [-3, 0, 17]
    with pytest.raises(typer.BadParameter, match="18 must be from -3 to 17"):
        parse("18")
