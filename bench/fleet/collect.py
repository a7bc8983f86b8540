"""The driver: starts suites as their machines become free, stores what they hand over, and accounts for every case.

>>> collector = Collector(cluster, file, assigned, ask, view, replace=lambda node: [])
>>> collector.run()                     # raises KeyboardInterrupt as it comes
>>> [one.state for one in assigned]
['done', 'done', 'failed']

Each suite has one call under way that asks for its next rows. Ray says when one has come, and when an actor or its node
has died; a node that is alive but answers nothing for `silent_s` is given up.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from membound.bench.fleet.ask import Ask
from membound.bench.fleet.assignment import Assignment, Node
from membound.bench.fleet.fleet_error import FleetError
from membound.bench.fleet.fleet_file import FleetFile, known_lines, rows_of
from membound.bench.fleet.order import Case, Handed, Order
from membound.bench.fleet.view import View
from membound.deadline import Deadline
from membound.results.row import Row, RowError

ASK_S = 15.0
"""How long a call waits for a row before it returns with what is being done."""
SILENT_S = 300.0
"""A suite whose call is not answered for that long hangs: it ought to answer every ASK_S. To start may take as long."""
START_S = 60.0
"""How long a fleet waits for a node that is free."""
REPLACED_S = 60.0
"""How long a node that died may take to be replaced while no other suite is at work."""
FORGET_S = 10.0
"""How long a node may take to remove its file."""
TRIES = 3
"""Of a suite whose process died on a node that lives."""
AT_ONCE = 64
"""Answers whose rows are in memory, and go to the disk, together."""
LOOK_S = 0.5
"""The longest that nothing is looked at but rows."""


class Calls(Protocol):
    """What the driver needs of a cluster: see `Cluster`."""

    def nodes(self) -> list[Node]:
        """Living nodes."""

    def start(self, one: Assignment, order: Order, share: int) -> None:
        """Start a suite."""

    def ask(self, one: Assignment, wait_s: float) -> Any:
        """Ask a suite for its next rows."""

    def forget(self, one: Assignment) -> Any:
        """Tell a suite that all of it is stored."""

    def end(self, one: Assignment) -> None:
        """End a suite's processes."""

    def ready(self, references: Sequence[Any], timeout_s: float) -> list[Any]:
        """The answers that have come."""

    def result(self, reference: Any) -> tuple[Any, str]:
        """An answer, or why there is none."""

    def free_cpus(self) -> float:
        """Processors that nobody holds."""


@dataclass(slots=True)
class Patience:
    """How long the driver waits for what, in seconds."""

    silent_s: float = SILENT_S
    start_s: float = START_S
    replaced_s: float = REPLACED_S


