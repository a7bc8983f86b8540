"""`membound env`: makes and lists the environments of runtimes that cannot share membound's.

membound env create vllm
membound env list --json
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from membound.bench.commands.help import Command, Group
from membound.bench.commands.options import Debug, Json, print_json, print_text
from membound.results.plain_text import in_one_line

if TYPE_CHECKING:
    from membound.bench.environments.build import State

app = typer.Typer(cls=Group, rich_markup_mode=None, add_completion=False)


@app.callback()
def group(debug: Debug = False) -> None:
    """Make and list separate environments for runtimes whose pins clash with membound's."""


@app.command("create", cls=Command)
def create(
    name: Annotated[str, typer.Argument(metavar="NAME", help="A name from `membound env list`.")],
    force: Annotated[bool, typer.Option("--force", help="Replace the environment that is there.")] = False,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Make an environment from its committed lock, with uv if it can be installed and pip otherwise.

    pip's settings apply: indexes, folders of wheels, certificates. `membound run` finds the environment by itself.
    """
    from membound.bench.environments.build import create, recipe, states

    chosen = recipe(name)
    python = create(chosen, force, lambda text: print_text(f"{text}\n", err=True))
    if as_json:
        (state,) = [state for state in states() if state.recipe.name == name]
        print_json(_record(state))
    else:
        print_text(f"{in_one_line(python)}\n")


@app.command("list", cls=Command)
def list_(as_json: Json = False, debug: Debug = False) -> None:
    """List the possible environments: which of them were made, what they hold, and what is wrong with them."""
    from membound.bench.environments.build import states

    found = states()
    if as_json:
        print_json([_record(state) for state in found])
        return
    for state in found:
        print_text(f"{state.recipe.name}: {_told(state)}\n")


def _record(state: State) -> dict[str, Any]:
    one = state.recipe
    return {
        "name": one.name,
        "backend": one.backend,
        "made": state.made,
        "problem": state.problem,
        "remedy": state.remedy,
        "python": state.python,
        "packages": state.packages,
    }


def _told(state: State) -> str:
    """One line: what it holds and where, or why it cannot be used and what would help."""
    if not state.made:
        return "; ".join(filter(None, ("not made", state.problem, state.remedy)))
    if state.problem:
        return f"cannot be used: {state.problem}; {state.remedy}"
    held = [f"{name} {state.packages[name]}" for name in state.recipe.shown if name in state.packages]
    return f"{', '.join(held)} ({len(state.packages)} packages), {state.recipe.python}"
