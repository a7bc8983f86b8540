"""A claim whose workers are faked: they answer every command as a machine would on which nothing goes wrong.

>>> faked = install(monkeypatch)
>>> faked.happens = lambda worker, command: Failed("wrong", "no")      # or raise, or None for the usual answer
>>> claim, notes = run(tmp_path, planned(tmp_path, 1, 4))
>>> [type(command).__name__ for _, command in faked.asked]
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from itertools import count
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from membound.bench.claim import budget, claiming
from membound.bench.claim.arms import Arm
from membound.bench.claim.claiming import Claiming
from membound.bench.claim.execute import execute
from membound.bench.claim.plan import ClaimPlan, make_claim_plan
from membound.bench.measure import ceiling_process, contestant, rounds, turns
from membound.bench.measure.station import Station
from membound.bench.planning.plan import Options
from membound.bench.protocol.messages import (
    ANSWERS,
    COMMANDS,
    Answer,
    AskOffers,
    CeilingOpened,
    Ceilings,
    CeilingTurned,
    Check,
    Checked,
    Command,
    Done,
    MeasureBackend,
    MeasureMachine,
    Offers,
    Open,
    OpenCeiling,
    OpenDeviceCeiling,
    Opened,
    Phase,
    Prepare,
    Prepared,
    TakeCeilingTurn,
    TakeTurn,
    Turned,
    decode,
    encode,
)
from membound.bench.protocol.process import WorkerDiedError
from membound.bench.run import machine_ceilings
from membound.bench.run.progress import Silent
from membound.bench.worker import _answer
from membound.results.claim.experiments import load_experiments
from membound.results.claim.file import load_claim
from membound.results.claim.observation import Observation
from membound.results.store import RunWriter

REGISTER = load_experiments()
READ, PEAK = 2e10, 2.2e11
"""Of one thread."""
LAUNCH_S = 1e-6
TIMES_S = (0.3, 0.1, 0.2)
"""Of the turns of an arm, again and again."""


class Notes(Silent):
    """Remembers notes, and the process that was at work last."""

    def __init__(self) -> None:
        self.notes: list[str] = []
        self.replicate = 0
        self.phases: list[tuple[str, str]] = []

    def note(self, text: str) -> None:
        self.notes.append(text)

    def cell(self, backend: str, work: str, replicate: int, phase: str) -> None:
        self.replicate = replicate

    def phase(self, backend: str, phase: str) -> None:
        self.phases.append((backend, phase))


@dataclass(slots=True)
class Faked:
    """What all faked workers of a test share. `happens` may raise, give another answer, or None for the usual one."""

    asked: list[tuple[FakeWorker, Command]] = field(default_factory=list)
    trials: list[tuple[str, int, int]] = field(default_factory=list)
    """Backend, process and experiment of each worker that was given arms, in order."""
    happens: Callable[[FakeWorker, Command], Answer | None] = lambda worker, command: None
    starts: Callable[[FakeWorker], None] = lambda worker: None
    """Called when a process is to be started; may raise."""
    phases: Callable[[FakeWorker, Command], list[str]] = lambda worker, command: []
    """What a command comes to before its answer."""
    notes: Notes = field(default_factory=Notes)
    now_s: list[float] = field(default_factory=lambda: [0.0])
    """What the clock says; see `stop_clock`."""
    made: count[int] = field(default_factory=count)

    def of(self, *kinds: type[Any]) -> list[Any]:
        """The commands of these kinds, in order."""
        return [command for _, command in self.asked if isinstance(command, kinds)]

    def workers(self, kind: type[Any]) -> list[FakeWorker]:
        """The workers that got such a command, each once."""
        return list(
            {worker.pid: worker for worker, command in self.asked if isinstance(command, kind)}.values()
        )


class FakeWorker:
    """Stands in for `Worker`."""

    faked: Faked

    def __init__(self, threads: int, python: str = sys.executable) -> None:
        self.threads, self.python = threads, python
        self.pid = next(self.faked.made)
        self.opening: Open | None = None
        self.arms: dict[int, list[Arm]] = {}
        self.turns: dict[tuple[int, int], int] = {}
        """Turns that were asked of a contestant's arm since it was prepared."""
        self.state = "made"

    def __enter__(self) -> FakeWorker:
        self.faked.starts(self)
        self.state = "started"
        return self

    def __exit__(self, *_: object) -> None:
        self.state = "ended"

    def greet(self, limit_s: float = 0.0) -> None:
        assert self.state == "started"

    def close(self, limit_s: float = 0.0) -> None:
        assert self.state == "started", "whoever has died is not asked to close"
        self.state = "closed"

    def post(self, command: Command, limit_s: float) -> None:
        self.posted = command

    def answered(self, limit_s: float, on_phase: Callable[[Phase], None] = print) -> Answer:
        return self.ask(self.posted, limit_s, on_phase)

    def ask(self, command: Command, limit_s: float, on_phase: Callable[[Phase], None] = print) -> Answer:
        assert self.state == "started", f"{command} to a worker that has {self.state}"
        self.faked.asked.append((self, command))
        if isinstance(command, Prepare):
            first = not self.arms
            self.arms[command.contestant] = [Arm(**arm) for arm in command.arms]
            self.turns |= {(command.contestant, at): 0 for at in range(len(command.arms))}
            if first:
                trial = (
                    self.backend,
                    self.faked.notes.replicate,
                    number_of(self.arms[command.contestant][0]),
                )
                self.faked.trials.append(trial)
        for name in self.faked.phases(self, command):
            on_phase(Phase(name))
        if isinstance(command, TakeTurn):
            self.turns[command.contestant, command.arm] += 1
        given = self.faked.happens(self, command)
        answer = self.answer(command) if given is None else given
        assert decode(encode(command, 1), COMMANDS) == (command, 1), "what arrives is what was sent"
        assert decode(encode(answer, 1), ANSWERS) == (answer, 1)
        return answer

    def answer(self, command: Command) -> Answer:
        """What it says if a test wants nothing else."""
        return usual(self, command)

    @property
    def backend(self) -> str:
        """The backend that was opened, "" before."""
        return "" if self.opening is None else self.opening.backend

    def arm_of(self, command: TakeTurn) -> Arm:
        """The arm whose turn it is."""
        return self.arms[command.contestant][command.arm]


