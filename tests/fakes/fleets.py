"""A cluster that answers at once, for tests of what the driver of a fleet makes of it.

>>> world = World(4)
>>> world.script["host#2"] = [Die()]                # its first try dies after its first row
>>> collector(monkeypatch, world, file, found).run()
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest
from rows import case as measured

from membound.bench.fleet import collect
from membound.bench.fleet.ask import Ask
from membound.bench.fleet.assignment import Assignment, Node, assignments
from membound.bench.fleet.collect import Collector, Patience
from membound.bench.fleet.fleet_file import FleetFile
from membound.bench.fleet.order import ALL, Handed, Order
from membound.results.checksum import sealed
from membound.results.row import Row

FLEET = "20261129T121500-fleet-1f3a"
WORKS = [f"linear:n=8,k=32,m={m},weight=f32,act=float" for m in (1, 2, 3)]
CASES = tuple(("mine:cpu", 0, work) for work in WORKS)
ASK = Ask(
    works=WORKS,
    backends=[],
    pythons=[],
    environments=[],
    suite="quick",
    replicates=0,
    threads=0,
    seed=1,
    ceilings=False,
    every_device=False,
    together=False,
    passes=1,
    nodes=0,
    installed=False,
    command="membound fleet",
)


class Clock:
    """Stands for `time`: seconds pass where the driver waits, and nowhere else."""

    def __init__(self) -> None:
        self.now = 0.0

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


def node(number: int, host: str = "host") -> Node:
    """A node of four processors."""
    name = host if number == 1 else f"{host}#{number}"
    return Node(f"{number:04x}", name, f"r{number % 2}", 4.0, 0.0, "node:127.0.0.1")


def assigned(count: int, one_machine: bool = False, passes: int = 1) -> list[Assignment]:
    """A suite of each of that many nodes."""
    nodes = [node(number + 1) for number in range(count)]
    machines = {n.id: "same" if one_machine else n.id for n in nodes}
    return assignments(FLEET, nodes, {n.id: (ALL,) for n in nodes}, machines, passes)


class Silent:
    """A view that remembers."""

    def __init__(self) -> None:
        self.notes: list[str] = []
        self.stored = 0
        self.ends: list[str] = []

    def show(self, assigned: Sequence[Assignment]) -> None:
        pass

    def rows(self, count: int) -> None:
        self.stored += count

    def ended(self, one: Assignment) -> None:
        self.ends.append(one.node.name)

    def note(self, text: str) -> None:
        self.notes.append(text)


@dataclass
class Suite:
    """What a node has of a suite: rows of its file, and how it is going to end."""

    order: Order
    rows: list[bytes]
    dies_at: int = -1
    hangs_at: int = -1
    fails: str = ""


@dataclass
class World:
    """Nodes and what becomes of their suites. Answers are ready as soon as they are asked for."""

    alive: list[Node]
    behave: Callable[[Assignment, Suite], None] = lambda one, suite: None
    died: set[str] = field(default_factory=set)
    suites: dict[str, Suite] = field(default_factory=dict)
    started: list[tuple[str, str]] = field(default_factory=list)
    """(run, node) in the order of starting."""
    running: set[str] = field(default_factory=set)
    most_running: int = 0
    forgotten: list[str] = field(default_factory=list)
    clock: Clock = field(default_factory=Clock)
    busy: set[str] = field(default_factory=set)
    """Nodes whose processors are held by others."""

    def nodes(self) -> list[Node]:
        return [n for n in self.alive if n.id not in self.died]

    def start(self, one: Assignment, order: Order, share: int) -> None:
        self.started.append((one.run_id, one.node.name))
        self.running.add(one.run_id)
        self.most_running = max(self.most_running, len(self.running))
        lines = list(order.known)
        lines += [lined(one.run_id, case) for case in CASES[len(lines) :]]
        self.suites[one.run_id] = Suite(order, lines)
        self.behave(one, self.suites[one.run_id])

    def ask(self, one: Assignment, wait_s: float) -> Any:
        return (one.run_id, one.rows, one.node)

    def forget(self, one: Assignment) -> Any:
        self.forgotten.append(one.run_id)
        return (one.run_id, None, one.node)

    def end(self, one: Assignment) -> None:
        self.running.discard(one.run_id)

    def ready(self, references: Sequence[Any], timeout_s: float) -> list[Any]:
        found = [one for one in references if one[1] is None or not self._waits(one)]
        self.clock.now += 0.0 if found else timeout_s
        return found

    def _waits(self, reference: Any) -> bool:
        run_id, have, where = reference
        suite = self.suites[run_id]
        return where.id not in self.died and (where.id in self.busy or suite.hangs_at == have)

    def result(self, reference: Any) -> tuple[Any, str]:
        run_id, have, where = reference
        if have is None:
            return None, ""
        suite = self.suites[run_id]
        if where.id in self.died:
            return None, "The actor died because its node has died."
        if suite.dies_at == have:
            return None, "The actor is dead because its worker process has died."
        cases = () if suite.fails else CASES
        lines = () if suite.fails else tuple(suite.rows[have : have + 1])
        return Handed(lines, f"at row {have}", not lines, suite.fails, cases), ""

    def free_cpus(self) -> float:
        return sum(n.cpus for n in self.nodes() if n.id not in self.busy)


def lined(run_id: str, case: tuple[str, int, str], **more: Any) -> bytes:
    """A row as a node stores it."""
    backend, replicate, work = case
    made: Row = measured(run_id=run_id, backend=backend, replicate=replicate, work=work, **more)
    return sealed(made.to_json().encode())


def collector(
    monkeypatch: pytest.MonkeyPatch,
    world: World,
    file: FleetFile,
    suites: list[Assignment],
    replace: Callable[[Node], list[Assignment]] = lambda node: [],
    **more: Any,
) -> Collector:
    """The driver, whose time is the world's."""
    patience = Patience(**({"silent_s": 300.0, "start_s": 60.0, "replaced_s": 20.0} | more))
    monkeypatch.setattr(collect, "time", world.clock)
    return Collector(world, file, suites, ASK, Silent(), replace, patience)
