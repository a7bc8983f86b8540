"""Where compiled kernels are kept: a folder of this user's alone, or one for this run if there is none.

>>> cache_folder()
PosixPath('…/membound/kernels/0123456789abcdef')

What lies there is loaded as code, so a folder that somebody else owns, may write to, or may put another in the place of, is
refused. Those who own a folder above it are trusted.
"""

from __future__ import annotations

import atexit
import errno
import hashlib
import os
import shutil
import stat
import tempfile
import warnings
from collections.abc import Iterator
from functools import cache
from importlib.metadata import version
from pathlib import Path

from membound.errors import MemboundError

VARIABLE = "MEMBOUND_CACHE_DIR"
TRUSTED = "MEMBOUND_CACHE_TRUSTED"
"""1: nobody else works where folders above the cache are open to all, as volumes of a container are."""
KERNELS = Path(__file__).resolve().parent.parent
PRIVATE = 0o700
OTHERS_MAY_WRITE = 0o022
OTHERS_MAY_ENTER = 0o011
RUNTIMES = {"TORCHINDUCTOR_CACHE_DIR": "torchinductor", "TRITON_CACHE_DIR": "triton"}
"""Caches of code that runtimes keep in a shared folder for temporary files, under a name that anybody can guess."""
OTHERS = (
    *("CUDA_CACHE_PATH", "FLASHINFER_WORKSPACE_BASE", "NUMBA_CACHE_DIR", "PYTHONPYCACHEPREFIX"),
    *("PYTORCH_KERNEL_CACHE_PATH", "TORCH_EXTENSIONS_DIR", "TRITON_HOME", "VLLM_CACHE_ROOT"),
)
"""Where more of them are, and Python's own, if the user has said so; else they lie in the home folder."""
MOST_LINKS = 40
"""That Linux follows on the way to a file."""

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
    return private_folder(private_folder(cache_base() / "kernels") / digest.hexdigest()[:16])


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
    refuse_others(folder)
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
    """Variables by which runtimes keep their compiled code beside ours, but for those that the user has set.

    Raises CacheRefused, for what the user has set too.
    """
    base = cache_folder().parents[1]
    for name in (*RUNTIMES, *OTHERS):
        if chosen := os.environ.get(name):
            refuse_others(Path(chosen), name)
    return {
        name: str(private_folder(base / folder))
        for name, folder in RUNTIMES.items()
        if not os.environ.get(name)
    }


def private_folder(path: Path) -> Path:
    """The folder, made for this user alone if it was not there. Raises OSError, and CacheRefused as `refuse_others`."""
    _make(path)
    refuse_others(path)
    return path


def refuse_others(path: Path, variable: str = VARIABLE) -> None:
    """Raises CacheRefused if others own the folder, may write to it, or may put another in its place; OSError."""
    code = "and what lies there is run as code"
    remedy = f"set {variable} to a folder of your own"
    if os.path.exists(path):  # Path's method raises below a folder that this user may not enter
        found = path.stat()
        if not _ours(found):
            raise CacheRefused(f"the cache folder {path} belongs to user {found.st_uid}, {code}: {remedy}")
        if found.st_mode & OTHERS_MAY_WRITE:
            raise CacheRefused(
                f"others may write to the cache folder {path}, {code}: empty it and `chmod go-w` it, or {remedy}"
            )
    if (found_open := open_to_others(path)) is not None:
        raise CacheRefused(
            f"others may put another in the place of the cache folder {path}, since they may write to {found_open}, "
            f"{code}: `chmod go-w` or `chmod +t` that, {remedy}, or {TRUSTED}=1 where nobody else works, as in a container"
        )


def open_to_others(path: Path) -> Path | None:
    """A folder in which others may put another in the place of what leads to `path`, or None; MEMBOUND_CACHE_TRUSTED trusts them.

    Raises OSError.
    """
    return None if os.environ.get(TRUSTED) == "1" else _replaceable(path)


def _make(path: Path) -> None:
    """The folder and those above it that are not there, for this user alone whatever the umask."""
    try:
        path.mkdir(PRIVATE, exist_ok=True)
    except FileNotFoundError:
        _make(path.parent)
        path.mkdir(PRIVATE, exist_ok=True)


def _ours(found: os.stat_result) -> bool:
    """Whether it belongs to this user, or to root, who may do anything."""
    return found.st_uid in (0, os.geteuid())


def _replaceable(path: Path) -> Path | None:
    """A folder on the way to `path` in which others may rename what leads there, or None.

    In a folder with the sticky bit only the owner renames; what is below a folder that others may not enter is out of reach.
    """
    closed = False
    for folder, child, linked in _steps(path):
        above = folder.stat()
        closed = (closed and not linked) or (_ours(above) and not above.st_mode & OTHERS_MAY_ENTER)
        if closed or not _others_may_write(above):
            continue
        if not above.st_mode & stat.S_ISVTX or not _ours(child.lstat()):
            return folder
    return None


def _others_may_write(folder: os.stat_result) -> bool:
    """A group is nobody else if it is root's, or the one that a user has alone, with the same number."""
    group_is_others = folder.st_gid not in (0, os.geteuid())
    return bool(folder.st_mode & (OTHERS_MAY_WRITE if group_is_others else stat.S_IWOTH))


def _steps(path: Path) -> Iterator[tuple[Path, Path, bool]]:
    """Each (folder, what is in it) on the way to `path`, links followed, and whether a link has just led there."""
    here, ahead, linked, links = Path("/"), [*path.absolute().parts[:0:-1]], False, 0
    while ahead:
        name = ahead.pop()
        if name == "..":
            here = here.parent
            continue
        child = here / name
        if not os.path.lexists(child):
            return
        yield here, child, linked
        linked = child.is_symlink()
        if linked:
            if (links := links + 1) > MOST_LINKS:
                raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), str(path))
            to = child.readlink()
            here = Path("/") if to.is_absolute() else here
            ahead += [part for part in to.parts[::-1] if part != "/"]
        else:
            here = child


def _wanted() -> Path | None:
    if chosen := os.environ.get(VARIABLE):
        return Path(chosen)
    if base := os.environ.get("XDG_CACHE_HOME"):
        return Path(base) / "membound"
    try:
        return Path.home() / ".cache" / "membound"
    except RuntimeError:
        return None