@dataclass(slots=True)
class Collector:
    """One fleet. `replace` gives the suites of a node that takes the place of one that died; none if it cannot."""

    cluster: Calls
    file: FleetFile
    assigned: list[Assignment]
    ask: Ask
    view: View
    replace: Callable[[Node], list[Assignment]]
    patience: Patience = field(default_factory=Patience)
    _calls: dict[Any, Assignment] = field(default_factory=dict)
    _known: dict[tuple[Case, ...], tuple[Case, ...]] = field(default_factory=dict)
    _owed: dict[str, Assignment] = field(default_factory=dict)
    """A suite of each node that died and was not replaced yet, by the node's id."""
    _gone: set[str] = field(default_factory=set)
    """Nodes that died, and nodes that came and could not take their place."""
    _quiet_since: float = 0.0

    def run(self) -> None:
        """To the end of all suites. Raises FleetError if no node is free, StoreError, and KeyboardInterrupt."""
        self._await_room()
        self._quiet_since = time.monotonic()
        try:
            while self._is_open():
                self._start_due()
                ready = self.cluster.ready(list(self._calls), LOOK_S) if self._calls else []
                for at in range(0, len(ready), AT_ONCE):
                    self._take(ready[at : at + AT_ONCE])
                self._look()
                self.view.show(self.assigned)
        finally:
            at_work = [one for one in self.assigned if one.state in ("starting", "measuring")]
            for one in [*at_work, *self._calls.values()]:
                self.cluster.end(one)

    def _is_open(self) -> bool:
        """Whether suites are to come, or a node may still come in the place of one that died."""
        if self._calls or any(not one.is_over for one in self.assigned):
            return True
        if not self._owed:
            return False
        if time.monotonic() - self._quiet_since > self.patience.replaced_s:
            return False
        time.sleep(LOOK_S)
        return True

    def _start_due(self) -> None:
        """Start the next suite of each machine that is free."""
        busy = {one.machine for one in self._calls.values()}
        near = self._by_machine() if self.ask.together else {}
        for one in self.assigned:
            if one.state == "waiting" and (self.ask.together or one.machine not in busy):
                busy.add(one.machine)
                one.state, one.since = "starting", time.monotonic()
                one.doing = f"waits for {one.node.cpus:g} processors of its node"
                one.tries += 1
                others = near.get(one.machine, [one])
                one.beside = _beside(one, others)
                share = len({other.device for other in others if other.node.id == one.node.id})
                self.cluster.start(one, self._order(one), share)
                self.file.note(one)
                self._ask(one)

    def _by_machine(self) -> dict[str, list[Assignment]]:
        found: dict[str, list[Assignment]] = {}
        for one in self.assigned:
            found.setdefault(one.machine, []).append(one)
        return found

    def _order(self, one: Assignment) -> Order:
        """What a suite is to do, with the rows that an earlier try has handed over."""
        known = tuple(known_lines(self.file.path, one)) if one.rows else ()
        return self.ask.order(one.run_id, one.device, known, one.beside)

    def _ask(self, one: Assignment) -> None:
        self._calls[self.cluster.ask(one, ASK_S)] = one

    def _take(self, references: Sequence[Any]) -> None:
        """What has come of several calls; its rows go to the disk together."""
        came = [one for one in map(self._handed, references) if one is not None]
        self.file.keep(*((one, rows) for one, _, rows in came))
        for one, handed, rows in came:
            self.view.rows(len(rows))
            if not handed.ended:
                self._ask(one)
            elif handed.failed:
                self._fail(one, "error", handed.failed)
            else:
                self._done(one)

    def _handed(self, reference: Any) -> tuple[Assignment, Handed, list[Row]] | None:
        """What one call brought; None if its suite was given up, or is now."""
        one = self._calls.pop(reference)
        handed, why = self.cluster.result(reference)
        if one.is_over:
            self.cluster.end(one)
            return None
        if why:
            self._lost(one, why)
            return None
        if not isinstance(handed, Handed):
            raise AssertionError(f"{one.node.name} handed over {type(handed)}")
        one.state, one.doing = "measuring", handed.doing
        one.since = self._quiet_since = time.monotonic()
        if handed.cases:
            one.cases = self._known.setdefault(handed.cases, handed.cases)
        try:
            return one, handed, rows_of(one, handed.lines)
        except RowError as error:
            self._fail(one, "error", str(error))
            return None

    def _done(self, one: Assignment) -> None:
        one.state, one.doing = "done", ""
        self.file.note(one)
        self._calls[self.cluster.forget(one)] = one  # its processes end with the answer
        self.view.ended(one)

    def _lost(self, one: Assignment, why: str) -> None:
        """An actor died: it is tried again if its node lives, and elsewhere if not."""
        self.cluster.end(one)
        alive = self.cluster.nodes()
        if any(node.id == one.node.id for node in alive) and one.tries < TRIES:
            self.view.note(f"{one.node.name} {one.device}: {why}; it is tried again there")
            one.state = "waiting"
            return
        self._fail(one, "crashed", why)
        if all(node.id != one.node.id for node in alive) and one.node.id not in self._gone:
            self._gone.add(one.node.id)
            self._owed[one.node.id] = one

    def _fail(self, one: Assignment, status: str, why: str) -> None:
        """End a suite: each of its cases without a row gets one that says why."""
        one.state, one.doing = "failed", why
        self._calls = {call: other for call, other in self._calls.items() if other is not one}
        self.cluster.end(one)
        if not one.cases:
            planned = next(
                (other.cases for other in self.assigned if other.cases and other.device == one.device), ()
            )
            one.cases = planned or self._asked()
        self.file.keep((one, [self._row(one, case, status, why) for case in one.missing]))
        self.file.note(one)
        self._quiet_since = time.monotonic()
        self.view.ended(one)

    def _asked(self) -> tuple[Case, ...]:
        """The cases of a suite of which nobody made a plan: what was asked for, as far as it was named."""
        backends, works = self.ask.backends or ["any"], self.ask.works or ["any"]
        return tuple((backend, 0, work) for backend in backends for work in works)

    def _row(self, one: Assignment, case: Case, status: str, why: str) -> Row:
        backend, replicate, work = case
        return Row(
            run_id=one.run_id,
            kind="case",
            backend=backend,
            work=work,
            status=status,
            reason=f"{one.node.name}: {why}",
            replicate=replicate,
            seed=self.ask.seed,
            command=self.ask.command,
        )

    def _look(self) -> None:
        """What no answer says: who hangs, who does not get a node, who has come in the place of another."""
        now = time.monotonic()
        for call, one in list(self._calls.items()):
            if one.is_over and now - one.since > FORGET_S:
                del self._calls[call]
                self.cluster.end(one)
        at_work = [one for one in self.assigned if one.state == "measuring"]
        for one in at_work:
            if now - one.since > self.patience.silent_s:
                self._fail(
                    one, "timeout", f"no answer for {now - one.since:.0f} s; last seen at: {one.doing}"
                )
        starting = [one for one in self.assigned if one.state == "starting"]
        if starting and not at_work and now - self._quiet_since > self.patience.silent_s:
            for one in starting:
                self._fail(
                    one, "unavailable", f"its node did not become free, or nothing starts there: {one.doing}"
                )
        if self._owed:
            self._replace()

    def _await_room(self) -> None:
        """Wait until a suite could start. Raises FleetError if others hold all processors for too long."""
        needed = min((one.node.cpus for one in self.assigned if not one.is_over), default=0.0)
        deadline = Deadline(self.patience.start_s)
        while (free := self.cluster.free_cpus()) < (1 if self.ask.together else needed):
            if deadline.left() <= 0:
                raise FleetError(
                    f"no node becomes free: a suite needs all {needed:g} processors that Ray counts on its node, and "
                    f"{free:g} are free in the whole cluster; end what holds them (ray status), or --wait longer"
                )
            time.sleep(LOOK_S)

    def _replace(self) -> None:
        """Have a node that has come since, or was spare, measured in the place of one that died."""
        used = {one.node.id for one in self.assigned} | self._gone
        for node in self.cluster.nodes():
            if node.id in used or not self._owed:
                continue
            new = self.replace(node)
            self._gone |= set() if new else {node.id}
            if new:
                dead = self._owed.pop(next(iter(self._owed)))
                self.assigned += new
                self.view.note(f"{new[0].node.name} is measured in the place of {dead.node.name}, which died")


def _beside(one: Assignment, of_machine: Sequence[Assignment]) -> str:
    """Others of its machine that are to be measured at once with it."""
    names = dict.fromkeys(f"{a.node.name} {a.device}" for a in of_machine if not a.is_over)
    return ", ".join(name for name in names if name != f"{one.node.name} {one.device}")
