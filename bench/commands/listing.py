"""`membound list`: what there is to measure with.

membound list --json
"""

from __future__ import annotations

from membound.bench.commands.options import Debug, Json, Out, Pythons, console, print_json
from membound.results.folders import DEFAULT_OUT


def list_(
    out: Out = DEFAULT_OUT, python: Pythons = None, as_json: Json = False, debug: Debug = False
) -> None:
    """List backends with their devices, models, and the ceilings known from the latest run.

    A backend that is not there is listed with the reason and, where one helps, the command to install it.
    """
    from membound.bench.planning.choice import check_threads, parse_pythons
    from membound.bench.planning.inventory import Inventory, inventory_view

    inventory = Inventory.gather(check_threads(None), parse_pythons(python or ()), out)
    if as_json:
        print_json(inventory.as_json())
    else:
        console().print(inventory_view(inventory))
