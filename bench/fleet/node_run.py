"""A suite on a node: an actor of Ray, which measures as `membound run` does and hands its rows over as they come.

>>> run = NodeRun(order)                # measuring begins, in a thread
>>> run.hand_over(have=0, wait_s=20.0)  # returns when there are rows from index 0 on, or after 20 s
>>> run.forget()                        # the driver has them all

Each call names how many rows are safe with the driver. Between rows a call waits and takes no time from what is measured.
"""

from __future__ import annotations

import threading
import time

from membound.bench.api import go_on, measure, prepare
from membound.bench.environments import build
from membound.bench.fleet.devices import named_on
from membound.bench.fleet.estimate import options_here
from membound.bench.fleet.node_file import NodeFile, remove_old
from membound.bench.fleet.order import ALL, Handed, Order
from membound.bench.fleet.shipping import take_kernels
from membound.bench.fleet.survey import ordinary_priority
from membound.bench.planning.choice import choose_backends
from membound.bench.planning.plan import Options, Plan
from membound.bench.planning.suites import PlanError
from membound.bench.run.companion import meant_beside
from membound.bench.run.progress import Silent
from membound.bench.run.resume import find_cut, keep_plan
from membound.errors import MemboundError
from membound.results.row import Row
from membound.results.wording import short


class NodeRun:
    """The suite of one order, from its construction on. Methods may be called while it measures."""

    def __init__(self, order: Order) -> None:
        self._order = order
        self._file = NodeFile(order.run_id)
        self._changed = threading.Condition()
        self._doing, self._failed, self._ended = "starting", "", False
        self._plan: Plan | None = None
        threading.Thread(target=self._run, name="suite", daemon=True).start()

    def hand_over(self, have: int, wait_s: float) -> Handed:
        """The next rows for a driver that has `have` of them; waits for one at most that long, in seconds."""
        until = time.monotonic() + wait_s
        with self._changed:
            while True:
                ended, lines = self._ended, self._file.lines_from(have)
                left_s = until - time.monotonic()
                if lines or ended or left_s <= 0:
                    break
                self._changed.wait(left_s)
            cells = None if self._plan is None else self._plan.cells
            cases = (
                None if cells is None else tuple((c.backend, c.replicate, w) for c in cells for w in c.works)
            )
            return Handed(lines, self._doing, ended and not lines, self._failed, cases)

    def forget(self) -> None:
        """The driver has all rows on its disk."""
        self._file.clear()

    def say(self, text: str) -> None:
        """Note what is being done, for whoever asks."""
        with self._changed:
            self._doing = text

    def wake(self) -> None:
        """There are rows."""
        with self._changed:
            self._changed.notify_all()

    def _run(self) -> None:
        failed = ""
        ordinary_priority()
        try:
            with meant_beside(self._order.beside):
                self._measure()
        except (MemboundError, OSError) as error:
            failed = " ".join(str(error).split())
        except Exception as error:  # a boundary: the other nodes are measured
            failed = f"{type(error).__name__}: {' '.join(str(error).split())}"
        with self._changed:
            self._failed, self._ended = failed, True
            self._changed.notify_all()

    def _measure(self) -> None:
        if self._file.is_finished:
            return
        remove_old()
        take_kernels()
        told = _Told(self)
        if self._file.is_cut:
            self._go_on(told)
            return
        self._file.clear()
        options = self._options()
        self._plan = plan = self._planned(options)
        if self._order.known:
            keep_plan(plan, self._file.path)
            self._file.rebuild(self._order.known)
            self._go_on(told)
        else:
            measure(plan, told, self._order.run_id)

    def _go_on(self, told: _Told) -> None:
        self._plan, path = find_cut(self._file.path.name, self._file.path.parent)
        go_on(self._plan, path, told)

    def _options(self) -> Options:
        for name in self._order.environments:
            recipe = build.recipe(name)
            if not recipe.folder.exists():
                build.create(recipe, force=False, tell=self.say)
        return options_here(self._order)

    def _planned(self, options: Options) -> Plan:
        order = self._order
        backends = list(order.backends)
        if order.device != ALL:
            self.say("looking for backends")
            choice = choose_backends(backends, options.threads, options.pythons)
            backends = named_on(order.device, choice.chosen)
            if not backends:
                raise PlanError(f"no backend works on {order.device}")
        return prepare(order.works, backends, options)[0]


class _Told(Silent):
    """What a suite reports, for the driver."""

    def __init__(self, run: NodeRun) -> None:
        self._run = run

    def cell(self, backend: str, work: str, replicate: int, phase: str) -> None:
        """A cell enters a phase."""
        self._run.say(f"{backend} {short(work)}: {phase.removeprefix(f'{backend}: ')}")

    def phase(self, backend: str, phase: str) -> None:
        """A worker has come to a phase."""
        self._run.say(f"{backend}: {phase.removeprefix(f'{backend}: ')}")

    def done(self, row: Row) -> None:
        """A row is on the node's disk."""
        self._run.wake()
