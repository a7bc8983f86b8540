"""Which files below a folder hold rows, and what is passed by: links to nothing, pipes, what the kernel makes up.

>>> files_of(Path("results/runs"))
[PosixPath('results/runs/20261121T221501-epyc-9654-1f3a.jsonl'), …]
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterable, Iterator
from pathlib import Path

from membound.errors import MemboundError
from membound.results.file_kinds import PARTIAL, SUFFIX

CLAIM_PREFIX = "claim-"
"""The start of the names of `membound claim`'s files in the same folders. They do not hold only rows; claim/file.py reads them."""

KERNELS = ("/proc", "/sys")
"""Folders whose files are made by the kernel when they are asked for: without end, and none of them a row file."""


class StoreError(MemboundError, OSError):
    """A row file or its folder cannot be read or written. The message is one line with its name and the cause."""


def files_of(path: Path) -> list[Path]:
    """The file, or those of a folder and its folders in order of name. Raises StoreError if it is none that can be read."""
    try:
        is_folder, is_there = path.is_dir(), path.exists()
    except OSError as error:
        raise StoreError(f"no such run: {path}: {error.strerror}") from None
    if is_folder:
        return run_files(path)
    if not is_there:
        raise StoreError(f"no such run: {path}{', a link to nothing' if path.is_symlink() else ''}")
    if not path.is_file():
        raise StoreError(f"{path} is no file that could hold rows")
    return [path]


def no_folder(path: Path) -> str | None:
    """What stands where a folder was named; None for a folder, or for nothing at all."""
    if path.is_dir() or not os.path.lexists(path):
        return None
    return "it is a link to nothing" if path.is_symlink() and not path.exists() else "it is no folder"


def run_files(folder: Path) -> list[Path]:
    """The runs below a folder in order of name, those that were cut short too, without claims. Raises StoreError."""
    return sorted(p for p in regular(files_below(folder)) if not p.name.startswith(CLAIM_PREFIX))


def files_below(folder: Path) -> Iterator[Path]:
    """What has the name of a row file or a claim file below a folder; links to folders are not followed.

    The kernel's own trees are passed by, and folders that cannot be read, with a warning each. Raises StoreError if the
    folder lies in one of those trees.
    """
    if any(Path(os.path.realpath(folder)).is_relative_to(tree) for tree in KERNELS):
        raise StoreError(f"{folder} is the kernel's and holds no runs")
    if why := no_folder(folder):
        raise StoreError(f"{folder} cannot be searched: {why}")

    def refused(error: OSError) -> None:
        warnings.warn(f"{error.filename} is passed by: {error.strerror}", stacklevel=2)

    for place, folders, files in os.walk(folder, onerror=refused):
        for name in [name for name in folders if os.path.realpath(os.path.join(place, name)) in KERNELS]:
            folders.remove(name)
            warnings.warn(f"{os.path.join(place, name)} is passed by: it is the kernel's", stacklevel=2)
        yield from (Path(place, name) for name in files if name.endswith((SUFFIX, SUFFIX + PARTIAL)))


def regular(paths: Iterable[Path]) -> Iterator[Path]:
    """Those that are files; the others (links to nothing, pipes, devices) are passed by, with a warning.

    What was removed, or got another name, since it was listed is none of them.
    """
    for path in paths:
        if path.is_file():
            yield path
        elif os.path.lexists(path) and not path.is_dir():
            warnings.warn(f"{path} is passed by: it is no file that could be read", stacklevel=2)
