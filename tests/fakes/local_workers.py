"""Workers in this process: a station behind the same lines that a pipe would carry, without the seconds of a start.

>>> shrink(monkeypatch); install(monkeypatch)
>>> with BackendProcess("ok:cpu", setting(tmp_path)) as process: ...
"""

from __future__ import annotations

import gc
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from membound.bench import worker
from membound.bench.ceilings import in_turn, patterns, rotating
from membound.bench.measure import ceiling_process, cold_memory, contestant, turns
from membound.bench.measure.contestant import Setting
from membound.bench.measure.station import Station
from membound.bench.protocol.messages import (
    ANSWERS,
    COMMANDS,
    Answer,
    Command,
    Failed,
    Open,
    Opened,
    Phase,
    decode,
    encode,
)

CACHE = 1 << 16
"""The last-level cache that `shrink` gives this machine."""
ODD = "linear:n=37,k=53,m=3,weight=int8"
ODDEST = "linear:n=37,k=53,m=13,weight=int8"
"""The work on which hostile backends are hostile."""


class LocalWorker:
    """Stands in for `protocol.process.Worker`."""

    def __init__(self, threads: int, python: str = "") -> None:
        self._number, self._on_phase = 0, (lambda phase: None)
        self.station = Station(threads, self._tell)

    def __enter__(self) -> LocalWorker:
        return self

    def __exit__(self, *_: object) -> None:
        self.station.close()

    @property
    def pid(self) -> int:
        return os.getpid()

    def greet(self, limit_s: float = 0.0) -> None: ...

    def post(self, command: Command, limit_s: float) -> None:
        self.posted = command

    def answered(self, limit_s: float, on_phase: Callable[[Phase], None] = lambda phase: None) -> Answer:
        return self.ask(self.posted, limit_s, on_phase)

    def ask(
        self, command: Command, limit_s: float, on_phase: Callable[[Phase], None] = lambda phase: None
    ) -> Answer:
        self._number, self._on_phase = self._number + 1, on_phase
        arrived, number = decode(encode(command, self._number), COMMANDS)
        answer, number = decode(encode(worker._answer(self.station, arrived), number), ANSWERS)
        assert number == self._number
        return answer  # type: ignore[no-any-return]

    def close(self, limit_s: float = 0.0) -> None:
        self.station.close()

    def _tell(self, name: str, who: list[int]) -> None:
        phase, _ = decode(encode(Phase(name, who), self._number), ANSWERS)
        self._on_phase(phase)


def ask(worker: LocalWorker, command: Any, expected: type[Any]) -> Any:
    """The answer, of that kind and no other."""
    answer = worker.ask(command, 0.0)
    assert type(answer) is expected, answer
    return answer


def failed(worker: LocalWorker, command: Any) -> tuple[str, str]:
    """Status and reason of a command that fails."""
    answer = ask(worker, command, Failed)
    return answer.status, answer.reason


def opened(backend: str, folder: Path, **values: Any) -> LocalWorker:
    """A worker with that backend open; the caller asks the rest."""
    made = LocalWorker(1)
    ask(made, opening(backend, folder, **values), Opened)
    return made


def opening(backend: str, folder: Path, **values: Any) -> Open:
    """The command; a megabyte of input sets at most."""
    base: dict[str, Any] = {"seed": 7, "memory_bytes": 1 << 20, "reference_dir": str(folder / "reference")}
    return Open(backend, **(base | values))


def setting(folder: Path, **values: Any) -> Setting:
    """What all processes of a test have in common."""
    base: dict[str, Any] = {"threads": 1, "seed": 7, "memory_bytes": 1 << 20}
    return Setting(reference_dir=str(folder / "reference"), **(base | values))


def install(monkeypatch: pytest.MonkeyPatch) -> None:
    """Local workers in place of processes, for contestants and ceilings."""
    for module in (contestant, ceiling_process):
        monkeypatch.setattr(module, "Worker", LocalWorker)


def shrink(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine with a small cache on which nobody pauses, so that a turn takes microseconds."""
    for module in (cold_memory, rotating):
        monkeypatch.setattr(module, "last_level_cache_bytes", lambda: CACHE)
    monkeypatch.setattr(rotating, "BYTES_PER_THREAD", CACHE)
    # of sixteen kernels that read, each of which is compiled for seconds, two
    monkeypatch.setattr(in_turn, "READ_STREAMS", (8,))
    monkeypatch.setattr(patterns.stream, "PREFETCH_FLOATS", patterns.stream.PREFETCH_FLOATS[:1])
    monkeypatch.setattr(patterns, "FMA_ITERATIONS", 1000)
    monkeypatch.setattr(patterns, "DOT_REPEATS", 10)
    monkeypatch.setattr(patterns, "TILE_REPEATS", 10)
    monkeypatch.setattr(turns, "WARM_S", 0.0)
    monkeypatch.setattr(turns.time, "sleep", lambda seconds: None)
    monkeypatch.setattr(gc, "collect", lambda: 0)  # takes long in a process as large as that of the tests
