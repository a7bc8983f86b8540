"""Commands that are imported when they are asked for: starting one waits for no module and no option of the others.

>>> commands = LazyCommands({"run": "run:run", "env": "env:app"})
>>> commands["run"].name
'run'
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from importlib import import_module
from typing import Any

import typer

from membound.bench.commands.help import Command

PACKAGE = __name__.rpartition(".")[0]


class LazyCommands(Mapping[str, Any]):
    """Commands and groups by name, each made when it is looked up. `homes` says where they are: ``module:function``.

    The modules lie beside this one; a `typer.Typer` in place of a function is a group.
    """

    def __init__(self, homes: Mapping[str, str]) -> None:
        self._homes = homes
        self._made: dict[str, Any] = {}

    def __getitem__(self, name: str) -> Any:
        if name not in self._made:
            module, _, attribute = self._homes[name].partition(":")
            self._made[name] = _command(name, getattr(import_module(f"{PACKAGE}.{module}"), attribute))
        return self._made[name]

    def __contains__(self, name: object) -> bool:
        return name in self._homes

    def __iter__(self) -> Iterator[str]:
        return iter(self._homes)

    def __len__(self) -> int:
        return len(self._homes)


def _command(name: str, found: Any) -> Any:
    app = found
    if not isinstance(found, typer.Typer):
        app = typer.Typer(rich_markup_mode=None, add_completion=False)
        app.command(name, cls=Command)(found)
    command: Any = typer.main.get_command(app)
    command.name = name
    return command
