"""`membound env`: make and list the environments of runtimes that cannot share membound's own.

membound env create vllm
membound env list --json
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from membound.bench.environments import State

app = typer.Typer(
    help="Make and list environments of their own for runtimes whose pins clash with membound's.",
    no_args_is_help=True,
)

Debug = Annotated[bool, typer.Option("--debug", help="Show a traceback on errors.")]


@app.command()
def create(
    name: Annotated[str, typer.Argument(metavar="NAME", help="As `membound env list` has it.")],
    force: Annotated[bool, typer.Option("--force", help="Replace the environment that is there.")] = False,
    debug: Debug = False,
) -> None:
    """Make an environment from its committed lock, with uv where it can be had and pip otherwise.

    pip's own settings count: indexes, folders of wheels, certificates. `membound run` finds it by itself.
    """
    from membound.bench.environments import create, recipe

    chosen = recipe(name)
    python = create(chosen, force, lambda text: typer.echo(text, err=True))
    typer.echo(str(python))


@app.command("list")
def list_(
    as_json: Annotated[
        bool, typer.Option("--json", help="Print JSON, and nothing else, on standard output.")
    ] = False,
    debug: Debug = False,
) -> None:
    """List the environments there could be, which were made, what they hold and what is wrong with them."""
    from membound.bench.environments import states

    found = states()
    if as_json:
        typer.echo(json.dumps([_record(state) for state in found], indent=2))
        return
    for state in found:
        typer.echo(f"{state.recipe.name}: {_told(state)}")


def _record(state: State) -> dict[str, Any]:
    one = state.recipe
    return {
        "name": one.name,
        "backend": one.backend,
        "made": state.made,
        "problem": state.problem,
        "remedy": state.remedy,
        "python": str(one.python),
        "packages": state.packages,
    }


def _told(state: State) -> str:
    """One line: what it holds and where, or why it cannot be used and what would help."""
    if not state.made:
        return f"not made; {state.remedy}"
    if state.problem:
        return f"cannot be used: {state.problem}; {state.remedy}"
    held = [f"{name} {state.packages[name]}" for name in state.recipe.shown if name in state.packages]
    return f"{', '.join(held)} ({len(state.packages)} packages), {state.recipe.python}"