def usual(worker: FakeWorker, command: Command) -> Answer:
    """What a worker answers if nothing goes wrong."""
    if isinstance(command, Open):
        worker.opening = command
        return Opened("a fake", {}, {}, "read")
    if isinstance(command, AskOffers):
        return Offers({number: {} for number in command.asked})
    if isinstance(command, Prepare):
        return Prepared(2, 1, 1, 1, 0.1, 0.1, 0.1, 1, 1e-7, 1e-3, None)
    if isinstance(command, TakeTurn):
        return turned(TIMES_S[(worker.turns[command.contestant, command.arm] - 1) % len(TIMES_S)])
    if isinstance(command, Check):
        return Checked(2e-7, {}, {"wall_s": 1.0})
    return of_ceilings(worker, command) or Done()


def of_ceilings(worker: FakeWorker, command: Command) -> Answer | None:
    """The answers that are about ceilings."""
    read, peak = READ * worker.threads, PEAK * worker.threads
    rates = {"read": read, "fma_f32": peak, "dot_bf16": peak, "tile_bf16": peak}
    if isinstance(command, MeasureMachine):
        return measured({"read": (read, "bytes/s"), "fma_f32": (peak, "FLOP/s")})
    if isinstance(command, MeasureBackend):
        found = {"launch": (LAUNCH_S, "s")}
        if "cuda" in worker.backend:
            found |= {"read": (10 * read, "bytes/s"), "fma_f32": (100 * peak, "FLOP/s")}
        return measured(found)
    if isinstance(command, OpenCeiling):
        return CeilingOpened(dict.fromkeys(rates, "FLOP/s") | {"read": "bytes/s"})
    if isinstance(command, OpenDeviceCeiling):
        return CeilingOpened(dict.fromkeys(command.variants, "bytes/s"))
    if isinstance(command, TakeCeilingTurn):
        played = {name: rates[name] for name in command.names}
        return CeilingTurned(played, dict.fromkeys(played, True), dict.fromkeys(played, "fake"), 1 << 20)
    return None


