"""Several devices of one machine: ordinary runs on each alone, then on each while all others are busy.

>>> done = devices_session([], options, places_of(["all"], ["mine"], options), talk, progress)
>>> [one.efficiency for one in done.found]
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import chain
from typing import Any

from rich.console import Console, RenderableType

from membound.backends import registry
from membound.bench.machine.fingerprint import default_threads
from membound.bench.machine.placement import NAME, placed, placement_of, placements
from membound.bench.planning.choice import OptionError, choose_backends
from membound.bench.planning.plan import Options
from membound.bench.run.session import Session, run_session
from membound.results.roofline import device_class
from membound.results.scaling.together import Together, together_of
from membound.results.views.together import together_records, together_view, whole_records

ALL = "all"
CPU = "cpu"


@dataclass(frozen=True, slots=True)
class Place:
    """A device that takes part: its name, the backends that run on it, and what keeps it busy for others."""

    name: str
    backends: tuple[str, ...]
    placement: str = ""
    """Of CPUs."""

    @property
    def companion(self) -> str:
        """As `companion.companions` has it."""
        return self.placement or registry.unlabelled(self.backends[0]).partition("+")[0]


@dataclass(frozen=True)
class DevicesSession:
    """The runs that were made, in order."""

    sessions: tuple[Session, ...]

    @property
    def exit_status(self) -> int:
        """130 interrupted; 1 if one of the runs failed; else 0."""
        return max(one.exit_status for one in self.sessions)

    @cached_property
    def found(self) -> list[Together]:
        """What they come to."""
        return together_of(chain.from_iterable(one.rows for one in self.sessions))

    def view(self) -> RenderableType:
        """The table."""
        return together_view(self.found)

    def record(self) -> dict[str, Any]:
        """All of it, as JSON can hold it."""
        return {
            "runs": [str(one.path) for one in self.sessions],
            "devices": together_records(self.found),
            "all": whole_records(self.found),
            "cases": [line for one in self.sessions for line in one.records()],
        }


def places_of(asked: Sequence[str], backends: Sequence[str], options: Options) -> list[Place]:
    """The devices that are named, or all: every accelerator; where there is none, every NUMA node.

    Raises OptionError for fewer than two or those that share CPUs, PlacementError, UnknownBackend, BackendUnavailable.
    """
    chosen = choose_backends(backends, options.threads, options.pythons).chosen
    on_device: dict[str, list[str]] = {}
    for name in chosen:
        on_device.setdefault(device_class(name), []).append(name)
    accelerators = [device for device in on_device if device != CPU]
    names = list(dict.fromkeys(one for one in asked if one != ALL))
    if ALL in asked:
        names += accelerators or [one.name for one in placements() if ":" not in one.name]
    found = []
    for name in dict.fromkeys(names):
        if NAME.fullmatch(name):
            placement_of(name)
            found.append(Place(name, tuple(on_device.get(CPU, ())), name))
        else:
            found.append(Place(name, tuple(on_device.get(name, ()))))
        if not found[-1].backends:
            known = ", ".join([*accelerators, "node0, cpus0-3 …"])
            raise OptionError(
                f"device {name!r}: none of the backends asked for runs on it; there are {known}"
            )
    _refuse_few_or_shared(found)
    return found


def _refuse_few_or_shared(found: Sequence[Place]) -> None:
    if len(found) < 2:
        names = ", ".join(one.name for one in found) or "none"
        raise OptionError(
            f"--devices takes two or more to compare, and this is {names}; name others: cpus0,cpus1"
        )
    seen: dict[int, str] = {}
    for one in found:
        for cpu in placement_of(one.placement).cpus if one.placement else ():
            if cpu in seen:
                raise OptionError(f"devices {seen[cpu]} and {one.name} share CPU {cpu}")
            seen[cpu] = one.name


def devices_session(
    works: Sequence[str], options: Options, places: Sequence[Place], talk: Console, progress: Console
) -> DevicesSession:
    """Each alone, one after the other, then each while all others are busy; Ctrl-C ends the run at hand and what follows.

    Raises CompanionError, and what `run_session` raises.
    """
    done: list[Session] = []
    for beside in (False, True):
        for one in places:
            others = tuple(other.companion for other in places if other is not one) if beside else ()
            how = f"beside {', '.join(others)}" if others else "alone"
            talk.print(f"{one.name} {how}", soft_wrap=True)
            with placed(one.placement):
                threads = default_threads() if one.placement else options.threads
            chosen = replace(options, threads=threads, placement=one.placement, beside=others)
            session = run_session(works, one.backends, chosen, talk, progress)
            talk.print(f"rows: {session.path}", soft_wrap=True)
            done.append(session)
            if session.interrupted:
                return DevicesSession(tuple(done))
    return DevicesSession(tuple(done))
