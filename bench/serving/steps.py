"""The steps of served engines alone, measured once their servers have ended: what stands beside a token's time under load.

>>> troubles = measure_steps(engines, keeping, "membound load …", talk, progress)

They are cases of an ordinary run, with the batch and the context of each point, in the same file as the points.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from membound.bench.api import prepare
from membound.bench.planning.plan import Options
from membound.bench.run.execute import execute
from membound.bench.run.progress import progress_on
from membound.bench.serving.engine import Engine
from membound.bench.serving.keeping import Keeping
from membound.errors import MemboundError
from membound.results.row import Row
from membound.results.serving.engine_step import step_backend, wanted_step
from membound.results.serving.roofline import roofline_of


def measure_steps(
    engines: Sequence[Engine], keeping: Keeping, command: str, talk: Console, progress: Console
) -> list[str]:
    """Measure the step of each point that is ok; why that could not be done, where it could not."""
    troubles, done = [], set[tuple[str, str]]()
    for engine in engines:
        for backend, threads, works in _wanted([row for row in keeping.rows if row.backend == engine.name]):
            new = [work for work in works if (backend, work) not in done]
            done |= {(backend, work) for work in new}
            if new:
                talk.print(f"measuring {len(new)} steps of {backend} alone", soft_wrap=True)
                troubles += _measured(engine, backend, threads, new, keeping, command, progress)
    return troubles


def _wanted(rows: Sequence[Row]) -> list[tuple[str, int, list[str]]]:
    """(Backend, threads, specs) of the steps behind the points of an engine that are ok."""
    found: dict[tuple[str, int], list[str]] = {}
    for row in rows:
        roofline = roofline_of(row) if row.kind == "serving" and row.status == "ok" else None
        if roofline is not None and (work := wanted_step(row, roofline.decoding)):
            found.setdefault((step_backend(row), row.threads), []).append(work)
    return [(backend, threads, list(dict.fromkeys(works))) for (backend, threads), works in found.items()]


def _measured(
    engine: Engine,
    backend: str,
    threads: int,
    works: Sequence[str],
    keeping: Keeping,
    command: str,
    progress: Console,
) -> list[str]:
    writer = keeping.writer()
    options = Options(
        threads=threads,
        quick=True,
        seed=engine.served.seed,
        pythons={backend.partition(":")[0]: engine.python},
        out=Path(writer.path.parent),
        command=command,
    )
    try:
        plan, _ = prepare(works, [backend], options)
    except MemboundError as error:
        return [f"steps of {backend} alone were not measured: {error}"]
    with progress_on(progress) as reporter:
        rows = execute(plan, writer, reporter)
    keeping.rows += rows
    bad = [row for row in rows if row.kind == "case" and row.status != "ok"]
    return [f"the step {row.work} of {backend} alone: {row.status}: {row.reason}" for row in bad]
