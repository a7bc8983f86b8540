"""Which node measures what: a suite for each device of each node, those of one machine after one another.

>>> assignments("20261129T121500-fleet-1f3a", nodes, devices, machines, passes=1)[0].run_id
'20261129T121500-fleet-1f3a.gpu-07.all'
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from membound.bench.fleet.order import Case

UNFIT = re.compile(r"[^\w.#:-]+")
STATES = ("waiting", "starting", "measuring", "done", "failed")


@dataclass(frozen=True, slots=True)
class Node:
    """A node of the cluster. `name` is unique among them; `rack` is its label of that name, or ''.

    `cpus` and `gpus` are what Ray counts; `address` is the resource by which Ray knows its address, one of each node.
    """

    id: str
    name: str
    rack: str
    cpus: float
    gpus: float
    address: str


@dataclass(slots=True)
class Assignment:
    """A suite on a device of a node, and how far it is. `machine` is the same for all that must not measure at once."""

    run_id: str
    node: Node
    device: str
    machine: str
    kind: str = ""
    state: str = "waiting"
    """One of STATES."""
    doing: str = ""
    """What it is at, or waits for; why it failed."""
    rows: int = 0
    """Rows on the driver's disk."""
    cases: tuple[Case, ...] = ()
    got: set[Case] = field(default_factory=set)
    failures: int = 0
    """Cases that ended otherwise than ok or unsupported."""
    tries: int = 0
    since: float = 0.0
    """When it was last heard of, by time.monotonic."""
    beside: str = ""
    """Nodes and devices of its machine that are measured meanwhile."""

    @property
    def is_over(self) -> bool:
        """Whether nothing more is to come."""
        return self.state in ("done", "failed")

    @property
    def missing(self) -> list[Case]:
        """Cases of the plan without a row, in its order."""
        return [case for case in self.cases if case not in self.got]


def assignments(
    fleet: str,
    nodes: Sequence[Node],
    devices: Mapping[str, Sequence[str]],
    machines: Mapping[str, str],
    passes: int,
) -> list[Assignment]:
    """All of them, pass by pass and node by node. `devices` and `machines` go by the node's id."""
    found = []
    for number in range(1, passes + 1):
        for node in nodes:
            for device in devices[node.id]:
                name = f"{fleet}.{UNFIT.sub('-', node.name)}.{device}" + (f".{number}" if passes > 1 else "")
                found.append(Assignment(name, node, device, machines[node.id]))
    return found
