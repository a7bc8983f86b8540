"""A load from its start to its file: what `membound load` does between its options and its table.

>>> done = measure_load(load, Path("results/runs"), "membound load …", talk, progress)
>>> done.path, len(done.rows), done.interrupted

Without an engine there is one round against the server that is there. Engines play in rounds: in each every one has a server
process, one after the other, which is a replicate. One whose server does not start, or ends under load, is a row and takes no
further part; the others go on.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from rich.console import Console

from membound.bench.machine.fingerprint import fingerprint
from membound.bench.run.session import noticing_interrupts
from membound.bench.serving.ceilings import IdleCeilings
from membound.bench.serving.contestants import in_turn
from membound.bench.serving.engine import Engine, placed
from membound.bench.serving.keeping import Keeping
from membound.bench.serving.launcher import Server, ServerFailed
from membound.bench.serving.load import Load
from membound.bench.serving.point_rows import absent_row
from membound.bench.serving.schedule import LoadError
from membound.bench.serving.session import prepare, run_load
from membound.bench.serving.steps import measure_steps
from membound.results.row import Row
from membound.results.store import new_run_id, new_run_path

SEED = 1
"""Of the arrays that ceilings read."""


@dataclass(slots=True)
class Measured:
    """What a load came to. `troubles`: what went wrong beside the requests; none of it is in a row alone."""

    path: Path
    rows: list[Row] = field(default_factory=list)
    interrupted: bool = False
    troubles: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Rounds:
    """How often each engine is started; `steps`: whether its steps alone are measured in the end."""

    count: int = 1
    steps: bool = False


ONCE = Rounds()


def measure_load(
    load: Load,
    out: Path,
    command: str,
    talk: Console,
    progress: Console,
    engines: Sequence[Engine] = (),
    rounds: Rounds = ONCE,
) -> Measured:
    """Play all points against the server that is there, or against those of `engines`; Ctrl-C ends the point at hand, and the run.

    Raises LoadError as `prepare` does and where the only engine does not start at all, and StoreError.
    """
    run_id = new_run_id(fingerprint()["cpu"])
    done = Measured(
        new_run_path(out, run_id)
    )  # a folder that cannot be written to is refused before anything is sent
    with noticing_interrupts() as seen, Keeping(done.path, done.rows, talk, progress) as keeping:
        try:
            with _Playing(load, run_id, command, talk, done, keeping) as playing:
                if not engines:
                    playing.point_by_point(load)
                _rounds(playing, engines, load.seed, rounds.count)
            if rounds.steps:
                done.troubles += measure_steps(engines, keeping, command, talk, progress)
        except KeyboardInterrupt:
            if not keeping.opened:
                raise
    done.interrupted = bool(seen)
    return done


def _rounds(playing: _Playing, engines: Sequence[Engine], seed: int, count: int) -> None:
    out: set[str] = set()
    for number in range(count):
        for engine in in_turn(engines, seed, number):
            if engine.name in out:
                continue
            try:
                playing.engine(engine, number)
            except LoadError as error:
                if len(engines) == 1 and not playing.keeping.opened:
                    raise
                out.add(engine.name)
                playing.lost(engine, number, error)


@dataclass(frozen=True, slots=True)
class _Playing:
    """A context manager, which holds the ceilings of each device: one process of them serves all servers."""

    load: Load
    run_id: str
    command: str
    talk: Console
    done: Measured
    keeping: Keeping
    _ceilings: dict[tuple[str, int], IdleCeilings] = field(default_factory=dict)
    _stack: ExitStack = field(default_factory=ExitStack)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.__exit__(kind, error, trace)

    def engine(self, engine: Engine, number: int) -> None:
        """Start it, play all points, stop it. Raises LoadError if it does not start or ends under load."""
        with self._server(engine) as server:
            ceilings = self._ceilings_of(engine, server.facts)
            self.point_by_point(placed(self.load, server), engine, server, number, ceilings)

    def _ceilings_of(self, engine: Engine, facts: Mapping[str, Any]) -> IdleCeilings:
        """Those of the device that a server tells; they get ready when it tells it."""
        device, threads = str(facts.get("device", "")), int(facts.get("threads", 1))
        if (device, threads) not in self._ceilings:
            made = self._stack.enter_context(IdleCeilings(engine.served, device, threads, SEED))
            self._ceilings[device, threads] = made
        return self._ceilings[device, threads]

    def point_by_point(
        self,
        load: Load,
        engine: Engine | None = None,
        server: Server | None = None,
        number: int = 0,
        ceilings: IdleCeilings | None = None,
    ) -> None:
        """Ask the server, then play all points against it."""
        prepared, keeping = prepare(load), self.keeping
        keeping.begin(prepared)
        step_backend = "" if engine is None or server is None else engine.step_backend(server.facts)
        run_load(
            prepared,
            self.run_id,
            self.command,
            keeping.keep,
            keeping.watch,
            keeping.measured,
            server,
            number,
            ceilings,
            step_backend,
        )

    def lost(self, engine: Engine, number: int, error: LoadError) -> None:
        """Keep a row for each point that an engine has none of in this round, and say why."""
        self.done.troubles.append(str(error))
        status = error.status if isinstance(error, ServerFailed) else "error"
        played = {row.work for row in self.done.rows if (row.backend, row.replicate) == (engine.name, number)}
        for point in self.load.points():
            row = absent_row(self.load, engine, point, self.run_id, self.command, number, status, str(error))
            if row.work not in played:
                self.keeping.keep(row)

    @contextmanager
    def _server(self, engine: Engine) -> Iterator[Server]:
        """The engine's server; what it leaves behind is reported."""
        log, talk = self.done.path.with_suffix(".log"), self.talk

        def told(facts: Mapping[str, Any]) -> None:
            self._ceilings_of(engine, facts)

        talk.print(f"starting {engine.name} with {engine.served.name}; its log is {log}", soft_wrap=True)
        with engine.serving(self.load, log, told) as server:
            talk.print(f"ready after {server.ready_s:.0f} s", soft_wrap=True)
            yield server
        self.done.troubles += [f"the server left something behind: {one}" for one in server.left]
        if not server.left:
            talk.print(
                f"the server ended within {server.stopped_s:.1f} s and left nothing behind", soft_wrap=True
            )
