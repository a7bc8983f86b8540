"""Which devices this machine has: every backend is asked in a separate worker.

>>> from membound.backends import registry
>>> [found.id for found in probe(registry.entries(), threads=2) if found.available]
['numba:cpu', 'torch:cpu', 'torch:cpu+compile']

A runtime is imported only in its worker, so a broken one becomes a device with a reason and never an error here.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any

from membound.backends.registry import entry_for
from membound.bench.environments.build import remedy_for
from membound.bench.planning.asking import ask_all
from membound.bench.protocol.messages import Failed, Probe
from membound.bench.protocol.messages import Found as FoundDevices
from membound.bench.protocol.process import (
    Worker,
    WorkerDiedError,
    WorkerTimeoutError,
    WorkerUnavailableError,
)
from membound.kernels.cpu.kernel_cache import cache_folder
from membound.results.fields import is_amount, short, wrong_field

LIMIT_S = 120.0
"""How long a runtime may take to import and open a device."""


@dataclass(frozen=True, slots=True)
class Found:
    """A device that is there, or why it is not. `id` is its name for `--backends`: ``torch:cpu``."""

    id: str
    entry: str
    available: bool
    reason: str = ""
    remedy: str = ""
    """A command that would help, or ''."""
    name: str = ""
    threads: int = 0
    versions: dict[str, str] = field(default_factory=dict)
    accelerator: dict[str, Any] | None = None
    """The description of a device with its own memory, by its runtime."""


def probe(
    entries: Sequence[str],
    threads: int,
    pythons: Mapping[str, str] | None = None,
    limit_s: float = LIMIT_S,
) -> list[Found]:
    """Every device of the named entry points, in their order. `pythons` as in `plan.Options`."""
    chosen = pythons or {}
    cache_folder()  # workers find the one that is chosen here

    def ask(entry: str) -> list[Found]:
        python = chosen.get(entry.partition(".")[0], sys.executable)
        return _probe_one(entry, threads, python, limit_s)

    return ask_all(ask, entries)


def probe_devices(
    names: Sequence[str], threads: int, pythons: Mapping[str, str] | None = None, limit_s: float = LIMIT_S
) -> list[Found]:
    """Each ``backend:device`` opened by name: for those that a backend does not list, such as ``torch:cpu+odd``.

    Raises UnknownBackend.
    """
    chosen = pythons or {}
    found = []
    for name in names:
        backend, _, device = name.partition(":")
        python = chosen.get(name) or chosen.get(backend, sys.executable)
        found += _probe_one(entry_for(name), threads, python, limit_s, [device])
    return found


def _probe_one(
    entry: str, threads: int, python: str, limit_s: float, devices: Sequence[str] = ()
) -> list[Found]:
    """The `devices` of an entry point; by default those that it lists."""
    try:
        with Worker(threads, python) as worker:
            worker.greet(limit_s)
            answer = worker.ask(Probe(entry, list(devices)), limit_s)
            worker.close()
    except (WorkerUnavailableError, WorkerDiedError, WorkerTimeoutError) as error:
        return [_absent(entry, python, str(error))]
    if isinstance(answer, FoundDevices):
        return [_found(entry, python, device) for device in answer.devices]
    return [_absent(entry, python, answer.reason if isinstance(answer, Failed) else "it gave no devices")]


def _absent(entry: str, python: str, why: str) -> Found:
    problem, remedy = remedy_for(python)
    return Found(entry.replace(".", ":", 1), entry, False, problem or f"probing it failed: {why}", remedy)


def _found(entry: str, python: str, device: dict[str, Any]) -> Found:
    """What a worker told of a device; fields that only another membound has are passed by."""
    told = {f.name: device[f.name] for f in fields(Found) if f.name in device}
    wrong = wrong_field(Found, told)
    sizes = (told.get("accelerator") or {}).items() if not wrong else ()
    wrong = wrong or next(
        (
            f"{name}={short(size)}"
            for name, size in sizes
            if name.endswith("_bytes") and size is not None and not is_amount(size)
        ),
        "",
    )
    return _absent(entry, python, f"it tells of a device what cannot be: {wrong}") if wrong else Found(**told)
