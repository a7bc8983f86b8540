"""What the driver of a fleet and its nodes say to each other: orders, what is handed over, facts of a node.

>>> Order("20261129T121500-fleet-1f3a.gpu-07.all", ("linear:n=8,k=32",), (), ALL, Options(), ())

They cross as pickles that name these classes: both sides must have the same membound, which `survey` checks first.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from membound.bench.planning.plan import Options

ALL = "all"
"""A node's devices together, as `membound run` measures a machine."""
Case = tuple[str, int, str]
"""Backend, replicate, work."""


@dataclass(frozen=True, slots=True)
class Order:
    """A suite for one node: `device` is ALL or a class of devices such as ``cuda:1``.

    `pythons` are the texts of --python, which are looked up there; environments that are named and not there are made.
    `known` are the lines that an earlier try handed over, in case that the node has lost its file. `beside` names other
    suites of its machine that are measured at once.
    """

    run_id: str
    works: tuple[str, ...]
    backends: tuple[str, ...]
    device: str
    options: Options
    pythons: tuple[str, ...]
    environments: tuple[str, ...] = ()
    known: tuple[bytes, ...] = field(default=(), repr=False)
    beside: str = ""


@dataclass(frozen=True, slots=True)
class Handed:
    """Lines of a node's file from the index that was asked for on, and how far the node is.

    ended: there are no more. failed: why the suite could not be measured, or ''. cases: those of its plan, once it is made.
    """

    lines: tuple[bytes, ...]
    doing: str
    ended: bool
    failed: str = ""
    cases: tuple[Case, ...] | None = None


@dataclass(frozen=True, slots=True)
class Estimate:
    """What a suite comes to on a node: its devices, cases, seconds at most."""

    devices: tuple[str, ...]
    cases: int
    seconds: float


@dataclass(frozen=True, slots=True)
class Facts:
    """A node as seen from inside. `boot` is the same for all nodes of one machine; `missing` are packages that membound needs."""

    host: str
    boot: str
    membound: str
    python: str
    machine: dict[str, Any]
    missing: tuple[str, ...]
    nice: int = 0
    """What suites run with there: more than 0 gives way to all other programs."""
    estimate: Estimate | None = None

    @property
    def kind(self) -> tuple[str, str, str, str]:
        """What nodes must have in common for their figures to be of one kind: processor, instruction sets, Python, membound."""
        sets = " ".join(self.machine["isa"]) or str(self.machine["architecture"])
        minor = ".".join(self.python.split(".")[:2])
        return str(self.machine["cpu"]), sets, f"Python {minor}", f"membound {self.membound}"
