"""Workers that answer at once, for tests of what the harness makes of their answers.

>>> workers = fake_workers.install(monkeypatch)           # for every worker of a run from now on
>>> workers.acts = lambda worker, command: Failed("oom", "too much") if isinstance(command, Prepare) else None
>>> execute(plan, writer, Silent())
>>> [command for who, command in workers.log]

Every command and every answer goes through the protocol's own encoding, so that a fake says what a worker could say.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import count
from typing import Any

import pytest

from membound.bench.measure import ceiling_process, contestant
from membound.bench.protocol import messages as m
from membound.bench.run import machine_ceilings
from membound.kernels.work import parse

CEILINGS = "ceilings"
"""Stands in the log for the process of ceilings that take turns, and for that of the machine's."""
FACTS = {"memory_bytes": 10**9, "cache_bytes": 3000, "pci": "0000:01:00.0"}


def _nothing(worker: FakeWorker, command: Any) -> None:
    """Leave everything to the defaults."""


@dataclass
class Workers:
    """What all fake workers of a test have in common."""

    acts: Callable[[FakeWorker, Any], Any] = _nothing
    """Called with each command: its answer, None for the usual one, or an exception."""
    log: list[tuple[str, Any]] = field(default_factory=list)
    """(backend or CEILINGS, command), in the order of asking."""
    rng: random.Random = field(default_factory=lambda: random.Random(random.getrandbits(64)))
    links: dict[str, str] = field(default_factory=dict)
    """Backends to the bandwidth that their bytes run into, where it is not ``read``."""
    kind: Any = None
    """The class of them all."""
    compiles: bool = False
    """Whether preparing compiles kernels."""
    pids: Any = field(default_factory=lambda: count(1))
    alive: set[int] = field(default_factory=set)

    def said(self, kind: type[Any], who: str | None = None) -> list[Any]:
        """The commands of a kind, those to one process."""
        return [c for name, c in self.log if isinstance(c, kind) and who in (None, name)]


def ceiling(name: str, value: float | None, unit: str, **more: Any) -> dict[str, Any]:
    """A ceiling as a worker sends it."""
    given = {"name": name, "value": value, "unit": unit, "config": {}, "samples": [0.1]}
    return given | {"status": "ok", "reason": ""} | more


class FakeWorker:
    """What the harness has in place of `protocol.process.Worker`."""

    workers: Workers

    def __init__(self, threads: int, python: str = "") -> None:
        self.threads, self.python = threads, python
        self.who, self.works = CEILINGS, dict[int, str]()
        self.pid = next(self.workers.pids)

    def __enter__(self) -> FakeWorker:
        self.workers.alive.add(self.pid)
        return self

    def __exit__(self, *_: object) -> None:
        self.workers.alive.discard(self.pid)

    def greet(self, limit_s: float = 0.0) -> None:
        assert self.pid in self.workers.alive

    def post(self, command: Any, limit_s: float) -> None:
        self.posted = command

    def answered(self, limit_s: float, on_phase: Any = lambda phase: None) -> Any:
        return self.ask(self.posted, limit_s, on_phase)

    def close(self, limit_s: float = 0.0) -> None:
        self.ask(m.Close(), limit_s)

    def ask(self, command: Any, limit_s: float, on_phase: Any = lambda phase: None) -> Any:
        assert self.pid in self.workers.alive, f"{self.who} is asked {command} after its end"
        command, _ = m.decode(m.encode(command, 1), m.COMMANDS)
        if isinstance(command, m.Open):
            self.who = command.backend
        elif isinstance(command, m.OpenDeviceCeiling):
            self.who = CEILINGS
        elif isinstance(command, m.Prepare):
            self.works[command.contestant] = command.work
        self.workers.log.append((self.who, command))
        on_phase(m.Phase(f"at {type(command).__name__}"))
        if self.workers.compiles and isinstance(command, m.Prepare):
            on_phase(m.Phase(f"{m.COMPILING} a_kernel"))
        answer = self.workers.acts(self, command)
        if answer is None:
            answer = usual(self.workers, self, command)
        return m.decode(m.encode(answer, 1), m.ANSWERS)[0]


def usual(workers: Workers, worker: FakeWorker, command: Any) -> Any:
    """The answer of a worker that has no trouble; times and rates are random."""
    match command:
        case m.MeasureMachine():
            found = [ceiling("read", 1e9, "bytes/s"), ceiling("fma_f32", 1e10, "FLOP/s")]
            return m.Ceilings(found, {})
        case m.MeasureBackend():
            return m.Ceilings([ceiling("launch", 1e-6, "s")], {})
        case m.OpenCeiling():
            products = {f"fma_{fmt}": "FLOP/s" for fmt in command.products if fmt == "f32"}
            return m.CeilingOpened({"read": "bytes/s"} | products)
        case m.OpenDeviceCeiling():
            return m.CeilingOpened(dict.fromkeys(command.variants, "bytes/s"))
        case m.TakeCeilingTurn():
            rates = {name: workers.rng.uniform(1e9, 2e9) for name in command.names}
            return m.CeilingTurned(rates, dict.fromkeys(rates, True), dict.fromkeys(rates, "best"), 1000)
        case m.Open():
            device = command.backend.partition(":")[2]
            facts = {} if device.startswith("cpu") else FACTS
            return m.Opened(
                f"a fake {device}", {"fake": "1"}, facts, workers.links.get(command.backend, "read")
            )
        case m.Prepare():
            return prepared(command.work)
        case m.TakeTurn():
            return turned(workers.rng.uniform(0.01, 0.02))
        case m.Check():
            return m.Checked(1e-7, {"working_set_bytes": 1 << 40}, {})
        case _:
            return m.Done()


def prepared(spec: str, **more: Any) -> m.Prepared:
    """A work whose first output is right."""
    size = parse(spec).footprint_bytes
    base = {"slots": 3, "working_set_bytes": 3 * size, "footprint_bytes": size, "resident_bytes": 0}
    base |= {"prepare_s": 0.1, "first_s": 0.2, "launch_s": 0.01, "launches": 2}
    return m.Prepared(**(base | {"error": 1e-7, "tolerance": 1e-5, "stored_bytes": None} | more))


def turned(time_s: float, **more: Any) -> m.Turned:
    """A clean burst of two launches."""
    base: dict[str, Any] = {"time_s": time_s, "launches": 2, "device_s": None, "disturbance": 0.0}
    base |= {"retaken_s": [], "moved_bytes": 100, "dispatch_s": 1e-6}
    return m.Turned(**(base | {"stolen": {}, "telemetry": {}} | more))


def install(patch: pytest.MonkeyPatch, *modules: Any) -> Workers:
    """Have all workers of a run faked, those of further `modules` too; returns what they have in common."""
    workers = Workers()

    class Installed(FakeWorker):
        pass

    Installed.workers, workers.kind = workers, Installed
    for module in (contestant, ceiling_process, machine_ceilings, *modules):
        patch.setattr(module, "Worker", Installed)
    return workers
