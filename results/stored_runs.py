"""Finding a stored run by what a user types: a file, a folder, ``latest``, or the start of its name.

>>> find_run("latest", Path("results/runs"))
PosixPath('results/runs/20261121T221501-epyc-9654-1f3a.jsonl')
"""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

from membound.results.folders import DEFAULT_OUT, FLEETS, PUBLISHED
from membound.results.row import Row
from membound.results.run_files import CLAIM_PREFIX, StoreError, no_folder, regular, run_files
from membound.results.store import PARTIAL, SUFFIX, load_rows


def stored_runs(out: Path = DEFAULT_OUT) -> list[Path]:
    """The row files in a folder, including those of runs that were cut short, the latest last. Raises StoreError."""
    try:
        why = no_folder(out)
        # in this order: a run that ends meanwhile has either name
        listed = [] if why else [*_named(out, SUFFIX + PARTIAL), *_named(out, SUFFIX)]
    except OSError as error:
        why = error.strerror
    if why:
        raise StoreError(f"results folder {out} cannot be read: {why}")
    found = dict.fromkeys(map(_ended, listed))
    return sorted((p for p in regular(found) if not p.name.startswith(CLAIM_PREFIX)), key=_written_at)


def find_run(name: str, out: Path = DEFAULT_OUT) -> Path:
    """The file or folder that `name` means; ``latest`` skips runs that ended before their first row.

    Raises StoreError, which lists what is there, and RowError if a run that was cut short cannot be read.
    """
    if name.partition("/")[0] == PUBLISHED and not os.path.exists(name):
        return _published(name.partition("/")[2])
    try:
        if Path(name).exists():
            return Path(name)
        dangling = Path(name).is_symlink()
    except OSError as error:
        raise StoreError(f"no run {name[:60]!r}: it cannot be looked up: {error.strerror}") from None
    if dangling:
        raise StoreError(f"no run {name!r}: it is a link to nothing")
    runs = stored_runs(out)
    if not runs:
        raise StoreError(f"no run {name!r}: there are no runs in {out} yet; `membound run` makes one")
    if name == "latest":
        return next((path for path in map(_ended, reversed(runs)) if _holds_rows(path)), runs[-1])
    matches = [path for path in runs if path.name.startswith(name)]
    if len(matches) == 1:
        return matches[0]
    shown = ", ".join(path.name.partition(SUFFIX)[0] for path in (matches or runs)[-5:])
    if matches:
        raise StoreError(f"{name!r} is the start of {len(matches)} runs in {out}: {shown}")
    raise StoreError(f"no run {name!r} in {out}; the latest there: {shown}")


def find_fleet(name: str, out: Path = DEFAULT_OUT) -> Path:
    """The same of a fleet's run, which lies in a folder of its own unless `out` is another than usual. Raises as `find_run`."""
    if out == DEFAULT_OUT and FLEETS.is_dir() and not os.path.exists(name):
        with suppress(StoreError):
            return find_run(name, FLEETS)
    return find_run(name, out)


def _published(start: str) -> Path:
    """The folder of the runs that ship with the package, or the one whose name begins so. Raises StoreError."""
    folder = Path(__file__).with_name(PUBLISHED)
    runs = [path for path in run_files(folder) if path.name.startswith(start)]
    if not start or len(runs) == 1:
        return runs[0] if start else folder
    shown = ", ".join(path.name.partition(SUFFIX)[0] for path in runs or run_files(folder))
    raise StoreError(f"{start!r} is the start of {len(runs)} published runs; there are {shown}")


def rows_of(name: str, out: Path = DEFAULT_OUT) -> list[Row]:
    """The rows of a run. Raises RowError, and StoreError, also if there are none."""
    path = find_run(name, out)
    rows = load_rows(path)
    if not rows:
        raise StoreError(f"{path} holds no rows")
    return rows


def _named(folder: Path, end: str) -> list[Path]:
    """What has a name with that end. Raises OSError where glob would say that there is nothing: nobody may look."""
    try:
        return [folder / name for name in os.listdir(folder) if name.endswith(end)]
    except FileNotFoundError:
        return []


def _ended(path: Path) -> Path:
    """The last name of a run that has ended since it was listed; else the one it had."""
    last = path.with_name(path.name.removesuffix(PARTIAL))
    return path if path.exists() or not last.exists() else last


def _holds_rows(path: Path) -> bool:
    """Whether a run has rows: it is finished and not empty, or was cut short after its first one."""
    return path.stat().st_size > 0 if not path.name.endswith(PARTIAL) else bool(load_rows(path))


def _written_at(path: Path) -> tuple[int, str]:
    """When, to sort by; a run that was removed since it was listed is the oldest."""
    try:
        return path.stat().st_mtime_ns, path.name
    except FileNotFoundError:
        return 0, path.name