def measured(found: dict[str, tuple[float, str]]) -> Ceilings:
    """Ceilings as a worker sends them, by name: value and unit."""
    common = {"config": {"variant": "fake"}, "samples": [0.1], "status": "ok", "reason": ""}
    return Ceilings(
        [{"name": name, "value": value, "unit": unit} | common for name, (value, unit) in found.items()], {}
    )


def turned(time_s: float, **fields: Any) -> Turned:
    """An undisturbed turn."""
    plain = Turned(time_s, 1, None, 0.0, [], 1 << 20, 0.0, {}, {})
    return replace(plain, **fields)


def number_of(arm: Arm) -> int:
    """The experiment of an arm, by its factors."""
    named = {"k": 1, "kv_heads": 2, "format": 2, "m": 3, "duty": 4, "working_set_bytes": 5, "batch": 6}
    named |= {"operations": 7, "dose": 10}
    return next((number for name, number in named.items() if name in arm.factors), 8)


def install(monkeypatch: pytest.MonkeyPatch) -> Faked:
    """Fake every worker that a claim starts."""
    shared = Faked()

    class Scripted(FakeWorker):
        faked = shared

    for module in (contestant, ceiling_process, machine_ceilings):
        monkeypatch.setattr(module, "Worker", Scripted)
    return shared


def install_stations(monkeypatch: pytest.MonkeyPatch) -> Faked:
    """The same with what a worker really does with a backend, in this process; ceilings stay faked."""
    shared = Faked()

    class InProcess(FakeWorker):
        faked = shared
        station: Station | None = None

        def answer(self, command: Command) -> Answer:
            if isinstance(command, Open):
                self.opening = command
                self.station = Station(self.threads, self.tell)
            if self.station is None or isinstance(command, MeasureBackend):
                return usual(self, command)
            return _answer(self.station, command)

        def tell(self, name: str, who: list[int]) -> None:
            self.faked.notes.phases.append((self.backend, name))

        def __exit__(self, *_: object) -> None:
            if self.station is not None:
                self.station.close()
            super().__exit__()

    for module in (contestant, ceiling_process, machine_ceilings):
        monkeypatch.setattr(module, "Worker", InProcess)
    monkeypatch.setattr(turns, "WARM_S", 0.0)  # no figure counts
    return shared


def stop_clock(monkeypatch: pytest.MonkeyPatch, faked: Faked) -> list[float]:
    """Let time pass only where a test says so, by adding to the number that is returned."""
    stopped = SimpleNamespace(perf_counter=lambda: faked.now_s[0])
    for module in (budget, claiming, rounds, ceiling_process):
        monkeypatch.setattr(module, "time", stopped)
    return faked.now_s


def dying(reason: str = "SIGSEGV: bye") -> WorkerDiedError:
    """What a worker that has died raises."""
    return WorkerDiedError(reason)


def planned(folder: Path, *only: int, backends: tuple[str, ...] = ("numba:cpu",), **more: Any) -> ClaimPlan:
    options = Options(threads=2, out=folder, reference_dir=folder / "reference")
    plan = make_claim_plan(only, backends, options, REGISTER, 10**11)
    return replace(plan, co_runner_cpus=(1,), **more)


def run(
    folder: Path, plan: ClaimPlan, stored: tuple[Observation, ...] = (), faked: Faked | None = None
) -> tuple[Claiming, list[str]]:
    """Run a claim; what it has and what it said. The file holds the same."""
    notes = Notes() if faked is None else faked.notes
    path = folder / "claim-x.jsonl"
    with RunWriter(path) as writer:
        claim = execute(Claiming(plan, REGISTER, writer, notes, "x"), stored)
    kept = load_claim(path)
    assert list(kept.observations) == claim.observations
    assert list(kept.ceilings) == claim.ceilings
    assert kept.meta.experiments_sha256 == REGISTER.sha256
    return claim, notes.notes
