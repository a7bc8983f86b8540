"""What a run will use: the backends, threads and interpreters that the user named, checked one by one.

>>> choice = choose_backends(["mine", "other:cpu"], threads=2, pythons={})
>>> choice.chosen
('mine:cpu', 'mine:cpu+compile', 'other:cpu')
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from membound.backends import registry
from membound.bench.environments.build import interpreters, states
from membound.bench.machine.fingerprint import default_threads
from membound.bench.planning.probe import Found, probe, probe_devices
from membound.errors import BackendUnavailable, MemboundError
from membound.results.roofline import device_class
from membound.spec_text import split_specs


class OptionError(MemboundError):
    """An option of a run has a value that this machine or this installation cannot serve."""


@dataclass(frozen=True, slots=True)
class Choice:
    """`chosen` are the ``backend:device`` names to measure, `absent` the devices that are not there.

    For devices that have their own memory, `device_memory` holds its bytes and `device_cache` those of its cache.
    `variants` are the other forms of each device: ``graph`` if ``backend:device+graph`` is there too.
    """

    chosen: tuple[str, ...]
    absent: tuple[Found, ...]
    device_memory: dict[str, int] = field(default_factory=dict)
    device_cache: dict[str, int] = field(default_factory=dict)
    variants: dict[str, tuple[str, ...]] = field(default_factory=dict)


def split(texts: Iterable[str]) -> list[str]:
    """Names given one at a time or with commas between them."""
    return [name for text in texts for name in (part.strip() for part in text.split(",")) if name]


def split_works(texts: Iterable[str]) -> list[str]:
    """Specs given one at a time or with commas between them: a comma before ``kind:`` starts a new one."""
    return [spec for text in texts for spec in split_specs(text)]


def check_threads(threads: int | None) -> int:
    """The threads asked for, or this machine's default. Raises OptionError if there are fewer CPUs."""
    if threads is None:
        return default_threads()
    available = len(os.sched_getaffinity(0))
    if not 1 <= threads <= available:
        raise OptionError(f"threads={threads} must be from 1 to {available}, the CPUs this process may use")
    return threads


def parse_pythons(texts: Iterable[str]) -> dict[str, str]:
    """From backend to interpreter. ``BACKEND=PATH`` takes precedence over the environment that was made for a backend.

    PATH may be the name of an environment that was made. Raises OptionError, UnknownBackend, EnvironmentFailed.
    """
    pythons, made = interpreters(), {s.recipe.name: str(s.recipe.python) for s in states() if s.made}
    for text in texts:
        backend, equals, path = (part.strip() for part in text.partition("="))
        if not equals or not backend or not path:
            raise OptionError(f"--python {text!r} is not BACKEND=PATH")
        registry.entry_for(backend)
        path = made.get(path, path)
        # os.path gives False for a name that is too long, where Path's methods raise.
        if not (os.path.isfile(path) and os.access(path, os.X_OK)):
            raise OptionError(
                f"--python {backend}: {path} is not an interpreter that can be run, nor an environment "
                f"({', '.join(made) or 'none'} made; see membound env list)"
            )
        pythons[backend] = path
    return pythons


LABEL = re.compile(r"[\w.-]{1,20}")


def choose_backends(asked: Sequence[str], threads: int, pythons: Mapping[str, str]) -> Choice:
    """As `_choose`; ``mine:cpu#2`` is mine:cpu once more, a contestant of its own: two of a kind show the noise.

    Raises OptionError for a label that is none, besides what `_choose` raises.
    """
    labelled = [name for name in asked if "#" in name]
    for name in labelled:
        base, _, label = name.partition("#")
        if ":" not in base or not LABEL.fullmatch(label):
            raise OptionError(f"{name!r} is not backend:device#LABEL, with a label of letters and digits")
    choice = _choose([registry.unlabelled(name) for name in asked], threads, pythons)
    if not labelled:
        return choice
    alone = {registry.unlabelled(name) for name in labelled} - {name for name in asked if "#" not in name}
    bare = {name for name in asked if ":" not in name}
    alone -= {one for one in choice.chosen if one.partition(":")[0] in bare}
    chosen = [name for name in choice.chosen if name not in alone]
    chosen += dict.fromkeys(labelled)

    def of_all(known: dict[str, Any]) -> dict[str, Any]:
        return {n: known[registry.unlabelled(n)] for n in chosen if registry.unlabelled(n) in known}

    return Choice(
        tuple(chosen),
        choice.absent,
        of_all(choice.device_memory),
        of_all(choice.device_cache),
        of_all(choice.variants),
    )


