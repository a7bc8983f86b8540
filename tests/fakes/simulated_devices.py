"""A fleet of fake devices: the driver's loop, Ray, and rows as large as real ones, but nothing that measures.

>>> done = simulate(tmp_path, tasks=1000, rows=10)
>>> done.rows, done.rows / done.seconds, done.most_bytes - done.before_bytes
"""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import psutil
from fleets import ASK, FLEET, Silent

from membound.bench.fleet.assignment import Assignment, Node, assignments
from membound.bench.fleet.cluster import Cluster, connected
from membound.bench.fleet.collect import Collector, Patience
from membound.bench.fleet.fleet_file import FleetFile
from membound.bench.fleet.order import ALL, Handed, Order
from membound.results.checksum import sealed, unsealed

ACTORS = 2
"""Processes that all devices share: what is tested is the driver."""
ROW_S = 0.5
"""Seconds between two rows of a device, on average."""
PUBLISHED = Path(__file__).parents[2] / "results/published"


class Devices:
    """Many devices in one process. Each hands over copies of a real row, one after another."""

    def __init__(self, line: str, rows: int, mean_s: float) -> None:
        self._row, self._rows, self._mean_s = json.loads(line), rows, mean_s

    async def hand_over(self, run_id: str, have: int) -> Handed:
        """The next row, after a while."""
        cases = tuple(("mine:cpu", number, self._row["work"]) for number in range(self._rows))
        if have >= self._rows:
            return Handed((), "", True, "", cases)
        await asyncio.sleep(random.expovariate(1 / self._mean_s) if self._mean_s else 0)
        row = self._row | {"run_id": run_id, "backend": "mine:cpu", "replicate": have}
        return Handed(
            (sealed(json.dumps(row, separators=(",", ":")).encode()),), "simulating", False, "", cases
        )

    async def forget(self, run_id: str) -> None:
        """Nothing was kept."""


class Simulated(Cluster):
    """A cluster whose suites are devices of a few actors."""

    def __init__(self, ray: Any, actors: Sequence[Any]) -> None:
        super().__init__(ray)
        self._shared = actors
        self._number: dict[str, int] = {}

    def start(self, one: Assignment, order: Order, share: int) -> None:
        self._number[one.run_id] = len(self._number)

    def ask(self, one: Assignment, wait_s: float) -> Any:
        return self._of(one).hand_over.remote(one.run_id, one.rows)

    def forget(self, one: Assignment) -> Any:
        return self._of(one).forget.remote(one.run_id)

    def _of(self, one: Assignment) -> Any:
        return self._shared[self._number[one.run_id] % len(self._shared)]


@dataclass(frozen=True, slots=True)
class Simulation:
    """What it came to. Bytes are resident memory of the driver, and `cpu_s` its processors' time, threads of Ray's included."""

    rows: int
    row_bytes: int
    seconds: float
    cpu_s: float
    before_bytes: int
    most_bytes: int


class Watching(Silent):
    """A view that looks at the driver's memory."""

    most_bytes = 0

    def show(self, assigned: Sequence[Assignment]) -> None:
        self.most_bytes = max(self.most_bytes, psutil.Process().memory_info().rss)


def a_line() -> str:
    """A measured case of a published run, of middle size."""
    marks = (b'"kind":"case"', b'"status":"ok"', b'"turns":[{')
    lines = [line for path in sorted(PUBLISHED.rglob("2*.jsonl")) for line in path.read_bytes().splitlines()]
    found = [line for line in lines if all(mark in line for mark in marks)]
    return unsealed(sorted(found, key=len)[len(found) // 2]).decode()


def simulate(folder: Path, tasks: int, rows: int) -> Simulation:
    """That many devices with as many rows each, on a local cluster that ends with it."""
    line = a_line()
    with connected("local", []) as cluster:
        import ray

        actor = ray.remote(Devices).options(num_cpus=0, max_concurrency=2 * tasks)
        shared = [actor.remote(line, rows, ROW_S) for _ in range(ACTORS)]
        ray.get([one.hand_over.remote("", rows) for one in shared])
        nodes = [Node(f"{n:05x}", f"node-{n}", f"r{n // 40}", 1.0, 0.0, f"node:{n}") for n in range(tasks)]
        made = assignments(FLEET, nodes, {n.id: (ALL,) for n in nodes}, {n.id: n.id for n in nodes}, 1)
        world, view = Simulated(cluster._ray, shared), Watching()
        before, began, cpu_s = psutil.Process().memory_info().rss, time.monotonic(), time.process_time()
        with FleetFile(folder / f"{FLEET}.jsonl", replace(ASK, works=[])) as file:
            for one in made:
                file.note(one)
            try:
                Collector(world, file, made, ASK, view, lambda node: [], Patience(1e9, 1e9, 0.0)).run()
                file.is_whole = True
            except KeyboardInterrupt:  # what it came to so far counts
                pass
        seconds, cpu_s = time.monotonic() - began, time.process_time() - cpu_s
        return Simulation(view.stored, len(line), seconds, cpu_s, before, view.most_bytes)
