"""What a fleet is asked for, checked before any cluster is touched, and what that is for one node.

>>> check(ask)                                     # raises what the command ends with
>>> order = ask.order(run_id, device)              # what one suite of it is
"""

from __future__ import annotations

from dataclasses import dataclass

from membound.backends import registry
from membound.bench.environments.build import recipe
from membound.bench.fleet.order import ALL, Order
from membound.bench.planning.plan import Options
from membound.kernels.work import parse

QUICK, FULL = "quick", "full"
SUITES = (QUICK, FULL)


@dataclass(frozen=True, slots=True)
class Ask:
    """What a fleet was asked for: all that --resume needs. Zero leaves a choice to each node.

    works, backends and pythons are as for `membound run`. `suite` says how long works are timed, and which they are if none
    is named. `passes` are suites of each device one after another. `nodes` is how many take part, 0 all of them.
    """

    works: list[str]
    backends: list[str]
    pythons: list[str]
    environments: list[str]
    suite: str
    replicates: int
    threads: int
    seed: int
    ceilings: bool
    every_device: bool
    together: bool
    passes: int
    nodes: int
    installed: bool
    command: str

    @property
    def survey(self) -> Order | None:
        """What nodes are asked for their devices by, where each is a suite of its own."""
        return self.order("", ALL) if self.every_device else None

    def order(self, run_id: str, device: str, known: tuple[bytes, ...] = (), beside: str = "") -> Order:
        """The part of one suite."""
        options = Options(
            threads=self.threads,
            replicates=self.replicates,
            quick=self.suite == QUICK,
            seed=self.seed,
            command=self.command,
            ceilings=self.ceilings,
        )
        return Order(
            run_id,
            tuple(self.works),
            tuple(self.backends),
            device,
            options,
            tuple(self.pythons),
            tuple(self.environments),
            known,
            beside,
        )


def check(ask: Ask) -> None:
    """Raises SpecError, UnknownBackend, EnvironmentFailed for what no node could do."""
    for work in ask.works:
        parse(work)
    for backend in ask.backends:
        registry.entry_for(backend)
    for name in ask.environments:
        recipe(name)
