"""What a fleet would do, without doing it: nodes, devices, minutes, bytes.

>>> plan = planned(ask, where)
>>> plan.minutes
4.8
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from membound.bench.fleet.ask import Ask, check
from membound.bench.fleet.found import Found, find_nodes
from membound.bench.fleet.order import ALL
from membound.bench.fleet.session import Where, reached
from membound.bench.fleet.shipping import shipment, size_of
from membound.results.store import new_run_path
from membound.results.wording import amount

ROW_BYTES, CEILINGS = 4_000, 30
"""Bytes of a row, and rows of ceilings in a suite: the published runs have 2,400 to 4,400, and 27 to 45."""


@dataclass(frozen=True, slots=True)
class FleetPlan:
    """A fleet as it would be measured; minutes at most, bytes in all."""

    ask: Ask
    found: Found
    sent_bytes: int
    """To each node."""

    @property
    def suites(self) -> int:
        """Suites of all nodes."""
        return self.ask.passes * sum(len(self._devices(node.id)) for node in self.found.nodes)

    @property
    def cases(self) -> int:
        """Cases of all nodes, each of which becomes a row."""
        estimates = [self.found.facts[node.id].estimate for node in self.found.nodes]
        return self.ask.passes * sum(one.cases for one in estimates if one)

    @property
    def returned_bytes(self) -> int:
        """Rows of all nodes, roughly."""
        return (self.cases + CEILINGS * self.suites) * ROW_BYTES

    @property
    def minutes(self) -> float:
        """The longest machine's, at most."""
        machines: dict[str, list[float]] = {}
        for node in self.found.nodes:
            facts = self.found.facts[node.id]
            machines.setdefault(facts.boot, []).append(facts.estimate.seconds if facts.estimate else 0.0)
        longest = [max(times) if self.ask.together else sum(times) for times in machines.values()]
        return self.ask.passes * max(longest) / 60

    def lines(self) -> Iterator[str]:
        """For people."""
        yield from self.found.lines()
        for node in self.found.nodes:
            estimate = self.found.facts[node.id].estimate
            rack = f" (rack {node.rack})" if node.rack else ""
            cases = f"{estimate.cases} cases" if estimate else "?"
            yield f"  {node.name}{rack}: {', '.join(self._devices(node.id))}: {cases}"
        yield (
            f"{self.suites} suites, {self.cases} cases, at most about {self.minutes:.0f} minutes; "
            f"{amount(self.sent_bytes, 'B')} go to each node, about {amount(self.returned_bytes, 'B')} come back"
        )

    def record(self) -> dict[str, Any]:
        """As JSON can hold it."""
        return {
            "nodes": [
                {
                    "node": node.name,
                    "rack": node.rack,
                    "devices": list(self._devices(node.id)),
                    "kind": ", ".join(self.found.facts[node.id].kind),
                }
                for node in self.found.nodes
            ],
            "left_out": [{"node": node.name, "reason": why} for node, why in self.found.left_out],
            "suites": self.suites,
            "cases": self.cases,
            "minutes": self.minutes,
            "sent_bytes": self.sent_bytes,
            "returned_bytes": self.returned_bytes,
        }

    def _devices(self, node_id: str) -> tuple[str, ...]:
        estimate = self.found.facts[node_id].estimate
        return estimate.devices if estimate and self.ask.every_device else (ALL,)


def planned(ask: Ask, where: Where) -> FleetPlan:
    """Survey the cluster and plan. Raises as `fleet_session`."""
    check(ask)
    new_run_path(where.out, "")
    with shipment(where.wheel) as parts:
        sent = 0 if ask.installed else sum(map(size_of, parts))
    with reached(ask, where) as cluster:
        return FleetPlan(ask, find_nodes(cluster, ask.nodes, ask.order("", ALL)), sent)
