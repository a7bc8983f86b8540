"""The Python interface: `membound.run`, `membound.load`, `membound.compare`.

>>> table = membound.run(["linear:n=4096,k=4096,weight=int8"], threads=2, quick=True)
>>> table = membound.load("results/runs")
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import pandas as pd

from membound.backends.registry import names
from membound.bench.machine.fingerprint import available_memory_bytes, fingerprint
from membound.bench.machine.placement import placed
from membound.bench.planning.choice import (
    Choice,
    check_threads,
    choose_backends,
    parse_pythons,
    split,
    split_works,
)
from membound.bench.planning.plan import Options, Plan, make_plan
from membound.bench.protocol.interrupts import deferred
from membound.bench.run.companion import companions
from membound.bench.run.execute import execute
from membound.bench.run.progress import Reporter, Silent
from membound.bench.run.resume import check_resumable, keep_plan, partial_of, remaining, sweep
from membound.no_collections import no_collections
from membound.results.compare import CompareError, Comparison, compare_backends, compare_by, compare_runs
from membound.results.folders import DEFAULT_OUT
from membound.results.process import Process
from membound.results.processes import processes_of
from membound.results.report.notebook import CaseTable, PairTable
from membound.results.row import Row
from membound.results.serving.compare import compare_engines, holds_points
from membound.results.serving.compare import compare_points as points_side_by_side
from membound.results.serving.table import points
from membound.results.stats import records, summarize
from membound.results.store import RunWriter, StoreError, load_rows, new_run_id, new_run_path
from membound.results.stored_runs import find_run, rows_of


def run(
    works: str | Sequence[str] | None = None,
    backends: str | Sequence[str] | None = None,
    replicates: int | None = None,
    quick: bool = False,
    out: Path | str | None = None,
    threads: int | None = None,
    seed: int = 1,
    progress: Reporter | None = None,
    rigor: str = "normal",
    ceilings: bool = True,
    python: Mapping[str, Path | str] | None = None,
) -> pd.DataFrame:
    """Measure works on backends and return a line for each case; the rows are stored under `out`.

    works: specs, default the suite of ``membound run``. backends: ``backend`` or ``backend:device``,
    default all found. Both are given as to the command: one text with commas between names, or a sequence of texts.
    replicates: processes for each case, default 3 (1 with quick). out: folder, default results/runs. threads: default
    the physical cores. progress: reports what happens, default silent. rigor: ``normal``, or ``high``: 10
    replicates and more until the interval is within 1 %. ceilings: measure the machine's limits first.
    python: from a backend to the interpreter, or the name of the environment, that it runs in.

    The columns are those of `load`; ``table.attrs["path"]`` names the row file. Raises SpecError, OptionError,
    PlanError, UnknownBackend, BackendUnavailable, StoreError.
    """
    options = Options(
        replicates=replicates or 0,
        rigor=rigor,
        quick=quick,
        seed=seed,
        out=Path(out) if out is not None else DEFAULT_OUT,
        command="membound.run",
        threads=check_threads(threads),
        pythons=parse_pythons(f"{backend}={path}" for backend, path in (python or {}).items()),
        ceilings=ceilings,
    )
    plan, _ = prepare(split_works(_several(works)), split(_several(backends)), options)
    path, rows = measure(plan, progress or Silent())
    table = CaseTable(summarize(rows))
    table.attrs["path"] = str(path)
    return table


def load(paths: Path | str | Iterable[Path | str]) -> pd.DataFrame:
    """Stored runs (files or folders of row files) as a table, one line for each run, backend and work.

    Columns, units and meanings: `membound.results.stats.COLUMNS`. Among them time_s (median over the medians of the
    processes), time_ci_s (its 95 % interval over processes, or None), ratio_to_fastest (time over that of the fastest
    backend in the same rounds), of_bound (how much of what the ceilings of the same moments allow is reached, 0-1),
    verdict. What is not known is missing (NaN or None). Raises StoreError, RowError.
    """
    return CaseTable(summarize(load_rows(paths)))


def load_points(paths: Path | str | Iterable[Path | str]) -> pd.DataFrame:
    """Stored points of load as a table, one line each: latencies by percentile in seconds, rates, goodput, what failed.

    Columns and meanings: docs/rows.md, `membound.results.serving.table.COLUMNS`. Raises StoreError, RowError.
    """
    return points(load_rows(paths))


def compare(
    a: str | Path,
    b: str | Path | Sequence[str | Path] | None = None,
    backends: tuple[str, str] | None = None,
    force: bool = False,
    out: Path | str = DEFAULT_OUT,
    by: str | None = None,
) -> pd.DataFrame:
    """Run `a` against one or several others, or two backends of it: ratios of time, in words, with intervals.

    Runs are files of any format that `load` reads, ``latest`` or the start of a run's name in `out`. by: ``run``,
    ``backend`` or ``device``: everything named together, the first of them against each other one. Columns:
    `membound.results.compare.COLUMNS`; ``table.attrs`` has ``groups`` (geometric means), ``without_partner`` (cases that
    one side lacks, and why) and ``doubt``. Raises CompareError (unlike machines unless `force`, nothing in common),
    StoreError, RowError.
    """
    others = [b] if isinstance(b, str | Path) else list(b or ())
    found = comparison([str(name) for name in (a, *others)], backends, force, Path(out), by)
    table = PairTable(found.table)
    table.attrs |= {"groups": records(found.groups), "without_partner": records(found.without_partner)}
    table.attrs["doubt"] = found.doubt
    return table


def comparison(
    runs: Sequence[str], backends: tuple[str, str] | None, force: bool, out: Path, by: str | None = None
) -> Comparison:
    """What `compare` and the command of that name compare. Raises as `compare`."""
    fits = backends is None if by is not None else len(runs) == 1 if backends is not None else len(runs) > 1
    if not fits:
        raise CompareError("name two runs, or one run and two backends, or what to compare --by")
    if by is not None:
        return compare_by((one for name in runs for one in processes_of(find_run(name, out), turns=True)), by)
    first = _one_run(runs[0], out, turns=backends is not None)
    if backends is not None:
        return compare_backends(first, *backends)
    others = [_one_run(name, out) for name in runs[1:]]
    for name, other in zip(runs[1:], others, strict=True):
        if any(one.content == first[0].content for one in other):
            warnings.warn(
                f"{runs[0]} and {name} are the same run, or copies of it: it is compared with itself",
                stacklevel=2,
            )
    return compare_runs(first, *others, force=force)


def compare_points(
    a: str | Path,
    b: str | Path | None = None,
    force: bool = False,
    out: Path | str = DEFAULT_OUT,
    backends: tuple[str, str] | None = None,
) -> pd.DataFrame:
    """The points of load that two runs share, or two engines of run `a`, a line for each figure: latencies, throughput, goodput.

    Columns: `membound.results.serving.compare.COLUMNS`. Raises CompareError (unlike machines unless `force`, no load in
    common), StoreError, RowError.
    """
    if (b is None) == (backends is None):
        raise CompareError("name two runs, or one run and two backends")
    if b is None or backends is not None:
        return compare_engines(rows_of(str(a), Path(out)), *(backends or ("", "")))
    table = points_side_by_side(rows_of(str(a), Path(out)), rows_of(str(b), Path(out)), force)
    if table.empty:
        raise CompareError("the two runs share no point of load")
    return table


def compare_all(
    runs: Sequence[str], backends: tuple[str, str] | None, force: bool, out: Path, by: str | None = None
) -> tuple[Comparison | None, pd.DataFrame]:
    """The cases that runs share, and the points of load that two of them do, or two engines of one. Raises CompareError if they share neither."""
    loads = pd.DataFrame()
    if len(runs) == 1 and backends is not None and by is None and holds_points(find_run(runs[0], out)):
        rows = rows_of(runs[0], out)
        if any(row.kind == "serving" and row.backend in backends for row in rows):
            return None, compare_engines(rows, *backends)
    if len(runs) == 2 and backends is None and by is None:
        paths = [find_run(name, out) for name in runs]
        if all(holds_points(path) for path in paths):
            loads = points_side_by_side(load_rows(paths[0]), load_rows(paths[1]), force)
    try:
        return comparison(runs, backends, force, out, by), loads
    except (CompareError, StoreError):
        if loads.empty:
            raise
        return None, loads


def prepare(works: Sequence[str], backends: Sequence[str], options: Options) -> tuple[Plan, Choice]:
    """Check what was asked, before anything is measured: backends are probed, works parsed and sized.

    Raises SpecError, OptionError, PlanError, PlacementError, UnknownBackend, BackendUnavailable, StoreError.
    """
    memory = available_memory_bytes()
    # Refuse bad works and an unwritable folder at once, not after runtimes have been started.
    new_run_path(options.out, "")
    with placed(options.placement):
        make_plan(names()[:1], works, options, memory)
        choice = choose_backends(backends, options.threads, options.pythons)
        return make_plan(choice.chosen, works, options, memory, choice.device_memory), choice


def measure(plan: Plan, progress: Reporter, run_id: str | None = None) -> tuple[Path, list[Row]]:
    """Carry out the plan and return (row file, rows). The run gets a new name unless it has one. Raises StoreError."""
    path = new_run_path(plan.out, run_id or new_run_id(str(fingerprint()["cpu"])))
    with companions(plan.beside), placed(plan.placement), deferred():
        keep_plan(plan, path)
        with RunWriter(path) as writer:
            rows = execute(plan, writer, progress)
        sweep(plan.out)
    return path, rows


def go_on(plan: Plan, path: Path, progress: Reporter) -> list[Row]:
    """Measure what a run that was cut short lacks, and return all its rows. Raises StoreError, RowError, PlanError."""
    with companions(plan.beside), placed(plan.placement), deferred():
        with RunWriter(path, resume=True) as writer:
            known = load_rows(partial_of(path))
            cells = remaining(plan, known)
            check_resumable(cells, known, plan.seed)
            rows = execute(replace(plan, cells=cells), writer, progress, known=known)
        sweep(path.parent)
    return rows


def _several(texts: str | Sequence[str] | None) -> Sequence[str]:
    """One text as a sequence of one; None as an empty sequence."""
    return (texts,) if isinstance(texts, str) else texts or ()


def _one_run(name: str, out: Path, turns: bool = False) -> list[Process]:
    """The cases of a run. Turns are worth their memory only within a run: two runs took none together."""
    path = find_run(name, out)
    with no_collections():  # one walks through all that was read so far, and finds nothing
        processes = list(processes_of(path, turns))
    if not processes:
        raise StoreError(f"{path} holds no cases")
    runs = sorted({one.run_id for one in processes})
    if len(runs) > 1:
        raise CompareError(
            f"{name} holds {len(runs)} runs ({', '.join(runs[:3])} …); name one of them, or --by run"
        )
    return processes
