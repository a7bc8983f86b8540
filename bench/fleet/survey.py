"""What a node is and has, found out on the node itself before anything is measured there.

>>> facts().host, facts().membound
('gpu-07', '0.1.0')
"""

from __future__ import annotations

import platform
import re
import socket
from collections.abc import Iterator
from dataclasses import replace
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path

from membound.bench.api import prepare
from membound.bench.fleet.devices import classes
from membound.bench.fleet.node_file import node_folder
from membound.bench.fleet.order import Estimate, Facts, Order
from membound.bench.machine.fingerprint import fingerprint
from membound.bench.planning.choice import check_threads, choose_backends, parse_pythons
from membound.bench.planning.plan import Options, Plan
from membound.version import __version__

BOOT = Path("/proc/sys/kernel/random/boot_id")
NAME = re.compile(r"[A-Za-z0-9._-]+")
AROUND_S = 4.0
"""Seconds that a case takes besides its turns, of which preparing and checking are most."""


def facts(order: Order | None = None, gpus: int = 0) -> Facts:
    """The node that this runs on; with an order also what it comes to, for which every backend is asked.

    Raises MemboundError if the order cannot be carried out here.
    """
    return Facts(
        host=socket.gethostname(),
        boot=_boot(),
        membound=__version__,
        python=platform.python_version(),
        machine=fingerprint(),
        missing=tuple(_missing()),
        estimate=None if order is None else _estimate(order, gpus),
    )


def _boot() -> str:
    """A name of the running kernel, which containers of one machine share; the host's name where there is none."""
    try:
        return BOOT.read_text(encoding="utf-8").strip()
    except OSError:
        return socket.gethostname()


def _missing() -> Iterator[str]:
    """Packages that membound needs and this interpreter lacks; those of extras are the backends' affair."""
    for text in requires("membound") or ():
        found = NAME.match(text)
        if found and "extra ==" not in text:
            try:
                version(found[0])
            except PackageNotFoundError:
                yield found[0]


def _estimate(order: Order, gpus: int) -> Estimate:
    options = options_here(order)
    choice = choose_backends(order.backends, options.threads, options.pythons)
    plan = prepare(order.works, choice.chosen, options)[0]
    return Estimate(classes(choice.chosen, gpus), plan.total_cells, seconds_of(plan))


def options_here(order: Order) -> Options:
    """An order's options with what only the node knows: its threads, interpreters and folder. Raises OptionError, CacheRefused."""
    return replace(
        order.options,
        threads=check_threads(order.options.threads or None),
        pythons=parse_pythons(order.pythons),
        out=node_folder(),
    )


def seconds_of(plan: Plan) -> float:
    """How long a plan takes at most: its limit, or its turns and what is around them."""
    return plan.time_limit_s or plan.total_cells * (plan.pace.seconds + AROUND_S)
