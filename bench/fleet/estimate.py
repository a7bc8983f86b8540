"""What an order comes to on the node that this runs on, and the options that only the node can fill in.

>>> estimate(order, gpus=0)
Estimate(devices=('cpu',), cases=12, seconds=72.0)
"""

from __future__ import annotations

from dataclasses import replace

from membound.bench.api import prepare
from membound.bench.fleet.devices import classes
from membound.bench.fleet.node_file import node_folder
from membound.bench.fleet.order import Estimate, Order
from membound.bench.planning.choice import check_threads, choose_backends, parse_pythons
from membound.bench.planning.plan import Options, Plan

AROUND_S = 4.0
"""Seconds that a case takes besides its turns, of which preparing and checking are most."""


def options_here(order: Order) -> Options:
    """An order's options with what only the node knows: its threads, interpreters and folder. Raises OptionError, CacheRefused."""
    return replace(
        order.options,
        threads=check_threads(order.options.threads or None),
        pythons=parse_pythons(order.pythons),
        out=node_folder(),
    )


def estimate(order: Order, gpus: int) -> Estimate:
    """Ask every backend, and plan. Raises as `membound.bench.api.prepare`."""
    options = options_here(order)
    choice = choose_backends(order.backends, options.threads, options.pythons)
    plan = prepare(order.works, choice.chosen, options)[0]
    return Estimate(classes(choice.chosen, gpus), plan.total_cells, seconds_of(plan))


def seconds_of(plan: Plan) -> float:
    """How long a plan takes at most: its limit, or its turns and what is around them."""
    return plan.time_limit_s or plan.total_cells * (plan.pace.seconds + AROUND_S)
