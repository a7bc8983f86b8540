"""A load from its check to its file: what `membound load` does between its options and its table.

>>> check(load)
>>> done = measure_load(load, Path("results/runs"), "membound load …", talk, progress)
>>> done.path, len(done.rows), done.interrupted
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console

from membound.bench.machine.fingerprint import fingerprint
from membound.bench.run.session import noticing_interrupts
from membound.bench.serving.ceilings import IdleCeilings
from membound.bench.serving.client import Played
from membound.bench.serving.drawing import Schedule
from membound.bench.serving.engine import Engine, placed
from membound.bench.serving.event_loop import check_installed
from membound.bench.serving.glance import Glance
from membound.bench.serving.launcher import Server, ServerFailed
from membound.bench.serving.live import LiveLoad
from membound.bench.serving.load import Load, LoadPoint
from membound.bench.serving.schedule import LoadError
from membound.bench.serving.self_check import measure_client
from membound.bench.serving.session import FEWEST_IN_WINDOW, Prepared, prepare, run_load
from membound.results.row import Row
from membound.results.serving.slo import parse_slo
from membound.results.store import RunWriter, new_run_id, new_run_path
from membound.results.wording import duration

MOST_POINTS = 1000
SEED = 1
"""Of the arrays that ceilings read."""


def numbers(name: str, text: str | None, whole: bool = False) -> tuple[float, ...]:
    """``1,2.5,4``: numbers above 0, each once. Raises LoadError."""
    found: list[float] = []
    for part in (text or "").split(",") if text is not None else ():
        try:
            value = float(part) if part.isascii() else 0.0
        except ValueError:
            value = 0.0
        if not 0 < value < 1e9 or (whole and not value.is_integer()):
            kind = "a whole number" if whole else "a number"
            raise LoadError(f"--{name} {text!r}: {part.strip()!r} is not {kind} above 0")
        found.append(value)
    if len(found) > MOST_POINTS:
        raise LoadError(f"--{name} has {len(found)} points, {MOST_POINTS} at most")
    return tuple(dict.fromkeys(found))


def check(load: Load) -> None:
    """Raises LoadError or SloError for what can be seen before anything is sent."""
    if load.slo:
        parse_slo(load.slo)
    for name, value, least in (
        ("seconds", load.seconds, 0.5),
        ("warm", load.warm_s, 0.0),
        ("drain", load.drain_s, 0.0),
        ("think", load.think_s, 0.0),
        ("timeout", load.limits.total_s, 0.1),
    ):
        if not least <= value <= 1e6:
            raise LoadError(f"--{name} {value:g} must be from {least:g} to 1000000 seconds")
    if load.search and not (load.slo and len(load.rates) == 1):
        raise LoadError("--search needs --slo, and the rate to start from: --rate 1")
    if load.search and load.rates[0] * load.seconds < FEWEST_IN_WINDOW:
        raise LoadError(
            f"--search starts with {load.rates[0] * load.seconds:.3g} requests in its window, and needs "
            f"{FEWEST_IN_WINDOW}: raise --rate or --seconds"
        )
    if load.shared_prefix < 0:
        raise LoadError(f"--shared-prefix {load.shared_prefix} must not be negative")
    check_installed()


@dataclass(slots=True)
class Measured:
    """What a load came to. `troubles`: what went wrong beside the requests; none of it is in a row alone."""

    path: Path
    rows: list[Row] = field(default_factory=list)
    interrupted: bool = False
    troubles: list[str] = field(default_factory=list)


def measure_load(
    load: Load,
    out: Path,
    command: str,
    talk: Console,
    progress: Console,
    engine: Engine | None = None,
    replicates: int = 1,
) -> Measured:
    """Play all points, each server process of `engine` all of them; Ctrl-C ends the point at hand, and the run.

    Raises LoadError as `prepare` does and where an engine does not start, and StoreError.
    """
    run_id = new_run_id(fingerprint()["cpu"])
    done = Measured(
        new_run_path(out, run_id)
    )  # a folder that cannot be written to is refused before anything is sent
    with noticing_interrupts(), ExitStack() as stack:
        keeping: _Keeping | None = None
        for replicate in range(replicates):
            with _server(engine, load, done, talk) as server, _ceilings(engine, server) as ceilings:
                prepared = prepare(load if server is None else placed(load, server))
                if keeping is None:
                    keeping = stack.enter_context(_keeping(prepared, done, talk, progress))
                try:
                    run_load(
                        prepared,
                        run_id,
                        command,
                        keeping.keep,
                        keeping.watch,
                        keeping.measured,
                        server,
                        replicate,
                        ceilings,
                    )
                except KeyboardInterrupt:
                    done.interrupted = True
                except ServerFailed as error:
                    done.troubles.append(str(error))
            if done.interrupted or done.troubles:
                break
    return done


@contextmanager
def _server(engine: Engine | None, load: Load, done: Measured, talk: Console) -> Iterator[Server | None]:
    """The engine's server, if one is to be started; what it leaves behind is reported."""
    if engine is None:
        yield None
        return
    log = done.path.with_suffix(".log")
    talk.print(f"starting {engine.kind.name} with {engine.served.name}; its log is {log}", soft_wrap=True)
    with engine.serving(load, log) as server:
        talk.print(f"ready after {server.ready_s:.0f} s", soft_wrap=True)
        yield server
    done.troubles += [f"the server left something behind: {one}" for one in server.left]
    if not server.left:
        talk.print(
            f"the server ended within {server.stopped_s:.1f} s and left nothing behind", soft_wrap=True
        )