def _choose(asked: Sequence[str], threads: int, pythons: Mapping[str, str]) -> Choice:
    """Every device that is there; or, of the backends asked for, all devices of a bare name.

    ``backend:device`` is accepted unless probing found it absent: if it cannot be opened it becomes a row, provided that
    another device was asked for; otherwise it is opened first. Raises UnknownBackend, and BackendUnavailable with the
    reason if a device that probing lists is absent, or if everything that was asked for is.
    """
    for name in asked:
        registry.entry_for(name)
    wanted = {name.partition(":")[0] for name in asked}
    entries = [e for e in registry.entries() if not asked or e.partition(".")[0] in wanted]
    found = probe(entries, threads, pythons)
    absent = tuple(device for device in found if not device.available)
    if not asked:
        chosen = [device.id for device in found if device.available]
        return Choice(tuple(chosen), absent, *_device_sizes(chosen, found), _variants(chosen, found))
    chosen = []
    for name in asked:
        chosen += [name] if ":" in name else _devices(name, found)
        _refuse_absent(name, found)
    chosen = list(dict.fromkeys(chosen))
    if not set(chosen) & {device.id for device in found if device.available}:
        _refuse_all_absent(probe_devices(tuple(chosen), threads, pythons))
    return Choice(tuple(chosen), (), *_device_sizes(chosen, found), _variants(chosen, found))


def _device_sizes(chosen: Sequence[str], found: Sequence[Found]) -> tuple[dict[str, int], dict[str, int]]:
    """Bytes of memory and of cache of each chosen accelerator; an unprobed variant has those of its plain device."""
    return _device_bytes("memory_bytes", chosen, found), _device_bytes("cache_bytes", chosen, found)


def _device_bytes(name: str, chosen: Sequence[str], found: Sequence[Found]) -> dict[str, int]:
    known = {d.id: d.accelerator[name] for d in found if d.accelerator and d.accelerator.get(name)}
    plain = {device: device.partition("+")[0] for device in chosen}
    return {
        device: known.get(device, known.get(base, 0))
        for device, base in plain.items()
        if {device, base} & set(known)
    }


def _variants(chosen: Sequence[str], found: Sequence[Found]) -> dict[str, tuple[str, ...]]:
    """The variants of each chosen device that are there; ``alpha:npu`` is ``alpha:npu:0``."""
    offered: dict[str, tuple[str, ...]] = {}
    for device in found:
        base, _, variant = device.id.rpartition("+")
        if device.available and base:
            offered[_numbered(base)] = (*offered.get(_numbered(base), ()), variant)
    return {name: offered[_numbered(name)] for name in chosen if _numbered(name) in offered}


def _numbered(name: str) -> str:
    """``alpha:npu+compile`` as ``alpha:npu:0+compile``: the first device of its kind."""
    device, plus, variants = name.partition("+")
    return f"{device.partition(':')[0]}:{device_class(device)}{plus}{variants}"


def _devices(name: str, found: Sequence[Found]) -> list[str]:
    return [device.id for device in found if device.available and device.id.partition(":")[0] == name]


def _refuse_absent(name: str, found: Sequence[Found]) -> None:
    """Raises BackendUnavailable if probing said that `name` (or its whole backend) is not there."""
    backend = name.partition(":")[0]
    plain = name.partition("+")[0]
    absent = [
        d
        for d in found
        if not d.available and (d.id in (name, backend) or f"{plain}:".startswith(f"{d.id}:"))
    ]
    if ":" not in name and _devices(name, found):
        return
    if not absent and ":" not in name:
        absent = [device for device in found if device.id.partition(":")[0] == backend]
    if absent:
        device = absent[0]
        raise BackendUnavailable(f"{name} is not available: {told(device)}", device.remedy)


def _refuse_all_absent(found: Sequence[Found]) -> None:
    """Raises BackendUnavailable if none of these devices is there: a run would measure nothing but ceilings."""
    if not any(device.available for device in found):
        reasons = "; ".join(f"{device.id} is not available: {told(device)}" for device in found)
        raise BackendUnavailable(reasons, found[0].remedy)


def told(device: Found) -> str:
    """Why a device is absent and what would help, in one line."""
    reason = " ".join(device.reason.split())
    return f"{reason}; {device.remedy}" if device.remedy else reason
