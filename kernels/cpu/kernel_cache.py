"""Where compiled kernels are kept: a folder of this user's alone, or one for this run if there is none.

>>> cache_folder()
PosixPath('…/membound/kernels/0123456789abcdef')

What lies there is loaded as code, so a folder that somebody else owns, or may write to, is refused.
"""

from __future__ import annotations

import atexit
import hashlib
import os
import shutil
import tempfile
import warnings
from functools import cache
from importlib.metadata import version
from pathlib import Path

from membound.errors import MemboundError

VARIABLE = "MEMBOUND_CACHE_DIR"
KERNELS = Path(__file__).resolve().parent.parent
PRIVATE = 0o700
OTHERS_MAY_WRITE = 0o022
RUNTIMES = {"TORCHINDUCTOR_CACHE_DIR": "torchinductor", "TRITON_CACHE_DIR": "triton"}
"""Caches of code that runtimes keep in a shared folder for temporary files, under a name that anybody can guess."""

_UNKEPT: list[Path] = []
"""The folder that this process made for itself."""


class CacheRefused(MemboundError):
    """The cache folder is not this user's alone; the message says whose it is and what to do."""


def compiled_sources() -> list[Path]:
    """The files that kernels for the CPU may import, in a fixed order."""
    return [path for path in sorted(KERNELS.rglob("*.py")) if KERNELS / "cuda" not in path.parents]


@cache
def cache_folder() -> Path:
    """Where compiled kernels are kept: below `cache_base`, under a hash of their sources. Raises CacheRefused."""
    digest = hashlib.sha256(f"{version('numba')} {version('llvmlite')}".encode())
    for path in compiled_sources():
        digest.update(path.read_bytes())
    return private_folder(cache_base() / "kernels") / digest.hexdigest()[:16]


def cache_base() -> Path:
    """$MEMBOUND_CACHE_DIR, or the user's cache folder; if neither can be written, a folder that goes with the process.

    The latter is put into the environment, for the workers that this process starts. Raises CacheRefused.
    """
    wanted = _wanted()
    if wanted is not None:
        try:
            found = private_folder(wanted)
            (found / "kernels").mkdir(PRIVATE, exist_ok=True)
        except OSError as error:
            why = f"{wanted} cannot be written ({error.strerror})"
        else:
            if os.access(found / "kernels", os.W_OK | os.X_OK):
                return found
            why = f"{wanted} cannot be written"
    else:
        why = "this user has no home folder"
    folder = Path(tempfile.mkdtemp(prefix="membound-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    _UNKEPT.append(folder)
    os.environ[VARIABLE] = str(folder)
    warnings.warn(
        f"kernels are not kept, and every run compiles them again: {why}; set {VARIABLE} to a folder that can be written",
        stacklevel=2,
    )
    return folder


def unkept_base() -> Path | None:
    """The folder that goes with this process, if it had to make one."""
    return _UNKEPT[-1] if _UNKEPT else None


def runtime_caches() -> dict[str, str]:
    """Variables by which runtimes keep their compiled code beside ours, but for those that the user has set."""
    base = cache_folder().parents[1]
    return {
        name: str(private_folder(base / folder))
        for name, folder in RUNTIMES.items()
        if name not in os.environ
    }


def private_folder(path: Path) -> Path:
    """The folder, made if it was not there. Raises CacheRefused if others own it or may write to it, and OSError."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.mkdir(PRIVATE, exist_ok=True)
    found = path.stat()
    if found.st_uid not in (0, os.geteuid()):
        raise CacheRefused(
            f"the cache folder {path} belongs to user {found.st_uid}, and what lies there is run as code: "
            f"set {VARIABLE} to a folder of your own"
        )
    if found.st_mode & OTHERS_MAY_WRITE:
        raise CacheRefused(
            f"others may write to the cache folder {path}, and what lies there is run as code: "
            f"empty it and `chmod go-w` it, or set {VARIABLE} to a folder of your own"
        )
    return path


def _wanted() -> Path | None:
    if chosen := os.environ.get(VARIABLE):
        return Path(chosen)
    if base := os.environ.get("XDG_CACHE_HOME"):
        return Path(base) / "membound"
    try:
        return Path.home() / ".cache" / "membound"
    except RuntimeError:
        return None
