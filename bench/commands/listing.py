"""`membound list`: what there is to measure with.

membound list --json
membound list --models
membound list --model deepseek-v3 --model models/my-gemma
"""

from __future__ import annotations

from typing import Annotated

import typer

from membound.bench.commands.options import Debug, Json, Out, Pythons, console, print_json
from membound.results.folders import DEFAULT_OUT


def list_(
    out: Out = DEFAULT_OUT,
    python: Pythons = None,
    model: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME",
            help="What a model is, by name, folder or .onnx file, what a token streams of it, and whether it runs here. Repeatable.",
        ),
    ] = None,
    models: Annotated[
        bool,
        typer.Option(
            "--models", help="Models alone, with their parameters in all and as a token streams them."
        ),
    ] = False,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """List backends with their devices, models, and the ceilings known from the latest run.

    A backend that is not there is listed with the reason and, where one helps, the command to install it.
    """
    if models and model:
        raise typer.BadParameter(
            "goes without --model, which says more of those that it names", param_hint="--models"
        )
    if model:
        _tell_models(model, as_json)
        return
    if models:
        _list_models(as_json)
        return
    from membound.bench.planning.choice import check_threads, parse_pythons
    from membound.bench.planning.inventory import Inventory, inventory_view

    inventory = Inventory.gather(check_threads(None), parse_pythons(python or ()), out)
    if as_json:
        print_json(inventory.as_json())
    else:
        console().print(inventory_view(inventory))


def _list_models(as_json: bool) -> None:
    from membound.bench.planning.inventory import models_as_json, models_view

    if as_json:
        print_json({"models": models_as_json()})
    else:
        console().print(models_view())


def _tell_models(names: list[str], as_json: bool) -> None:
    from membound.bench.planning.file_facts import SUFFIX, FileFacts
    from membound.bench.planning.model_facts import ModelFacts

    facts = [FileFacts.of(name) if name.endswith(SUFFIX) else ModelFacts.of(name) for name in names]
    if as_json:
        print_json({"models": [one.as_json() for one in facts]})
        return
    talk = console()
    for number, one in enumerate(facts):
        for line in (*([""] if number else []), *one.lines()):
            talk.print(line, soft_wrap=False)
