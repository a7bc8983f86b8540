"""A backend in a process of its own, as the harness sees it: opened, given works, asked for turns, never trusted.

>>> with BackendProcess("mine:cpu", setting) as process:
...     one = process.prepare(0, "linear:n=4096,k=4096,m=1,weight=bf16,act=float")
...     one.take_turn().time_s
0.00123

Whatever the process does — dies, hangs, answers wrongly — is the failure of the contestant at hand.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, TypeVar

from membound.bench.measure.failures import Failure, failure_of
from membound.bench.protocol.messages import (
    COMPILING,
    Answer,
    Check,
    Checked,
    Command,
    Failed,
    Open,
    Opened,
    Phase,
    Prepare,
    Prepared,
    Release,
    TakeTurn,
    Turned,
)
from membound.bench.protocol.process import (
    Worker,
    WorkerDiedError,
    WorkerTimeoutError,
    WorkerUnavailableError,
)
from membound.results.turns import SHORTEST_S, StoredTurn

Expected = TypeVar("Expected")
BROKEN = (WorkerUnavailableError, WorkerDiedError, WorkerTimeoutError)
"""How a process can fail altogether."""
ENDED = "its process has ended"
"""The reason of a contestant that is not to blame for the death of the process that it shared."""
OnPhase = Callable[[str, str], None]
"""Called with the backend and the phase that it has come to."""


@dataclass(frozen=True, slots=True)
class Timeouts:
    """Seconds a worker may be silent. A turn gets turn_factor times its burst and turn_s."""

    other_s: float = 300.0
    turn_s: float = 60.0
    turn_factor: float = 100.0

    def of_turn(self, burst_s: float) -> float:
        """The limit for a turn whose burst takes that long."""
        return self.turn_s + self.turn_factor * burst_s


@dataclass(frozen=True, slots=True)
class Setting:
    """What all processes of a replicate have in common."""

    threads: int
    seed: int
    memory_bytes: int
    reference_dir: str
    timeouts: Timeouts = Timeouts()
    co_runner_cpus: tuple[int, ...] = ()


class FailedError(Exception):
    """A command failed; the worker lives on."""

    def __init__(self, failure: Failure) -> None:
        super().__init__(failure.reason)
        self.failure = failure


@dataclass(slots=True)
class Traffic:
    """All bytes that any process has moved through the caches so far."""

    bytes: int = 0


class BackendProcess:
    """A worker with one backend. A context manager: leaving it ends the process and all that it started."""

    def __init__(
        self,
        backend: str,
        setting: Setting,
        python: str | None = None,
        traffic: Traffic | None = None,
        on_phase: OnPhase = lambda backend, phase: None,
    ) -> None:
        self.backend, self.setting = backend, setting
        self._worker = Worker(setting.threads, python or sys.executable)
        self._traffic, self._seen_bytes = traffic or Traffic(), 0
        self._on_phase, self._phase = on_phase, ""
        self.alive = False
        self.compiled = False
        """Whether it has compiled kernels; those are on disk, but a compiler's memory stays with its process."""
        self.device: Opened | None = None
        self._opening = self.preparing = False

    def __enter__(self) -> BackendProcess:
        self._worker.__enter__()
        self.alive = True
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.alive and kind is None:
            self._worker.close()
        self._worker.__exit__(kind, error, trace)
        self.alive = False

    @property
    def pid(self) -> int:
        """Process id of the worker."""
        return self._worker.pid

    def begin_open(self) -> None:
        """Have the runtime started and the device opened, and do not wait for it. Raises BROKEN."""
        setting = self.setting
        self._phase = "starting"
        command = Open(
            self.backend,
            setting.seed,
            setting.memory_bytes,
            setting.reference_dir,
            list(setting.co_runner_cpus),
        )
        try:
            self._worker.greet()
            self._worker.post(command, setting.timeouts.other_s)
        except BROKEN:
            self.alive = False
            raise
        self._opening = True

    def open(self) -> Opened:
        """Start the runtime and open the device. Raises FailedError, and what `ask` raises."""
        if not self._opening:
            self.begin_open()
        self._opening = False
        self.device = self.ask(None, Opened, self.setting.timeouts.other_s, "opening")
        return self.device

    def ask(self, command: Command | None, expected: type[Expected], limit_s: float, phase: str) -> Expected:
        """The answer to a command; None is the one that was sent last.

        Raises FailedError; WorkerDiedError or WorkerTimeoutError, which end the process. Their text says what the
        worker was at.
        """
        if not self.alive:
            raise WorkerDiedError(ENDED)
        self._phase = phase

        def note(seen: Phase) -> None:
            self._phase = seen.name
            self.compiled = self.compiled or seen.name.startswith(COMPILING)
            self._on_phase(self.backend, seen.name)

        try:
            answer: Answer
            if command is None:
                answer = self._worker.answered(limit_s, note)
            else:
                answer = self._worker.ask(command, limit_s, note)
        except (WorkerDiedError, WorkerTimeoutError) as error:
            self.alive = False
            self._worker.__exit__(None, None, None)
            raise type(error)(f"while {self._phase}: {error}") from None
        if isinstance(answer, Failed):
            raise FailedError(Failure(answer.status, answer.reason, answer.error))
        if not isinstance(answer, expected):
            self.alive = False
            self._worker.__exit__(None, None, None)
            raise WorkerDiedError(f"it broke the protocol: {type(answer).__name__} answers {phase}")
        return answer

    def prepare(
        self,
        number: int,
        work: str,
        arms: Sequence[dict[str, Any]] = (),
        launch_s: float = 0.0,
        shared: str = "",
    ) -> Contestant:
        """A contestant whose first output is right. Raises FailedError, and what `ask` raises.

        `launch_s` is what a launch took in an earlier process, 0 where that is not known: the burst follows from it.
        `shared` as in `Prepare`.
        """
        limit_s = self.setting.timeouts.other_s
        command = None if self.preparing else Prepare(number, work, list(arms), launch_s, shared)
        self.preparing = False
        return Contestant(self, number, work, self.ask(command, Prepared, limit_s, "preparing"))

    def begin_prepare(self, number: int, work: str, launch_s: float = 0.0, shared: str = "") -> None:
        """Have a work prepared and do not wait for it; `prepare` does. Raises WorkerTimeoutError."""
        self._worker.post(Prepare(number, work, [], launch_s, shared), self.setting.timeouts.other_s)
        self.preparing = True

    def release(self, number: int) -> None:
        """Have a contestant give back what it holds. What goes wrong now harms no figure; who hangs is ended."""
        if self.alive:
            with suppress(FailedError, WorkerDiedError, WorkerTimeoutError):
                self.ask(Release(number), object, self.setting.timeouts.turn_s, "closing")

    def passed_bytes(self) -> int:
        """What others have moved through the caches since this was asked last."""
        passed, self._seen_bytes = self._traffic.bytes - self._seen_bytes, self._traffic.bytes
        return passed

    def moved(self, bytes_: int) -> None:
        """Count what this process has moved itself, which is no news to it."""
        self._traffic.bytes += bytes_
        self._seen_bytes += bytes_


