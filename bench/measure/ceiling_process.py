"""The ceilings as contestants: a process that plays between any two others, and is started again if it dies.

>>> with CeilingProcess(Setting(2, 1, 1 << 30, "references"), ("bf16",)) as ceilings:
...     ceilings.take_turn().rates["read"]
4.9e10
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from types import TracebackType

from membound.bench.measure.contestant import BROKEN, Expected, FailedError, Setting, Traffic
from membound.bench.measure.failures import Failure, failure_of
from membound.bench.protocol.messages import (
    CeilingOpened,
    CeilingTurned,
    Command,
    Failed,
    Open,
    OpenCeiling,
    OpenDeviceCeiling,
    Opened,
    Phase,
    TakeCeilingTurn,
)
from membound.bench.protocol.process import Worker, WorkerDiedError
from membound.results.turns import SLOWEST

MOST_STARTS = 4
"""Processes of one ceiling in a replicate: one that dies every time measures nothing."""


@dataclass(frozen=True, slots=True)
class Moment:
    """Rates at one moment (seconds of `time.perf_counter`), by the ceilings' names; empty where none could be had."""

    at: float
    rates: dict[str, float] = field(default_factory=dict)


@dataclass(slots=True)
class CeilingProcess:
    """Ceilings of one device that take turns. `opening` and `backend` are asked of each process that is started.

    Give `products` for the processor's; `backend` and `variants` for those of an accelerator.
    """

    setting: Setting
    products: tuple[str, ...] = ()
    backend: str = ""
    variants: Mapping[str, str] = field(default_factory=dict)
    python: str = ""
    traffic: Traffic = field(default_factory=Traffic)
    note: Callable[[str], None] = lambda text: None
    """Called with what is worth a line."""
    on_phase: Callable[[str, str], None] = lambda who, phase: None
    names: tuple[str, ...] = ()
    """The ceilings that play in each turn, as far as the device has them; all if none is named."""
    units: dict[str, str] = field(default_factory=dict)
    moments: list[Moment] = field(default_factory=list)
    seen_variants: dict[str, str] = field(default_factory=dict)
    failure: Failure | None = None
    starts: int = 0
    _worker: Worker | None = None
    _opening: bool = False
    _stack: ExitStack = field(default_factory=ExitStack)

    def __enter__(self) -> CeilingProcess:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._worker is not None and kind is None:
            self._worker.close()
        self._worker = None
        self._stack.close()

    @property
    def pid(self) -> int | None:
        """Process id of the worker; None before the first turn and after its end."""
        return None if self._worker is None else self._worker.pid

    def begin(self) -> None:
        """Have it start, and do not wait for it. What goes wrong is told by its first turn, which tries again."""
        try:
            self._start()
        except BROKEN:
            self._end()

    def get_ready(self) -> None:
        """The same, and wait until it has started."""
        try:
            self._running()
        except (*BROKEN, FailedError):
            self._end()

    def take_turn(self) -> Moment:
        """The rates of this moment. A process that died is started again; if that does not help, there are none."""
        while self.failure is None:
            try:
                worker = self._running()
                due = [name for name in self.units if not self.names or name in self.names]
                limit_s = self.setting.timeouts.turn_s
                answer = self._ask(worker, TakeCeilingTurn(due), CeilingTurned, limit_s)
                if not all(rate >= SLOWEST for rate in answer.rates.values()):
                    raise WorkerDiedError(f"it told a rate that no ceiling has: {answer.rates}")
            except BROKEN as error:
                self._end()
                if self.starts >= MOST_STARTS:
                    self.failure = failure_of(error)
                else:
                    self.note(f"the ceilings' process ended ({error}); it is started again")
                continue
            except FailedError as error:
                self._end()
                self.failure = error.failure
                continue
            self.traffic.bytes += answer.moved_bytes
            self.seen_variants |= answer.variants
            self.moments.append(Moment(time.perf_counter(), answer.rates))
            return self.moments[-1]
        return Moment(time.perf_counter())

    def _running(self) -> Worker:
        worker = self._worker or self._start()
        if self._opening:
            limit_s = self.setting.timeouts.other_s
            if self.backend:
                self._ask(worker, None, Opened, limit_s)
                opened = self._ask(worker, OpenDeviceCeiling(dict(self.variants)), CeilingOpened, limit_s)
            else:
                opened = self._ask(worker, None, CeilingOpened, limit_s)
            self._opening, self.units = False, opened.units
        return worker

    def _start(self) -> Worker:
        setting = self.setting
        self.starts += 1
        self._opening = True
        worker = Worker(setting.threads, *((self.python,) if self.python else ()))
        self._worker = self._stack.enter_context(worker)
        worker.greet()
        opening: Command = OpenCeiling(list(self.products))
        if self.backend:
            opening = Open(self.backend, 0, setting.memory_bytes, setting.reference_dir)
        worker.post(opening, setting.timeouts.other_s)
        return worker

    def _ask(
        self, worker: Worker, command: Command | None, expected: type[Expected], limit_s: float
    ) -> Expected:
        """The answer to a command; None is the one that was sent last."""

        def phase(seen: Phase) -> None:
            self.on_phase("ceilings", seen.name)

        if command is None:
            answer = worker.answered(limit_s, phase)
        else:
            answer = worker.ask(command, limit_s, phase)
        if isinstance(answer, Failed):
            raise FailedError(Failure(answer.status, answer.reason))
        if not isinstance(answer, expected):
            raise WorkerDiedError(f"it broke the protocol: {type(answer).__name__} answers a ceiling's turn")
        return answer

    def _end(self) -> None:
        self._worker = None
        self._stack.close()
        self._stack = ExitStack()
