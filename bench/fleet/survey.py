"""What a node is and has, found out on the node itself before anything is measured there.

>>> facts().host, facts().membound
('gpu-07', '0.1.0')
"""

from __future__ import annotations

import os
import platform
import re
import socket
from collections.abc import Iterator
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path

from membound.bench.fleet.order import Estimate, Facts, Order
from membound.bench.machine.fingerprint import fingerprint
from membound.version import __version__

BOOT = Path("/proc/sys/kernel/random/boot_id")
NAME = re.compile(r"[A-Za-z0-9._-]+")


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
        nice=ordinary_priority(),
        estimate=_estimated(order, gpus),
    )


def _estimated(order: Order | None, gpus: int) -> Estimate | None:
    if order is None:
        return None
    from membound.bench.fleet.estimate import estimate  # which loads all that a run needs

    return estimate(order, gpus)


def ordinary_priority() -> int:
    """Have this thread, and what it starts, run like other programs; the niceness that is left.

    Ray starts processes with niceness 15 (RAY_worker_niceness), which only root may lower.
    """
    with suppress(PermissionError):
        os.setpriority(os.PRIO_PROCESS, 0, 0)
    return os.getpriority(os.PRIO_PROCESS, 0)


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