@dataclass(slots=True)
class Contestant:
    """A work that is prepared in a process, and the turns it has taken."""

    process: BackendProcess
    number: int
    work: str
    prepared: Prepared
    arm: int = 0
    turns: list[StoredTurn] = field(default_factory=list)
    failure: Failure | None = None
    stolen: list[dict[str, float]] = field(default_factory=list)

    @property
    def backend(self) -> str:
        """``backend:device`` as asked for."""
        return self.process.backend

    def take_turn(self, hot: bool = False, seconds: float = 0.0) -> Turned | None:
        """A turn; None where it failed, which is then kept."""
        burst_s = seconds or self.prepared.launches * self.prepared.launch_s
        command = TakeTurn(self.number, self.arm, self.process.passed_bytes(), seconds, hot)
        limit_s = self.process.setting.timeouts.of_turn(burst_s)
        turned = self._asked(command, Turned, limit_s, "timing")
        if turned is None:
            return None
        self.process.moved(turned.moved_bytes)
        if wrong := _impossible(turned):
            self.failure = Failure("error", wrong)
            return None
        return turned

    def check(self) -> Checked | None:
        """The last output against the reference; None where it is wrong or could not be had, which is then kept."""
        return self._asked(Check(self.number), Checked, self.process.setting.timeouts.other_s, "checking")

    def _asked(
        self, command: Command, expected: type[Expected], limit_s: float, phase: str
    ) -> Expected | None:
        if self.failure is not None:
            return None
        try:
            return self.process.ask(command, expected, limit_s, phase)
        except FailedError as error:
            self.failure = error.failure
        except (WorkerDiedError, WorkerTimeoutError) as error:
            self.failure = failure_of(error)
        return None


def _impossible(turned: Turned) -> str:
    """What no burst can have been, or '': a row of it could not be read again."""
    if turned.launches < 1 or turned.time_s < SHORTEST_S:
        return f"a turn of {turned.launches} launches of {turned.time_s:g} s"
    if turned.device_s is not None and turned.device_s < SHORTEST_S:
        return f"a turn of {turned.device_s:g} s by the device's clock"
    return ""