@contextmanager
def _ceilings(engine: Engine | None, server: Server | None) -> Iterator[IdleCeilings | None]:
    """Those of the device of a server that was started here; of any other nobody knows the device."""
    if engine is None or server is None:
        yield None
        return
    facts = server.facts
    with IdleCeilings(
        engine.served, str(facts.get("device", "")), int(facts.get("threads", 1)), SEED
    ) as found:
        yield found


@dataclass(frozen=True, slots=True)
class _Keeping:
    keep: Callable[[Row], None]
    watch: Callable[[LoadPoint, Played], None]
    measured: dict[str, Any]


@contextmanager
def _keeping(prepared: Prepared, done: Measured, talk: Console, progress: Console) -> Iterator[_Keeping]:
    """The file of rows and the live view, once a first server is there and the client has been measured."""
    if prepared.facts.fields.dropped:
        talk.print(f"the server does not take {', '.join(prepared.facts.fields.dropped)}", soft_wrap=True)
    load, first = prepared.load, prepared.schedules[0]
    measured = measure_client(first.point, due_per_s(first, load))
    talk.print(_told(measured), soft_wrap=True)
    glances: list[tuple[Played, Glance]] = []
    with RunWriter(done.path) as writer, LiveLoad(progress) as live:

        def keep(row: Row) -> None:
            writer.append(row)
            done.rows.append(row)

        def watch(point: LoadPoint, played: Played) -> None:
            if not glances or glances[-1][0] is not played:
                glances.append((played, glance_of(point, load)))
            live.show(glances[-1][1].look(played))

        yield _Keeping(keep, watch, measured)


def glance_of(point: LoadPoint, load: Load) -> Glance:
    """What is looked at while a point goes on."""
    return Glance(point.label, point.value if point.kind == "rate" else None, load.total_s)


def due_per_s(schedule: Schedule, load: Load) -> float:
    """Mean rate of a schedule; 0 of a closed loop."""
    return len(schedule.arrivals) / load.total_s


def _told(measured: dict[str, Any]) -> str:
    added = [measured[name] for name in ("added_ttft_p99_s", "added_itl_p99_s")]
    if None in added:
        return "the client could not be measured: the server that computes nothing gave no tokens"
    ttft, itl = (duration(abs(one), 3) for one in added)
    return f"the client adds {ttft} to first tokens and {itl} to gaps between tokens on this machine (99 %)"
