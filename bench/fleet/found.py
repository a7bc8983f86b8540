"""The nodes of a cluster as a fleet finds them: who takes part, of which kinds they are, who is left out and why.

>>> found = find_nodes(cluster, 0, order)
>>> list(found.lines())
['4 nodes on 4 machines, all of one kind: AMD EPYC 9654 96-Core Processor, avx512f …, Python 3.11, membound 0.1.0']
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from membound.bench.fleet.assignment import Assignment, Node, assignments
from membound.bench.fleet.cluster import Cluster
from membound.bench.fleet.fleet_error import FleetError
from membound.bench.fleet.order import ALL, Facts, Order
from membound.deadline import Deadline
from membound.version import __version__

SURVEY_S = 180.0
"""How long nodes may take to fetch what they are sent, and to say what they are and have."""
SHOWN = 5
"""Names in a line."""


@dataclass(frozen=True, slots=True)
class Found:
    """Nodes that take part, what they and those that stand by are, and who cannot take part."""

    nodes: list[Node]
    facts: dict[str, Facts]
    left_out: list[tuple[Node, str]]

    def kinds(self) -> dict[tuple[str, str, str, str], list[str]]:
        """Names of the nodes of each kind."""
        found: dict[tuple[str, str, str, str], list[str]] = {}
        for node in self.nodes:
            found.setdefault(self.facts[node.id].kind, []).append(node.name)
        return found

    def lines(self) -> Iterator[str]:
        """What was found, for people."""
        kinds = self.kinds()
        machines = len({self.facts[node.id].boot for node in self.nodes})
        count = f"{_count(len(self.nodes), 'node')} on {_count(machines, 'machine')}"
        if len(kinds) == 1:
            yield f"{count}, all of one kind: {', '.join(next(iter(kinds)))}"
        else:
            yield f"{count} of {len(kinds)} kinds, which are told apart and never averaged:"
            for kind, names in kinds.items():
                yield f"  {_names(names)}: {', '.join(kind)}"
        if machines < len(self.nodes):
            yield "nodes of one machine take turns, unless --together is given"
        if polite := [node.name for node in self.nodes if self.facts[node.id].nice > 0]:
            yield f"suites give way to other programs on {_names(polite)}: start Ray with RAY_worker_niceness=0"
        for node, why in self.left_out:
            yield f"  left out: {node.name}: {why}"

    def assigned(self, fleet: str, passes: int) -> list[Assignment]:
        """The suites of all nodes that take part, under the name of a fleet."""
        return self.assigned_to(fleet, self.nodes, passes)

    def assigned_to(self, fleet: str, nodes: Sequence[Node], passes: int) -> list[Assignment]:
        """The suites of some of them."""
        made = assignments(
            fleet,
            nodes,
            {node.id: self.devices(node) for node in nodes},
            {node.id: self.facts[node.id].boot for node in nodes},
            passes,
        )
        for one in made:
            one.kind = ", ".join(self.facts[one.node.id].kind)
        return made

    def devices(self, node: Node) -> tuple[str, ...]:
        """The devices of a node that have suites of their own, if it was asked for them; else all together."""
        estimate = self.facts[node.id].estimate
        return estimate.devices if estimate else (ALL,)


def find_nodes(cluster: Cluster, wanted: int, order: Order | None) -> Found:
    """Survey all living nodes, of which `wanted` take part (0: all). Raises FleetError where that many are not there."""
    nodes = cluster.nodes()
    if not nodes:
        raise FleetError("no node of the cluster has processors for tasks (ray status)")
    facts, left_out = survey_all(cluster, nodes, order)
    fit = [node for node in nodes if node.id in facts]
    if not fit or len(fit) < wanted:
        few = f"--nodes {wanted}: {len(fit)} can take part" if fit else "no node can take part"
        why = "".join(f"; {node.name}: {reason}" for node, reason in left_out[:SHOWN])
        raise FleetError(few + why)
    return Found(fit[: wanted or len(fit)], facts, left_out)


def survey_all(
    cluster: Cluster, nodes: Sequence[Node], order: Order | None
) -> tuple[dict[str, Facts], list[tuple[Node, str]]]:
    """The facts of nodes that can take part, and the others with the reason."""
    asked = {cluster.survey(node, order): node for node in nodes}
    facts: dict[str, Facts] = {}
    left_out: list[tuple[Node, str]] = []
    deadline = Deadline(SURVEY_S)
    while asked and deadline.left() > 0:
        for reference in cluster.ready(list(asked), deadline.pause()):
            node = asked.pop(reference)
            came, why = cluster.result(reference)
            if why := why or _unfit(came):
                left_out.append((node, why))
            else:
                facts[node.id] = came
    left_out += [(node, f"it did not say within {SURVEY_S:.0f} s what it is") for node in asked.values()]
    return facts, left_out


def _unfit(facts: Facts) -> str:
    """Why a node that answers cannot take part, or ''."""
    if facts.membound != __version__:
        return f"it has membound {facts.membound}, and this is {__version__}: install the same, or leave out --installed"
    if facts.missing:
        return f"it lacks {', '.join(facts.missing)}: install what membound needs where Ray runs (pip install membound)"
    return ""


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'s' * (number != 1)}"


def _names(names: Sequence[str]) -> str:
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more
