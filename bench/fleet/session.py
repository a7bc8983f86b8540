"""One `membound fleet` from the first line it prints to its exit status.

>>> done = fleet_session(ask, Where("auto", Path("results/fleets")), Console(), Console(stderr=True))
>>> done.path, done.exit_status
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from rich.console import Console

from membound.bench.fleet.ask import Ask, check
from membound.bench.fleet.assignment import Assignment, Node
from membound.bench.fleet.cluster import Cluster, connected
from membound.bench.fleet.collect import Collector, Patience
from membound.bench.fleet.fleet_error import FleetError
from membound.bench.fleet.fleet_file import FleetFile, find_fleet
from membound.bench.fleet.found import Found, find_nodes, survey_all
from membound.bench.fleet.shipping import shipment
from membound.bench.fleet.view import view_on
from membound.bench.run.resume import partial_of
from membound.bench.run.session import noticing_interrupts
from membound.results.store import SUFFIX, new_run_id, new_run_path


@dataclass(frozen=True, slots=True)
class Where:
    """What is the driver's alone: the cluster, the folder, the wheel to send, how long it waits for what."""

    address: str
    out: Path
    wheel: Path | None = None
    patience: Patience = field(default_factory=Patience)


@dataclass(frozen=True, slots=True)
class Fleet:
    """What a fleet came to: its file and its suites."""

    path: Path
    assigned: list[Assignment] = field(repr=False)
    left_out: list[tuple[Node, str]]
    interrupted: bool

    @property
    def exit_status(self) -> int:
        """130 interrupted; 1 a suite or a case failed, or a node was left out; else 0."""
        if self.interrupted:
            return 130
        failed = any(one.state == "failed" or one.failures for one in self.assigned)
        return int(failed or bool(self.left_out))

    @property
    def stored(self) -> Path:
        """Where the rows lie: in the finished file, or in the partial one."""
        return partial_of(self.path) if self.interrupted else self.path

    def record(self) -> dict[str, Any]:
        """All of it, as JSON can hold it; the rows are in the file."""
        return {
            "path": str(self.stored),
            "interrupted": self.interrupted,
            "left_out": [{"node": node.name, "reason": why} for node, why in self.left_out],
            "suites": [_record(one) for one in self.assigned],
        }


def _record(one: Assignment) -> dict[str, Any]:
    return {
        "run_id": one.run_id,
        "node": one.node.name,
        "rack": one.node.rack,
        "device": one.device,
        "kind": one.kind,
        "state": one.state,
        "reason": one.doing if one.state == "failed" else "",
        "rows": one.rows,
        "cases": len(one.got),
        "failed": one.failures,
    }


def fleet_session(ask: Ask, where: Where, talk: Console, progress: Console) -> Fleet:
    """Measure a fleet as asked. Raises FleetError, SpecError, UnknownBackend, EnvironmentFailed, StoreError."""
    check(ask)
    path = new_run_path(where.out, new_run_id("fleet"))
    with noticing_interrupts(), reached(ask, where) as cluster:
        found = find_nodes(cluster, ask.nodes, ask.survey)
        for line in found.lines():
            talk.print(line, soft_wrap=True)
        assigned = found.assigned(path.name.removesuffix(SUFFIX), ask.passes)
        with FleetFile(path, ask) as file:
            for one in assigned:
                file.note(one)
            return _Round(cluster, ask, where, found, file, assigned).collected(progress)


def resumed_session(name: str, where: Where, talk: Console, progress: Console) -> Fleet:
    """Go on with a fleet that was cut short. Raises FleetError, StoreError, RowError, and as `fleet_session` for what was asked."""
    path, ask, assigned = find_fleet(name, where.out)
    if where.wheel is not None and ask.installed:
        raise FleetError(
            f"{path.name} was begun with --installed: --resume sends no wheel, leave out --wheel"
        )
    check(ask)
    left = [one for one in assigned if not one.is_over]
    talk.print(
        f"going on with {path.name.removesuffix(SUFFIX)}: {len(left)} of {len(assigned)} suites are left",
        soft_wrap=True,
    )
    with noticing_interrupts(), reached(ask, where) as cluster:
        found = find_nodes(cluster, 0, ask.survey)
        _find_again(left, found)
        with FleetFile(path, ask, resume=True) as file:
            return _Round(cluster, ask, where, found, file, assigned).collected(progress)


def _find_again(left: Sequence[Assignment], found: Found) -> None:
    """Give suites that are left their nodes, which have other ids if Ray was started anew. Who is gone fails when it starts."""
    by_id, by_name = ({getattr(n, key): n for n in found.nodes} for key in ("id", "name"))
    for one in left:
        one.state, one.doing = "waiting", ""
        one.node = by_id.get(one.node.id) or by_name.get(one.node.name) or one.node
        if one.node.id in found.facts:
            facts = found.facts[one.node.id]
            one.machine, one.kind = facts.boot, ", ".join(facts.kind)


@contextmanager
def reached(ask: Ask, where: Where) -> Iterator[Cluster]:
    """The cluster, with membound sent to it unless what is installed there is to be used. Raises FleetError."""
    if ask.installed:
        with connected(where.address, []) as cluster:
            yield cluster
        return
    with shipment(where.wheel) as parts, connected(where.address, parts) as cluster:
        yield cluster


@dataclass(slots=True)
class _Round:
    """What a fleet at work consists of."""

    cluster: Cluster
    ask: Ask
    where: Where
    found: Found
    file: FleetFile
    assigned: list[Assignment]

    def collected(self, progress: Console) -> Fleet:
        """Do it to the end, or to Ctrl-C, which leaves what --resume needs."""
        interrupted = False
        with view_on(progress) as view:
            collector = Collector(
                self.cluster,
                self.file,
                self.assigned,
                self.ask,
                view,
                self.replacing,
                self.where.patience,
            )
            try:
                collector.run()
                self.file.is_whole = True
            except KeyboardInterrupt:
                interrupted = True
                rows = sum(one.rows for one in self.assigned)
                view.note(f"interrupted; {rows} rows are kept: membound fleet --resume {self.file.path.name}")
        return Fleet(self.file.path, self.assigned, self.found.left_out, interrupted)

    def replacing(self, node: Node) -> list[Assignment]:
        """The suites of a node that was spare, or has come since; none if it cannot take part."""
        if node.id not in self.found.facts:
            facts, left_out = survey_all(self.cluster, [node], self.ask.survey)
            self.found.facts.update(facts)
            self.found.left_out.extend(left_out)
            if left_out:
                return []
        fleet = self.file.path.name.removesuffix(SUFFIX)
        return self.found.assigned_to(fleet, [self._named_anew(node)], self.ask.passes)

    def _named_anew(self, node: Node) -> Node:
        """The node under a name that no other one of the fleet has: a host that comes back counts as another node."""
        taken = {one.node.name for one in self.assigned}
        host, number = node.name.partition("#")[0], 1
        while (name := host if number == 1 else f"{host}#{number}") in taken:
            number += 1
        return replace(node, name=name)
