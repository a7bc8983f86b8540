"""The Python interface: `membound.run`, `membound.load`, `membound.compare`.

>>> table = membound.run(["linear:n=4096,k=4096,weight=int8"], threads=2, quick=True)
>>> table = membound.load("results/runs")
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import pandas as pd

from membound.backends.registry import names
from membound.bench.machine.fingerprint import available_memory_bytes, fingerprint
from membound.bench.planning.choice import (
    Choice,
    check_threads,
    choose_backends,
    parse_pythons,
    split,
    split_works,
)
from membound.bench.planning.plan import Options, Plan, make_plan
from membound.bench.run.execute import execute
from membound.bench.run.progress import Reporter, Silent
from membound.bench.run.resume import check_resumable, drop_plan, keep_plan, partial_of, remaining
from membound.results.compare import CompareError, compare_backends, compare_runs
from membound.results.row import Row
from membound.results.serving.compare import compare_points as points_side_by_side
from membound.results.serving.table import points
from membound.results.stats import summarize
from membound.results.store import RunWriter, load_rows, new_run_id, new_run_path
from membound.results.stored_runs import DEFAULT_OUT, rows_of


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
    table = summarize(rows)
    table.attrs["path"] = str(path)
    return table


def load(paths: Path | str | Iterable[Path | str]) -> pd.DataFrame:
    """Stored runs (files or folders of row files) as a table, one line for each run, backend and work.

    Columns, units and meanings: `membound.results.stats.COLUMNS`. Among them time_s (median over the medians of the
    processes), time_ci_s (its 95 % interval over processes, or None), ratio_to_fastest (time over that of the fastest
    backend in the same rounds), of_bound (how much of what the ceilings of the same moments allow is reached, 0-1),
    verdict. What is not known is missing (NaN or None). Raises StoreError, RowError.
    """
    return summarize(load_rows(paths))


def load_points(paths: Path | str | Iterable[Path | str]) -> pd.DataFrame:
    """Stored points of load as a table, one line each: latencies by percentile in seconds, rates, goodput, what failed.

    Columns and meanings: docs/rows.md, `membound.results.serving.table.COLUMNS`. Raises StoreError, RowError.
    """
    return points(load_rows(paths))


def compare(
    a: str | Path,
    b: str | Path | None = None,
    backends: tuple[str, str] | None = None,
    force: bool = False,
    out: Path | str = DEFAULT_OUT,
) -> pd.DataFrame:
    """Two runs, or two backends of run `a`: ratios of time, of the same rounds where there are any, with intervals.

    Runs are files, ``latest`` or the start of a run's name in `out`. Columns:
    `membound.results.compare.COLUMNS`. Raises CompareError (unlike machines unless `force`, nothing in
    common), StoreError, RowError.
    """
    if (b is None) == (backends is None):
        raise CompareError("name two runs, or one run and two backends")
    left = _one_run(str(a), Path(out))
    if backends is not None:
        return compare_backends(left, *backends)
    return compare_runs(left, _one_run(str(b), Path(out)), force)


def compare_points(
    a: str | Path, b: str | Path, force: bool = False, out: Path | str = DEFAULT_OUT
) -> pd.DataFrame:
    """The points of load that two runs share, a line for each figure: latencies, throughput, goodput.

    Columns: `membound.results.serving.compare.COLUMNS`. Raises CompareError (unlike machines unless `force`, no load in
    common), StoreError, RowError.
    """
    table = points_side_by_side(_one_run(str(a), Path(out)), _one_run(str(b), Path(out)), force)
    if table.empty:
        raise CompareError("the two runs share no point of load")
    return table


def compare_all(
    a: str | Path, b: str | Path | None, backends: tuple[str, str] | None, force: bool, out: Path | str
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The cases and the points of load that two runs share. Raises CompareError if they share neither."""
    if b is None or backends is not None:
        return compare(a, b, backends, force, out), pd.DataFrame()
    left, right = _one_run(str(a), Path(out)), _one_run(str(b), Path(out))
    points = points_side_by_side(left, right, force)
    both = all(any(row.kind == "case" for row in rows) for rows in (left, right))
    if points.empty or both:
        return compare_runs(left, right, force), points
    return pd.DataFrame(), points


def prepare(works: Sequence[str], backends: Sequence[str], options: Options) -> tuple[Plan, Choice]:
    """Check what was asked, before anything is measured: backends are probed, works parsed and sized.

    Raises SpecError, OptionError, PlanError, UnknownBackend, BackendUnavailable, StoreError.
    """
    memory = available_memory_bytes()
    # Refuse bad works and an unwritable folder at once, not after runtimes have been started.
    new_run_path(options.out, "")
    make_plan(names()[:1], works, options, memory)
    choice = choose_backends(backends, options.threads, options.pythons)
    return make_plan(choice.chosen, works, options, memory, choice.device_memory), choice


def measure(plan: Plan, progress: Reporter) -> tuple[Path, list[Row]]:
    """Carry out the plan and return (row file, rows). Raises StoreError."""
    path = new_run_path(plan.out, new_run_id(str(fingerprint()["cpu"])))
    keep_plan(plan, path)
    with RunWriter(path) as writer:
        rows = execute(plan, writer, progress)
    drop_plan(path)
    return path, rows


def go_on(plan: Plan, path: Path, progress: Reporter) -> list[Row]:
    """Measure what a run that was cut short lacks, and return all its rows. Raises StoreError, RowError, PlanError."""
    with RunWriter(path, resume=True) as writer:
        known = load_rows(partial_of(path))
        cells = remaining(plan, known)
        check_resumable(cells, known)
        rows = execute(replace(plan, cells=cells), writer, progress, known=known)
    drop_plan(path)
    return rows


def _several(texts: str | Sequence[str] | None) -> Sequence[str]:
    """One text as a sequence of one; None as an empty sequence."""
    return (texts,) if isinstance(texts, str) else texts or ()


def _one_run(name: str, out: Path) -> list[Row]:
    rows = rows_of(name, out)
    runs = sorted({row.run_id for row in rows})
    if len(runs) > 1:
        raise CompareError(f"{name} holds {len(runs)} runs ({', '.join(runs[:3])} …); name one of them")
    return rows
